"""What a lattice and a training law may be, and the one line that says what is wrong."""

from __future__ import annotations

import json

import numpy as np
import pytest

from bbdfield.errors import InputError
from bbdfield.model.architecture import FieldState, Lattice, Rates, Training, field_shapes
from bbdfield.model.initial import InitialFields
from bbdfield.model.ranges import Kernel
from solvers.grids import Grid


def test_spacings_and_grid(problems):
    lattice = problems.lattice(depth=8, width=10, length_x=2.0, length_y=5.0, radius=1.25)
    assert (lattice.a_x, lattice.a_y) == (0.25, 0.5)
    assert lattice.grid == Grid(8, 10, 2.0, 5.0)
    finer = lattice.at(16, 30)
    assert (finer.depth, finer.width, finer.range, finer.length_x) == (16, 30, lattice.range, 2.0)


def test_radius_may_be_a_fraction():
    assert Kernel("11/80").radius == 11 / 80
    assert Kernel(0.25).radius == 0.25 and Kernel("0.25").radius == 0.25
    assert Kernel("11/80") == Kernel(11 / 80)


@pytest.mark.parametrize("radius", ["eleven", "1/0", None, "", [1], 0, -0.1, float("inf"), float("nan"), "-1/4", "inf"])
def test_impossible_radius_is_refused(radius):
    with pytest.raises(InputError, match=r"lattice\.radius = .*needs a (positive )?number") as caught:
        Kernel(radius)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": 0}, r"lattice\.depth = 0: needs a positive whole number"),
        ({"width": 10.0}, r"lattice\.width = 10\.0: needs a positive whole number"),
        ({"channels": True}, r"lattice\.channels = True: needs a positive whole number"),
        ({"outputs": -1}, r"lattice\.outputs = -1: needs"),
        ({"data_channels": "2"}, r"lattice\.data_channels = '2': needs"),
        ({"readout_modes": 0}, r"lattice\.readout_modes = 0: needs"),
        ({"length_x": 0.0}, r"lattice\.length_x = 0\.0: needs a positive length"),
        ({"length_y": float("nan")}, r"lattice\.length_y = nan: needs a positive length"),
        ({"scaling": "cubic"}, r"lattice\.scaling = 'cubic': use one of residual, critical, plain"),
        ({"scaling": "critical", "activation": "relu"}, r'"relu": lattice\.scaling = "critical" is'),
        ({"scaling": "critical", "kappa": 0.0}, r"lattice\.kappa = 0\.0: needs a coupling > 0"),
        ({"kappa": 1.0}, r'lattice\.kappa = 1\.0: lattice\.scaling = "residual" has no cubic coupling'),
        ({"padding": "edge"}, r"lattice\.padding = 'edge': use one of zeros, circular, reflect"),
        ({"activation": "swish"}, r"unknown activation 'swish'"),
        ({"loss": "l1"}, r"unknown loss 'l1'"),
        ({"radius": 0.2}, r"kernel radius 0\.2 is not on a cell edge of width 10"),
        ({"radius": 1.05}, r"21 taps are wider than the 10 cells"),
    ],
)
def test_impossible_lattice_is_refused_by_name(problems, change, message):
    with pytest.raises(InputError, match=message) as caught:
        problems.lattice(**change)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, r"training\.steps = 0: needs a whole number >= 1"),
        ({"batch": 2.5}, r"training\.batch = 2\.5: needs a whole number >= 1"),
        ({"snapshot_every": 0}, r"training\.snapshot_every = 0: needs a whole number >= 1"),
        ({"probe": 0}, r"training\.probe = 0: needs a whole number >= 1"),
        ({"evaluate": -1}, r"training\.evaluate = -1: needs a whole number >= 0"),
        ({"seed": -1}, r"training\.seed = -1: needs a whole number >= 0"),
        ({"step": 0.0}, r"training\.step = 0\.0: needs a positive number"),
        ({"step": float("inf")}, r"training\.step = inf: needs a positive number"),
        ({"dynamics": "adam"}, r"training\.dynamics = 'adam': use one of sgd, flow"),
        ({"dynamics": "heavy-ball", "damping": None}, r"training\.damping = None: heavy-ball needs a damping γ > 0"),
        ({"dynamics": "leapfrog", "damping": 0.0}, r"training\.damping = 0\.0: leapfrog needs a damping γ > 0"),
        ({"damping": 1.0}, r"training\.damping = 1\.0: sgd has none; remove it"),
        ({"rates": (-1.0, 0.0, 0.0)}, r"training\.rates\.w = -1\.0: needs a number >= 0"),
        ({"rates": (1.0, float("nan"), 0.0)}, r"training\.rates\.b = nan: needs a number >= 0"),
        ({"rates": (1.0, 1.0, "fast")}, r"training\.rates\.r = 'fast': needs a number >= 0"),
    ],
)
def test_impossible_training_is_refused_by_name(problems, change, message):
    with pytest.raises(InputError, match=message) as caught:
        problems.training(**change)
    assert "\n" not in str(caught.value)


def test_snapshots_are_taken_regularly_and_at_the_end(problems):
    assert problems.training(steps=7, snapshot_every=3).snapshot_steps() == [0, 3, 6, 7]
    assert problems.training(steps=6, snapshot_every=3).snapshot_steps() == [0, 3, 6]
    assert problems.training(steps=2, snapshot_every=9).snapshot_steps() == [0, 2]


def test_configurations_survive_json(problems):
    lattice, training = problems.lattice(tied=False, padding="reflect"), problems.training(step=0.25)
    assert Lattice.from_config(json.loads(json.dumps(lattice.to_config()))) == lattice
    stored = json.loads(json.dumps({**vars(training), "rates": vars(training.rates)}))
    assert Training.from_config(stored) == training
    assert training.rates == Rates(2.0, 0.2, 0.5)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_field_state_has_the_shapes_of_its_grid(problems, tied):
    lattice, grid = problems.lattice(tied=tied), Grid(4, 30)
    shapes = field_shapes(lattice, grid)
    kernel = (2, 15, 2)
    assert shapes == {"w": (4, *kernel) if tied else (4, 30, *kernel), "b": (4, 30, 2), "r": (3, 2, 3)}
    state = InitialFields(lattice).on(grid)
    assert {name: getattr(state, name).shape for name in shapes} == shapes
    for name in shapes:
        arrays = {key: getattr(state, key) for key in shapes} | {name: np.zeros((1, 1))}
        with pytest.raises(InputError, match=rf"field {name} has shape \(1, 1\), but a grid of 4 x 30 cells needs"):
            FieldState(lattice, grid, **arrays)
