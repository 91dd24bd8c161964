"""Conservation laws: against loops, against torch's gradients, along training of lists, lattices and fields."""

from __future__ import annotations

import dataclasses
import shutil
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch

from bbdfield.cli import main
from bbdfield.comparison.orders import fit_order
from bbdfield.datasets import Dataset
from bbdfield.errors import InputError
from bbdfield.fields.simulation import FieldSystem, simulate
from bbdfield.lattice.dense import DenseNetwork, descend, draw_dense
from bbdfield.lattice.training import LatticeSystem, train
from bbdfield.model.activations import get_activation, register_activation
from bbdfield.model.architecture import Lattice, Rates, Training
from bbdfield.model.boundary import Boundary
from bbdfield.model.initial import InitialFields
from bbdfield.model.losses import get_loss, prepare_targets
from bbdfield.model.ranges import Derivative, Kernel, Taps
from bbdfield.model.run import Run, write_fields
from bbdfield.model.units import learning_rates, to_lattice
from bbdfield.observables.conservation import (
    Steps,
    components,
    field_laws,
    gradients,
    is_homogeneous,
    is_linear,
    lattice_laws,
    list_laws,
    observe,
    readers,
    relative,
)
from bbdfield.storage.seal import seal
from solvers.grids import Grid

PADDINGS = ("zeros", "circular", "reflect")


def seen(y: int, u: int, cells: int, reach: int, padding: str) -> int:
    """The cell that tap u of cell y reads; −1 for none."""
    place = y + u - reach
    if 0 <= place < cells:
        return place
    return (
        -1
        if padding == "zeros"
        else place % cells
        if padding == "circular"
        else -1 - place
        if place < 0
        else 2 * cells - 1 - place
    )


# plain lists: laws by loops


def test_dense_relu_laws_are_sums_over_each_neuron():
    rng = np.random.default_rng(0)
    w, b = draw_dense([3, 4, 5, 2], rng)
    b = [rng.standard_normal(part.shape) for part in b]
    laws = list_laws(w, b, "relu")
    assert [law.name for law in laws] == ["layers 1 and 2", "layers 2 and 3"]
    for l, law in enumerate(laws):  # noqa: E741
        for i, value in enumerate(law.value({"w": w, "b": b})):
            expected = sum(v**2 for v in w[l + 1][:, i]) - sum(v**2 for v in w[l][i]) - b[l][i] ** 2
            assert value == pytest.approx(expected, rel=1e-14)


def test_dense_linear_laws_are_matrices():
    rng = np.random.default_rng(0)
    w, b = draw_dense([3, 4, 5, 2], rng)
    b = [rng.standard_normal(part.shape) for part in b]
    for l, law in enumerate(list_laws(w, b, "identity")):  # noqa: E741
        expected = w[l + 1].T @ w[l + 1] - w[l] @ w[l].T - np.outer(b[l], b[l])
        assert np.allclose(law.value({"w": w, "b": b}), expected, rtol=0, atol=1e-13)
        assert np.all(law.scale({"w": w, "b": b}) >= np.abs(expected))


@pytest.mark.parametrize("padding", PADDINGS)
def test_untied_laws_count_what_reads_each_neuron(padding):
    rng = np.random.default_rng(1)
    w = [rng.standard_normal((4, 3, 5, 2)), rng.standard_normal((4, 2, 5, 3))]
    b = [rng.standard_normal((4, 3)), rng.standard_normal((4, 2))]
    (law,) = list_laws(w, b, "relu", padding=padding)
    value = law.value({"w": w, "b": b})
    assert value.shape == (4, 3)
    for y, c in np.ndindex(4, 3):
        out = sum(w[1][p, o, u, c] ** 2 for p, o, u in np.ndindex(4, 2, 5) if seen(p, u, 4, 2, padding) == y)
        assert value[y, c] == pytest.approx(out - (w[0][y, c] ** 2).sum() - b[0][y, c] ** 2, rel=1e-13)


def test_reflection_reads_edge_cells_more_often():
    """Cell 0 of 4 with 3 taps: its own, its neighbour's, and its own once more by reflection."""
    assert (readers(4, 3, "reflect") < 12).sum(axis=1).tolist() == [3, 3, 3, 3]
    assert (readers(4, 3, "zeros") < 12).sum(axis=1).tolist() == [2, 3, 3, 2]
    assert readers(4, 3, "reflect")[0].tolist() == [0, 1, 3]  # tap 0 of cell 0 is reflected to it


# plain lists: gradients of torch, which knows nothing of laws


def torch_network(w, b, x, activation, padding):
    """Convolutions (patches by index) and dense layers; samples last, (N, C, B) or (n, B)."""
    h = x
    for l, (w_l, b_l) in enumerate(zip(w, b, strict=True)):  # noqa: E741
        if w_l.ndim == 2:
            z = w_l @ h.reshape(-1, h.shape[-1]) + b_l[:, None]
        else:
            cells, taps = h.shape[0], w_l.shape[-2]
            padded = torch.cat([h, torch.zeros_like(h[:1])])
            place = [[seen(y, u, cells, taps // 2, padding) for u in range(taps)] for y in range(cells)]
            patches = padded[torch.tensor(place)]
            z = torch.einsum("ouc,yucs->yos" if w_l.ndim == 3 else "youc,yucs->yos", w_l, patches)
            z = z + (b_l[..., None] if b_l.ndim == 2 else b_l[None, :, None])
        h = z if l == len(w) - 1 else torch.relu(z) if activation == "relu" else z
    return h


SHAPES = {
    "two tied convolutions": ([(3, 3, 2), (2, 3, 3)], [(5, 3), (5, 2)]),
    "three tied convolutions, shared biases": ([(3, 5, 2), (4, 3, 3), (2, 3, 4)], [(3,), (4,), (2,)]),
    "untied": ([(5, 3, 5, 2), (5, 2, 3, 3), (3, 10)], [(5, 3), (5, 2), (3,)]),
    "tied, untied, tied": ([(3, 3, 2), (5, 4, 3, 3), (2, 3, 4)], [(5, 3), (5, 4), (5, 2)]),
    "convolution, dense, dense": ([(3, 3, 2), (6, 15), (2, 6)], [(5, 3), (6,), (2,)]),
}


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("activation", ["relu", "identity"])
@pytest.mark.parametrize("name", SHAPES)
def test_no_gradient_has_a_part_along_a_law(name, activation, padding):
    """B(θ, ∂ℓ/∂θ) = 0 for any loss and samples, and not without the biases."""
    rng = np.random.default_rng(7)
    shapes, biases = SHAPES[name]
    w, b = ([0.6 * rng.standard_normal(shape) for shape in part] for part in (shapes, biases))
    t_w, t_b = ([torch.tensor(part, requires_grad=True) for part in parts] for parts in (w, b))
    out = torch_network(t_w, t_b, torch.tensor(rng.standard_normal((5, 2, 6))), activation, padding)
    (out.reshape(-1, 6) * torch.tensor(rng.standard_normal((out.numel() // 6, 6)))).sin().sum().backward()
    theta = {"w": w, "b": b}
    gradient = {"w": [p.grad.numpy() for p in t_w], "b": [p.grad.numpy() for p in t_b]}
    laws = list_laws(w, b, activation, padding=padding)
    assert len(laws) == len(w) - 1
    for law in laws:
        scale = np.sqrt(law.scale(theta) * law.scale(gradient))
        assert relative(law.form(theta, gradient), scale) < 1e-13
        without = dataclasses.replace(law, incoming=law.incoming[:1])
        assert relative(without.form(theta, gradient), scale) > 1e-3


# plain lists: training


def dense_problem(activation, widths=(6, 7, 5, 4), residual=False, seed=0):
    rng = np.random.default_rng(seed)
    net = DenseNetwork(get_activation(activation), get_loss("cross-entropy"), residual)
    w, b = draw_dense(widths, rng, 1.2)
    b = [0.1 * rng.standard_normal(part.shape) for part in b]
    x = rng.standard_normal((widths[0], 64))
    targets = prepare_targets(net.loss, rng.integers(0, widths[-1], 64), widths[-1])
    rows = [rng.permutation(64)[:16] for _ in range(1000)]
    return net, w, b, [(np.ascontiguousarray(x[:, i]), targets[i]) for i in rows]


def moved(after, before):
    return {n: [p - q for p, q in zip(after[n], before[n], strict=True)] for n in after}


@pytest.mark.parametrize(
    ("activation", "residual", "count"),
    [("relu", False, 12), ("identity", False, 28 + 15), ("relu", True, 5 + 3), ("identity", True, 15 + 6)],
)
def test_after_a_thousand_steps_only_rounding_is_left(activation, residual, count):
    widths = (6, 5, 6, 3, 6, 4) if residual else (6, 7, 5, 4)
    net, w, b, batches = dense_problem(activation, widths, residual)
    laws = list_laws(w, b, activation, residual=residual)
    start = before = {"w": w, "b": b}
    assert sum(components(law.value(start), law.matrix).size for law in laws) == count
    sums = [np.zeros_like(law.value(start)) for law in laws]
    for step in descend(net, w, b, batches, 0.05):
        after = {"w": step.w, "b": step.b}
        for total, law in zip(sums, laws, strict=True):
            total += law.increment(moved(after, before))
        before = after
    for law, total in zip(laws, sums, strict=True):
        change = law.value(before) - law.value(start)
        assert relative(change, law.scale(start)) > 1e-3
        assert relative(change - total, law.scale(start), law.scale(before)) < 1e-13


def test_nothing_is_conserved_across_a_skip():
    """The laws of the plain network with the same layers, asked of the residual one, fail between blocks."""
    net, w, b, batches = dense_problem("relu", (6, 5, 6, 3, 6, 4), residual=True)
    *_, last = descend(net, w, b, batches[:50], 0.01)
    change = [
        relative(law.value({"w": last.w, "b": last.b}) - law.value({"w": w, "b": b}), law.scale({"w": w, "b": b}))
        for law in list_laws(w, b, "relu")
    ]
    inside, across = [change[0], change[2]], [change[1], change[3]]
    assert max(inside) < 0.1 * min(across)


def test_the_drift_falls_as_the_square_of_the_rate():
    net, w, b, batches = dense_problem("relu")
    start, rates = {"w": w, "b": b}, [0.0005, 0.001, 0.002, 0.004]
    drifts = []
    for rate in rates:
        *_, last = descend(net, w, b, batches[:10], rate)
        end = {"w": last.w, "b": last.b}
        drifts.append(max(np.abs(law.value(end) - law.value(start)).max() for law in list_laws(w, b, "relu")))
    assert fit_order(rates, drifts).order == pytest.approx(2, abs=0.1)


def test_weight_decay_has_its_own_exact_recursion():
    net, w, b, batches = dense_problem("relu")
    rate, decay = 0.05, 0.02
    laws, before = list_laws(w, b, "relu"), {"w": w, "b": b}
    expected, keep = [law.value(before) for law in laws], 1 - rate * decay
    for step in descend(net, w, b, batches[:300], rate, weight_decay=decay):
        after = {"w": step.w, "b": step.b}
        free = moved(after, {n: [keep * p for p in before[n]] for n in before})
        expected = [keep**2 * d + law.increment(free) for law, d in zip(laws, expected, strict=True)]
        before = after
    for law, value in zip(laws, expected, strict=True):
        assert relative(law.value(before) - value, law.scale(before)) < 1e-13
        assert relative(law.value(before) - keep**600 * law.value({"w": w, "b": b}), law.scale(before)) > 1e-3


@pytest.mark.parametrize("residual", [False, True])
def test_with_momentum_charges_decay_by_it(residual):
    """From velocities of their own: Q(k) = μ^k Q(0), while D does not hold."""
    widths, mu = ((6, 5, 6, 3, 6, 4) if residual else (6, 7, 5, 4)), 0.9
    net, w, b, batches = dense_problem("identity", widths, residual)
    rng = np.random.default_rng(5)
    theta = {"w": w, "b": b}
    speed = {n: [0.01 * rng.standard_normal(p.shape) for p in parts] for n, parts in theta.items()}
    laws = list_laws(w, b, "identity", residual=residual)
    first = [law.charge(theta, speed) for law in laws]
    assert all(np.array_equal(q, -q.T) and np.abs(q).max() > 1e-3 for q in first)
    start = theta
    for k, (x, targets) in enumerate(batches[:100], start=1):
        _, g_w, g_b = net.loss_and_gradients(theta["w"], theta["b"], x, targets)
        slopes = {"w": g_w, "b": g_b}
        speed = {n: [mu * v - 0.01 * g for v, g in zip(speed[n], slopes[n], strict=True)] for n in slopes}
        theta = {n: [p + v for p, v in zip(theta[n], speed[n], strict=True)] for n in slopes}
        for law, q in zip(laws, first, strict=True):
            assert relative(law.charge(theta, speed) - mu**k * q, law.charge_scale(theta, speed), np.abs(q)) < 1e-14
    sums = max(relative(law.value(theta) - law.value(start), law.scale(start)) for law in laws)
    assert sums > 1e-2


# plain lists: what is refused

SQUARE = {"w": [np.eye(2), np.eye(2)]}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: list_laws([np.eye(2)] * 2, None, "tanh"), "activation tanh conserve nothing"),
        (lambda: list_laws([np.eye(2)], None, "relu"), "without hidden layers"),
        (lambda: list_laws([np.ones((3, 2)), np.ones((2, 4))], None, "relu"), "do not fit"),
        (lambda: list_laws([np.ones((3, 2)), np.ones((2, 3, 3))], None, "relu"), "do not fit"),
        (lambda: list_laws([np.ones((5, 2, 3, 1)), np.ones((5, 2, 3, 2))], [np.ones(2)] * 2, "relu"), "every cell"),
        (lambda: list_laws(SQUARE["w"], None, "relu")[0].charge(SQUARE, SQUARE), "number for each unit"),
    ],
)
def test_laws_that_do_not_exist_are_refused_in_one_line(make, message):
    with pytest.raises(InputError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("activation", ["relu", "identity"])
@pytest.mark.parametrize(
    "shapes", [([(3, 2), (2, 3)], [(3,), (2,)]), ([(3, 3, 2), (4, 2, 3, 3)], [(4, 3), (4, 2)])], ids=["dense", "conv"]
)
def test_gradients_of_laws_are_their_derivatives_at_any_parameters(shapes, activation):
    rng = np.random.default_rng(6)
    theta = {"w": [rng.standard_normal(s) for s in shapes[0]], "b": [rng.standard_normal(s) for s in shapes[1]]}
    (law,) = list_laws(theta["w"], theta["b"], activation)
    columns, h = [], 1e-3
    for part in (*theta["w"], *theta["b"]):
        for place in np.ndindex(part.shape):
            sides, here = [], part[place]
            for move in (h, -h):
                part[place] = here + move
                sides.append(components(law.value(theta), law.matrix))
            part[place] = here
            columns.append((sides[0] - sides[1]) / (2 * h))  # exact for squares, but for rounding
    assert np.allclose(gradients(law, theta), np.stack(columns, axis=-1), rtol=0, atol=1e-10)


def test_gradients_are_not_rounded():
    theta = {"w": [np.array([[0.3], [0.4]]), np.array([[0.1, 0.2]])]}
    (law,) = list_laws(theta["w"], None, "relu")
    assert np.allclose(gradients(law, theta), [[-0.6, 0, 0.2, 0], [0, -0.8, 0, 0.4]], rtol=0, atol=1e-15)


def test_activations_are_asked_what_they_are(monkeypatch):
    monkeypatch.setattr("bbdfield.model.activations._REGISTERED", {})  # other tests must not meet it
    leaky = register_activation(
        "leaky-for-laws", lambda x: np.where(x > 0, x, 0.1 * x), lambda x: np.where(x > 0, 1.0, 0.1)
    )
    assert is_homogeneous(leaky) and not is_linear(leaky)
    assert is_homogeneous(get_activation("relu")) and is_linear(get_activation("identity"))
    assert not any(is_homogeneous(get_activation(name)) for name in ("tanh", "sigmoid", "softplus", "gelu"))


# lattices


def data() -> Dataset:
    rng = np.random.default_rng(0)
    return Dataset("noise", rng.standard_normal((60, 2, 6)), np.arange(60) % 3, outputs=3)


def lattice(**changes) -> Lattice:
    told = {"range": Taps(3, True), "scaling": "plain", "activation": "relu", **changes}
    return Lattice(depth=3, width=6, channels=3, outputs=3, data_channels=2, readout_modes=3, **told)


def training(**changes) -> Training:
    told = {"rates": Rates(0.5, 0.2, 1.0), "step": 0.1, "seed": 3, "snapshot_every": 10, "probe": 4, **changes}
    return Training(**{"steps": 40, "batch": 8, **told})


def follow(network, plan, bias=0.5, kick=False):
    """Numbers of every step, the first state, the last one."""
    boundary = Boundary.draw(data(), network, plan)
    start = InitialFields(network, 5, weight=0.8, bias=bias).on(network.grid, network)
    system = LatticeSystem(network, boundary, to_lattice(start), backend="numpy")
    if kick:
        rng = np.random.default_rng(9)
        state = system.state()
        system.load({n: v if "_" not in n else 0.1 * rng.standard_normal(v.shape) for n, v in state.items()})
    recorder = Steps(network, network.grid, plan, "lattice")
    first = before = {n: np.array(v) for n, v in system.state().items()}
    found = []
    for k in range(plan.steps):
        system.step(k)
        after = {n: np.array(v) for n, v in system.state().items()}
        found.append(recorder.step(k, system, before, after))
        before = after
    return {name: np.array([row[name] for row in found]) for name in Steps.names}, first, before


RESIDUAL = {"scaling": "residual", "activation": "identity"}
LATTICES = [
    *(
        pytest.param({"padding": padding, "range": Taps(3, tied)}, id=f"relu-{padding}-{tied}")
        for padding in PADDINGS
        for tied in (True, False)
    ),
    *(
        pytest.param({**RESIDUAL, "padding": padding, "range": Taps(5, tied)}, id=f"residual-{padding}-{tied}")
        for padding in PADDINGS
        for tied in (True, False)
    ),
    pytest.param({"range": Kernel("1/4", True)}, id="kernel"),
    pytest.param({"range": Kernel("1/4", False), "activation": "identity"}, id="kernel-untied-identity"),
    pytest.param({"range": Derivative(0.1, True), "scaling": "residual", "activation": "identity"}, id="derivative"),
    pytest.param({"range": Kernel("1/4", True), "activation": "tanh"}, id="tanh-readout"),
    pytest.param({"range": Kernel("1/4", True), "activation": "tanh", "scaling": "critical"}, id="critical-readout"),
]


@pytest.mark.parametrize("changes", LATTICES)
def test_every_lattice_keeps_its_laws_but_for_the_square_of_each_step(changes):
    found, *_ = follow(lattice(**changes), training())
    assert found["conservation_rest"].max() < 1e-14
    assert found["conservation_change"].max() > 1e-6


def test_how_many_laws_a_lattice_has():
    def shapes(**changes):
        network = lattice(**changes)
        rates = learning_rates(network, 1.0, training().rates)
        state = to_lattice(InitialFields(network, 5).on(network.grid, network))
        given = {"w": state.w, "b": state.b, "r": state.r}
        return [law.value(given).shape for law in lattice_laws(network, rates)]

    assert shapes() == [(2, 3), (3, 3)]
    assert shapes(range=Taps(3, False)) == [(2, 6, 3), (3, 3)]
    assert shapes(activation="identity", range=Taps(3, False)) == [(2, 6, 3, 3), (3, 3)]
    assert shapes(activation="tanh") == [(3, 3)]


def test_every_square_is_divided_by_the_rate_of_its_own_group():
    network, plan = lattice(), training(step=0.01)
    _, first, last = follow(network, plan)
    own = lattice_laws(network, learning_rates(network, 1.0, plan.rates))
    alike = lattice_laws(network, Rates(1.0, 1.0, 1.0))

    def drift(laws):
        return max(relative(law.value(last) - law.value(first), law.scale(first)) for law in laws)

    assert drift(own) < 0.1 * drift(alike)


def test_frozen_groups_take_their_laws_with_them():
    still = training(rates=Rates(0.5, 0.2, 0.0))
    assert [law.name for law in lattice_laws(lattice(), learning_rates(lattice(), 1.0, still.rates))] == [
        "neighbouring layers"
    ]
    assert follow(lattice(), still)[0]["conservation_rest"].max() < 1e-14
    unbiased = training(rates=Rates(0.5, 0.0, 1.0))
    assert follow(lattice(), unbiased, bias=0.0)[0]["conservation_rest"].max() < 1e-14
    with pytest.raises(InputError, match=r"rates\.b = 0 holds b fixed"):
        follow(lattice(), unbiased, bias=0.5)


@pytest.mark.parametrize("dynamics", ["heavy-ball", "leapfrog"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"activation": "tanh"},
        {"activation": "identity", "range": Taps(3, False)},
        {"activation": "identity", "scaling": "residual"},
    ],
)
def test_charges_of_a_lattice_with_momentum_decay(dynamics, changes):
    """From velocities of their own: e^{−γτ} in every step, which for other decays it is not."""
    plan = training(dynamics=dynamics, damping=1.0, step=0.05)
    found, first, last = follow(lattice(**changes), plan, kick=True)
    assert found["conservation_rest"].max() < 1e-15
    law = lattice_laws(lattice(**changes), learning_rates(lattice(**changes), 1.0, plan.rates))[-1]

    def charge(state):
        return law.charge(state, {n: state[f"{n}_dot"] for n in "wbr"})

    assert np.abs(charge(first)).max() > 1e-3
    assert np.allclose(charge(last), np.exp(-40 * 0.05) * charge(first), rtol=1e-11, atol=1e-13)
    assert found["conservation_change"].max() > 1e-4


@pytest.mark.parametrize(
    ("changes", "plan", "message"),
    [
        ({"scaling": "residual"}, {}, "adds a skip"),
        ({"activation": "tanh"}, {"rates": Rates(1.0, 1.0, 0.0)}, "activation tanh and a fixed readout"),
        ({}, {"rates": Rates(0.0, 1.0, 1.0)}, r"rates\.w = 0"),
        ({"range": Derivative(0.1, False)}, {}, "untied derivative"),
        ({}, {"dynamics": "heavy-ball", "damping": 1.0, "rates": Rates(1.0, 1.0, 0.0)}, "with momentum only"),
    ],
)
def test_lattices_without_laws_say_why(changes, plan, message):
    with pytest.raises(InputError, match=message) as caught:
        Steps(lattice(**changes), lattice(**changes).grid, training(**plan), "lattice")
    assert "\n" not in str(caught.value)


# fields


def field_drift(n: int, order: int = 0, scheme: str = "midpoint", span=None) -> float:
    network = lattice(range=span or Kernel("1/4", True), scaling="residual", activation="identity")
    plan, grid = training(steps=20, batch=60, dynamics="flow", step=0.2, rates=Rates(2.0, 0.5, 1.0)), Grid(n, 6)
    start = InitialFields(network, 5, weight=1.5, bias=0.5, correlation_x=1.0).on(grid)
    system = FieldSystem(start, Boundary.draw(data(), network, plan), order=order, scheme=scheme)
    (law,) = field_laws(network, grid, plan.rates)
    first = system.state()
    for k in range(plan.steps):
        system.step(k)
    return relative(law.value(system.state()) - law.value(first), law.scale(first))


@pytest.mark.parametrize("span", [Kernel("1/4", True), Taps(3, True)])
def test_the_linear_field_keeps_its_law_in_the_limit(span):
    """Order 2 in the grid's spacing; by Euler's march order 1; the equation of order 1 keeps another quantity."""
    drifts = [field_drift(n, span=span) for n in (4, 8, 16)]
    assert drifts[2] < drifts[1] / 3 and drifts[1] < drifts[0] / 3
    assert drifts[2] < 1e-2
    assert field_drift(16, scheme="euler", span=span) > 5 * drifts[2]
    assert field_drift(16, order=1, span=span) > 5 * drifts[2]


def test_the_law_of_a_field_by_loops():
    network = lattice(range=Kernel("1/4", True), scaling="residual", activation="identity")
    grid, rates = Grid(4, 6), Rates(2.0, 0.5, 1.0)
    state = InitialFields(network, 5, weight=1.5, bias=0.5).on(grid)
    (law,) = field_laws(network, grid, rates)
    found = law.value({"w": state.w, "b": state.b})
    centre = state.w.shape[2] // 2
    for i in range(3):
        total = np.zeros((3, 3))
        for side in (i, i + 1):
            sign = 1 if side > i else -1
            total += sign * (state.w[side, :, centre] + state.w[side, :, centre].T) / grid.h_x / rates.w
            for k in range(state.w.shape[2]):
                w = state.w[side, :, k]
                total += 0.5 * grid.h_y / rates.w * (w.T @ w - w @ w.T)
            for y in range(6):
                total -= 0.5 * grid.h_y / rates.b * np.outer(state.b[side, y], state.b[side, y])
        assert np.allclose(found[i], total, rtol=0, atol=1e-12)


def test_fields_without_a_law_say_so():
    with pytest.raises(InputError, match="a field keeps a law only"):
        field_laws(lattice(), Grid(4, 6), Rates(1.0, 1.0, 1.0))


# recorded runs


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    network = lattice()
    start = InitialFields(network, 5, weight=0.8, bias=0.5)
    plan = training()
    recorder = Steps(network, network.grid, plan, "lattice")
    train(network, data(), plan, initial=start, out=folder / "told.h5", observers=[recorder]).close()
    train(network, data(), plan, initial=start, out=folder / "plain.h5").close()
    heavy = training(dynamics="heavy-ball", damping=1.0)
    recorder = Steps(network, network.grid, heavy, "lattice")
    train(network, data(), heavy, initial=start, out=folder / "heavy.h5", observers=[recorder]).close()
    linear = lattice(scaling="residual", activation="identity")
    fields = InitialFields(linear, 5, weight=0.8, bias=0.5)
    boundary = Boundary.draw(data(), linear, plan)
    simulate(fields.on(Grid(8, 6)), boundary, order=0, depth_scheme="midpoint", out=folder / "field.h5").close()
    return folder


def test_a_recorded_run_says_the_same_with_and_without_recorded_steps(runs):
    with Run(runs / "told.h5") as told, Run(runs / "plain.h5") as plain:
        assert "conservation_rest" in told.trajectory.scalars and "conservation_rest" not in plain.trajectory.scalars
        first, second = observe(told), observe(plain)
    for name, (dims, values) in first.arrays.items():
        assert dims == second.arrays[name][0]
        assert np.array_equal(values, second.arrays[name][1])
    assert first.arrays["conservation_value"][1].shape == (5, 2 * 3 + 6)
    assert first.arrays["conservation_site"][1].tolist() == [1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3, 3]
    assert first.summary["rest"] < 1e-13 < 1e-6 < first.summary["drift"]
    assert first.summary["laws"] == 12 and "D(Δ)" in first.told[1]


def test_values_are_those_of_the_snapshots(runs):
    with Run(runs / "plain.h5") as run:
        found = observe(run).arrays["conservation_value"][1]
        rates = learning_rates(run.lattice, 1.0, run.training.rates)
        w, b = run.trajectory.fields["w"][3], run.trajectory.fields["b"][3]
    expected = (w[2, :, :, 1] ** 2).sum() / rates.w - (w[1, 1] ** 2).sum() / rates.w - (b[1, :, 1] ** 2).sum() / rates.b
    assert found[3, 4] == pytest.approx(expected, rel=1e-12)


def test_a_run_with_momentum_tells_of_charges(runs):
    with Run(runs / "heavy.h5") as run:
        found = observe(run)
    assert found.arrays["conservation_charge"][1].shape == (5, 3)
    assert found.summary["rest"] < 1e-13 and found.summary["drift"] > 1e-4
    assert "antisymmetric" in found.told[1]


def test_a_run_with_momentum_needs_its_velocities(runs):
    with Run(runs / "heavy.h5") as run:
        fields = {name: value for name, value in run.trajectory.fields.items() if not name.endswith("_dot")}
        given = run.trajectory
        run.trajectory = SimpleNamespace(fields=fields, step=given.step, close=given.close)  # type: ignore[assignment]
        with pytest.raises(InputError, match="has no w_dot, b_dot, r_dot") as caught:
            observe(run)
    assert "\n" not in str(caught.value)


def edited(runs, name, edit):
    """A finished file of its own, `heavy.h5` with something changed."""
    path = runs / f"{name}.h5"
    shutil.copy(runs / "heavy.h5", path)
    with h5py.File(path, "r+") as file:
        places = {n.rpartition("/")[2]: n for n in names_in(file) if n.endswith("_dot")}
        assert set(places) >= {"w_dot", "b_dot", "r_dot"}
        edit(file, places)
    seal(path)
    return path


def names_in(file):
    found = []
    file.visit(found.append)
    return found


def removed(runs):
    """A file whose velocities somebody took out."""

    def remove(file, places):
        for place in places.values():
            del file[place]

    return edited(runs, "removed", remove)


def derived(runs):
    """A whole file of fields on another grid, which have no velocities."""
    with Run(runs / "heavy.h5") as run:
        write_fields(run, run, runs / "derived.h5", config=run.config, overwrite=True).close()
    return runs / "derived.h5"


@pytest.mark.parametrize(
    ("make", "message"),
    [(removed, "fields/b_dot is missing"), (derived, "has no w_dot, b_dot, r_dot, which enter all that is conserved")],
)
def test_a_file_without_velocities_is_refused_in_one_line_by_the_command_line(runs, capsys, make, message):
    path = make(runs)
    assert main(["observe", str(path), "--only", "conservation"]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and said[0].startswith("bbdfield: ") and f"{path}: " in said[0] and message in said[0]
    assert not list(runs.glob(f"{path.stem}.*.*"))


def test_stored_charges_are_those_of_the_snapshots_by_loops(runs):
    """From velocities put into the file: from rest all charges are zero, of either sign."""

    def kick(file, places):
        rng = np.random.default_rng(4)
        for place in places.values():
            file[place][...] = rng.standard_normal(file[place].shape)

    with Run(edited(runs, "kicked", kick)) as run:
        found = observe(run).arrays["conservation_charge"][1]
        rates = learning_rates(run.lattice, 1.0, run.training.rates)
        state = {n: np.array(run.trajectory.fields[n][2]) for n in ("w", "b", "r", "w_dot", "b_dot", "r_dot")}
    expected = []
    for c, d in ((0, 1), (0, 2), (1, 2)):
        (r, r_dot), (w, w_dot), (b, b_dot) = ((state[n], state[f"{n}_dot"]) for n in "rwb")
        charge = sum(r[o, c, j] * r_dot[o, d, j] - r_dot[o, c, j] * r[o, d, j] for o, j in np.ndindex(3, 3)) / rates.r
        for t, i in np.ndindex(3, 3):
            charge += (w[2, c, t, i] * w_dot[2, d, t, i] - w_dot[2, c, t, i] * w[2, d, t, i]) / rates.w
        for y in range(6):
            charge += (b[2, y, c] * b_dot[2, y, d] - b_dot[2, y, c] * b[2, y, d]) / rates.b
        expected.append(charge)
    assert found[2] == pytest.approx(expected, rel=1e-12) and np.abs(expected).min() > 0.1


def test_a_field_run_tells_how_far_its_law_drifts(runs):
    with Run(runs / "field.h5") as run:
        found = observe(run)
    assert found.arrays["conservation_value"][1].shape == (5, 7 * 6)
    assert 1e-12 < found.summary["drift"] < 5e-2
    assert "limit" in found.told[-1]


def test_one_snapshot_is_too_few(runs):
    with Run(runs / "plain.h5") as run:
        given, step = run.trajectory, np.array([0])
        run.trajectory = SimpleNamespace(fields=given.fields, step=step, close=given.close)  # type: ignore[assignment]
        with pytest.raises(InputError, match="1 snapshots, and a drift needs two"):
            observe(run)


def test_the_figure_of_a_run_says_what_was_found(runs):
    from bbdfield.plotting.conservation import figure_observed

    for name, word in (
        ("plain", "less each step's exact increment"),
        ("heavy", "charges miss their decay by"),
        ("field", "laws drift"),
    ):
        with Run(runs / f"{name}.h5") as run:
            found = observe(run)
            coordinates = {**found.coordinates, "t": run.t, "step": np.arange(40)}
        figure = figure_observed(found.values(), coordinates, found.summary, f"{name}.h5")
        assert figure.get_suptitle().startswith(f"{name}.h5") and word in figure.get_suptitle()


def drawn_laws(rest=1e-15, slope=2.0, activation="relu"):
    from bbdfield.plotting.conservation import figure_laws

    step, factor = np.arange(1, 5), np.array([0.1, 0.2, 0.4])
    curves = {name: (step, 0.01 * step, np.full(4, rest)) for name in ("convolutional", "dense")}
    slopes = {name: (factor, 1e-3 * factor**slope) for name in curves}
    return figure_laws(curves, slopes, {"convolutional": f"convolutional {activation} network", "dense": "dense"})


def test_titles_of_the_laws_say_what_was_measured():
    figure = drawn_laws(activation="tanh")
    assert "by nothing else" in figure.get_suptitle() and "4 %" in figure.get_suptitle()
    assert [ax.get_title() for ax in figure.axes] == [
        "convolutional tanh network",
        "dense",
        "the drift falls as the square of the rate",
    ]
    assert "is not as the square" in drawn_laws(slope=1.0).axes[2].get_title()
    assert "by nothing else" not in (broken := drawn_laws(rest=3e-4).get_suptitle()) and "all but 3e-04" in broken


def drawn_departures(factor=0.9, bend=1.0, rest=1e-15, orders=(1.0, 2.0)):
    from bbdfield.plotting.conservation import figure_departures

    step, cells = np.arange(1, 101), np.array([8, 16, 32])
    momentum = {"step": step, "drift": 0.01 * step, "expected": factor**step, "charge": factor ** (bend * step)}
    decayed = {"step": step, "law": 0.99**step, "expected": 0.98**step, "rest": np.full(100, rest)}
    field = {name: cells**-order for name, order in zip(("euler", "midpoint"), orders, strict=True)}
    return figure_departures(momentum, decayed, factor, cells, field).get_suptitle()


def test_titles_of_the_departures_say_what_was_measured():
    kept = drawn_departures()
    assert "charges fall by 0.9 a step through 5 decades." in kept
    assert "laws follow their recursion to 1e-15" in kept and "the field keeps a law" in kept
    assert "do not fall by 0.9" in drawn_departures(bend=-1.0)
    assert "through 9 steps, and not beyond" in drawn_departures(bend=1.1)
    assert "laws leave their recursion by 2e-03" in drawn_departures(rest=2e-3)
    assert "with orders 0.0 and 2.0" in (unkept := drawn_departures(orders=(0.0, 2.0))) and "keeps a law" not in unkept
