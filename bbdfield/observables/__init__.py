"""What neighbouring theories of learning say about a trajectory, asked of the trajectory itself.

conservation   quantities that gradient flows conserve (Marcotte, Gribonval, Peyré, arXiv 2307.00144, 2405.12888,
               2506.06194, 2508.07370); beside it `intrinsic`, what training does to functions rather than parameters
regimes        which settles first, activation patterns or weights (Pérez-Corral et al., arXiv 2602.08333)
manifolds      sets of parameters that no gradient leaves (Zhao, Luo, Zhang, arXiv 2510.09564)
temperature    the noise of minibatches, and whether it is in balance with dissipation (Yaida, arXiv 1810.00004)

Each is a module with functions of plain arrays, `observe(run)` for a recorded run of lattice or field, and `Steps`, the
numbers that it takes of every training step. Runs are read, never changed.
"""

from __future__ import annotations

import importlib
from typing import Any, Protocol

from bbdfield.errors import InputError
from bbdfield.model.run import Progress, Run
from bbdfield.observables.observed import Observed

THEORIES = ("conservation", "regimes", "manifolds", "temperature")


class Theory(Protocol):
    """A module of this package."""

    Steps: Any

    def observe(self, run: Run, progress: Progress | None = None) -> Observed:
        """Everything the theory has to say of a run.

        Raises
        ------
        InputError
            one line that names what is missing, where the theory does not hold for this network or run.
        """


def theory(name: str) -> Theory:
    """The module of one theory."""
    if name not in THEORIES:
        raise InputError(f"observables: no theory is called '{name}'; choose from {', '.join(THEORIES)}")
    module: Any = importlib.import_module(f"bbdfield.observables.{name}")
    return module
