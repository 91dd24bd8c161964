"""Words and tables for report and terminal."""

from __future__ import annotations

import pytest

from bbdfield.errors import InputError
from bbdfield.studies import describe
from bbdfield.studies.describe import Table

CONFIG = {
    "data": {"name": "mnist1d"},
    "lattice": {
        "depth": 16, "width": 40, "channels": 8, "weights": "tied", "radius": "11/80", "activation": "tanh",
        "padding": "zeros", "loss": "hinge",
    },
    "training": {"steps": 10, "batch": 32, "step": 0.25, "dynamics": "sgd"},
}  # fmt: skip


def trained(**changes):
    return describe.training_law({**CONFIG, "training": CONFIG["training"] | changes})


def test_the_training_law_is_the_one_that_was_used():
    assert trained() == "minibatch gradient descent, 10 steps of τ = 0.25, 32 samples each"
    assert trained(dynamics="flow") == "the gradient flow on 32 samples, 10 steps of τ = 0.25"
    heavy, leap = (trained(dynamics=dynamics, damping=0.42) for dynamics in ("heavy-ball", "leapfrog"))
    assert heavy.startswith("heavy-ball gradient descent with damping γ = 0.42 (momentum 0.9), 10 steps")
    assert "leapfrog with damping γ = 0.42" in leap and "minibatch" not in leap
    with pytest.raises(InputError, match=r"training\.damping is missing"):
        trained(dynamics="heavy-ball")


def test_the_network_in_words():
    one = describe.network(CONFIG)
    assert one.startswith("A residual network with 16 layers of 40 cells, 8 channels and tied kernel weights")
    assert "was trained on mnist1d with the hinge loss by minibatch" in one
    several = describe.network({**CONFIG, "lattice": CONFIG["lattice"] | {"depth": [8, 16, 32]}})
    assert several.startswith("Residual networks with 8, 16 and 32 layers") and "were trained" in several
    with pytest.raises(InputError, match=r"lattice\.width is missing"):
        describe.network({**CONFIG, "lattice": {"depth": 1}})


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0123456, "0.0123"), (-1.5, "−1.5"), (1.234e-7, "1.23·10⁻⁷"), (-2e11, "−2.00·10¹¹"), (0.0, "0"), (7, "7"),
        (None, "–"), (float("nan"), "–"),
    ],
)  # fmt: skip
def test_numbers_as_they_are_read(value, text):
    assert describe.number(value) == text


@pytest.mark.parametrize("value", ["1", True, [1], {}])
def test_what_is_no_number_is_refused(value):
    for read in (describe.number, describe.decimal, describe.percent, describe.measured):
        with pytest.raises(TypeError, match="where a number belongs"):
            read(value)


def test_percent_and_decimal():
    assert (describe.percent(0.256), describe.decimal(-1.987), describe.percent(None)) == ("25.6 %", "−1.99", "–")


def test_rows_fit_their_columns():
    with pytest.raises(ValueError, match="a row of 1 cells under 2 columns"):
        Table("t", ["a", "b"], [["x"]])
