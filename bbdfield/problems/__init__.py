"""Problems whose solution is known: what every scheme, range and scaling is measured against, in tests and documents.

Each is one frozen dataclass with its fields ŵ, b̂ on any grid, its start ẑ(0, y) and its exact solution.
"""

from bbdfield.problems.base import Problem
from bbdfield.problems.diffusion import Diffusion
from bbdfield.problems.linear import Linear
from bbdfield.problems.manufactured import Manufactured
from bbdfield.problems.transport import Advection, Burgers
from bbdfield.problems.uniform import CriticalCubic, PlainRelaxation, TanhGrowth, Uniform

__all__ = [
    "Advection",
    "Burgers",
    "CriticalCubic",
    "Diffusion",
    "Linear",
    "Manufactured",
    "PlainRelaxation",
    "Problem",
    "TanhGrowth",
    "Uniform",
]
