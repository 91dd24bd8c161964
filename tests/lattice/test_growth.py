"""Growth of waves on the lattice: the spacings at which the network itself becomes unstable, and what is refused."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from bbdfield.errors import NumericsError
from bbdfield.lattice.growth import check_lattice_growth, lattice_growth
from bbdfield.lattice.network import forward
from bbdfield.lattice.training import LatticeSystem, train
from bbdfield.model.activations import get_activation
from bbdfield.model.architecture import FieldState
from bbdfield.model.boundary import Boundary
from bbdfield.model.initial import InitialFields
from bbdfield.model.ranges import Derivative, Kernel, Taps
from bbdfield.model.run import Run
from bbdfield.model.units import to_lattice
from solvers.stability import excess

REFUSAL = math.log(1e3)
TIES = pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])


def lattice_of(problems, kind, **changes):
    scaling = changes.pop("scaling", "residual")
    base = problems.lattice(channels=1, padding="circular")
    return dataclasses.replace(base, **{"range": kind, "scaling": scaling, **changes})


def weights_of(lattice, *moments):
    """The network's taps for moments that are the same everywhere."""
    drawn = InitialFields(lattice).on(lattice.grid)
    one = np.eye(lattice.channels)[:, None, :]
    w = np.broadcast_to(one * np.asarray(moments, float)[:, None], drawn.w.shape)
    theta = to_lattice(FieldState(lattice, lattice.grid, w, drawn.b, drawn.r)).w
    return np.einsum("kp,...apb->...akb", lattice.range.taps(lattice.a_y), theta)


def refused(lattice, *moments):
    try:
        check_lattice_growth(lattice, weights_of(lattice, *moments))
    except NumericsError:
        return True
    return False


@TIES
@pytest.mark.parametrize("scaling", ["residual", "critical"])
def test_growth_is_what_layers_do_to_waves(problems, scaling, tied):
    """Γ(q) = Σ_m ln|eig(1 + a_x A_h(q))|, A_h the stencils' symbol; and the network multiplies such a wave by e^Γ."""
    lattice = lattice_of(problems, Derivative(0.2, tied), depth=40, width=16, scaling=scaling, activation="tanh")
    w = weights_of(lattice, 0.6, 0.3, 0.05)
    q, exponents = lattice_growth(lattice, w)
    assert q[0] == 0 and q[-1] == pytest.approx(16 * np.pi)
    t, a_y = 0.2, 1 / 16
    symbol = 0.6 + 0.3j * t * np.sin(q * a_y) / a_y - 0.05 * t**2 * 2 * (1 - np.cos(q * a_y)) / a_y**2
    slopes = np.array([0.0, 1.0])[:, None]  # σ' is between them, and |eig| convex in it
    factors = 1 + slopes * symbol / 40 if scaling == "residual" else slopes * (1 + symbol / 40)
    np.testing.assert_allclose(exponents, 40 * np.log(np.abs(factors).max(axis=0)), rtol=0, atol=1e-5)

    # waves of infinitesimal height, σ' = 1
    sigma = lattice.law.activation(get_activation("tanh"), lattice.a_x)
    y = lattice.grid.y
    for number in (0, 2, 5):
        waves = np.stack([np.cos(2 * np.pi * number * y), np.sin(2 * np.pi * number * y)], axis=-1)[:, None, :]
        z = forward(1e-9 * waves, w, np.zeros((40, 16, 1)), sigma, "circular", lattice.law.skip)
        grown = np.abs(z[-1, :, 0, 0] + 1j * z[-1, :, 0, 1]).max() / 1e-9
        at = 0.6 + 0.3j * t * np.sin(2 * np.pi * number * a_y) / a_y
        at = at - 0.05 * t**2 * 2 * (1 - np.cos(2 * np.pi * number * a_y)) / a_y**2
        assert grown == pytest.approx(np.abs(1 + at / 40) ** 40, rel=1e-6)


@pytest.mark.parametrize("activation", ["identity", "tanh"])
@pytest.mark.parametrize("scaling", ["residual", "critical"])
def test_diffusion_needs_a_x_below_half_a_y_squared_over_the_diffusivity(problems, scaling, activation):
    """a_x <= a_y²/(2ŵ_2 σ'), sharp within 2 % on 800 layers: refused just above, not just below."""
    if scaling == "critical" and activation != "tanh":
        activation = "tanh"
    lattice = lattice_of(problems, Derivative(0.1), depth=800, activation=activation, scaling=scaling)
    limit = lattice.a_y**2 / (2 * lattice.a_x * 0.1**2)  # of ŵ_2 at these spacings
    assert not refused(lattice, 0.0, 0.0, 0.99 * limit)
    assert refused(lattice, 0.0, 0.0, 1.02 * limit)
    q, exponents = lattice_growth(lattice, weights_of(lattice, 0.0, 0.0, 1.02 * limit))
    assert q[np.argmax(exponents)] == pytest.approx(np.pi / lattice.a_y)  # from cell to cell
    # it is the spacings that matter: the same ŵ_2 on twice as many layers, or half as many cells
    assert not refused(lattice.at(1600, 10), 0.0, 0.0, 1.02 * limit)
    assert not refused(lattice.at(800, 5), 0.0, 0.0, 1.02 * limit)
    assert refused(lattice.at(800, 20), 0.0, 0.0, 0.99 * limit)


def test_transport_needs_a_x_below_twice_the_diffusivity_over_the_speed_squared(problems):
    """a_x <= 2ŵ_2/(ŵ_1²σ'), sharp within 5 % on 2,000 layers: |eig| − 1 grows as the square of what is too much."""
    lattice = lattice_of(problems, Derivative(0.1), depth=2000, activation="identity")
    diffusion = 0.45 * lattice.a_y**2 / (lattice.a_x * 0.1**2)  # 0.9 of the diffusive limit
    limit = np.sqrt(2 * diffusion / lattice.a_x)  # of ŵ_1, ℓ² cancels
    assert not refused(lattice, 0.0, 0.999 * limit, diffusion)
    assert not refused(lattice, 0.0, -0.999 * limit, diffusion)
    assert refused(lattice, 0.0, 1.05 * limit, diffusion)
    assert refused(lattice, 0.0, -1.05 * limit, diffusion)
    assert not refused(lattice.at(4000, 10), 0.0, 1.05 * limit, diffusion)


def test_gains_without_enough_layers_are_the_theorys(problems):
    """Transport without diffusion on N = 2M: |1 + ia_xŵ_1 sin/a_y|^M, 4e5 and more at M = 16 for ŵ_1 = 1."""
    lattice = lattice_of(problems, Derivative(1.0), depth=16, width=32, activation="identity")
    q, exponents = lattice_growth(lattice, weights_of(lattice, 0.0, 1.0, 0.0))
    assert exponents.max() == pytest.approx(8 * np.log(1 + 4.0), rel=1e-12)  # |1 + 2i| = √5 at q = π/2a_y
    assert np.exp(exponents.max()) == pytest.approx(5.0**8)
    assert q[np.argmax(exponents)] == pytest.approx(np.pi / 2 * 32)
    assert refused(lattice, 0.0, 1.0, 0.0)


def test_message_says_when_and_what_helps(problems):
    lattice = lattice_of(problems, Derivative(0.1))
    message = r"lattice of 6 layers unstable at t = 2\.5: waves of wave number 31\.42 grow by e\^"
    with pytest.raises(NumericsError, match=message) as e:
        check_lattice_growth(lattice, weights_of(lattice, 0.0, 0.0, 40.0), 2.5)
    assert "use more layers (a_x <= a_y²/(2ŵ_2ℓ²) and a_x <= 2ŵ_2/ŵ_1²)" in str(e.value) and "\n" not in str(e.value)


def test_growth_of_all_waves_alike_is_no_instability(problems):
    """ŵ_0 amplifies everything, also the mean: large signals, but no short waves."""
    lattice = lattice_of(problems, Derivative(0.1), depth=100, activation="identity")
    _, exponents = lattice_growth(lattice, weights_of(lattice, 20.0, 0.0, 0.0))
    assert exponents.min() == pytest.approx(100 * np.log(1.2)) and excess(exponents) == 0
    assert not refused(lattice, 20.0, 0.0, 0.0)


def test_channels_that_rotate_are_seen(problems):
    """ŵ_1 = [[0, 1], [−1, 0]]: waves grow as e^{|ŵ_1|ℓq}, elliptic, on however many layers."""
    lattice = lattice_of(problems, Derivative(0.1), depth=400, width=90, channels=2, activation="identity")
    w = np.zeros((400, 90, 2, 3, 2))
    first = lattice.a_x * 0.1 / (2 * lattice.a_y) * np.array([[0.0, 1.0], [-1.0, 0.0]])
    w[..., 2, :], w[..., 0, :] = first, -first
    q, exponents = lattice_growth(lattice, w)
    exact = 400 * np.log(1 + 0.1 / 400 * np.sin(q / 90) * 90)
    np.testing.assert_allclose(exponents, exact, rtol=0, atol=1e-10)
    assert exponents.max() > REFUSAL
    with pytest.raises(NumericsError, match="unstable at t = 0"):
        check_lattice_growth(lattice, w)


@pytest.mark.parametrize("kind", [Kernel("1/4"), Kernel("1/4", tied=False), Taps(3), Taps(3, tied=True)])
def test_bounded_ranges_are_never_refused(problems, kind):
    """Kernels and taps: a few weights of bounded size, whatever a_y; even absurd ones pass."""
    lattice = lattice_of(problems, kind)
    w = to_lattice(InitialFields(lattice, seed=1, weight=1e3).on(lattice.grid)).w
    check_lattice_growth(lattice, w)
    check_lattice_growth(lattice, np.full(w.shape, np.nan))


def test_weights_that_are_not_finite_are_refused(problems):
    lattice = lattice_of(problems, Derivative(0.1))
    w = weights_of(lattice, 0.0, 0.0, 0.1)
    check_lattice_growth(lattice, w)
    w[3, 2, 0, 1, 0] = np.nan
    with pytest.raises(NumericsError, match="unstable at t = 0"):
        check_lattice_growth(lattice, w)


def test_unstable_lattices_do_not_start(tmp_path, signals, problems):
    lattice = lattice_of(problems, Derivative(0.3))
    training = problems.training()
    start = to_lattice(InitialFields(lattice, mean=(0.0, 0.0, 1.0), weight=0.1).on(lattice.grid))
    with pytest.raises(NumericsError, match="lattice of 6 layers unstable at t = 0"):
        LatticeSystem(lattice, Boundary.draw(signals, lattice, training), start)
    with pytest.raises(NumericsError, match="unstable at t = 0"):
        train(lattice, signals, training, out=tmp_path / "run.h5", initial=start)
    assert not list(tmp_path.iterdir())


def test_weights_that_become_unstable_stop_the_training_and_keep_what_was_recorded(tmp_path, signals, problems):
    lattice = lattice_of(problems, Derivative(0.3, tied=True), depth=40, padding="reflect")
    training = problems.training(steps=40, snapshot_every=1, step=0.5, rates=(100.0, 0.0, 0.0))
    initial = InitialFields(lattice, weight=0.0, mean=(0.0, 0.0, 0.01), seed=5)
    out = tmp_path / "run.h5"
    with pytest.raises(NumericsError, match=r"lattice of 40 layers unstable at t = [0-9.]+: ") as caught:
        train(lattice, signals, training, out=out, initial=initial)
    t = float(str(caught.value).split("t = ")[1].split(":")[0])
    assert t > 0
    with Run(out) as kept:
        assert not kept.trajectory.complete
        assert kept.t[-1] == t == 0.5 * (len(kept.t) - 1)
        np.testing.assert_allclose(kept.fields(0).w[..., 2, :], 0.01, rtol=1e-12)
        for i in range(len(kept.t)):
            assert np.isfinite(kept.z(i)).all()
    # and resuming does not step over it
    with pytest.raises(NumericsError, match=rf"unstable at t = {t:g}: "):
        train(lattice, signals, training, out=out, initial=initial, resume=True)
    with Run(out) as kept:
        assert kept.t[-1] == t and not kept.trajectory.complete
