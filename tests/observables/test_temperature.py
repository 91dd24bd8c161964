"""Noise, temperature and balance: against enumeration, loops, simulation and the exact discrete theory."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.stats import norm

from bbdfield import Kernel, Lattice, Rates, Taps, Training, simulate, train
from bbdfield.errors import InputError
from bbdfield.lattice.dense import DenseNetwork, draw_dense
from bbdfield.lattice.training import LatticeSystem
from bbdfield.model.activations import get_activation
from bbdfield.model.architecture import GROUPS
from bbdfield.model.boundary import Boundary
from bbdfield.model.initial import InitialFields
from bbdfield.model.losses import get_loss, prepare_targets
from bbdfield.model.run import Run
from bbdfield.model.units import learning_rates, to_lattice
from bbdfield.observables import quadratic
from bbdfield.observables.noise import (
    GradientNoise,
    covariance,
    epoch_factor,
    gram,
    noise_of,
    noise_of_gram,
    sampling_factor,
)
from bbdfield.observables.stepping import recorded, replay
from bbdfield.observables.temperature import (
    Balance,
    Descent,
    Steps,
    balance,
    balance_of,
    chosen_samples,
    effective_temperature,
    noise_of_field,
    noise_of_lattice,
    observe,
    running_ratio,
)
from solvers.grids import Grid

DYNAMICS = {"sgd": None, "heavy-ball": 1.5, "leapfrog": 1.5}


def lattice_of(signals, range=None, **changes):
    sizes = {"depth": 4, "width": 10, "channels": 3, "data_channels": 2, "readout_modes": 3}
    return Lattice(range=range or Taps(3), outputs=signals.outputs, **{**sizes, **changes})


def training_of(dynamics="sgd", **changes):
    plan = {"steps": 40, "batch": 6, "rates": Rates(1.0, 0.2, 0.3), "step": 0.2, "snapshot_every": 20, "probe": 2}
    return Training(dynamics=dynamics, damping=DYNAMICS.get(dynamics), **{**plan, **changes})


def start_of(lattice):
    return to_lattice(InitialFields(lattice, 3, weight=2.0, bias=0.3).on(lattice.grid, lattice))


# sampling


@pytest.fixture(scope="module")
def six():
    """Gradients of six samples in a small dense network."""
    rng = np.random.default_rng(4)
    network = DenseNetwork(get_activation("tanh"), get_loss("cross-entropy"))
    w, b = draw_dense([3, 4, 2], rng)
    targets = prepare_targets("cross-entropy", np.arange(6) % 2, 2)
    x = rng.standard_normal((3, 6))
    gradients = network.per_sample_gradients(w, b, x, targets)
    for s in range(6):  # what the rest of these tests rests on
        _, dw, db = network.loss_and_gradients(w, b, x[:, [s]], targets[[s]])
        np.testing.assert_allclose(
            gradients[s], np.concatenate([g.ravel() for g in (*dw, *db)]), rtol=1e-12, atol=1e-15
        )
    return gradients


def second_moment(vectors, mean):
    return sum(np.outer(v - mean, v - mean) for v in vectors) / len(vectors)


@pytest.mark.parametrize("batch", [1, 2, 3, 5, 6])
def test_the_covariance_of_all_minibatches_without_replacement(six, batch):
    means = [six[list(chosen)].mean(axis=0) for chosen in itertools.combinations(range(6), batch)]
    expected = sampling_factor(batch, 6) * covariance(six)
    np.testing.assert_allclose(second_moment(means, six.mean(axis=0)), expected, atol=1e-15)
    # the usual form, C/B times the factor of finite populations
    population = second_moment(six, six.mean(axis=0))
    np.testing.assert_allclose(expected, population / batch * (6 - batch) / 5, atol=1e-15)


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_the_covariance_of_all_minibatches_with_replacement(six, batch):
    means = [six[list(chosen)].mean(axis=0) for chosen in itertools.product(range(6), repeat=batch)]
    expected = sampling_factor(batch, 6, replacement=True) * covariance(six)
    np.testing.assert_allclose(second_moment(means, six.mean(axis=0)), expected, atol=1e-15)


def test_minibatches_of_one_epoch_are_correlated(six):
    """All permutations; with B a divisor of n the noise of an epoch sums to zero."""
    orders = list(itertools.permutations(range(6)))
    mean = six.mean(axis=0)
    first = np.array([six[list(p[:2])].mean(axis=0) - mean for p in orders])
    last = np.array([six[list(p[4:])].mean(axis=0) - mean for p in orders])
    np.testing.assert_allclose(first.T @ last / len(orders), epoch_factor(6) * covariance(six), atol=1e-15)
    assert 3 * sampling_factor(2, 6) + 6 * epoch_factor(6) == pytest.approx(0, abs=1e-15)


def test_bbdfield_draws_minibatches_without_replacement(signals):
    lattice = lattice_of(signals)
    boundary = Boundary.draw(signals, lattice, training_of(steps=8, batch=6))
    for epoch in (range(4), range(4, 8)):
        seen = np.concatenate([boundary.batch(k) for k in epoch])
        assert sorted(seen) == list(range(24))
    assert not np.array_equal(boundary.batch(0), boundary.batch(4))


@pytest.mark.parametrize("batch", [0, 7])
def test_impossible_minibatches(batch):
    with pytest.raises(InputError, match=f"batch = {batch}: needs a whole number from 1 to the 6 samples"):
        sampling_factor(batch, 6)
    assert sampling_factor(7, 6, replacement=True) > 0


# the Gram matrix


def test_noise_from_the_gram_matrix(six):
    full = covariance(six)
    noise = noise_of(six)
    assert noise.trace == pytest.approx(np.trace(full), rel=1e-13)
    np.testing.assert_allclose(noise.eigenvalues, np.linalg.eigvalsh(full)[::-1][:5], rtol=1e-10)
    assert (noise.parameters, noise.samples) == (six.shape[1], 6)
    assert noise.effective_rank == pytest.approx(noise.trace**2 / noise.trace_of_square)


def test_the_traces_are_unbiased():
    """Averages over every sample of four out of a population of three, drawn with replacement, are those of it."""
    values = np.array([[0.3, -1.0], [1.2, 0.4], [-0.5, 2.0]])
    population = second_moment(values, values.mean(axis=0))
    found = [noise_of(values[list(chosen)]) for chosen in itertools.product(range(3), repeat=4)]
    assert np.mean([one.trace for one in found]) == pytest.approx(np.trace(population), rel=1e-12)
    expected = np.trace(population @ population)
    assert np.mean([one.trace_of_square for one in found]) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("m", [4, 5, 6])
def test_the_traces_are_unbiased_without_replacement(six, m):
    """Over all subsets of the six gradients; the one of all of them is exact."""
    full = covariance(six)
    found = [noise_of(six[list(chosen)], 6) for chosen in itertools.combinations(range(6), m)]
    assert np.mean([one.trace for one in found]) == pytest.approx(np.trace(full), rel=1e-12)
    assert np.mean([one.trace_of_square for one in found]) == pytest.approx(np.trace(full @ full), rel=1e-10)
    with pytest.raises(InputError, match="has 6 samples, more than the 5 they are drawn from"):
        noise_of(six, 5)


def test_the_effective_rank_is_at_most_what_it_can_be():
    wide = np.random.default_rng(6).standard_normal((40, 300))
    values = np.linalg.eigvalsh(covariance(wide))
    assert noise_of(wide, 40).effective_rank == pytest.approx(values.sum() ** 2 / np.sum(values**2), rel=1e-10)
    few = {"trace": 10.0, "trace_of_square": 1.0, "eigenvalues": np.ones(4), "samples": 5}
    assert GradientNoise(**few, parameters=300, population=6).effective_rank == 5
    assert GradientNoise(**few, parameters=7, population=60).effective_rank == 7
    assert GradientNoise(**few, parameters=300).effective_rank == 100
    assert np.isnan(GradientNoise(**{**few, "trace_of_square": 0.0}, parameters=7).effective_rank)


def test_the_gram_matrix_weights_groups_by_their_rates():
    rng = np.random.default_rng(0)
    w, b, r = (rng.standard_normal((5, size)) for size in (4, 2, 3))
    products, parameters = gram([("w", w[:, :1]), ("b", b), ("w", w[:, 1:]), ("r", r)], {"w": 4.0, "b": 0.25, "r": 0.0})
    u = np.concatenate([2.0 * w, 0.5 * b], axis=1)
    np.testing.assert_allclose(products, u @ u.T, rtol=1e-13)
    assert parameters == 6


def test_effective_rank_counts_directions():
    rng = np.random.default_rng(1)
    isotropic = noise_of(rng.standard_normal((200, 5)))
    assert isotropic.effective_rank == pytest.approx(5, rel=0.1)
    single = noise_of(rng.standard_normal((200, 1)) * np.ones(5))
    assert single.effective_rank == pytest.approx(1, rel=0.1)


def test_too_few_samples():
    with pytest.raises(InputError, match="at least 4 samples"):
        noise_of_gram(np.eye(3), 3)
    with pytest.raises(InputError, match="at least 2 samples"):
        covariance(np.ones((1, 3)))


# one dimension

FORMS = [(h, rate, mu) for mu in (0.0, 0.5, 0.95) for h, rate in ((1.0, 0.05), (2.5, 0.3), (0.4, 4.6))]


@pytest.mark.parametrize(("h", "rate", "momentum"), FORMS)
def test_the_closed_forms_are_the_exact_discrete_solution(h, rate, momentum):
    position, velocity = quadratic.stationary_covariance(np.array([[h]]), np.array([[0.7]]), rate, momentum)
    assert quadratic.position_variance(h, 0.7, rate, momentum) == pytest.approx(position[0, 0], rel=1e-11)
    assert quadratic.velocity_variance(h, 0.7, rate, momentum) == pytest.approx(velocity[0, 0], rel=1e-11)


def test_the_closed_forms_against_simulation():
    """Independent chains, so that the standard error of the mean is what it says.

    All 27 deviations are within the joint limit of 1 % (Bonferroni), and as many within two standard errors as should:
    with 95.4 % each, fewer than 22 of 27 independent ones have a chance of 0.1 %.
    """
    one, rng, off = np.ones((1, 1)), np.random.default_rng(13), []
    for h, rate, momentum in FORMS:
        steps = quadratic.mixing_steps(h, rate, momentum)
        theta, v, force = quadratic.simulate(
            h * one, 0.7 * one, rate, momentum=momentum, chains=4000, steps=steps, rng=rng
        )
        for values, expected in (
            (theta[:, 0] ** 2, quadratic.position_variance(h, 0.7, rate, momentum)),
            (v[:, 0] ** 2, quadratic.velocity_variance(h, 0.7, rate, momentum)),
            (theta[:, 0] * force[:, 0] - (1 + momentum) / (2 * rate) * v[:, 0] ** 2, 0.0),
        ):
            error = values.std(ddof=1) / np.sqrt(values.size)
            off.append(abs(values.mean() - expected) / error)
            assert error < 0.05 * np.abs(values).mean()
    assert len(off) == 27 and max(off) < norm.isf(0.01 / 2 / 27)
    assert np.count_nonzero(np.array(off) < 2) >= 22


@pytest.mark.parametrize(
    ("h", "rate", "momentum"), [(1.0, 2.0, 0.0), (1.0, 3.0, 0.5), (-1.0, 0.1, 0.0), (0.0, 0.1, 0.0), (1.0, 0.0, 0.0)]
)
def test_no_stationary_state(h, rate, momentum):
    with pytest.raises(InputError, match=r"no stationary state; needs 0 < ηh < 2\(1\+μ\)") as raised:
        quadratic.position_variance(h, 1.0, rate, momentum)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("noise", [-1.0, np.nan, np.inf])
def test_variances_are_not_negative(noise):
    with pytest.raises(InputError, match=r"noise = .*: is a variance, so it needs a finite number >= 0"):
        quadratic.position_variance(1.0, noise, 0.1)
    with pytest.raises(InputError, match=r"spread = .*: is a variance"):
        quadratic.epoch_variance(1.0, noise, 0.1, 2, 12)


@pytest.mark.parametrize("batch", [0, 13])
def test_epochs_of_impossible_minibatches(batch):
    with pytest.raises(InputError, match=f"batch = {batch}: needs a whole number from 1 to the 12 samples"):
        quadratic.epoch_variance(1.0, 1.0, 0.1, batch, 12)


def test_just_stable_and_impossible_momentum():
    assert quadratic.position_variance(1.0, 1.0, 2.999, 0.5) > 100
    with pytest.raises(InputError, match="momentum = 1: needs a number >= 0 and < 1"):
        quadratic.position_variance(1.0, 1.0, 0.1, 1.0)


@pytest.mark.parametrize(("rate", "batch"), [(0.02, 3), (0.3, 3), (1.2, 2), (0.3, 5)])
def test_shuffled_epochs_cool_slow_directions(rate, batch):
    """Chains on ℓ_s = h/2 (θ − a_s)² of 12 samples in shuffled epochs; 5 leaves two samples out of every epoch."""
    rng, h, n, chains = np.random.default_rng(5), 1.3, 12, 2000
    a = rng.standard_normal(n)
    a -= a.mean()
    theta, squares, per_epoch = np.zeros(chains), [], n // batch
    for _ in range(int(8 / (rate * per_epoch)) + 12):
        order = rng.permuted(np.broadcast_to(np.arange(n), (chains, n)), axis=1)
        seen = []
        for k in range(per_epoch):
            theta = theta - rate * h * (theta - a[order[:, k * batch : (k + 1) * batch]].mean(axis=1))
            seen.append(theta**2)
        squares = np.mean(seen, axis=0)
    expected = quadratic.epoch_variance(h, h**2 * a.var(ddof=1), rate, batch, n)
    error = squares.std(ddof=1) / np.sqrt(chains)
    assert abs(squares.mean() - expected) < 3 * error
    independent = quadratic.position_variance(h, sampling_factor(batch, n) * h**2 * a.var(ddof=1), rate)
    assert error < 0.1 * expected
    assert (expected < independent) == (rate * h < 1)  # overshooting turns what cancels into what adds up


# more dimensions


@pytest.fixture(scope="module")
def three():
    rng = np.random.default_rng(8)
    a, b = rng.standard_normal((2, 3, 3))
    return a @ a.T + 0.3 * np.eye(3), b @ b.T


def test_the_lyapunov_equation(three):
    h, noise = three
    sigma = quadratic.lyapunov(h, noise, 0.1)
    np.testing.assert_allclose(h @ sigma + sigma @ h, 0.1 * noise, atol=1e-14)
    # isotropic noise: half T_eff in every mode
    sigma = quadratic.lyapunov(h, 2.0 * np.eye(3), 0.1)
    temperature = effective_temperature(0.1, 6.0, 3)
    np.testing.assert_allclose(h @ sigma, temperature * np.eye(3), atol=1e-14)


@pytest.mark.parametrize("momentum", [0.0, 0.8])
def test_the_lyapunov_equation_is_the_limit_of_small_rates(three, momentum):
    h, noise = three
    errors = []
    for rate in (0.001, 0.0005):
        exact, _ = quadratic.stationary_covariance(h, noise, rate, momentum)
        limit = quadratic.lyapunov(h, noise, rate) / (1 - momentum)
        errors.append(np.linalg.norm(exact - limit) / np.linalg.norm(exact))
    assert errors[0] < 0.02 and errors[1] / errors[0] == pytest.approx(0.5, rel=0.1)


@pytest.mark.parametrize("momentum", [0.0, 0.8])
def test_the_discrete_covariance_is_that_of_simulation(three, momentum):
    h, noise = three
    position, velocity = quadratic.stationary_covariance(h, noise, 0.15, momentum)
    theta, v, _ = quadratic.simulate(
        h, noise, 0.15, momentum=momentum, chains=6000, steps=400, rng=np.random.default_rng(2)
    )
    for samples, expected in ((theta, position), (v, velocity)):
        products = samples[:, :, None] * samples[:, None, :]
        error = products.std(axis=0, ddof=1) / np.sqrt(len(samples))
        assert (np.abs(products.mean(axis=0) - expected) < 3 * error).all()
    # Yaida's balance, exactly
    fluctuation = (1 + momentum) / (2 * 0.15) * np.trace(velocity)
    assert np.trace(h @ position) == pytest.approx(fluctuation, rel=1e-10)


def test_a_quadratic_loss_without_minimum(three):
    with pytest.raises(InputError, match="positive definite"):
        quadratic.lyapunov(np.diag([1.0, -1.0]), np.eye(2), 0.1)
    with pytest.raises(InputError, match="one square shape"):
        quadratic.lyapunov(np.eye(2), np.eye(3), 0.1)
    with pytest.raises(InputError, match="no stationary state"):
        quadratic.stationary_covariance(30 * np.eye(2), np.eye(2), 0.1)


# balance


@pytest.mark.parametrize("momentum", [0.0, 0.7])
def test_the_books_of_any_sequence_close(momentum):
    """Σ (θ·G − (1+μ)/(2η) v²) = −[(1−μ)/2 Δ|θ|² + μ Δ(θ·v)]/η for arbitrary gradients."""
    rng, rate = np.random.default_rng(3), 0.3
    theta, v = rng.standard_normal((2, 7))
    total, start = 0.0, (theta @ theta, theta @ v)
    for _ in range(50):
        g = rng.standard_normal(7) + 0.2 * theta
        following = momentum * v - rate * g
        dissipation, fluctuation = balance(theta, v, following, rate, momentum)
        assert dissipation == pytest.approx(theta @ g, rel=1e-10, abs=1e-12)
        total += dissipation - fluctuation
        theta, v = theta + following, following
    drift = (1 - momentum) / 2 * (theta @ theta - start[0]) + momentum * (theta @ v - start[1])
    assert total == pytest.approx(-drift / rate, rel=1e-10)


def test_running_ratio_against_loops():
    rng = np.random.default_rng(0)
    above, below = rng.uniform(1, 2, (2, 30))
    found = running_ratio(above, below, 7)
    assert np.isnan(found[:6]).all()
    for k in range(6, 30):
        assert found[k] == pytest.approx(above[k - 6 : k + 1].sum() / below[k - 6 : k + 1].sum(), rel=1e-12)


def test_since_when_a_run_is_balanced():
    rng = np.random.default_rng(0)
    below = np.ones(1000)
    above = np.where(np.arange(1000) < 300, 0.2, 1.0) + np.diff(rng.standard_normal(1001))
    found = balance_of(above, below)
    assert found.ratio == pytest.approx(1.0, abs=3 * found.error) and 0 < found.error < 0.02
    assert found.state == "balanced"
    # until 0.8 · (300 − k) of (1000 − k) is less than a tenth
    assert found.since == pytest.approx(200, abs=20)
    assert balance_of(above[::-1], below).since is None
    assert balance_of(np.ones(30), np.ones(30)).since == 0
    with pytest.raises(InputError, match="at least 20 training steps"):
        balance_of(np.ones(19), np.ones(19))


def stationary_run(momentum, rate, steps, chains, rng, drift=0.0):
    """Dissipation and fluctuation (steps, chains) of stationary chains in 20 dimensions, h = s² = 1."""
    variance = quadratic.position_variance(1.0, 1.0, rate, momentum)
    theta, v = np.sqrt(variance) * rng.standard_normal((chains, 20)), np.zeros((chains, 20))
    kept = []
    for _ in range(100 + steps):
        force = theta + rng.standard_normal(theta.shape)
        v = momentum * v - rate * force
        kept.append((np.sum(theta * force, axis=1), (1 + momentum) / (2 * rate) * np.sum(v**2, axis=1)))
        theta = theta + v
    above, below = np.array(kept[100:]).transpose(1, 0, 2)
    return above - drift * below, below


@pytest.mark.parametrize(("momentum", "rate", "steps"), [(0.0, 0.5, 300), (0.0, 0.1, 1000), (0.9, 0.1, 1000)])
def test_the_error_of_the_ratio_is_its_scatter(momentum, rate, steps):
    above, below = stationary_run(momentum, rate, steps, 120, np.random.default_rng(9))
    found = [balance_of(*run) for run in zip(above.T, below.T, strict=True)]
    scatter = np.std([one.ratio for one in found], ddof=1)
    assert np.mean([one.error for one in found]) == pytest.approx(scatter, rel=0.25)
    # 5 % of the intervals do not contain 1
    assert sum(one.state == "drifting" for one in found) <= 14
    assert sum(one.state == "balanced" for one in found) >= 100


def test_what_is_not_balanced():
    rng = np.random.default_rng(2)
    above, below = stationary_run(0.0, 0.5, 1000, 20, rng, drift=0.05)
    # within the tolerance of 1, but surely not 1
    assert {balance_of(*run).state for run in zip(above.T, below.T, strict=True)} == {"drifting"}
    # few steps, much noise: an interval that contains 1 and much else
    above = 0.9 + np.diff(5.0 * rng.standard_normal((41, 20)), axis=0)
    states = [balance_of(run, np.ones(40)) for run in above.T]
    assert sum(one.state == "cannot be told" for one in states) >= 15
    assert not any(one.state == "balanced" for one in states) and all(one.since is None for one in states)


def in_u(descent, state):
    """|u|² by a loop over groups."""
    return sum(
        scale * np.sum((state[group] - (descent.origin if group == "w" else 0)) ** 2)
        for group, scale in descent.scales.items()
    )


@pytest.mark.parametrize("scaling", ["residual", "critical"])
@pytest.mark.parametrize("dynamics", list(DYNAMICS))
def test_steps_of_a_lattice(signals, tmp_path, dynamics, scaling):
    """The gradient of a step is that of its minibatch, and the books of the run close to rounding."""
    lattice, training = lattice_of(signals, scaling=scaling), training_of(dynamics)
    with train(lattice, signals, training, out=tmp_path / "run.h5", initial=start_of(lattice)) as run:
        columns = recorded(run, Steps)
        steps = list(replay(run))
    assert set(columns) == set(Steps.names) and len(columns[Steps.names[0]]) == 40
    descent = Descent.of(lattice, lattice.grid, training, "lattice")
    boundary = Boundary.draw(signals, lattice, training)
    system = LatticeSystem(lattice, boundary, start_of(lattice))
    total = 0.0
    for k, _, before, _ in steps:
        point = {group: before[group] for group in GROUPS}
        if dynamics == "leapfrog":
            for group in GROUPS:
                point[group] = point[group] + 0.1 * np.exp(-0.15) * before[f"{group}_dot"]
        _, gradients = system.gradient(tuple(point[group] for group in GROUPS), boundary.batch(k))
        point["w"] = point["w"] - descent.origin
        expected = sum(np.sum(point[group] * part) for group, part in zip(GROUPS, gradients, strict=True))
        assert columns["temperature_dissipation"][k] == pytest.approx(expected, rel=1e-8, abs=1e-8)
        total += columns["temperature_dissipation"][k] - columns["temperature_fluctuation"][k]
    if dynamics == "sgd":
        drift = in_u(descent, steps[-1][3]) - in_u(descent, steps[0][2])
        assert total == pytest.approx(-drift / 2 / training.step, rel=1e-8)
        eta = learning_rates(lattice, training.step, training.rates)
        moved = sum(
            np.sum((steps[7][3][group] - steps[7][2][group]) ** 2) / rate
            for group, rate in zip(GROUPS, (eta.w, eta.b, eta.r), strict=True)
        )
        assert columns["temperature_fluctuation"][7] == pytest.approx(moved / 2, rel=1e-10)


@pytest.mark.parametrize("tied", [True, False])
def test_field_and_lattice_have_the_same_balance(signals, tmp_path, tied):
    """Sums over cells are integrals: the same dissipation, fluctuation and noise on another grid."""
    lattice = lattice_of(signals, Kernel(3 / 20, tied=tied), depth=24)
    training = training_of(steps=20)
    with train(lattice, signals, training, out=tmp_path / "lattice.h5") as run:
        columns = recorded(run, Steps)
        options = {"order": 1, "depth_scheme": "midpoint"}
        field = simulate(run.initial_fields.on(Grid(8, 10)), run.boundary, out=tmp_path / "field.h5", **options)
        index = chosen_samples(lattice, 24, 0)
        state = {name: run.trajectory.fields[name][0] for name in GROUPS}
        noise = noise_of_lattice(lattice, run.boundary, state, index)
    with field:
        mine = recorded(field, Steps)
        _, system, before, _ = next(replay(field))
        system.load(before)
        of_field = noise_of_field(system, index)
    for name in Steps.names:
        np.testing.assert_allclose(mine[name], columns[name], atol=0.02 * np.abs(columns[name]).max())
    assert of_field.trace == pytest.approx(noise.trace, rel=0.02)
    assert of_field.parameters < noise.parameters


# temperature


def test_effective_temperature():
    assert effective_temperature(0.2, 30.0, 5) == pytest.approx(0.2 * 30 / 10)
    assert effective_temperature(0.2, 30.0, 5, momentum=0.9) == pytest.approx(0.2 * 30 / 10 / 0.1)


@pytest.mark.parametrize("dynamics", list(DYNAMICS))
def test_temperature_of_a_lattice_against_loops(signals, dynamics):
    lattice, training = lattice_of(signals), training_of(dynamics, rates=Rates(1.0, 0.2, 0.0))
    boundary, start = Boundary.draw(signals, lattice, training), start_of(lattice)
    system = LatticeSystem(lattice, boundary, start)
    eta = learning_rates(lattice, 1.0, training.rates)
    rows = []
    for sample in range(24):
        _, (w, b, _) = system.gradient(system.u, np.array([sample]))
        rows.append(np.concatenate([np.sqrt(eta.w) * w.ravel(), np.sqrt(eta.b) * b.ravel()]))
    index = chosen_samples(lattice, 24, 0)
    np.testing.assert_array_equal(index, np.arange(24))  # all, if they are few
    noise = noise_of_lattice(lattice, boundary, {"w": start.w, "b": start.b, "r": start.r}, index)
    assert noise.population == 24
    assert noise.trace_of_square == pytest.approx(np.sum(np.cov(rows, rowvar=False) ** 2), rel=1e-10)
    spread = np.var(rows, axis=0, ddof=1).sum()
    assert noise.trace == pytest.approx(spread, rel=1e-10)
    assert noise.parameters == len(rows[0])
    momentum = 0.0 if dynamics == "sgd" else np.exp(-0.3)
    rate = {"sgd": 0.2, "heavy-ball": 1.5 * 0.04, "leapfrog": 1.5 * 0.04 * (1 + momentum) / 2}[dynamics]
    expected = rate * spread * (1 / 6 - 1 / 24) / (2 * noise.parameters * (1 - momentum))
    found = Descent.of(lattice, lattice.grid, training, "lattice").temperature(noise, 24)
    assert found == pytest.approx(expected, rel=1e-10)


def test_samples_are_chosen_once_and_fewer_for_large_lattices(signals):
    chosen = chosen_samples(lattice_of(signals), 1000, 7)
    assert len(chosen) == 128 == len(set(chosen)) and (np.diff(chosen) > 0).all()
    np.testing.assert_array_equal(chosen, chosen_samples(lattice_of(signals), 1000, 7))
    assert not np.array_equal(chosen, chosen_samples(lattice_of(signals), 1000, 8))
    assert len(chosen_samples(lattice_of(signals, depth=1000, width=400, channels=4), 1000, 7)) == 20


def test_a_readout_trained_on_squares_comes_to_rest(signals, tmp_path, monkeypatch):
    """Its loss is quadratic: dissipation and fluctuation balance; with all weights and cross-entropy they do not."""
    options = {"readout_modes": 1, "channels": 2, "depth": 2}
    lattice = lattice_of(signals, loss="mean-square", **options)
    training = training_of(steps=3000, batch=2, rates=Rates(0.0, 0.0, 1.0), step=0.8, snapshot_every=1500)
    with train(lattice, signals, training, out=tmp_path / "still.h5", initial=start_of(lattice)) as run:
        found = observe(run)
        monkeypatch.setattr("bbdfield.observables.temperature.balance_of", lambda *_: Balance(1.0, 0.01, "balanced", 7))
        later = observe(run)
        monkeypatch.undo()
    assert found.summary["ratio"] == pytest.approx(1.0, abs=0.05)
    assert found.summary["balance"] == "balanced" and found.summary["parameters"] == 6
    assert found.summary["balanced_since"] == 0
    assert later.summary["balanced_since"] == pytest.approx(7 * 0.8) and "since t = 5.6" in later.told[-1]
    lattice = lattice_of(signals)
    training = training_of(steps=200, batch=4, step=1.0, rates=Rates(4.0, 0.5, 1.0))
    with train(lattice, signals, training, out=tmp_path / "moving.h5", initial=start_of(lattice)) as run:
        found = observe(run)
    assert found.summary["balanced_since"] is None
    assert abs(found.summary["ratio"] - 1) > 2.2 * found.summary["ratio_error"]
    # as the ratio and |u|² agree
    assert found.summary["balance"] == "drifting"
    word = "grew" if found.summary["ratio"] < 1 else "shrank"
    assert f"not in balance; |u|² {word} by" in found.told[-1]
    assert (found.summary["size_change"] > 0) == (found.summary["ratio"] < 1)


@pytest.mark.parametrize("kind", ["lattice", "field"])
@pytest.mark.parametrize("dynamics", list(DYNAMICS))
def test_observe(signals, tmp_path, dynamics, kind):
    lattice = lattice_of(signals, Kernel(3 / 20, tied=True))
    with train(lattice, signals, training_of(dynamics), out=tmp_path / "run.h5") as run:
        if kind == "field":
            options = {"order": 1, "depth_scheme": "midpoint", "out": tmp_path / "field.h5"}
            run = simulate(run.initial_fields.on(lattice.grid), run.boundary, **options)
        found = observe(run)
        again = observe(run)
        run.close()
    assert {dims for dims, _ in found.arrays.values()} == {("step",), ("t",), ("t", "temperature_mode")}
    for name, (dims, values) in found.arrays.items():
        assert name.startswith("temperature_")
        assert values.shape[0] == (40 if dims[0] == "step" else 3)
        np.testing.assert_array_equal(values, again.arrays[name][1])
    values = found.values()
    assert np.isnan(values["temperature_ratio"]).sum() == found.summary["window"] - 1 == 9
    assert (values["temperature_effective"] > 0).all() and (values["temperature_rank"] > 1).all()
    modes = values["temperature_eigenvalues"]
    assert (np.diff(modes, axis=1) <= 0).all()
    assert (modes.sum(axis=1) <= values["temperature_trace"] * (1 + 1e-9)).all()
    assert len(found.told) == 3 and found.summary["samples"] == 24


# bad input


def refused(run, words):
    with pytest.raises(InputError, match=words) as raised:
        observe(run)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("dynamics", ["flow", "adaptive-flow"])
def test_flows_have_no_temperature(signals, tmp_path, dynamics):
    lattice = lattice_of(signals)
    with train(lattice, signals, training_of(dynamics, steps=2), out=tmp_path / "run.h5") as run:
        refused(run, "same samples in every step, so it has no noise")


def test_neither_have_minibatches_of_all_samples(signals, tmp_path):
    with train(lattice_of(signals), signals, training_of(batch=24), out=tmp_path / "run.h5") as run:
        refused(run, "training.batch = 24 is all samples")


def test_too_few_steps(signals, tmp_path):
    with train(lattice_of(signals), signals, training_of(steps=19), out=tmp_path / "run.h5") as run:
        refused(run, "holds 19 training steps; temperature needs at least 20")


def test_inertia_without_velocities(signals, tmp_path):
    lattice, training = lattice_of(signals), training_of("heavy-ball")
    recorder = Steps(lattice, lattice.grid, training, "lattice")
    state = {name: np.zeros(1) for name in GROUPS}
    with pytest.raises(InputError, match="has no w_dot, which heavy-ball dynamics needs"):
        recorder.step(0, None, state, state)
    path = tmp_path / "run.h5"
    train(lattice, signals, training, out=path).close()
    with Run(path) as run:

        class Without:
            """The same file without one of its velocities."""

            def __getattr__(self, name):
                return getattr(run.trajectory, name)

            @property
            def fields(self):
                return {key: value for key, value in run.trajectory.fields.items() if key != "b_dot"}

        stripped = Run.__new__(Run)
        stripped.__dict__.update(run.__dict__)
        stripped.trajectory = Without()
        refused(stripped, "has no b_dot, which heavy-ball dynamics needs")


def test_equal_gradients_are_no_noise():
    same = np.tile(np.random.default_rng(2).standard_normal(7), (9, 1))
    found = noise_of(same)
    assert found.trace == 0 and not found.eigenvalues.any() and np.isnan(found.effective_rank)
