"""The configuration: what is accepted comes back complete, and whatever is wrong is one line that names the key."""

from __future__ import annotations

import copy
import datetime
import math
import os
import pickle
import random
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel

from bbdfield.errors import InputError
from bbdfield.model.architecture import Rates
from bbdfield.model.ranges import Kernel
from bbdfield.studies.config import LATER_KEYS, LATER_VALUES, StudyConfig, load_config, parse_config
from solvers.grids import Grid

#: sweep.toml is a sweep: tests/sweeps
EXPERIMENTS = sorted(p for p in (Path(__file__).parents[2] / "experiments").glob("*.toml") if p.stem != "sweep")

MINIMAL = """
kind = "continuum"
seed = 7

[lattice]
depth = [16, 32]
width = 40
channels = 8
radius = "11/80"

[training]
steps = 20
batch = 32
step = 0.25
rates = { w = 7.25, b = 0.1, r = 0 }
"""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    path = tmp_path / "study.toml"
    path.write_text(MINIMAL)
    return path


def complaint(path: Path, *overrides: str) -> str:
    """What loading says, without the file's name in front."""
    with pytest.raises(InputError) as caught:
        load_config(path, overrides)
    line = str(caught.value)
    assert "\n" not in line and line.startswith(f"{path}: ")
    return line.removeprefix(f"{path}: ")


# what is accepted


def test_defaults_and_objects(study):
    config = load_config(study)
    assert config.rungs() == [(16, 40), (32, 40)] and config.fitted_against() == "a_x"
    assert config.dataset().name == "mnist1d" and config.compression() is None and config.output.figures
    lattice = config.lattice_at(32, 40)
    assert (lattice.depth, lattice.width, lattice.channels, lattice.outputs, lattice.data_channels) == (
        32,
        40,
        8,
        10,
        1,
    )
    assert lattice.range == Kernel(11 / 80, tied=True) and lattice.readout_modes == 6 and lattice.padding == "zeros"
    plan = config.training_plan()
    assert (plan.steps, plan.batch, plan.step, plan.rates, plan.seed) == (20, 32, 0.25, Rates(7.25, 0.1, 0.0), 7)
    initial = config.initial_fields(lattice)
    assert (initial.seed, initial.weight, initial.correlation_u, initial.lattice) == (7, 3.0, 0.1, lattice)
    assert config.field_grid(32, 40) == Grid(32, 40) and config.field_grid(32, 40, refined=True) == Grid(64, 40)
    assert config.field.orders == (0, 1)


def test_grid_and_ladder_in_width(study):
    config = load_config(study, ["lattice.depth=16", "lattice.width=[40, 120]", "field.n_x=24", "field.refine_y=3"])
    assert config.rungs() == [(16, 40), (16, 120)] and config.fitted_against() == "a_y"
    assert config.field_grid(16, 120) == Grid(24, 120)
    assert config.field_grid(16, 120, refined=True) == Grid(48, 360)
    assert load_config(study, ["lattice.depth=[16]"]).fitted_against() is None


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_shipped_experiments_are_accepted(path):
    config = load_config(path)
    assert parse_config(config.to_toml()) == config


def test_there_are_experiments():
    assert {"continuum", "width"} <= {path.stem for path in EXPERIMENTS}


@pytest.mark.parametrize(
    "override",
    [
        "title = '\"quoted\" \\ back, tab\t, ŵ, 𝒦, \x7f'",
        "training.step=1e-300",
        "training.step=0.1",
        "training.step=123456789012345680",
        "seed=9223372036854775807",
        "lattice.depth=[4, 8, 12]",
        "lattice.radius=0.1375",
        "lattice.weights=untied",
        "lattice.padding=reflect",
        "lattice.activation=gelu",
        "lattice.loss=hinge",
        "training.dynamics=flow",
        "field.n_x=17",
        "field.orders=[1]",
        "field.depth_scheme=euler",
        "output.compression=gzip",
        "output.figures=false",
    ],
)
def test_round_trip(study, override):
    config = load_config(study, [override])
    assert config != load_config(study)
    again = parse_config(config.to_toml())
    assert again == config and again.to_toml() == config.to_toml()


def test_every_key_is_written(study):
    def keys(model: Any) -> Any:
        return {name: keys(value) if isinstance(value, BaseModel) else None for name, value in model}

    def written(table: Any) -> Any:
        return {name: written(value) if isinstance(value, dict) else None for name, value in table.items()}

    config = load_config(study)
    expected = keys(config)
    del expected["data"]["file"]  # name and file exclude each other
    del expected["training"]["damping"], expected["training"]["tolerance"]  # SGD has none
    for key in ("kappa", "taps", "length"):  # of other scalings and ranges
        del expected["lattice"][key]
    del expected["initial"]["mean"], expected["initial"]["spread"]  # the range's own
    del expected["field"]["width_order"]  # kernels have none
    assert written(tomllib.loads(config.to_toml())) == expected


def test_configurations_travel_to_worker_processes(study):
    config = load_config(study)
    assert pickle.loads(pickle.dumps(config)) == config


def test_byte_order_mark_and_windows_newlines(study, tmp_path):
    other = tmp_path / "windows.toml"
    other.write_bytes(b"\xef\xbb\xbf" + MINIMAL.replace("\n", "\r\n").encode())
    assert load_config(other) == load_config(study)


# what is refused

SIZES = "needs a whole number from 1 to 1000000, or an increasing list of them"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("lattice.depht=16", "lattice.depht: unknown key; did you mean lattice.depth?"),
        ("output.x=1", "output.x: unknown key; known are compression, figures"),
        ("latice.depth=16", "latice: unknown key; did you mean lattice?"),
        ("seed=true", "seed: needs a whole number >= 0 (got true)"),
        ("seed=1.0", "seed: needs a whole number >= 0 (got 1.0)"),
        ('seed="1"', "seed: needs a whole number >= 0 (got '1')"),
        ("seed=-1", "seed: needs a whole number >= 0 (got -1)"),
        ("lattice.channels=-8", "lattice.channels: needs a whole number from 1 to 100000 (got -8)"),
        ("lattice.depth=-3", f"lattice.depth: {SIZES} (got -3)"),
        ("lattice.depth=[]", f"lattice.depth: {SIZES} (got [])"),
        ("lattice.depth=[32, 16]", "lattice.depth: needs its sizes in increasing order, each once (got [32, 16])"),
        ("lattice.depth=[16, 16]", "lattice.depth: needs its sizes in increasing order, each once (got [16, 16])"),
        ("lattice.width=[40, 120]", "lattice.depth: only one of depth and width may be a ladder, and lattice.width"
         " is one; give one size"),
        ("lattice.padding=mirror", 'lattice.padding: needs one of "zeros", "circular", "reflect" (got \'mirror\')'),
        ("lattice.readout_modes=41",
         "lattice.readout_modes: needs at most lattice.width, 40, or modes coincide (got 41)"),
        ("training.step=0", "training.step: needs a number > 0 (got 0)"),
        ("training.step=nan", "training.step: needs a number > 0 (got nan)"),
        ("training.step=inf", "training.step: needs a number > 0 (got inf)"),
        ("training.rates.w=-inf", "training.rates.w: needs a number >= 0 (got -inf)"),
        ("training.rates.w=true", "training.rates.w: needs a number >= 0 (got true)"),
        ("training.rates={w=0, b=0, r=0}",
         "training.rates: needs a rate > 0, or nothing is trained (got w = b = r = 0)"),
        ("training.rates=3", "training.rates: needs a table of keys (got 3)"),
        ("lattice=3", "lattice: needs a table of keys (got 3)"),
        ("training.batch=4001", "training.batch: needs at most the 4000 training samples (got 4001)"),
        ("training.probe=1001", "training.probe: needs at most the 1000 test samples (got 1001)"),
        (
            "initial.correlation_x=1e-4",
            "initial.correlation_x: needs a length from 0.001 to 1000, or 0 for independent values (got 0.0001)",
        ),
        (
            "initial.correlation_x=0",
            "initial.correlation_x: independent values are no field; give a length, or map where the description ends"
            ' with kind = "validity"',
        ),
        ("field.orders=[0, 0]", "field.orders: needs a list of different orders out of 0, 1 (got [0, 0])"),
        ("field.orders=2", "field.orders: needs a list of different orders out of 0, 1 (got 2)"),
        ("field.n_x=grid", "field.n_x: needs a whole number from 1 to 1000000, or \"lattice\" (got 'grid')"),
        ("output.figures=1", "output.figures: needs true or false (got 1)"),
        ("data.name=mnist", "data.name: needs one of \"mnist1d\", \"waves\" (got 'mnist')"),
        ("data={name='mnist1d', file='a.npz'}", "data: has both name and file; give the one or the other"),
        ("title=1979-05-27", "title: needs a string (got datetime.date(1979, 5, 27))"),
        ("training={}", "training.steps: is missing; add the number of training steps (and 2 more)"),
        ("lattice.channels=100000", "lattice.channels: a 16 x 40 grid would hold 1.8e+12 weights; make it smaller"),
    ],
)  # fmt: skip
def test_refused(study, override, message):
    assert complaint(study, override) == message


@pytest.mark.parametrize(
    ("override", "key", "words"),
    [
        ("lattice.radius=0.1", "lattice.radius", "not on a cell edge of width 40"),
        ("lattice.radius=41/80", "lattice.radius", "wider kernel does not fit into the lattice"),
        ("lattice.radius=1e400", "lattice.radius", "needs a number > 0"),
        ("lattice.radius=1/0", "lattice.radius", "needs a number > 0"),
        ("lattice.radius='1e999999999'", "lattice.radius", "needs a number > 0"),
        ("lattice.width=41", "lattice.radius", "not on a cell edge of width 41"),
        ("field.n_y=60", "field.n_y", "not on a cell edge of width 60"),
        ("field.refine_y=2", "field.refine_y", "(an odd refine_y keeps the radius on a cell edge)"),
        ("data.file=none.npz", "data.file", "no such file"),
    ],
)
def test_refused_naming_the_key(study, override, key, words):
    line = complaint(study, override)
    assert line.startswith(f"{key}: ") and words in line


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in LATER_VALUES.items() for value in values])
def test_what_is_planned_is_refused_by_name(study, key, value):
    assert complaint(study, f"{key}={value}").startswith(f'{key}: "{value}" does not exist yet; use ')


@pytest.mark.parametrize("key", LATER_KEYS)
def test_keys_that_are_planned_are_refused_by_name(study, key):
    assert complaint(study, f"{key}=1") == f"{key}: does not exist yet; remove it"


@pytest.mark.parametrize(
    "key", ["kind", "lattice.depth", "lattice.radius", "training.rates", "training.rates.w", "lattice"]
)
def test_missing(key):
    table = tomllib.loads(MINIMAL)
    *sections, last = key.split(".")
    holder = table
    for section in sections:
        holder = holder[section]
    del holder[last]
    with pytest.raises(InputError, match=rf"^study: {key.replace('.', '[.]')}: is missing; add "):
        StudyConfig.from_table(table, "study")


def test_several_errors_are_counted(study):
    line = complaint(study, "seed=-1", "lattice.channels=0", "nothing=1")
    assert line == "seed: needs a whole number >= 0 (got -1) (and 2 more)"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"kind = ", "not valid TOML: Invalid value"),
        (b"a = 1\na = 2", "not valid TOML: Cannot overwrite a value"),
        (b'kind = "\xe9"', "not UTF-8 text (byte 8)"),
        (b"a = " + b"[" * 100_000, "not valid TOML"),
        (b"a = " + b"1" * 10_000, "not valid TOML"),
        (b"", "kind: is missing"),
        (b"\0", "not valid TOML"),
    ],
)
def test_files_that_are_no_configuration(tmp_path, content, words):
    path = tmp_path / "bad.toml"
    path.write_bytes(content)
    assert words in complaint(path)


def test_files_that_cannot_be_read(tmp_path):
    assert complaint(tmp_path / "none.toml") == "no such file; check the path"
    assert complaint(tmp_path / "none" / "none.toml") == "no such file; check the path"
    os.mkfifo(tmp_path / "pipe.toml")
    assert complaint(tmp_path / "pipe.toml") == "is not a plain file; give a TOML file"
    with open(tmp_path / "large.toml", "wb") as file:
        file.truncate(2**34)  # a hole: it takes no room on the disk
    assert complaint(tmp_path / "large.toml") == "is larger than 16 MiB; give a TOML file"
    assert complaint(tmp_path) == "is not a plain file; give a TOML file"


# overrides


def test_override_values(study):
    config = load_config(
        study, ["lattice.radius=11/80", "title=two words", "field.orders=[0]", "output = {figures=false}"]
    )
    assert (config.lattice.radius, config.title) == ("11/80", "two words")
    assert config.field.orders == (0,) and config.output.figures is False
    assert load_config(study, ["title='1'"]).title == "1"
    assert load_config(study, ["title=a\nseed = 3"]).seed == 7, "one override sets one key"
    assert load_config(study, ["seed=1", "seed=2"]).seed == 2, "the last one counts"


@pytest.mark.parametrize("override", ["seed", "=1", "lattice..depth=1", "seed.x=1", "a b=1", "lattice.=1", ""])
def test_overrides_that_are_none(study, override):
    with pytest.raises(InputError, match=r"^--set "):
        load_config(study, [override])


# data


def npz(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)
    return path


def test_own_data(study, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    npz(tmp_path / "own.npz", x=rng.normal(size=(40, 2, 40)), y=np.arange(40) % 3)
    config = load_config(study, ["data.file=own.npz"])
    assert config.data.file == str(tmp_path / "own.npz") and config.data.name is None
    lattice = config.lattice_at(16, 40)
    assert (lattice.outputs, lattice.data_channels) == (3, 2)
    monkeypatch.chdir("/")
    assert parse_config(config.to_toml()) == config, "the resolved configuration does not depend on where it lies"
    npz(tmp_path / "own.npz", x=rng.normal(size=(50, 1, 40)), y=np.arange(50) % 4)
    assert config.dataset().outputs == 4, "a file that has changed is read again"


@pytest.mark.parametrize(
    ("x", "y", "overrides", "words"),
    [
        ((40, 40), (40, 2), ["lattice.loss=hinge"], "lattice.loss: loss hinge: needs integer labels"),
        ((40, 40), (40, 2), ["lattice.loss=kl-divergence"], "lattice.loss: loss kl-divergence: the target of sample 0"),
        ((20, 40), (20,), [], "training.batch: needs at most the 20 training samples (got 32)"),
        ((40, 40), (40,), ["training.probe=41"], "training.probe: needs at most the 40 training samples (got 41)"),
        ((40, 1, 8, 8), (40,), [], "'x' has 4 dimensions"),
        ((40, 3), (40,), [], "a cubic spline needs at least 4 places"),
        ((40, 40), (39,), [], "40 samples in 'x' but 39 in 'y'"),
    ],
)
def test_data_that_do_not_fit(study, tmp_path, x, y, overrides, words):
    answers = np.zeros(y, int) if len(y) == 1 else np.full(y, 0.75)
    npz(tmp_path / "own.npz", x=np.zeros(x), y=answers)
    assert words in complaint(study, "data.file=own.npz", *overrides)


# whatever else


def deep(levels: int) -> list[Any]:
    nested: list[Any] = []
    for _ in range(levels):
        nested = [nested]
    return nested


ODD_VALUES = [
    True, False, -1, 0, 1, 2, 3, 7, 40, 64, 10**6, 10**7, 2**31, 2**63, 10**30, 10**5000, -(10**400),
    0.0, -0.0, 0.5, 1.5, 1e-320, 1e-3, 0.0125, 1e6, 1e300, 1e308, -1e308, math.nan, math.inf, -math.inf,
    "", "lattice", "x", "11/80", "1/80", "80/0", "tied", "untied", "none", "rk4", "adam", "\x00", "ŵ\n\t\"",
    "1e999999999", deep(5000), [], [1], [16, 32], [32, 16], [40, 120], [1.5], [True],
    ["a"], [[1]], [0], [1, 0], list(range(1, 60)),
    {}, {"a": 1}, {"w": 1.0, "b": 1.0, "r": 0.0}, {"w": {}}, None,
    datetime.date(2020, 1, 1), datetime.time(1, 2), datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC),
]  # fmt: skip


def leaves(table: dict[str, Any], path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    for key, value in table.items():
        found.append((*path, key))
        if isinstance(value, dict):
            found += leaves(value, (*path, key))
    return found


def mutate(rng: random.Random, table: dict[str, Any]) -> dict[str, Any]:
    table = copy.deepcopy(table)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        *sections, key = rng.choice(leaves(table))
        holder = table
        for section in sections:
            holder = holder[section]
        kind, value, odd = rng.randrange(5), holder[key], copy.copy(rng.choice(ODD_VALUES))
        if kind == 0:
            del holder[key]
        elif kind == 1:
            holder[rng.choice(["unknown", "a b", "ŵ", "", "depth", "schedule", "x" * 5000, "\n"])] = odd
        elif kind == 2 and isinstance(value, (int, float)) and abs(value) < 1e6:
            holder[key] = rng.choice([-value, value * 10 ** rng.randrange(20), value / 7, str(value)])
        else:
            holder[key] = odd
        if not leaves(table):
            break
    return table


def test_mutated_configurations_are_refused_in_one_line_or_echoed():
    """Thousands of broken configurations: nothing but InputError, and no accepted value is lost or changed."""
    rng = random.Random(5)
    base = tomllib.loads(parse_config(MINIMAL).to_toml())
    accepted = refused = 0
    for _ in range(6000):
        table = mutate(rng, base)
        try:
            config = StudyConfig.from_table(table, "study.toml")
        except InputError as error:
            refused += 1
            line = str(error)
            assert line.startswith("study.toml: ") and len(line.splitlines()) == 1 and len(line) < 600, line
            continue
        accepted += 1
        written = tomllib.loads(config.to_toml())
        assert StudyConfig.from_table(written) == config
        for path in leaves(table):
            given, echoed = table, written
            for key in path:
                given, echoed = given[key], echoed[key]
            if isinstance(echoed, float):
                given = float(given)  # a whole number where any number will do
            assert isinstance(given, dict) or (type(given), given) == (type(echoed), echoed), path
    assert accepted > 500 and refused > 3000


def test_mutated_texts_are_refused_in_one_line(tmp_path):
    """Broken files: bytes replaced, removed, doubled."""
    rng = random.Random(6)
    whole = parse_config(MINIMAL).to_toml().encode()
    path = tmp_path / "study.toml"
    refused = 0
    for _ in range(1000):
        text = bytearray(whole)
        for _ in range(rng.randrange(1, 4)):
            place, length = rng.randrange(len(text)), rng.randrange(1, 12)
            kind = rng.randrange(3)
            if kind == 0:
                text[place : place + length] = rng.randbytes(length)
            elif kind == 1:
                del text[place : place + length]
            else:
                text[place:place] = text[place : place + length]
        path.write_bytes(text)
        try:
            load_config(path)
        except InputError as error:
            refused += 1
            assert str(error).startswith(f"{path}: ") and len(str(error).splitlines()) == 1, str(error)
    assert refused > 700
