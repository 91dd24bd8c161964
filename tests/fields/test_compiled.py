"""The compiled march is the reference march: forward, sites, adjoint, for every equation, scheme and way of summing."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from numba.core.runtime import _nrt_python, rtsys

from bbdfield.errors import InputError
from bbdfield.fields.compiled import FLAT, LANE, PRODUCTS, ROWS, CompiledMarch, unsupported
from bbdfield.fields.marches import FOURIER_FROM, ArrayMarch
from bbdfield.fields.simulation import FieldSystem, simulate
from bbdfield.model.activations import activation_names, get_activation, register_activation
from bbdfield.model.boundary import Boundary
from bbdfield.model.initial import InitialFields
from bbdfield.model.ranges import Derivative, Kernel, Taps
from bbdfield.model.regularisation import Regularised
from bbdfield.model.run import Run
from bbdfield.model.scalings.critical import CriticalOrder0, CriticalOrder1
from bbdfield.model.scalings.residual import ResidualOrder0, ResidualOrder1
from solvers.backends import get_backend
from solvers.grids import Grid
from solvers.projection import cutoff_projection
from solvers.stencils import DifferenceOperator
from solvers.sweeps import SCHEMES, DepthMarch
from solvers.threads import threads, use_threads
from solvers.width import KernelOperator

PADDINGS = ("zeros", "circular", "reflect")
#: (channels, samples) with the way in which their sums are taken; 40 samples are three lanes
SIZES = {(1, 1): FLAT, (1, 5): ROWS, (2, 3): ROWS, (3, 40): PRODUCTS, (5, 1): PRODUCTS}


def equation(kind, operator, activation="tanh"):
    sigma = get_activation(activation)
    return {
        "residual 0": lambda: ResidualOrder0(operator, sigma),
        "residual 1": lambda: ResidualOrder1(operator, sigma, 0.3),
        "critical 0": lambda: CriticalOrder0(operator, 1.3),
        "critical 1": lambda: CriticalOrder1(operator, 1.3, 0.3),
    }[kind]()


KINDS = ("residual 0", "residual 1", "critical 0", "critical 1")


class Case:
    """Random coefficients and samples for one march, and what the reference makes of them."""

    def __init__(
        self, kind, scheme, *, tied=True, padding="zeros", channels=3, samples=4, half=1, n_y=9, n_x=5, **more
    ):
        rng = np.random.default_rng(4)
        self.grid, self.scheme = Grid(n_x, n_y), SCHEMES[scheme]
        self.operator = more.get("operator") or KernelOperator(
            np, self.grid, (half + 0.5) * self.grid.h_y, tied=tied, padding=padding, method="direct"
        )
        components = self.operator.stencil.shape[1]
        self.equation = equation(kind, self.operator, more.get("activation", "tanh"))
        if more.get("cutoff"):
            self.equation = Regularised(self.equation, np, cutoff_projection(self.grid, padding, 8.0))
        self.layout = {"tied": tied, "padding": padding}
        nodes = 2 * n_x + 1 if self.scheme.nodal else n_x
        size = 0.7 / np.sqrt(components * channels) / np.abs(self.operator.stencil).max()
        weights = (nodes, *(() if tied else (n_y,)), channels, components, channels)
        self.nodes = size * rng.standard_normal(weights), 0.3 * rng.standard_normal((nodes, n_y, channels))
        self.z0, self.lam = rng.standard_normal((2, n_y, channels, samples))
        self.z0 *= 0.5

    def compiled(self, **options):
        return CompiledMarch(self.equation, self.grid, self.scheme, self.operator.stencil, **self.layout, **options)

    def reference(self, checkpoint=0):
        return ArrayMarch(DepthMarch(self.equation, self.grid, self.scheme), np, checkpoint)

    def results(self, march, dtype=float):
        z0, lam, nodes = self.z0.astype(dtype), self.lam.astype(dtype), tuple(part.astype(dtype) for part in self.nodes)
        sites = march.sites(z0, nodes)
        end = march.forward(z0, nodes).copy()
        return sites, end, *(bar.copy() for bar in march.adjoint(lam))


def assert_same(found, expected, tolerance=1e-13):
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * np.abs(theirs).max())


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("channels", "samples"), SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_march_is_the_references(kind, channels, samples, tied, padding):
    for scheme, half in (("euler", 0), ("midpoint", 4), ("rk4", 2)):
        case = Case(kind, scheme, tied=tied, padding=padding, channels=channels, samples=samples, half=half)
        march = case.compiled()
        assert march.way(channels, samples) == SIZES[channels, samples]
        assert_same(case.results(march), case.results(case.reference()))


@pytest.mark.parametrize("kind", ["residual 0", "residual 1"])
@pytest.mark.parametrize("activation", [name for name in activation_names() if name != "tanh"])
def test_every_activation(activation, kind):
    for channels, samples in ((1, 1), (3, 4)):
        case = Case(kind, "rk4", activation=activation, channels=channels, samples=samples)
        assert_same(case.results(case.compiled()), case.results(case.reference()))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("order", [0, 1, 2])
def test_differences_and_their_components(order, tied):
    """The components of ŵ are fewer or more than the taps: mixing and stencil act inside."""
    mixing = np.random.default_rng(1).standard_normal((order + 1, 4))
    operator = DifferenceOperator(np, Grid(5, 9), order=order, tied=tied, padding="reflect", accuracy=4, mixing=mixing)
    for channels, samples in SIZES:
        case = Case(
            "residual 1", "rk4", operator=operator, tied=tied, padding="reflect", channels=channels, samples=samples
        )
        assert_same(case.results(case.compiled()), case.results(case.reference()))


@pytest.mark.parametrize("kind", KINDS)
def test_the_cutoff_is_inside(kind):
    case = Case(kind, "midpoint", cutoff=True, padding="circular")
    without = Case(kind, "midpoint", padding="circular")
    expected = case.results(case.reference())
    assert_same(case.results(case.compiled()), expected)
    assert np.abs(expected[1] - without.results(without.reference())[1]).max() > 1e-3


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("activation", ["tanh", "gelu"])
@pytest.mark.parametrize("checkpoint", [1, 2, 3, 5, 9])
def test_checkpoints_change_no_bit_and_save_memory(checkpoint, activation, scheme):
    case = Case("residual 1", scheme, activation=activation)
    march = case.compiled(checkpoint=checkpoint)
    for ours, theirs in zip(case.results(march), case.results(case.compiled()), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for ours, theirs in zip(case.results(case.reference(checkpoint)), case.results(case.reference()), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    (lanes,) = march._lanes.values()
    assert len(lanes[0].tape.s) == len(case.scheme.b) * min(checkpoint, 5)


@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "softplus", "gelu"])
@pytest.mark.parametrize("kind", ["residual 0", "residual 1"])
def test_one_cell_is_enough(kind, activation):
    for scheme in SCHEMES:
        case = Case(kind, scheme, activation=activation, n_x=1)
        assert_same(case.results(case.compiled()), case.results(case.reference()))


def test_a_tape_serves_once():
    case = Case("residual 0", "midpoint")
    for march in (case.compiled(), case.reference()):
        march.forward(case.z0, case.nodes)
        march.adjoint(case.lam)
        with pytest.raises(ValueError, match="adjoint needs a forward march that kept its tape"):
            march.adjoint(case.lam)


def test_kernels_allocate_nothing():
    """numba's own allocations, which tracemalloc does not see: as many for 4 cells as for 64."""
    _nrt_python.memsys_enable_stats()
    counts = []
    for n_x in (4, 64):
        case = Case("residual 1", "rk4", n_x=n_x, channels=3)
        march = case.compiled()
        for _ in range(2):
            before = rtsys.get_allocation_stats().mi_alloc
            march.forward(case.z0, case.nodes)
            march.adjoint(case.lam)
        counts.append(rtsys.get_allocation_stats().mi_alloc - before)
    assert counts[0] == counts[1]


def test_threads_change_no_bit():
    case = Case("residual 1", "midpoint", channels=3, samples=3 * LANE + 2)
    before, results = threads(), []
    try:
        for count in (1, 2, 3):
            use_threads(count)
            results.append(case.results(case.compiled()))
    finally:
        use_threads(before)
    for other in results[1:]:
        for ours, theirs in zip(other, results[0], strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(("channels", "samples"), SIZES)
def test_float32_has_its_own_accuracy(channels, samples):
    case = Case("residual 1", "rk4", channels=channels, samples=samples)
    found = case.results(case.compiled(precision="float32"), np.float32)
    assert all(part.dtype == np.float32 for part in found)
    expected = case.results(case.reference())
    assert_same(found, expected, 2e-6)
    assert np.abs(found[0] - expected[0]).max() > 1e-10  # it is not float64 in disguise


def test_a_march_that_stopped_being_finite_says_so():
    case = Case("residual 0", "euler")
    case.nodes[0][2] = np.inf
    with np.errstate(all="ignore"):
        assert not np.isfinite(case.compiled().forward(case.z0, case.nodes)).all()


# ---- inside a simulation


def systems(signals, problems, *, order=1, scheme="rk4", steps=4, law=None, **changes):
    lattice = problems.lattice(**changes)
    training = problems.training(steps=steps, **(law or {}))
    boundary = Boundary.draw(signals, lattice, training)
    start = InitialFields(lattice, 3, weight=1.0, bias=0.3).on(Grid(6, lattice.width), lattice)
    return [FieldSystem(start, boundary, order=order, scheme=scheme, backend=name) for name in ("numpy", "numba")]


@pytest.mark.parametrize("law", [{}, {"dynamics": "flow"}, {"dynamics": "leapfrog", "damping": 2.0}])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tied": False},
        {"range": Taps(3, tied=False)},
        {"range": Derivative(0.1, tied=True), "padding": "circular"},
        {"scaling": "critical", "kappa": 0.1},
    ],
    ids=["kernel", "untied kernel", "taps", "derivative", "critical"],
)
def test_training_is_the_references(signals, problems, changes, law):
    reference, compiled = systems(signals, problems, law=law, **changes)
    assert (reference.backend.name, compiled.backend.name) == ("numpy", "numba")
    for k in range(4):
        assert compiled.step(k)["loss"] == pytest.approx(reference.step(k)["loss"], rel=1e-13)
    for name, expected in reference.state().items():
        np.testing.assert_allclose(compiled.state()[name], expected, rtol=0, atol=1e-12 * np.abs(expected).max())
    np.testing.assert_allclose(compiled.probe(), reference.probe(), rtol=0, atol=1e-12)


def test_a_step_allocates_nothing_that_grows_with_the_grid(signals, problems):
    lattice, training = problems.lattice(range=Taps(3, tied=False)), problems.training(steps=6)
    peaks = {}
    for n_x in (64, 512):
        boundary = Boundary.draw(signals, lattice, training)
        start = InitialFields(lattice, 3, weight=1.0).on(Grid(n_x, lattice.width), lattice)
        system = FieldSystem(start, boundary, order=1, scheme="midpoint", backend="numba")
        for k in range(3):
            system.step(k)
        tracemalloc.start()
        system.step(3)
        peaks[n_x] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peaks[512] < peaks[64] + 4096
    assert peaks[512] < system.state()["w"].nbytes / 4


def test_states_that_were_handed_out_stay_as_they_are(signals, problems):
    for system in systems(signals, problems, scheme="euler"):
        before = system.state()
        kept = {name: values.copy() for name, values in before.items()}
        for k in range(4):
            system.step(k)
        for name, values in kept.items():
            np.testing.assert_array_equal(before[name], values)
            assert np.abs(system.state()[name] - values).max() > 0


def test_stopping_and_resuming_changes_no_bit_and_keeps_the_backend(signals, problems, tmp_path):
    lattice, training = problems.lattice(), problems.training(steps=6, snapshot_every=2)
    boundary = Boundary.draw(signals, lattice, training)
    start = InitialFields(lattice, 3, weight=1.0).on(Grid(6, lattice.width), lattice)

    def run(name, stop=None, backend="numba", resume=False):
        def progress(done, *_):
            if done == stop:
                raise KeyboardInterrupt

        return simulate(start, boundary, backend=backend, out=tmp_path / name, resume=resume, progress=progress)

    whole = run("whole.h5")
    with pytest.raises(KeyboardInterrupt):
        run("parts.h5", stop=3)
    with pytest.raises(
        InputError, match=r"parts.h5: was computed by numba in float64, and this would go on with numpy"
    ):
        run("parts.h5", backend="numpy", resume=True)
    with run("parts.h5", resume=True) as parts, whole:
        assert isinstance(parts, Run) and parts.trajectory.attrs["backend"] == "numba in float64"
        for name in ("w", "b", "z", "r"):
            np.testing.assert_array_equal(parts.trajectory.fields[name][()], whole.trajectory.fields[name][()])
        np.testing.assert_array_equal(parts.loss, whole.loss)


@pytest.mark.parametrize("name", ["numpy", "numba"])
@pytest.mark.parametrize(
    "changes",
    [{}, {"range": Taps(3, tied=False)}, {"range": Taps(3, tied=True)}, {"range": Derivative(0.1, tied=True)}],
    ids=["kernel", "taps", "tied taps", "derivative"],
)
def test_float32_stays_float32_all_the_way(signals, problems, changes, name):
    lattice, training = problems.lattice(**changes), problems.training(steps=2)
    boundary = Boundary.draw(signals, lattice, training)
    start = InitialFields(lattice, 3, weight=1.0).on(Grid(6, lattice.width), lattice)
    options = {"order": 1, "scheme": "midpoint", "backend": name}
    single = FieldSystem(start, boundary, precision="float32", **options)
    double = FieldSystem(start, boundary, **options)
    sites = single.sweep.sites(single.start(boundary.probe_input(lattice.width)), single._nodes(single.u))
    assert sites.dtype == np.float32
    for k in range(2):
        assert single.step(k)["loss"] == pytest.approx(double.step(k)["loss"], rel=1e-5)
    assert all(part.dtype == np.float32 for part in single.u[:2])
    assert all(values.dtype == np.float64 for values in single.state().values())


@pytest.mark.parametrize("name", ["numpy", "numba"])
def test_bad_checkpoints_are_refused_before_anything_is_written(signals, problems, tmp_path, name):
    lattice = problems.lattice()
    boundary = Boundary.draw(signals, lattice, problems.training(steps=2))
    start = InitialFields(lattice, 3).on(lattice.grid, lattice)
    with pytest.raises(InputError, match=r"field.checkpoint = -1: needs a whole number"):
        simulate(start, boundary, backend=name, checkpoint=-1, out=tmp_path / "a.h5")
    assert not list(tmp_path.iterdir())


# ---- which one runs


def test_auto_goes_by_size_and_by_what_there_is(signals, problems):
    lattice = problems.lattice(channels=8, width=40, range=Kernel(11 / 80))
    boundary = Boundary.draw(signals, lattice, problems.training(batch=8))

    def chosen(network, n_x, **options):
        start = InitialFields(network, 3, weight=1.0).on(Grid(n_x, network.width), network)
        return FieldSystem(start, boundary, order=1, scheme="midpoint", **options).backend.name

    assert chosen(lattice, 4) == "numpy"
    assert chosen(lattice, 16) == "numba"
    wide = problems.lattice(channels=4, width=160, range=Kernel((FOURIER_FROM / 2 + 0.5) / 160))
    assert chosen(wide, 16) == "numpy"  # by Fourier transform
    assert chosen(wide, 16, backend="numba") == "numba"


def test_without_compiled_code_numba_is_refused_and_auto_takes_the_reference(signals, problems, monkeypatch):
    monkeypatch.setattr("bbdfield.model.activations._REGISTERED", {})
    register_activation("bent", np.arctan, lambda x: 1 / (1 + x * x))
    lattice = problems.lattice(channels=8, width=40, range=Kernel(11 / 80), activation="bent")
    boundary = Boundary.draw(signals, lattice, problems.training(batch=8))
    start = InitialFields(lattice, 3, weight=1.0).on(Grid(16, 40), lattice)
    options = {"order": 1, "scheme": "midpoint"}
    assert FieldSystem(start, boundary, **options).backend.name == "numpy"
    with pytest.raises(InputError, match=r'field.backend = "numba": no compiled code for the activation .bent.; use'):
        FieldSystem(start, boundary, backend="numba", **options)
    with pytest.raises(InputError, match="no compiled code for the activation"):
        FieldSystem(start, boundary, backend=get_backend("numba"), **options)
    plain = problems.lattice(scaling="plain")
    assert "no compiled march" in unsupported(plain.law.bulk(1, None, get_activation("tanh"), plain.a_x))
