"""bbdfield check: does it work here?"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from bbdfield._version import __version__
from bbdfield.cli.arguments import json_option
from bbdfield.cli.group import cli
from bbdfield.cli.output import print_json, say
from bbdfield.errors import NumericsError


@cli.command()
@json_option
def check(as_json: bool) -> None:
    """Show versions and backends, and run a self-test.

    The first time compiled kernels are built, which takes half a minute."""
    facts = environment()
    results = self_test()
    if as_json:
        print_json({**facts, "tests": results})
    else:
        for title, entries in facts.items():
            say(f"{title}:")
            for name, value in entries.items():
                say(f"  {name}: {value}")
        say("self-test:")
        for result in results:
            verdict = "ok" if result["passed"] else "FAILED"
            say(f"  {verdict}: {result['test']} ({result['backend']}): {result['error']:.1e}")
    failed = [result for result in results if not result["passed"]]
    if failed:
        first = failed[0]
        raise NumericsError(
            f"self-test failed on backend {first['backend']}: {first['test']} is off by {first['error']:.1e}"
        )


def environment() -> dict[str, dict[str, str]]:
    """Versions, backends and the threads of the linear algebra libraries."""
    import importlib.metadata
    import platform

    import numpy as np  # noqa: F401  (loads the BLAS whose threads are counted below)
    from threadpoolctl import threadpool_info

    from solvers.backends import available_backends
    from solvers.threads import threads as kernel_threads

    versions = {"bbdfield": __version__, "python": platform.python_version()}
    for name in ("numpy", "numba", "scipy", "h5py", "matplotlib", "pydantic", "cupy-cuda12x", "cupy-cuda13x"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    threads = {
        Path(library["filepath"]).name: f"{library['num_threads']} threads, {library['user_api']} {library['version']}"
        for library in threadpool_info()
    }
    try:
        from solvers.compiled import CACHE

        kept = f"{kernel_threads()} threads, machine code is kept in {CACHE}"
    except ImportError:  # the backends say why
        kept = "unavailable"
    return {
        "versions": versions,
        "backends": available_backends(),
        "threads": {"CPUs": str(os.cpu_count()), "compiled kernels": kept, **threads},
    }


def self_test() -> list[dict[str, Any]]:
    """On every backend that answers: adjoints are exact, and the field at the lattice's resolution is the lattice.

    With Euler's scheme on n_x = M depth cells the order-0 field theory *is* the network, so both must train alike to
    rounding; their operators and gradients are written twice.
    """
    from solvers.backends import available_backends

    usable = [name for name, words in available_backends().items() if not words.startswith("unavailable")]
    results = []
    for backend in usable:
        for tied in (True, False):
            kernel = "tied" if tied else "untied"
            for test, error in (
                (f"adjoint of the width operator, {kernel}", _adjoint_error(backend, tied)),
                (f"field at the lattice's resolution is the lattice, {kernel}", _lattice_error(backend, tied)),
            ):
                results.append({"test": test, "backend": backend, "error": error, "passed": error < 1e-11})
    return results


def _adjoint_error(backend: str, tied: bool) -> float:
    """max over paddings of |<Ks, g> - <s, K'g>| and |<Ks, g> - <w, dK'g>|, relative to the norms."""
    import numpy as np

    from solvers.backends import get_backend
    from solvers.grids import Grid
    from solvers.padding import PADDINGS
    from solvers.width import KernelOperator

    device = get_backend(backend)
    rng = np.random.default_rng(1)
    cells, channels, samples, half = 24, 3, 5, 4
    w = rng.standard_normal((channels, 2 * half + 1, channels) if tied else (cells, channels, 2 * half + 1, channels))
    s, g = rng.standard_normal((2, cells, channels, samples))
    worst = 0.0
    for padding in PADDINGS:
        operator = KernelOperator(device.xp, Grid(1, cells), (half + 0.5) / cells, tied=tied, padding=padding)
        on_device = [device.to_device(array) for array in (w, s, g)]
        applied = device.to_numpy(operator.apply(on_device[0], on_device[1]))
        state = device.to_numpy(operator.adjoint_state(on_device[0], on_device[2]))
        weights = device.to_numpy(operator.adjoint_weights(on_device[1], on_device[2]))
        scale = float(np.linalg.norm(applied) * np.linalg.norm(g))
        direct = np.vdot(applied, g)
        worst = max(worst, abs(direct - np.vdot(s, state)) / scale, abs(direct - np.vdot(w, weights)) / scale)
    return worst


def _lattice_error(backend: str, tied: bool) -> float:
    """Largest difference of w, b and R after ten steps of training, relative to how far they moved."""
    import numpy as np

    from bbdfield.datasets import Dataset
    from bbdfield.fields.simulation import FieldSystem
    from bbdfield.lattice.training import LatticeSystem
    from bbdfield.model.architecture import Lattice, Rates, Training
    from bbdfield.model.boundary import Boundary
    from bbdfield.model.initial import InitialFields
    from bbdfield.model.ranges import Kernel
    from bbdfield.model.units import LatticeState, to_field, to_lattice

    rng = np.random.default_rng(2)
    data = Dataset("self-test", rng.standard_normal((40, 1, 20)), np.arange(40) % 4)
    lattice = Lattice(depth=8, width=20, channels=4, range=Kernel(7 / 40, tied), outputs=4)
    plan = Training(steps=10, batch=8, rates=Rates(w=5.0, b=0.5, r=0.5), step=0.5, probe=1, seed=3)
    boundary = Boundary.draw(data, lattice, plan)
    start = InitialFields(lattice, seed=3).on(lattice.grid)
    compiled = "numba" if backend == "numba" else "numpy"
    network = LatticeSystem(lattice, boundary, to_lattice(start), backend=compiled)
    theory = FieldSystem(start, boundary, order=0, scheme="euler", backend=backend)
    for k in range(plan.steps):
        network.step(k)
        theory.step(k)
    trained = to_field(lattice, LatticeState(*network.u))
    worst = 0.0
    for name, predicted in theory.state().items():
        exact, before = getattr(trained, name), getattr(start, name)
        worst = max(worst, float(np.abs(predicted - exact).max() / np.abs(exact - before).max()))
    return worst
