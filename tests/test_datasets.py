"""The data layer: shipped set, users' files, every bad input as one line, and signals on other lattices."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bbdfield.datasets import Dataset, load_dataset, on_cells, shipped_file
from bbdfield.errors import InputError

ROOT = Path(__file__).parents[1]


def refused(excinfo: pytest.ExceptionInfo[InputError], *words: object) -> None:
    """The message is one line and names every given word."""
    message = str(excinfo.value)
    assert "\n" not in message
    assert [word for word in words if str(word) not in message] == []


def arrays(**changes: object) -> dict[str, object]:
    """A valid small set: 6 samples of 2 channels and 5 places, 3 classes; None drops an array."""
    random = np.random.default_rng(3)
    good: dict[str, object] = {
        "x": random.normal(size=(6, 2, 5)),
        "y": np.array([0, 1, 2, 0, 1, 2]),
        "x_test": random.normal(size=(4, 2, 5)),
        "y_test": np.array([2, 1, 0, 1]),
    }
    return {key: value for key, value in (good | changes).items() if value is not None}


def write(path: Path, content: dict[str, object]) -> Path:
    if path.suffix == ".npz":
        np.savez(path, **content)
    else:
        with h5py.File(path, "w") as file:
            for key, value in content.items():
                file[key] = value
    return path


FORMATS = pytest.mark.parametrize("suffix", [".h5", ".hdf5", ".npz", ".NPZ"])


# ---- the shipped set


def test_shipped_set_has_its_published_shape_and_names_its_origin():
    data = load_dataset()
    assert (data.x.shape, data.x_test.shape) == ((4000, 1, 40), (1000, 1, 40))
    assert (data.channels, data.width, data.outputs, data.has_labels) == (1, 40, 10, True)
    assert data.x.dtype == data.x_test.dtype == np.float64
    assert data.y.dtype == data.y_test.dtype == np.int64
    assert "2011.14439" in data.source and "Apache-2.0" in data.source
    together = np.concatenate([data.x, data.x_test])
    assert abs(together.mean()) < 1e-12 and abs(together.std() - 1) < 1e-12
    assert (np.bincount(np.concatenate([data.y, data.y_test])) == 500).all()


def test_shipped_file_is_what_its_script_makes(tmp_path):
    spec = importlib.util.spec_from_file_location("make_mnist1d", ROOT / "data" / "make_mnist1d.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    first, second = tmp_path / "first.h5", tmp_path / "second.h5"
    script.main(first)
    script.main(second)
    assert first.read_bytes() == second.read_bytes()
    with h5py.File(first) as made, h5py.File(shipped_file("mnist1d")) as kept:
        for key in ("y", "y_test"):
            np.testing.assert_array_equal(made[key][()], kept[key][()])
        for key in ("x", "x_test"):
            np.testing.assert_allclose(made[key][()], kept[key][()], rtol=0, atol=1e-12)
        assert {key: kept.attrs[key] for key in ("origin", "licence", "script", "seed")} == {
            "origin": "Greydanus & Kobak, arXiv 2011.14439",
            "licence": "Apache-2.0",
            "script": "data/make_mnist1d.py",
            "seed": 42,
        }


def test_shipped_file_is_found_in_an_installed_package_and_in_a_checkout(tmp_path):
    package = tmp_path / "bbdfield"
    beside, inside = tmp_path / "data" / "mnist1d.h5", package / "_data" / "mnist1d.h5"
    with pytest.raises(InputError) as excinfo:
        shipped_file("mnist1d", package)
    refused(excinfo, beside, inside, "reinstall")
    for path in (beside, inside):
        path.parent.mkdir(parents=True)
        path.touch()
        assert shipped_file("mnist1d", package) == path


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(InputError) as excinfo:
        load_dataset("cifar")
    refused(excinfo, "'cifar'", "mnist1d")


# ---- files of one's own


@FORMATS
def test_file_gives_back_what_was_written(tmp_path, suffix):
    content = arrays()
    path = tmp_path / f"mine{suffix.lower()}"
    data = load_dataset(file=write(path, content).rename(tmp_path / f"mine{suffix}"))
    for key, value in content.items():
        np.testing.assert_array_equal(getattr(data, key), value)
    assert (data.name, data.outputs, data.source) == ("mine", 3, str(tmp_path / f"mine{suffix}"))
    assert load_dataset("by hand", data.source).name == "by hand"


def test_types_are_settled_and_two_dimensional_signals_have_one_channel(tmp_path):
    content = {"x": np.arange(12, dtype=np.int16).reshape(3, 4), "y": np.array([0.0, 3.0, 1.0], np.float32)}
    data = load_dataset(file=write(tmp_path / "ints.npz", content))
    assert (data.x.shape, data.x.dtype, data.y.dtype) == ((3, 1, 4), np.float64, np.int64)
    assert (data.outputs, data.has_labels, data.x_test, data.y_test) == (4, True, None, None)


def test_targets_are_kept_as_floats(tmp_path):
    targets = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    data = load_dataset(file=write(tmp_path / "t.h5", arrays(y=targets, x_test=None, y_test=None)))
    assert (data.y.dtype, data.outputs, data.has_labels) == (np.float64, 4, False)
    np.testing.assert_array_equal(data.y, targets)


NAN = np.where(np.arange(60).reshape(6, 2, 5) == 17, np.nan, 1.0)
BAD = {
    "no x": (arrays(x=None), ["'x'", "found: x_test, y, y_test"]),
    "no y": (arrays(y=None), ["'y'", "found"]),
    "x of 1 dimension": (arrays(x=np.ones(6)), ["'x'", "1 dimensions", "(samples, width)"]),
    "x of 4 dimensions": (arrays(x=np.ones((6, 2, 5, 1))), ["'x'", "4 dimensions"]),
    "x a number": (arrays(x=1.5), ["'x'", "0 dimensions"]),
    "y of 3 dimensions": (arrays(y=np.ones((6, 2, 5))), ["'y'", "3 dimensions"]),
    "no samples": (arrays(x=np.ones((0, 2, 5)), y=np.zeros(0, int)), ["'x'", "at least one sample"]),
    "no places": (arrays(x=np.ones((6, 2, 0))), ["'x'", "empty"]),
    "no targets": (arrays(y=np.ones((6, 0))), ["'y'", "(6, 0)"]),
    "counts differ": (arrays(y=np.array([0, 1, 2])), ["6 samples in 'x'", "3 in 'y'"]),
    "test counts differ": (arrays(y_test=np.array([0, 1, 2])), ["4 samples in 'x_test'", "3 in 'y_test'"]),
    "nan": (arrays(x=NAN), ["'x'", "1 values", "not finite", "[1, 1, 2]"]),
    "infinite target": (arrays(y=np.full((6, 2), np.inf)), ["'y'", "not finite"]),
    "nan in test": (arrays(x_test=NAN[:4]), ["'x_test'", "not finite"]),
    "negative label": (arrays(y=np.array([0, -1, 2, 0, 1, 2])), ["'y'", "-1", "0, 1, 2"]),
    "enormous label": (arrays(y=np.array([0, 10**9, 2, 0, 1, 2])), ["'y'", "1e+09"]),
    "fractional label": (arrays(y=np.array([0, 0.5, 2, 0, 1, 2])), ["'y'", "whole", "(samples, outputs)"]),
    "column of labels": (arrays(y=np.zeros((6, 1), int)), ["'y'", "column"]),
    "complex": (arrays(x=np.ones((6, 2, 5), complex)), ["'x'", "complex128"]),
    "text": (arrays(y=np.array([b"a", b"b"] * 3)), ["'y'", "|S1"]),
    "only x_test": (arrays(y_test=None), ["'x_test' without 'y_test'", "neither"]),
    "only y_test": (arrays(x_test=None), ["'y_test' without 'x_test'"]),
    "test width": (arrays(x_test=np.ones((4, 2, 7))), ["'x_test' has width 7", "'x' 5"]),
    "test channels": (arrays(x_test=np.ones((4, 5))), ["'x_test' has channels 1", "'x' 2"]),
    "test answers of another kind": (arrays(y_test=np.ones((4, 3))), ["'y_test'", "(4, 3)", "(6,)"]),
}


@pytest.mark.parametrize("suffix", [".h5", ".npz"])
@pytest.mark.parametrize(("content", "words"), BAD.values(), ids=BAD.keys())
def test_bad_array_is_one_line_naming_file_and_key(tmp_path, suffix, content, words):
    path = write(tmp_path / f"bad{suffix}", content)
    with pytest.raises(InputError) as excinfo:
        load_dataset(file=path)
    refused(excinfo, path, *words)


@pytest.mark.parametrize("suffix", [".h5", ".npz"])
def test_unreadable_file_is_one_line_naming_it(tmp_path, suffix):
    whole = write(tmp_path / f"whole{suffix}", arrays()).read_bytes()
    path = tmp_path / f"broken{suffix}"
    for content in (b"", b"not a data file", whole[: len(whole) // 2], whole[:40]):
        path.write_bytes(content)
        with pytest.raises(InputError) as excinfo:
            load_dataset(file=path)
        refused(excinfo, path, "cannot be read", "write it again")


@pytest.mark.parametrize("suffix", [".h5", ".npz"])
def test_damaged_values_are_noticed(tmp_path, suffix):
    path = tmp_path / f"damaged{suffix}"
    signals = np.random.default_rng(1).normal(size=(50, 30))
    if suffix == ".npz":
        np.savez_compressed(path, x=signals, y=np.zeros(50, int))
    else:
        with h5py.File(path, "w") as file:
            file.create_dataset("x", data=signals, fletcher32=True, chunks=signals.shape)
            file["y"] = np.zeros(50, int)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(InputError) as excinfo:
        load_dataset(file=path)
    refused(excinfo, path, "cannot be read")


def test_pickled_objects_are_refused(tmp_path):
    path = tmp_path / "objects.npz"
    np.savez(path, x=np.array([{"a": 1}, None], dtype=object), y=np.array([0, 1]))
    with pytest.raises(InputError) as excinfo:
        load_dataset(file=path)
    refused(excinfo, path, "pickled")


def test_single_array_named_npz_is_refused(tmp_path):
    path = tmp_path / "single.npz"
    with path.open("wb") as file:
        np.save(file, np.ones(3))
    with pytest.raises(InputError) as excinfo:
        load_dataset(file=path)
    refused(excinfo, path, "cannot be read as npz")


def test_group_in_the_place_of_an_array_is_missing(tmp_path):
    path = tmp_path / "group.h5"
    with h5py.File(path, "w") as file:
        file.create_group("x")
        file["y"] = [0, 1]
    with pytest.raises(InputError) as excinfo:
        load_dataset(file=path)
    refused(excinfo, path, "no array 'x'")


def test_missing_file_folder_and_foreign_type_are_refused(tmp_path):
    (tmp_path / "folder.h5").mkdir()
    for path, word in ((tmp_path / "none.h5", "no such file"), (tmp_path / "folder.h5", "no such file")):
        with pytest.raises(InputError) as excinfo:
            load_dataset(file=path)
        refused(excinfo, path, word)
    with pytest.raises(InputError) as excinfo:
        load_dataset(file=tmp_path / "table.csv")
    refused(excinfo, "table.csv", "'.csv'", ".npz")


# ---- Dataset


def test_outputs_may_be_given_but_must_fit():
    assert Dataset("toy", np.ones((2, 5)), np.array([0, 1]), outputs=4).outputs == 4
    assert Dataset("toy", np.ones((2, 5)), np.array([0, 1]), np.ones((1, 5)), np.array([6])).outputs == 7
    with pytest.raises(InputError) as excinfo:
        Dataset("toy", np.ones((2, 5)), np.array([0, 3]), outputs=3)
    refused(excinfo, "'toy'", "label 3", "give 4")
    with pytest.raises(InputError) as excinfo:
        Dataset("toy", np.ones((2, 5)), np.ones((2, 2)), outputs=3)
    refused(excinfo, "'toy'", "outputs is 3", "2 targets")


def test_digest_depends_on_values_shapes_and_kinds_only():
    base = Dataset("toy", **arrays())
    assert re.fullmatch("[0-9a-f]{64}", base.digest)
    assert Dataset("other name", **arrays(), source="elsewhere").digest == base.digest
    changed = arrays()["x"].copy()
    changed[5, 1, 4] = np.nextafter(changed[5, 1, 4], 9)
    others = [
        arrays(x=changed),
        arrays(y=np.array([0, 1, 2, 0, 1, 1])),
        arrays(x_test=None, y_test=None),
        arrays(x=arrays()["x"].reshape(6, 1, 10), x_test=arrays()["x_test"].reshape(4, 1, 10)),
        arrays(y=np.eye(3)[[0, 1, 2, 0, 1, 2]], y_test=np.eye(3)[[2, 1, 0, 1]]),
    ]
    digests = {Dataset("toy", **content).digest for content in others}
    assert len(digests) == len(others) and base.digest not in digests


def test_arrays_are_read_only_copies():
    content = arrays()
    data = Dataset("toy", **content)
    before = data.digest
    content["x"][0] = 9.0
    with pytest.raises(ValueError, match="read-only"):
        data.x[0] = 9.0
    assert Dataset("toy", data.x, data.y, data.x_test, data.y_test).digest == before


# ---- signals on another lattice


def centres(cells: int) -> np.ndarray:
    return (np.arange(cells) + 0.5) / cells


def test_equal_width_is_the_identity_in_a_new_array():
    signals = np.random.default_rng(0).normal(size=(3, 2, 7))
    same = on_cells(signals, 7)
    np.testing.assert_array_equal(same, signals)
    assert not np.shares_memory(same, signals)


@given(st.integers(4, 40), st.sampled_from([3, 5, 9]), st.integers(0, 2**31))
def test_nested_lattices_share_the_data_at_common_centres(cells, ratio, seed):
    signals = np.random.default_rng(seed).normal(size=(2, cells))
    fine = on_cells(signals, ratio * cells)
    assert fine.shape == (2, ratio * cells)
    np.testing.assert_allclose(fine[:, ratio // 2 :: ratio], signals, rtol=0, atol=1e-12)


@given(st.integers(4, 30), st.integers(1, 60), st.lists(st.floats(-2, 2), min_size=4, max_size=4))
def test_cubics_are_exact_to_the_edges(cells, width, coefficients):
    cubic = np.polynomial.Polynomial(coefficients)
    np.testing.assert_allclose(on_cells(cubic(centres(cells)), width), cubic(centres(width)), atol=1e-11)


def test_smooth_signals_converge_at_fourth_order_in_the_interior():
    sizes = np.array([20, 40, 80, 160])
    errors = []
    for cells in sizes:
        y = centres(3 * cells)
        error = np.abs(on_cells(np.sin(7 * centres(cells) + 0.3), 3 * cells) - np.sin(7 * y + 0.3))
        errors.append(error[(y > 0.25) & (y < 0.75)].max())
    orders = -np.diff(np.log(errors)) / np.diff(np.log(sizes))
    assert ((orders > 3.8) & (orders < 4.3)).all(), orders


def test_interpolation_is_linear_and_keeps_leading_axes():
    random = np.random.default_rng(2)
    a, b = random.normal(size=(2, 3, 2, 10))
    together = on_cells(2 * a - b, 25)
    assert together.shape == (3, 2, 25) and together.flags.c_contiguous
    np.testing.assert_allclose(together, 2 * on_cells(a, 25) - on_cells(b, 25), atol=1e-12)


@pytest.mark.parametrize(
    ("signals", "width", "words"),
    [
        (np.ones((2, 3)), 9, ["from 3 to 9", "at least 4", "lattice.width = 3"]),
        (np.ones((2, 8)), 0, ["width 0", "at least 1"]),
        (np.ones((2, 8)), -4, ["width -4"]),
        (np.ones((2, 8)), 16.0, ["width 16.0", "whole number"]),
        (np.full((2, 8), np.nan), 16, ["not all values are finite"]),
        (np.float64(1.0), 16, ["shape ()", "places last"]),
        (np.ones((2, 8), complex), 16, ["complex128", "real numbers"]),
    ],
)
def test_impossible_interpolation_is_refused(signals, width, words):
    with pytest.raises(InputError) as excinfo:
        on_cells(signals, width)
    refused(excinfo, *words)
