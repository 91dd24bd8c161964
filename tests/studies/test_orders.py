"""The orders study, small: verdicts, files, resuming, what it says, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bbdfield.errors import InputError
from bbdfield.studies import orders
from bbdfield.studies.config import OrdersConfig, load_config, parse_config
from bbdfield.studies.run import run_study

SMALL = """
kind = "orders"
title = "small"
seed = 1
[data]
name = "waves"
[lattice]
depth = 8
width = 12
channels = 1
radius = "1/8"
readout_modes = 1
[initial]
weight = 0.7
bias = 0.3
correlation_x = 0.5
[training]
steps = 3
batch = 4
step = 0.25
rates = { w = 1.0, b = 0.5, r = 0.5 }
probe = 2
evaluate = 0
[field]
n_x = 32
depth_scheme = "midpoint"
stencil = 2
refine_x = 1
[[ladder]]
spacing = "a_x"
range = "kernel"
lattice = { depth = [8, 16, 32] }
field = { depth_scheme = "rk4" }
[[ladder]]
spacing = "a_x"
scaling = "plain"
range = "kernel"
orders = [1]
lattice = { depth = [6, 12, 24] }
initial = { mean = [0.5], weight = 0.1 }
training = { steps = 2, rates = { w = 0.001, b = 0.001, r = 0.1 } }
field = { n_x = 80, depth_scheme = "rk4" }
[[ladder]]
spacing = "step"
dynamics = ["leapfrog"]
halvings = 2
training = { batch = 256, steps = 2, step = 0.5, damping = 2.0 }
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    run_study(config_of(), folder / "run", workers=1)
    return folder / "run"


def config_of(*overrides: str) -> OrdersConfig:
    config = parse_config(SMALL, overrides=overrides)
    assert isinstance(config, OrdersConfig)
    return config


def rows_of(study: Path) -> list[dict[str, Any]]:
    return json.loads((study / "scores.json").read_text())["orders"]["combinations"]


def test_every_combination_is_judged(study):
    rows = rows_of(study)
    assert [(row["spacing"], row["scaling"], row["order"], row["verdict"]) for row in rows] == [
        ("a_x", "residual", 0, "holds"),
        ("a_x", "residual", 1, "holds"),
        ("a_x", "plain", 1, "plateau as expected"),
        ("step", "residual", None, "holds"),
    ]
    for row, declared in zip(rows, (1.0, 2.0, None, 2.0), strict=True):
        if declared is None:
            assert row["declared"] is None and row["errors"]["z"][-1] < 0.8 * row["errors"]["z"][0]  # thinner layers
            continue
        assert row["declared"]["z"] == declared
        assert all(abs(row["measured"][key] - declared) <= 0.15 for key in ("z", "w", "b"))
    verdicts = json.loads((study / "scores.json").read_text())["orders"]["verdicts"]
    assert verdicts == {"holds": 3, "plateau as expected": 1, "fails": 0}


def test_a_wrong_order_fails():
    """A theory that claimed an order too many would be found out, and so would errors that are not yet asymptotic."""
    fits = {key: (1.0, [1.0, 1.0]) for key in ("z", "w", "b")}
    declared, finest = dict.fromkeys(fits, 1.0), {"error": dict.fromkeys(fits, 1e-3), "grid_error_by": None}
    assert orders._verdict(fits, declared, finest) == "holds"
    assert orders._verdict(fits, dict.fromkeys(fits, 2.0), finest) == "fails"
    assert orders._verdict(fits, None, finest) == "fails"
    assert orders._verdict({**fits, "b": (1.0, [1.4, 0.6])}, declared, finest) == "fails"
    assert orders._verdict({**fits, "w": (None, [])}, declared, finest) == "fails"
    floor = {"z": 1e-6, "w": 5e-4, "b": 1e-6, "loss": 0.0}  # the solver's own grid is half of the error of ŵ
    assert orders._verdict(fits, declared, {**finest, "grid_error_by": floor}) == "fails"


def test_each_combination_is_a_study_of_its_own(study):
    """With a configuration that `bbdfield run` takes, and a plateau is explained there too."""
    directories = sorted((study / "combinations").iterdir())
    assert [path.name for path in directories] == [name for name, _, _ in sorted(config_of().combinations())]
    plain = next(path for path in directories if "plain" in path.name)
    assert load_config(plain / "config.toml").kind == "continuum"
    again = plain.parent / "again"
    run_study(load_config(plain / "config.toml", ["training.steps=1", "lattice.depth=[6, 12]"]), again, workers=1)
    report = (again / "report.html").read_text()
    assert "not expected to vanish" in report and "no field" in report


def test_resuming_a_finished_study_changes_nothing(study):
    before = (study / "scores.json").read_bytes()
    run_study(config_of(), study, workers=1, resume=True)
    assert (study / "scores.json").read_bytes() == before


def test_figures_and_words(study):
    assert {path.stem for path in (study / "figures").iterdir()} == set(orders.CAPTIONS)
    found = orders.describe({}, json.loads((study / "scores.json").read_text()))
    assert "Orders as declared, within 0.15 in ẑ, ŵ and b̂: 3." in found.summary
    assert "√a_x" in found.summary and [table.title for table in found.tables] == [
        "Orders in a_x",
        "Orders in the training step τ",
    ]
    assert [row[-1] for row in found.tables[0].rows] == ["holds", "holds", "plateau as expected"]


def test_configuration_survives_writing():
    config = config_of()
    assert parse_config(config.to_toml()) == config


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('range = "kernel"\nlattice', 'range = "derivative"\nlattice', None),
        ("depth = [8, 16, 32] }\nfield", "depth = 8 }\nfield", "lattice.depth needs a list of sizes to refine a_x"),
        ("depth = [8, 16, 32] }\nfield", "depth = [8, 16] }\nfield", "needs three sizes or more"),
        ("orders = [1]", "orders = [0]", 'order 0 is not defined for lattice.scaling = "plain"'),
        ('dynamics = ["leapfrog"]', 'dynamics = ["adam"]', "ladder.2.dynamics: needs a list out of"),
        ("halvings = 2", "halving = 2", "ladder.2.halving: unknown key; did you mean ladder.2.halvings?"),
        ('scaling = "plain"\nrange = "kernel"', 'scaling = "plain"\nrange = "derivative"', "1/a_y²"),
        ('scaling = "plain"', 'scaling = "residual"', "stands in two of them"),
        (
            "training = { steps = 2, rates",
            'training = { dynamics = "flow", steps = 2, rates',
            "ladder.1.training.dynamics: is a key of",
        ),
        (
            "lattice = { depth = [8, 16, 32] }",
            'lattice = { scaling = "critical" }',
            "ladder.0.lattice.scaling: is a key of",
        ),
        ("halvings = 2", "orders = [1]", 'ladder.2.orders: means nothing for spacing = "step"'),
        ("orders = [1]", "orders = [1]\nhalvings = 4", 'ladder.1.halvings: means nothing for spacing = "a_x"'),
        ("batch = 256, steps = 2", "batch = 4, steps = 2", "training.batch: needs all 256 training samples"),
        ("halvings = 2", "lattice = { depth = [2, 4] }", "lattice.depth and lattice.width need one size each"),
        (
            'dynamics = ["leapfrog"]\nhalvings = 2\ntraining = { batch = 256, steps = 2, step = 0.5, damping = 2.0 }',
            'dynamics = ["adaptive-flow"]\ntraining = { batch = 256, steps = 2, step = 0.5 }',
            "chooses its steps itself",
        ),
    ],
)
def test_refusals(old, new, message):
    text = SMALL.replace(old, new, 1)
    assert text != SMALL
    if message is None:
        parse_config(text)
        return
    with pytest.raises(InputError) as caught:
        parse_config(text)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_ladder_is_needed():
    with pytest.raises(InputError, match="ladder: is missing"):
        parse_config(SMALL[: SMALL.index("[[ladder]]")])


def test_an_unstable_training_step_is_refused_by_its_name():
    text = SMALL.replace("batch = 256, steps = 2, step = 0.5", "batch = 256, steps = 2, step = 5e4")
    with pytest.raises(
        InputError, match=r"step-residual-kernel-tied-circular-leapfrog: training\.step = 50000: unstable"
    ):
        orders.check(parse_config(text))


def test_an_unstable_combination_is_refused_by_its_name():
    config = parse_config(SMALL.replace("n_x = 80", "n_x = 16"))
    with pytest.raises(InputError, match=r"a_x-plain-kernel-tied-circular-sgd: field\.n_x = 16: unstable depth step"):
        orders.check(config)
