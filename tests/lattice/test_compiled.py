"""Compiled training against the NumPy reference: every law, size and option, on both routes."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from bbdfield.datasets import Dataset
from bbdfield.errors import InputError, NumericsError
from bbdfield.lattice import compiled_sums, engines
from bbdfield.lattice import training as training_module
from bbdfield.lattice.training import LatticeSystem, train
from bbdfield.model import activations
from bbdfield.model.activations import register_activation
from bbdfield.model.architecture import DAMPED, DYNAMICS, Lattice, Rates, Training
from bbdfield.model.boundary import Boundary
from bbdfield.model.ranges import Derivative, Kernel, Taps
from bbdfield.model.run import Run
from bbdfield.model.units import LatticeState
from bbdfield.storage import content_digest
from solvers.backends import get_backend
from solvers.compiled.activations import KINDS
from solvers.padding import PADDINGS
from solvers.threads import threads, use_threads

TIES = pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])


@pytest.fixture
def route(request, monkeypatch):
    """One of the compiled routes, whatever the sizes."""
    monkeypatch.setattr(engines, "by_products", lambda *sizes: request.param == "products")
    return request.param


on_routes = pytest.mark.parametrize("route", ["taps", "products"], indirect=True)


@pytest.fixture
def few_threads():
    """Leaves the number of threads as it was."""
    before = threads()
    yield use_threads
    use_threads(before)


class Case:
    """A lattice with weights of order one, data and a training law; every argument can be given."""

    def __init__(self, seed, *, depth=4, width=9, channels=2, taps=3, batch=3, tied=True, reach="taps", **changes):
        rng = np.random.default_rng(seed)
        ranges = {
            "taps": lambda: Taps(taps, tied),
            "kernel": lambda: Kernel((taps // 2 + 0.5) / width, tied),
            "derivative": lambda: Derivative(1.0 / width, tied),
        }
        law = {key: changes.pop(key) for key in ("dynamics", "steps", "rates", "snapshot_every") if key in changes}
        rates = Rates(*law.pop("rates", (0.2, 0.1, 0.3)))
        damping = 0.5 if law.get("dynamics") in DAMPED else None
        self.lattice = Lattice(depth=depth, width=width, channels=channels, range=ranges[reach](), outputs=3, **changes)
        law = {"steps": 6, "step": 0.5, "probe": 1, "damping": damping} | law
        self.training = Training(batch=batch, rates=rates, **law)
        x = rng.standard_normal((max(batch, 4), 1, width))
        self.data = Dataset("noise", x, np.arange(len(x)) % 3, outputs=3)
        components = self.lattice.range.components(self.lattice.grid).size
        shape = (depth, *(() if tied else (width,)), channels, components, channels)
        small = 1.0 if self.lattice.scaling == "plain" else 0.5
        self.start = LatticeState(
            small * rng.standard_normal(shape) / (components * channels),
            0.3 * rng.standard_normal((depth, width, channels)),
            rng.standard_normal((3, channels, 6)),
        )

    def system(self, backend="numba", **options):
        boundary = Boundary.draw(self.data, self.lattice, self.training)
        return LatticeSystem(self.lattice, boundary, self.start, backend=backend, **options)

    def agree(self, *, steps=2, tolerance=1e-13, **options):
        """Loss, gradients, logits and the moves of some steps are the reference's, relative to their largest number."""
        mine, theirs = self.system(**options), self.system("numpy")
        index = theirs.boundary.batch(0)
        loss, gradients = mine.gradient(theirs.u, index)
        expected, references = theirs.gradient(theirs.u, index)
        assert loss == pytest.approx(expected, rel=tolerance)
        for name, gradient, reference in zip("wbr", gradients, references, strict=True):
            assert gradient.dtype == np.float64 and gradient.shape == reference.shape
            np.testing.assert_allclose(
                gradient, reference, rtol=0, atol=tolerance * np.abs(reference).max(), err_msg=f"gradient of {name}"
            )
            assert reference.any()
        for k in range(steps):
            assert mine.step(k)["loss"] == pytest.approx(theirs.step(k)["loss"], rel=(k + 1) * tolerance)
        for name, reference in theirs.state().items():
            size = steps * tolerance * np.abs(reference).max()
            np.testing.assert_allclose(mine.state()[name], reference, rtol=0, atol=size, err_msg=name)
            assert name not in ("w", "b", "r") or not np.array_equal(reference, getattr(self.start, name))
        logits = theirs.logits(self.data.x)
        np.testing.assert_allclose(mine.logits(self.data.x), logits, rtol=0, atol=4 * tolerance * np.abs(logits).max())
        np.testing.assert_allclose(mine.probe(), theirs.probe(), rtol=0, atol=4 * tolerance * np.abs(logits).max() * 9)


@on_routes
@TIES
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("activation", KINDS)
def test_step_is_the_references(route, tied, padding, activation):
    seed = [list(KINDS).index(activation), PADDINGS.index(padding), tied]
    rng = np.random.default_rng(seed)
    width = int(rng.integers(5, 12))
    Case(
        seed,
        width=width,
        depth=int(rng.integers(1, 7)),
        channels=int(rng.integers(1, 6)),
        taps=int(rng.choice(range(1, width + 1, 2))),
        batch=int(rng.integers(1, 6)),
        tied=tied,
        scaling=str(rng.choice(["residual", "plain"])),
        loss=str(rng.choice(["cross-entropy", "mean-square"])),
        padding=padding,
        activation=activation,
    ).agree(checkpoint=int(rng.integers(0, 4)))


@on_routes
@TIES
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize(
    ("width", "taps", "channels", "batch"),
    [
        (1, 1, 1, 1),  # one neuron
        (1, 1, 3, 2),
        (2, 1, 1, 1),
        (3, 3, 1, 1),  # three taps, one channel, one sample: the fused passes, on the narrowest widths
        (4, 3, 1, 1),
        (33, 3, 1, 1),
        (33, 3, 1, 2),
        (7, 7, 2, 1),  # taps over the whole width
        (6, 5, 1, 3),
        (12, 9, 5, 16),  # odd channels, a full lane
        (5, 3, 2, 17),  # two lanes, of 8 and 9
        (5, 5, 3, 40),  # three
    ],
)
def test_every_size(route, tied, padding, width, taps, channels, batch):
    Case(
        [width, taps, batch], width=width, taps=taps, channels=channels, batch=batch, tied=tied, padding=padding
    ).agree()


@on_routes
@TIES
@pytest.mark.parametrize("scaling", ["residual", "critical", "plain"])
@pytest.mark.parametrize("reach", ["taps", "kernel", "derivative"])
@pytest.mark.parametrize("padding", PADDINGS)
def test_every_scaling_and_range(route, tied, scaling, reach, padding):
    Case([5], tied=tied, scaling=scaling, reach=reach, padding=padding, channels=3).agree()
    Case([6], tied=tied, scaling=scaling, reach=reach, padding=padding, channels=1, batch=1).agree(checkpoint=3)


@on_routes
@TIES
@pytest.mark.parametrize("reach", ["kernel", "derivative"])
@pytest.mark.parametrize("dynamics", DYNAMICS)
def test_every_dynamics(route, tied, reach, dynamics):
    scaling = "critical" if reach == "kernel" else "residual"
    Case([7], tied=tied, reach=reach, dynamics=dynamics, scaling=scaling).agree(steps=3, tolerance=3e-13)


@on_routes
@pytest.mark.parametrize("lane", [1, 2, 16])
@pytest.mark.parametrize("block", [1, 100, 1 << 20])
@TIES
def test_batches_are_summed_over_parts_and_lanes(monkeypatch, route, lane, block, tied):
    """A batch of 23 as parts of 9, 9 and 5 samples in lanes of 1, 2 or 9, gradients summed every few layers."""
    monkeypatch.setattr(training_module, "CHUNK", 9)
    monkeypatch.setattr(engines, "LANE", lane)
    monkeypatch.setattr(engines, "BLOCK", block)
    monkeypatch.setattr(engines, "PIECE", 10)
    Case([8], batch=23, tied=tied, depth=7).agree(checkpoint=3)
    Case([8], batch=9, tied=tied, depth=7, reach="derivative").agree()


@pytest.mark.parametrize("size", [1, 2047, 2048, 2049, 4099])
@pytest.mark.parametrize("fresh", [True, False])
def test_sums_over_lanes_are_in_their_order(size, fresh):
    """Of a stretch of each row; what lies beside it stays."""
    rng = np.random.default_rng(size)
    rows, target = rng.standard_normal((3, size + 7)), rng.standard_normal(size + 7)
    moved = 0.5 * (rows[0] + rows[1] + rows[2]) + (0.0 if fresh else target)
    expected = np.concatenate([target[:3], moved[3:-4], target[-4:]])
    compiled_sums.add(rows, 3, size + 3, 0.5, fresh, target)
    np.testing.assert_array_equal(target, expected)


@on_routes
@pytest.mark.parametrize("batch", [1, 5, 20])
@pytest.mark.parametrize("activation", ["tanh", "gelu"])
def test_checkpoints_change_no_bit(route, batch, activation):
    case = Case([9], depth=11, batch=batch, activation=activation, tied=False)

    def end(checkpoint):
        system = case.system(checkpoint=checkpoint)
        losses = [system.step(k)["loss"] for k in range(4)]
        return [losses, *system.state().values()]

    whole = end(0)
    for checkpoint in (1, 2, 4, 10, 11, 50):
        for mine, theirs in zip(end(checkpoint), whole, strict=True):
            np.testing.assert_array_equal(mine, theirs)


@on_routes
def test_checkpoints_save_memory(route):
    """256 layers with one kept in 16: 16 + 16 instead of 256."""
    case = Case([9], depth=256, channels=2, width=16, batch=32)

    def taken(checkpoint):
        system = case.system(checkpoint=checkpoint)
        tracemalloc.start()
        system.step(0)
        size = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        return size

    taken(0)  # compiles
    everything = 256 * 16 * 2 * 32 * 8
    assert taken(0) > everything
    assert taken(16) < 0.35 * everything


@on_routes
@TIES
@pytest.mark.parametrize("dynamics", ["sgd", "leapfrog"])
def test_threads_change_no_bit(few_threads, route, tied, dynamics):
    case = Case([10], depth=5, batch=50, tied=tied, dynamics=dynamics)

    def end(count):
        few_threads(count)
        system = case.system()
        for k in range(3):
            system.step(k)
        return [*system.state().values(), system.logits(case.data.x)]

    alone = end(1)
    for count in (2, 3):
        for mine, theirs in zip(end(count), alone, strict=True):
            np.testing.assert_array_equal(mine, theirs)


@on_routes
@TIES
def test_single_precision(route, tied):
    case = Case([11], tied=tied, channels=3, batch=20, depth=8)
    mine, theirs = case.system(precision="float32"), case.system("numpy")
    mine.load(theirs.state())
    for k in range(3):
        assert mine.step(k)["loss"] == pytest.approx(theirs.step(k)["loss"], rel=2e-5)
    for name, reference in theirs.state().items():
        value = mine.state()[name]
        assert value.dtype == np.float64
        assert name == "r" or np.array_equal(value, value.astype(np.float32))
        np.testing.assert_allclose(value, reference, rtol=0, atol=2e-5 * np.abs(reference).max())
    assert "float32" in mine.backend.description
    np.testing.assert_allclose(mine.logits(case.data.x), theirs.logits(case.data.x), rtol=0, atol=1e-4)


@on_routes
@pytest.mark.parametrize("batch", [1, 20])
def test_sgd_allocates_nothing_that_grows_with_depth(route, batch):
    def peak(depth):
        case = Case([12], depth=depth, width=32, batch=batch)
        system = case.system()
        system.step(0)
        tracemalloc.start()
        for k in range(1, 4):
            system.step(k)
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    layer = 32 * 2 * batch * 8
    assert peak(200) < peak(20) + 4000
    assert peak(200) < 12 * layer + 20_000


@on_routes
@pytest.mark.parametrize(
    ("batch", "options"), [(3, {}), (20, {"checkpoint": 3}), (20, {"precision": "float32"})], ids=str
)
def test_run_stopped_and_resumed_is_the_run(tmp_path, route, batch, options):
    case = Case([13], batch=batch, tied=False, snapshot_every=2)

    def stop(done, total, loss):
        if done == 3:
            raise InterruptedError

    def go(name, **more):
        path = tmp_path / name
        return train(case.lattice, case.data, case.training, out=path, backend="numba", **options, **more)

    go("whole.h5", initial=case.start).close()
    with pytest.raises(InterruptedError):
        go("stopped.h5", initial=case.start, progress=stop)
    go("stopped.h5", initial=case.start, resume=True).close()
    assert content_digest(tmp_path / "stopped.h5") == content_digest(tmp_path / "whole.h5")
    with Run(tmp_path / "whole.h5") as run:
        system = case.system(**options)
        for k in range(6):
            assert run.loss[k] == system.step(k)["loss"]


@on_routes
@pytest.mark.parametrize(("batch", "parts"), [(1, 9), (20, 40), (20, 9)])
def test_parameters_stay_where_the_loss_is_not_finite(monkeypatch, route, batch, parts):
    monkeypatch.setattr(training_module, "CHUNK", parts)
    case = Case([14], batch=batch, activation="identity", loss="mean-square")
    case.start.r[...] = 1e200
    system = case.system()
    before = system.state()
    with np.errstate(all="ignore"):
        assert not np.isfinite(system.step(0)["loss"])
    for name, value in system.state().items():
        np.testing.assert_array_equal(value, before[name])


@on_routes
def test_a_later_stage_that_is_not_finite_is_noticed(route):
    """Runge-Kutta takes a gradient where the loss is no number: the step is not finite, as the reference's is."""
    case = Case([14], dynamics="flow", activation="identity", loss="mean-square", rates=(1e200, 0.0, 0.0))
    with np.errstate(all="ignore"):
        for backend in ("numpy", "numba"):
            system = case.system(backend)
            assert np.isfinite(system.step(0)["loss"])
            assert not np.isfinite(system.u[0]).all()
    with np.errstate(all="ignore"):
        loss, gradients = system.gradient(system.u, np.arange(3))
    assert np.isnan(loss) and all(np.isnan(part).all() for part in gradients)


@on_routes
def test_what_was_not_finite_is_named(tmp_path, route):
    case = Case([15], activation="identity", loss="mean-square", rates=(1e200, 0.0, 0.0), snapshot_every=1)
    told = []
    for backend in ("numba", "numpy"):
        with pytest.raises(NumericsError) as caught:
            train(case.lattice, case.data, case.training, out=tmp_path / "run.h5", initial=case.start, backend=backend)
        told.append(str(caught.value))
        (tmp_path / "run.h5").unlink()
    assert told[0] == told[1] and "not finite at t = 0.5" in told[0]


@on_routes
def test_states_are_copies(route):
    system = Case([16]).system()
    before = system.state()
    kept = {name: value.copy() for name, value in before.items()}
    system.step(0)
    for name, value in before.items():
        np.testing.assert_array_equal(value, kept[name])
        value[...] = 0.0
        assert system.state()[name].any()


# What runs


def test_sizes_decide_and_it_is_said():
    def said(backend="auto", **sizes):
        return Case([17], **sizes).system(backend).backend.description

    assert said() == "NumPy on the CPU"
    large = {"depth": 64, "width": 40, "channels": 8, "taps": 9, "batch": 32}
    assert said(**large).startswith("numba ") and said(**large).endswith("BLAS products, 2 lanes of samples")
    assert said("numpy", **large) == "NumPy on the CPU"
    assert said(depth=256, width=256, channels=1, batch=1, tied=False).endswith("sums over taps, 1 lane of samples")
    assert said(**large, steps=7) == said(**large, steps=7000)
    assert said(**large, dynamics="leapfrog") == said(**large)
    assert said("numba").startswith("numba ") and said(get_backend("numba")) == said("numba")


def test_auto_without_numba_is_numpy(monkeypatch):
    make = engines.get_backend

    def without(name, **options):
        if name == "numba":
            raise InputError("numba is not installed")
        return make(name, **options)

    monkeypatch.setattr(engines, "get_backend", without)
    case = Case([17], depth=64, width=40, channels=8, taps=9, batch=32)
    assert case.system("auto").backend.name == "numpy"
    with pytest.raises(InputError, match="numba is not installed"):
        case.system("numba")


def test_auto_takes_compiled_code_where_options_need_it():
    assert Case([17]).system("auto", checkpoint=2).backend.name == "numba"
    assert Case([17]).system("auto", precision="float32").backend.name == "numba"


def test_your_own_activation_is_not_compiled(monkeypatch):
    monkeypatch.setattr(activations, "_REGISTERED", {})
    register_activation("sine", np.sin, np.cos)
    case = Case([18], depth=64, width=40, channels=8, taps=9, batch=32, activation="sine")
    assert case.system("auto").backend.name == "numpy"
    with pytest.raises(InputError, match='no compiled code for your own activation "sine"; use backend = "numpy"'):
        case.system("numba")
    with pytest.raises(InputError, match='none for your own activation "sine"; use precision = "float64"'):
        case.system("auto", checkpoint=3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "numpy", "checkpoint": 2}, r"training\.checkpoint = 2: the NumPy reference keeps every layer"),
        ({"backend": "numpy", "precision": "float32"}, r"training\.precision = \"float32\": the NumPy reference"),
        ({"backend": "cupy"}, r"training\.backend = \"cupy\": lattices train on the CPU"),
        ({"backend": "numba", "precision": "float16"}, "precision 'float16' does not exist"),
        (
            {"backend": "fortran"},
            r"training\.backend = \"fortran\": lattices train on the CPU; use auto, numpy or numba",
        ),
        ({"checkpoint": -1}, r"training\.checkpoint = -1: needs a whole number"),
        ({"checkpoint": True}, r"training\.checkpoint = True: needs a whole number"),
    ],
)
def test_what_cannot_run_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        Case([19]).system(**options)
