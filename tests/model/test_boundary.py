"""The boundary: which samples arrive when, how they enter, and which data are refused."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from bbdfield.datasets import Dataset, on_cells
from bbdfield.errors import InputError
from bbdfield.model.boundary import Boundary


def test_no_sample_repeats_within_an_epoch(signals, problems):
    """24 samples in batches of 7: epochs of 3 batches, each sample at most once in each; epochs differ."""
    boundary = Boundary.draw(signals, problems.lattice(), problems.training(batch=7, steps=10))
    assert boundary.sample_index.shape == (10, 7) and boundary.sample_index.dtype == np.int64
    epochs = [boundary.sample_index[i : i + 3].ravel() for i in (0, 3, 6)]
    for epoch in epochs:
        assert len(set(epoch)) == 21 and 0 <= epoch.min() and epoch.max() < 24
    assert any((a != b).any() for a, b in pairwise(epochs))
    np.testing.assert_array_equal(boundary.batch(4), boundary.sample_index[4])


def test_order_is_the_seeds_own_stream_of_permutations(signals, problems):
    """What seed 3 means must not change: files recorded with it are compared with runs of today."""
    boundary = Boundary.draw(signals, problems.lattice(), problems.training(batch=8, steps=4, seed=3))
    rng = np.random.default_rng([3, 1])
    expected = np.concatenate([rng.permutation(24).reshape(3, 8), rng.permutation(24).reshape(3, 8)])[:4]
    np.testing.assert_array_equal(boundary.sample_index, expected)


def test_every_sample_is_seen_when_the_batch_divides_the_data(signals, problems):
    boundary = Boundary.draw(signals, problems.lattice(), problems.training(batch=8, steps=9))
    for first in (0, 3, 6):
        assert sorted(boundary.sample_index[first : first + 3].ravel()) == list(range(24))


def test_flow_has_one_fixed_set(signals, problems):
    boundary = Boundary.draw(signals, problems.lattice(), problems.training(dynamics="flow", batch=5))
    assert boundary.sample_index.shape == (1, 5)
    np.testing.assert_array_equal(boundary.batch(0), boundary.batch(17))


def test_seed_decides_order_and_lift_but_steps_do_not(signals, problems):
    lattice = problems.lattice()
    short, long, other = (
        Boundary.draw(signals, lattice, problems.training(steps=s, seed=seed)) for s, seed in ((4, 1), (20, 1), (20, 2))
    )
    np.testing.assert_array_equal(short.sample_index, long.sample_index[:4])
    np.testing.assert_array_equal(short.lift, long.lift)
    assert (other.sample_index != long.sample_index).any() and (other.lift != long.lift).any()


def test_order_is_the_same_for_every_lattice(signals, problems):
    one, two = (Boundary.draw(signals, problems.lattice(depth=m), problems.training()) for m in (6, 12))
    np.testing.assert_array_equal(one.sample_index, two.sample_index)
    np.testing.assert_array_equal(one.lift, two.lift)


def test_lift_has_the_norm_of_its_channels(signals, problems):
    lift = Boundary.draw(signals, problems.lattice(channels=5), problems.training()).lift
    assert lift.shape == (5, 2)
    assert np.sum(lift**2) == pytest.approx(5.0, rel=1e-14)


def test_samples_enter_lifted(signals, problems):
    """z(0, y)[y, c, s] = Σ_d E[c, d] x[s, d, y], interpolated to the cells of the grid."""
    boundary = Boundary.draw(signals, problems.lattice(), problems.training())
    index = np.array([3, 11])
    native = boundary.input(index, 10)
    assert native.shape == (10, 2, 2) and native.flags.c_contiguous
    np.testing.assert_allclose(native, np.einsum("cd,sdy->ycs", boundary.lift, signals.x[index]), rtol=0, atol=1e-14)
    finer = np.einsum("cd,sdy->ycs", boundary.lift, on_cells(signals.x[index], 30))
    np.testing.assert_allclose(boundary.input(index, 30), finer, rtol=0, atol=1e-13)
    np.testing.assert_allclose(boundary.input(index, 30)[1::3], native, rtol=0, atol=1e-13)


def test_probe_is_the_head_of_the_test_set_where_there_is_one(signals, problems):
    boundary = Boundary.draw(signals, problems.lattice(), problems.training(probe=3))
    np.testing.assert_array_equal(boundary.probe_index, [0, 1, 2])
    np.testing.assert_array_equal(boundary.probe_input(10), boundary.lifted(signals.x_test[:3], 10))
    untested = Dataset("train only", signals.x, signals.y)
    boundary = Boundary.draw(untested, problems.lattice(), problems.training(probe=3))
    np.testing.assert_array_equal(boundary.probe_input(10), boundary.lifted(signals.x[:3], 10))
    assert boundary.test_targets.shape == (0, 3)


def test_targets_are_prepared_for_the_loss(signals, problems):
    boundary = Boundary.draw(signals, problems.lattice(), problems.training(evaluate=5))
    np.testing.assert_array_equal(boundary.targets, np.eye(3)[signals.y])
    np.testing.assert_array_equal(boundary.test_targets, np.eye(3)[signals.y_test[:5]])
    none = Boundary.draw(signals, problems.lattice(), problems.training(evaluate=0))
    assert none.test_targets.shape == (0, 3)


@pytest.mark.parametrize(
    ("lattice", "training", "message"),
    [
        ({"data_channels": 1}, {}, r"lattice\.data_channels = 1, but memory has 2 channels"),
        ({"outputs": 4}, {}, r"lattice\.outputs = 4, but memory has 3 outputs"),
        ({}, {"batch": 25}, r"training\.batch = 25: memory has only 24 samples; use a smaller batch"),
        ({}, {"probe": 9}, r"training\.probe = 9: only 8 samples to probe; use fewer"),
    ],
)
def test_data_that_do_not_fit_are_refused(signals, problems, lattice, training, message):
    with pytest.raises(InputError, match=message) as caught:
        Boundary.draw(signals, problems.lattice(**lattice), problems.training(**training))
    assert "\n" not in str(caught.value)
