"""Sidecar files: complete or absent, named dimensions, nothing altered unnoticed."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import xarray

from bbdfield.errors import InputError
from bbdfield.storage.sidecar import read_sidecar, write_sidecar

T = np.array([0.0, 0.5, 1.0])
ENERGY = np.arange(12.0).reshape(3, 4) / 7


def write(path, **changes):
    settings = {
        "kind": "example",
        "config": {"seed": 3, "names": ["a"]},
        "arrays": {"energy": (("t", "x_link"), ENERGY), "kinks": (("layer",), np.arange(5)), "worst": ((), 1e-16)},
        "coordinates": {"t": T, "x_link": (np.arange(4) + 0.5) / 4},
    }
    return write_sidecar(path, **(settings | changes))


def test_what_is_written_is_read(tmp_path):
    path = write(tmp_path / "a.h5")
    side = read_sidecar(path)
    assert (side.path, side.kind, side.config) == (path, "example", {"seed": 3, "names": ["a"]})
    assert side.dims == {"energy": ("t", "x_link"), "kinks": ("layer",), "worst": ()}
    np.testing.assert_array_equal(side.arrays["energy"], ENERGY)
    np.testing.assert_array_equal(side.coordinates["t"], T)
    assert set(side.coordinates) == {"t", "x_link"} and side.arrays["kinks"].dtype == np.int64
    assert side.arrays["worst"] == 1e-16
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.h5"]


def test_equal_arrays_have_an_equal_digest(tmp_path):
    first, second = (read_sidecar(write(tmp_path / name)).digest for name in ("a.h5", "b.h5"))
    assert first == second
    assert read_sidecar(write(tmp_path / "c.h5", config={})).digest != first


def test_xarray_sees_dimensions_and_coordinates(tmp_path):
    with xarray.open_dataset(write(tmp_path / "a.h5"), engine="h5netcdf") as data:
        assert data["energy"].dims == ("t", "x_link") and data["kinks"].dims == ("layer",)
        assert "layer" not in data.coords and data["x_link"].attrs["units"] == "L_x"
        np.testing.assert_array_equal(data["energy"].sel(t=0.5), ENERGY[1])


def test_an_existing_file_is_replaced_only_if_asked(tmp_path):
    path = write(tmp_path / "a.h5")
    before = path.read_bytes()
    with pytest.raises(InputError, match="exists already"):
        write(path, config={})
    assert path.read_bytes() == before
    write(path, config={"new": 1}, overwrite=True)
    assert read_sidecar(path).config == {"new": 1}


def test_nothing_is_left_of_a_failed_write(tmp_path, monkeypatch):
    path = write(tmp_path / "a.h5")
    before = path.read_bytes()

    def fails(*_):
        raise OSError("disk full")

    monkeypatch.setattr("bbdfield.storage.sidecar.os.replace", fails)
    with pytest.raises(InputError, match=r"a\.h5: cannot be written.*disk full"):
        write(path, overwrite=True)
    assert path.read_bytes() == before and [entry.name for entry in tmp_path.iterdir()] == ["a.h5"]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"arrays": {"e": (("t",), np.zeros((3, 2)))}}, "array e: dimensions"),
        ({"arrays": {"e": (("t", "t"), np.zeros((3, 3)))}}, "array e: dimensions"),
        ({"arrays": {"e": (("t",), np.zeros(4))}}, "its dimension t has length 4, elsewhere 3"),
        ({"arrays": {"t": ((), 1.0)}}, "array t: has the name of a dimension"),
        ({"arrays": {"a b": ((), 1.0)}}, "'a b' cannot name"),
        ({"arrays": {"e": ((), "text")}}, "array e: values of type"),
        ({"coordinates": {"t": np.zeros((2, 2))}}, "coordinate t: dimensions"),
        ({"config": {"x": float("nan")}}, "config: cannot be stored as JSON"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, changes, complaint):
    with pytest.raises(InputError, match=complaint) as caught:
        write(tmp_path / "a.h5", **changes)
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


def test_unusable_paths_are_refused(tmp_path):
    with pytest.raises(InputError, match="is a directory"):
        write(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        write(tmp_path / "nowhere" / "a.h5")


def test_other_and_altered_files_are_refused(tmp_path):
    path = write(tmp_path / "a.h5")
    with h5py.File(path, "r+") as file:
        file["energy"][0, 0] = 99.0
    with pytest.raises(InputError, match="altered after it was written"):
        read_sidecar(path)
    with h5py.File(path, "r+") as file:
        file.attrs["sidecar_version"] = np.int64(9)
    with pytest.raises(InputError, match="sidecar version 9"):
        read_sidecar(path)
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["x"] = 1.0
    with pytest.raises(InputError, match="no bbdfield sidecar"):
        read_sidecar(tmp_path / "b.h5")
    (tmp_path / "c.h5").write_text("text")
    with pytest.raises(InputError, match="not an HDF5 file"):
        read_sidecar(tmp_path / "c.h5")
    with pytest.raises(InputError, match="no such file"):
        read_sidecar(tmp_path / "d.h5")
