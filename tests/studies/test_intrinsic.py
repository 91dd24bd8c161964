"""The intrinsic part of the conservation study on a small task: what it finds, and what it refuses."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

from bbdfield import Dataset
from bbdfield.errors import InputError
from bbdfield.studies import intrinsic
from bbdfield.studies.config.intrinsic import IntrinsicKeys
from bbdfield.studies.kinds import Session


def study(samples=20, numbers=6, outputs=3, **keys):
    rng = np.random.default_rng(5)
    data = Dataset("random", rng.standard_normal((30, 1, numbers)), rng.standard_normal((30, outputs)))
    given = {"intrinsic_depths": (4, 8, 16), "intrinsic_cells": (8, 16), "intrinsic_samples": samples, **keys}
    return SimpleNamespace(seed=3, conservation=IntrinsicKeys(**given), dataset=lambda: data)


@pytest.fixture(scope="module", autouse=True)
def short():
    """Coarser in everything that only costs time."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (
            ("STEP", 0.006),
            ("TOLERANCE", 1e-7),
            ("LATTICE_TOLERANCE", 1e-7),
            ("FIRST_ORDER_CELLS", 8),
            ("SNAPSHOTS", 3),
        ):
            patch.setattr(intrinsic, name, value)
        yield


@pytest.fixture(scope="module")
def said():
    return []


@pytest.fixture(scope="module")
def result(short, said, tmp_path_factory):
    return intrinsic.compute_intrinsic(study(), tmp_path_factory.mktemp("run"), Session(1, None, said.append))


def test_training_follows_the_closed_forms(result, said):
    found, _ = result
    assert found["two_layer"] < 1e-8 and found["deep"] < 1e-6  # of order four in the step, which is coarse here
    assert abs(found["depth_slope"] + 1) < 0.1 and abs(found["first_order_slope"] + 2) < 0.2
    assert found["field_slope"] < -3.5
    assert found["infinite_depth"] == max(row["field"][-1] for row in found["infinite"])
    assert found["field_agrees"] == (found["infinite_depth"] <= intrinsic.AGREES)
    assert found["imbalance"] < 1e-14
    assert all(row["movement"] > 0.1 and row["loss"][1] < row["loss"][0] for row in found["layers"] + found["infinite"])
    assert len(said) == len(found["layers"]) + 2 * (3 + 2)


def test_what_is_recoverable(result):
    rows = {(row["network"], row["lifting"]): row for row in result[0]["recoverability"]}
    assert len(rows) == len(intrinsic.CASES)
    assert rows["ReLU 2-3-3-2, biases", "paths"]["recoverable"]
    assert rows["linear 3-1-3", "product"]["recoverable"]
    for name, lifting, missing in (
        ("ReLU 3-4-2, biases, a dead neuron", "paths", 6),
        ("linear 3-3-3", "product", 3),
        ("linear 2-2-2-2", "product", 2),
    ):
        row = rows[name, lifting]
        assert not row["recoverable"] and row["parameters"] - row["rank"] == missing
        assert row["dropped"] < 1e-12 < 1e-3 < row["kept"]


def test_the_same_study_gives_the_same_bits(result, tmp_path):
    again = Session(1, None, lambda line: None)
    found, arrays = intrinsic.compute_intrinsic(study(), tmp_path, again)
    assert json.dumps(found) == json.dumps(result[0])
    assert all(np.array_equal(values, result[1][name][1]) for name, (_, values) in arrays.items())


def test_arrays_tables_and_words(result, tmp_path):
    found, arrays = result
    shapes = {name: values.shape for name, (_, values) in intrinsic.arrays_of(arrays).items()}
    assert shapes["intrinsic_0_closed"] == (intrinsic.LINES + 1, 3, 3)
    assert shapes["intrinsic_1_field"] == shapes["intrinsic_1_lattice"] == (intrinsic.SNAPSHOTS + 1, 3, 3)
    assert all(len(dims) == values.ndim for dims, values in arrays.values())
    closed, ladder, recovered = intrinsic.tables(json.loads(json.dumps(found)))
    assert len(closed.rows) == len(found["layers"]) + 2 and len(recovered.rows) == len(intrinsic.CASES)
    assert ladder.head[1] == "M = 4" and len(ladder.rows) == 2
    assert "slope −1.0" in intrinsic.message(found) or "slope −0.9" in intrinsic.message(found)
    assert "2, 3, 4 and 5 layers" in intrinsic.summary(found)
    (tmp_path / "figures").mkdir()
    intrinsic.draw_intrinsic(tmp_path, found, arrays)
    assert (tmp_path / "figures" / "conservation-intrinsic.png").stat().st_size > 10_000
    assert set(intrinsic.CAPTIONS) == {"conservation-intrinsic"}


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"samples": 31}, "has only 30 samples"),
        ({"numbers": 2}, "2 numbers per sample but 3 outputs"),
    ],
)
def test_data_that_do_not_fill_the_networks_are_refused(changes, says):
    with pytest.raises(InputError, match=says) as caught:
        intrinsic.check_intrinsic(study(**changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["intrinsic_depths", "intrinsic_cells"])
@pytest.mark.parametrize("value", [(8,), (16, 8), (8, 8), (1, 8), (8, 5000), "8", (8, 16.0)])
def test_ladders_that_do_not_rise_are_refused(key, value):
    with pytest.raises(ValueError, match="increasing list of two or more whole numbers"):
        IntrinsicKeys(**{key: value})
