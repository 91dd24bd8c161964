"""Who can train a problem here: this package's backends, PyTorch and JAX, all with the same calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from bbdfield.benchmarks import jax_, pytorch
from bbdfield.benchmarks.problems import Problem
from bbdfield.errors import InputError
from bbdfield.fields.simulation import FieldSystem
from bbdfield.lattice.training import LatticeSystem
from solvers.backends import BACKENDS
from solvers.grids import Grid

NOT_INSTALLED = "not installed"
FRAMEWORKS = ("PyTorch", "JAX")


class Program(NamedTuple):
    """step(k) trains by one step; finish() returns once everything is computed."""

    step: Callable[[int], Any]
    finish: Callable[[], object]


@dataclass
class Contest:
    """programs : by name, those that run here.   missing : name -> why not."""

    programs: dict[str, Program] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


def _cycled(system: Any, steps: int) -> Program:
    """The training law knows so many minibatches; then they begin again."""
    return Program(lambda k: system.step(k % steps), system.backend.synchronize)


def lattice_system(problem: Problem, backend: str) -> LatticeSystem:
    return LatticeSystem(problem.lattice, problem.boundary, problem.start, backend=backend)


def field_system(problem: Problem, grid: Grid, *, order: int, scheme: str, backend: str) -> FieldSystem:
    start = problem.fields.on(grid, problem.lattice)
    width_order: Any = {} if problem.width_order is None else {"width_order": problem.width_order}
    return FieldSystem(start, problem.boundary, order=order, scheme=scheme, backend=backend, **width_order)


def train_lattice(problem: Problem, threads: int) -> Contest:
    """Every program that trains the problem's lattice: backends, then PyTorch and JAX."""
    found = _backends(lambda name: _cycled(lattice_system(problem, name), problem.training.steps))
    for name, known, make in (
        ("PyTorch", pytorch.installed(), lambda: pytorch.PyTorchLattice(problem, threads)),
        ("JAX", jax_.installed(), lambda: jax_.JaxLattice(problem)),
    ):
        if known:
            rival: Any = make()
            found.programs[name] = Program(rival.step, rival.finish)
        else:
            found.missing[name] = NOT_INSTALLED
    return found


def march_field(problem: Problem, grid: Grid, order: int, scheme: str) -> Contest:
    """Every backend that integrates the problem's field theory on a grid."""

    def made(name: str) -> Program:
        return _cycled(field_system(problem, grid, order=order, scheme=scheme, backend=name), problem.training.steps)

    return _backends(made)


def _backends(make: Callable[[str], Program]) -> Contest:
    found = Contest()
    for name in BACKENDS:
        try:
            found.programs[name] = make(name)
        except InputError as error:
            found.missing[name] = NOT_INSTALLED if NOT_INSTALLED in str(error) else str(error)
    return found


def fastest_lattice(problem: Problem) -> tuple[str, LatticeSystem]:
    """The lattice on the backend that is meant for large problems: numba where it has code for the case."""
    return _first(("numba", "numpy"), lambda name: lattice_system(problem, name))


def fastest_field(problem: Problem, grid: Grid, order: int, scheme: str) -> tuple[str, FieldSystem]:
    """The field likewise."""
    return _first(
        ("numba", "numpy"), lambda name: field_system(problem, grid, order=order, scheme=scheme, backend=name)
    )


def _first(names: tuple[str, ...], make: Callable[[str], Any]) -> tuple[str, Any]:
    for name in names[:-1]:
        try:
            return name, make(name)
        except InputError:
            continue
    return names[-1], make(names[-1])
