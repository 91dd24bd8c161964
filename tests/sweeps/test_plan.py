"""Which points a sweep has, what they are called, and what is refused."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bbdfield.errors import InputError
from bbdfield.studies.config import load_config, parse_config
from bbdfield.sweeps.plan import MOST_POINTS, Sweep, load_sweep

Small = Callable[[str], Sweep]

GRID = """
[sweep.grid]
seed = [1, 2]
a_x = [0.25, "1/8"]
order = [0, 1]
lattice.padding = ["zeros", "circular"]
"""


def test_a_grid_is_the_product_of_its_lists(small: Small):
    sweep = small(GRID)
    points = sweep.points()
    assert len(points) == sweep.count() == 16
    settings = [tuple(point.settings.values()) for point in points]
    assert settings[:3] == [(1, 0.25, 0, "zeros"), (1, 0.25, 0, "circular"), (1, 0.25, 1, "zeros")]
    config = points[-1].config
    assert config is not None and len(set(settings)) == 16
    assert (config.seed, config.lattice.depth, config.lattice.padding) == (2, 8, "circular")
    assert config.field.orders == (1,)
    assert not config.output.figures


def test_entries_are_combined_with_the_grid(small: Small):
    points = small("""
[sweep.grid]
seed = [1, 2]
[[sweep.points]]
scaling = "critical"
lattice.range = "taps"
[[sweep.points]]
a_y = "1/20"
lattice.radius = "1/8"
""").points()
    assert [point.settings["seed"] for point in points] == [1, 2, 1, 2]
    assert [point.settings["scaling"] for point in points] == ["critical"] * 2 + ["residual"] * 2
    assert [point.settings["a_y"] for point in points] == [1 / 12, 1 / 12, 0.05, 0.05]
    for refused in points[:2]:  # the study has a radius, which taps have not
        assert refused.config is None and refused.refusal.startswith("lattice.radius: ")


def test_as_many_values_as_are_allowed_are_read_at_once():
    table = {"kind": "continuum", "sweep": {"grid": {"seed": list(range(50_000))}}}
    started = time.monotonic()
    assert Sweep.from_table(table).count() == 50_000
    assert time.monotonic() - started < 10, "comparing all with all takes a minute"


def test_a_point_is_named_by_its_content(small: Small, tmp_path: Path):
    names = [point.name for point in small(GRID).points()]
    assert all(re.fullmatch("[0-9a-f]{16}", name) for name in names) and len(set(names)) == 16
    two, three = (small(f"[sweep.grid]\nseed = {seeds}").points() for seeds in ([2, 3], [0, 1, 2]))
    assert two[0].name == three[2].name
    explicit = small("[sweep.grid]\nlattice.depth = [4, 8]").points()
    short = small("[sweep.grid]\na_x = [0.25, 0.125]").points()
    assert [point.name for point in explicit] == [point.name for point in short]
    data = (tmp_path / "data.npz").read_bytes()
    before = small(GRID).points()[0].name
    np.savez(tmp_path / "data.npz", **{**np.load(tmp_path / "data.npz"), "x": np.ones((40, 2, 12))})
    assert data != (tmp_path / "data.npz").read_bytes()
    assert small(GRID).points()[0].name != before


def test_equal_points_are_one(small: Small):
    sweep = small("[[sweep.points]]\nseed = 1\n[[sweep.points]]\nseed = 1\ninitial.bias = 0\n")
    assert sweep.count() == 2 and len(sweep.points()) == 1


def test_values_of_every_type_arrive(small: Small):
    sweep = small(
        "[sweep.grid]\n"
        "field.orders = [[0], [0, 1]]\n"
        "output.figures = [true, false]\n"
        "training.step = [0.5, 1]\n"
        'lattice.depth = [[4, 8], 4]\n"training.rates" = [{ w = 1, b = 0.1, r = 0.5 }]\n'.replace(
            '"training.rates" = [{ w = 1, b = 0.1, r = 0.5 }]', "training.rates = { w = [1, 2] }"
        )
    )
    points = sweep.points()
    assert len(points) == 32 and all(point.config for point in points)
    first = points[0].settings
    assert first == {
        "field.orders": [0],
        "output.figures": True,
        "training.step": 0.5,
        "lattice.depth": [4, 8],
        "training.rates.w": 1.0,
    }


def test_a_sweep_survives_its_own_file(small: Small, tmp_path: Path):
    section = (
        GRID
        + '[sweep]\nheat = [["a_x", "lattice.padding"]]\nscores = ["error.z"]\n[[sweep.points]]\ntraining.steps = 5\n'
    )
    sweep = small(section)
    text = sweep.to_toml()
    again = Sweep.from_toml(text, "small.toml", tmp_path / "elsewhere")  # data.file has become absolute
    assert again == sweep and again.to_toml() == text
    assert [point.name for point in again.points()] == [point.name for point in sweep.points()]


@pytest.mark.parametrize("name", ["orders", "signals", "validity", "symmetry", "energy", "critical", "cutoff"])
def test_every_kind_of_study_can_be_swept(name: str):
    sweep = load_sweep(Path(__file__).parents[2] / "experiments" / f"{name}.toml", ["sweep.grid.seed=[1, 2]"])
    points = sweep.points()
    assert [point.config.seed for point in points if point.config] == [1, 2]
    again = Sweep.from_toml(sweep.to_toml(), sweep.where)
    assert again == sweep and again.points() == points


def test_a_value_where_a_section_belongs_is_not_lost(small: Small):
    sweep = small("[sweep.grid]\ninitial.weight = [1, 2]")
    sweep.base["initial"] = 3
    with pytest.raises(InputError, match=r"initial: needs a table of keys \(got 3\)"):
        sweep.points()


def test_impossible_points_stay_with_their_reason(small: Small):
    points = small("[sweep.grid]\ntraining.batch = [5, 4000, true]").points()
    assert [point.config is None for point in points] == [False, True, True]
    assert "40 training samples" in points[1].refusal and "true" in points[2].refusal
    assert points[1].settings == {"training.batch": 4000} and len({point.name for point in points}) == 3
    with pytest.raises(
        InputError, match=r"^small.toml: training.batch: needs .* \(none of the 2 points is possible\)$"
    ):
        small("[sweep.grid]\ntraining.batch = [4000, 5000]").points()


@pytest.mark.parametrize(
    ("section", "complaint"),
    [
        ("", "sweep: is missing"),
        ("[sweep]", "sweep: lists no values"),
        ("[sweep.grid]", "sweep: lists no values"),
        ("[[sweep.points]]", "sweep: lists no values"),
        ("[sweep]\ngrid = 1", "sweep.grid: needs a table"),
        ("[sweep]\npoints = [1]", "sweep.points: needs tables"),
        ("[sweep.gird]\nseed = [1]", "sweep.gird: unknown key; did you mean sweep.grid?"),
        ("[sweep]\nseed = [1]", "sweep.seed: unknown key"),
        ("[sweep]\nfigures = 1\n[sweep.grid]\nseed = [1]", "sweep.figures: needs true or false"),
        ("[sweep]\nscores = [1]\n[sweep.grid]\nseed = [1]", "sweep.scores: needs a list"),
        ('[sweep]\nheat = [["seed"]]\n[sweep.grid]\nseed = [1]', "sweep.heat: needs pairs"),
        ('[sweep]\nheat = [["seed", "a_x"]]\n[sweep.grid]\nseed = [1]', "sweep.heat: needs pairs of two swept keys"),
        ("[sweep.grid]\nseed = 3", "sweep.grid.seed: needs a list"),
        ("[sweep.grid]\nseed = []", "sweep.grid.seed: needs a list"),
        ("[sweep.grid]\nseed = [1, 2, 1]", "sweep.grid.seed: gives 1 twice"),
        ("[sweep.grid]\na_x = [0.3]", "sweep.grid.a_x: needs 1/(a whole number of layers)"),
        ("[sweep.grid]\na_y = [1e-320]", "sweep.grid.a_y: needs 1/(a whole number of cells)"),
        ("[sweep.grid]\na_x = [true]", "sweep.grid.a_x: needs"),
        ('[sweep.grid]\na_x = ["1/0"]', "sweep.grid.a_x: needs"),
        ("[sweep.grid]\na_x = [inf]", "sweep.grid.a_x: needs"),
        ("[sweep.grid]\na_x = [0.5]\nlattice.depth = [2]", "sweep.grid: a_x and lattice.depth set the same key"),
        ('[sweep.grid]\n"training.rates" = [1]\n"training.rates.w" = [1]', "set the same key"),
        ('[sweep.grid]\n"lattice.depth" = [4]\nlattice.depth = [4]', "sweep.grid.lattice.depth: stands there twice"),
        ("[sweep.grid]\nseed = [1]\n[[sweep.points]]\nseed = 2", "sweep.points: seed stands in sweep.grid too"),
        ("[sweep.grid]\nlattice.dept = [1]", "sweep.grid.lattice.dept: unknown key; did you mean lattice.depth?"),
        ('[sweep.grid]\n"lattice.depth.x" = [1]', "lattice.depth is a value and has no keys"),
        ('[sweep.grid]\n"../../etc" = [1]', 'sweep.grid."../../etc": is no key of a study'),
        ('[sweep.grid]\n"" = [1]', 'sweep.grid."": is no key of a study'),
        ('[sweep.grid]\n"..".x = [1]', "is no key of a study"),
        ('[sweep.grid]\n"a\\u0000b" = [1]', "is no key of a study"),
        (f"[sweep.grid]\n{'k' * 5000} = [1]", "is no key of a study"),
        (f"[sweep.grid]\n{'.'.join('k' * 500)} = [1]", "is no key of a study"),
        ('[sweep.grid]\nkind = ["energy"]', "sweep.grid.kind: is the same for all points"),
        ('[[sweep.points]]\ntitle = "b"', "sweep.points.0.title: is the same for all points"),
    ],
)
def test_wrong_sections_are_one_line_that_names_the_key(small: Small, section: str, complaint: str):
    with pytest.raises(InputError) as caught:
        small(section)
    message = str(caught.value)
    assert message.startswith("small.toml: ") and complaint in message
    assert "\n" not in message and len(message) < 400


def test_too_many_points_are_refused_before_they_are_made(small: Small):
    many = ", ".join(map(str, range(1000)))
    with pytest.raises(InputError, match=rf"1,000,000 points; a sweep has at most {MOST_POINTS:,}"):
        small(f"[sweep.grid]\nseed = [{many}]\ntraining.steps = [{many}]")


def test_an_order_needs_a_field():
    decomposition = Path(__file__).parents[2] / "experiments" / "decomposition.toml"
    with pytest.raises(InputError, match=r"sweep\.grid\.order: this kind of study has no order"):
        load_sweep(decomposition, ["sweep.grid.order=[0, 1]"])
    energy = load_sweep(decomposition.with_name("energy.toml"), ["sweep.grid.order=[0, 1]"])
    assert [point.config.field.order for point in energy.points() if point.config] == [0, 1]  # type: ignore[attr-defined]


def test_a_sweep_is_no_study_and_a_study_no_sweep(tmp_path: Path):
    experiments = Path(__file__).parents[2] / "experiments"
    sweep = load_sweep(experiments / "sweep.toml")
    assert 40 <= len(sweep.points()) <= 60 and all(point.config for point in sweep.points())
    with pytest.raises(InputError, match=r"sweep.toml: sweep: .* bbdfield sweep"):
        load_config(experiments / "sweep.toml")
    with pytest.raises(InputError, match=r"continuum.toml: sweep: .* bbdfield run"):
        load_sweep(experiments / "continuum.toml")
    text = sweep.points()[0].config
    assert text is not None and parse_config(text.to_toml()) == text


def test_overrides_reach_base_and_grid():
    path = Path(__file__).parents[2] / "experiments" / "sweep.toml"
    sweep = load_sweep(path, ["sweep.grid.seed=[7]", "training.steps=3", "sweep.grid.initial.weight=[1.0]"])
    assert sweep.count() == 4
    assert {(point.config.seed, point.config.training.steps) for point in sweep.points() if point.config} == {(7, 3)}
