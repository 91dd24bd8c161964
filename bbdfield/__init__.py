"""bbdfield: the training of a deep network as a field theory, checked against real training.

    net = bbdfield.Lattice(depth=32, width=40, channels=8, range=bbdfield.Kernel(radius="11/80"))
    plan = bbdfield.Training(steps=100, batch=32, rates=bbdfield.Rates(w=2.0, b=0.03, r=0.1), seed=1)
    run = bbdfield.train(net, bbdfield.load_dataset("mnist1d"), plan, out="lattice.h5")
    start = run.initial_fields.on(bbdfield.Grid(32, 40))
    sim = bbdfield.simulate(start, run.boundary, order=1, out="field.h5")
    score = bbdfield.compare(sim, run)

Names are imported when they are first used, so that importing the package is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from bbdfield._version import __version__

if TYPE_CHECKING:
    from bbdfield.comparison.scores import Score, compare
    from bbdfield.datasets import Dataset, load_dataset
    from bbdfield.errors import InputError, NumericsError
    from bbdfield.fields.coarse_graining import coarse_grain, restrict
    from bbdfield.fields.simulation import simulate
    from bbdfield.lattice.training import train
    from bbdfield.model.activations import register_activation
    from bbdfield.model.architecture import FieldState, Lattice, Rates, Training
    from bbdfield.model.boundary import Boundary
    from bbdfield.model.initial import InitialFields
    from bbdfield.model.ranges import Derivative, Kernel, Taps
    from bbdfield.model.run import Run
    from bbdfield.storage import Trajectory
    from solvers.grids import Grid

_WHERE = {
    "Boundary": "bbdfield.model.boundary",
    "Dataset": "bbdfield.datasets",
    "Derivative": "bbdfield.model.ranges",
    "FieldState": "bbdfield.model.architecture",
    "Grid": "solvers.grids",
    "InitialFields": "bbdfield.model.initial",
    "InputError": "bbdfield.errors",
    "Kernel": "bbdfield.model.ranges",
    "Lattice": "bbdfield.model.architecture",
    "NumericsError": "bbdfield.errors",
    "Rates": "bbdfield.model.architecture",
    "Run": "bbdfield.model.run",
    "Score": "bbdfield.comparison.scores",
    "Training": "bbdfield.model.architecture",
    "Taps": "bbdfield.model.ranges",
    "Trajectory": "bbdfield.storage",
    "coarse_grain": "bbdfield.fields.coarse_graining",
    "compare": "bbdfield.comparison.scores",
    "load_dataset": "bbdfield.datasets",
    "register_activation": "bbdfield.model.activations",
    "restrict": "bbdfield.fields.coarse_graining",
    "simulate": "bbdfield.fields.simulation",
    "train": "bbdfield.lattice.training",
}

__all__ = [
    "Boundary",
    "Dataset",
    "Derivative",
    "FieldState",
    "Grid",
    "InitialFields",
    "InputError",
    "Kernel",
    "Lattice",
    "NumericsError",
    "Rates",
    "Run",
    "Score",
    "Taps",
    "Training",
    "Trajectory",
    "__version__",
    "coarse_grain",
    "compare",
    "load_dataset",
    "register_activation",
    "restrict",
    "simulate",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'bbdfield' has no attribute '{name}'")
    value = getattr(importlib.import_module(_WHERE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
