"""Sidecar files: complete or absent, named dimensions, nothing altered unnoticed."""

from __future__ import annotations

import errno
import logging
import tracemalloc

import h5py
import numpy as np
import pytest
import xarray

from bbdfield.errors import Damaged, InputError
from bbdfield.storage import seal
from bbdfield.storage.sidecar import finished_sidecar, read_sidecar, write_sidecar

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
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("bbdfield.files.os.replace", fails)
    with pytest.raises(InputError, match=r"a\.h5: No space left on device"):
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
        ({"arrays": {"e": ((), 1j)}}, "array e: values of type"),
        ({"arrays": {"e": ((), b"bytes")}}, "array e: values of type"),
        ({"arrays": {"e": (("n",), np.array([["a"], None], dtype=object))}}, "array e: values of type"),
        ({"arrays": {"e": (("n",), ["a", "b\0c"])}}, "array e: text with a zero byte"),
        ({"arrays": {"e": ((), "x" * 70_000)}}, "text of 70000 bytes"),
        ({"arrays": {"..": ((), 1.0)}}, r"'\.\.' cannot name"),
        ({"arrays": {"a/b": ((), 1.0)}}, "'a/b' cannot name"),
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


def test_text_and_dotted_names_come_back(tmp_path):
    """What the index of a sweep needs: a column of text of any language, and columns named after configuration keys."""
    names = np.array(["a3f", "naïve", "", "深い"])
    columns = {"name": (("point",), names), "lattice.depth": (("point",), np.arange(4)), "why": ((), "as told")}
    path = write(tmp_path / "a.h5", arrays=columns, coordinates={"point": np.array(["p", "q", "r", "s"])})
    side = read_sidecar(path)
    np.testing.assert_array_equal(side.arrays["name"], names)
    np.testing.assert_array_equal(side.coordinates["point"], ["p", "q", "r", "s"])
    np.testing.assert_array_equal(side.arrays["lattice.depth"], np.arange(4))
    assert side.arrays["why"] == "as told" and side.arrays["name"].dtype.kind == "U"
    assert read_sidecar(write(tmp_path / "b.h5", arrays=columns, coordinates=side.coordinates)).digest == side.digest
    with h5py.File(path, "r") as file:
        assert file["name"].asstr()[3] == "深い" and file["name"].dtype.kind == "S"
    with xarray.open_dataset(path, engine="h5netcdf") as data:
        assert data["name"].dims == ("point",) and data["name"].values[1].decode() == "naïve"
        assert data["lattice.depth"].sel(point=b"q") == 1


def test_no_rows_at_all(tmp_path):
    path = write(tmp_path / "a.h5", arrays={"name": (("point",), np.array([], dtype=str))}, coordinates={})
    assert read_sidecar(path).arrays["name"].shape == (0,)


def test_other_and_altered_files_are_refused(tmp_path):
    path = write(tmp_path / "a.h5")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(Damaged, match=r"its seal does not fit.*compute it again"):
        read_sidecar(path)
    write(path, overwrite=True)
    with h5py.File(path, "r+") as file:
        file["energy"][0, 0] = 99.0
    with pytest.raises(Damaged, match=r"altered after it was written.*no seal"):
        read_sidecar(path)
    with h5py.File(path, "r+") as file:
        file.attrs["sidecar_version"] = np.int64(1)
    with pytest.raises(InputError, match="sidecar version 1, but this bbdfield reads version 2; compute it again"):
        read_sidecar(path)
    with h5py.File(tmp_path / "b.h5", "w", libver="latest") as file:
        file["x"] = 1.0
    with pytest.raises(InputError, match="no bbdfield sidecar"):
        read_sidecar(tmp_path / "b.h5")
    (tmp_path / "c.h5").write_text("text")
    with pytest.raises(InputError, match="not an HDF5 file"):
        read_sidecar(tmp_path / "c.h5")
    with pytest.raises(InputError, match="no such file"):
        read_sidecar(tmp_path / "d.h5")


def test_a_study_computes_again_what_it_cannot_use(tmp_path, caplog):
    caplog.set_level(logging.WARNING, "bbdfield")
    path = tmp_path / "a.h5"
    assert finished_sidecar(path) is None and not caplog.messages
    content = bytearray(write(path).read_bytes())
    assert finished_sidecar(path).kind == "example" and not caplog.messages
    content[len(content) // 2] ^= 1
    for damaged, why in ((content, "its seal does not fit"), (content[:300], ""), (b"", "not an HDF5 file")):
        path.write_bytes(damaged)
        assert finished_sidecar(path) is None
        assert f"{path}: " in caplog.text and f"{why}" in caplog.text and "; computing it again" in caplog.text
        caplog.clear()
    for version in (1, 3):
        write(path, overwrite=True)
        with h5py.File(path, "r+") as file:
            file.attrs["sidecar_version"] = np.int64(version)
        if version == 1:
            assert finished_sidecar(path) is None
            assert "a.h5: sidecar version 1, but this bbdfield reads version 2; computing it again" in caplog.text
        else:
            with pytest.raises(InputError, match=r"sidecar version 3.*written by a newer bbdfield"):
                finished_sidecar(path)
    with h5py.File(path, "w", libver="latest") as file:
        file["x"] = 1.0
    with pytest.raises(InputError, match="no bbdfield sidecar"):
        finished_sidecar(path)


def text_of(path, count, **storage):
    """A sealed sidecar of many texts of two letters, stored in some other way than bbdfield's."""
    write(path, arrays={"name": (("point",), np.array(["ab"]))}, coordinates={}, overwrite=True)
    with h5py.File(path, "r+", libver="latest") as file:
        kept = {key: file["name"].attrs[key] for key in ("dims",)}
        del file["name"], file["point"]
        file.create_dataset("point", (count,), "i8").make_scale(
            f"This is a netCDF dimension but not a netCDF variable. {count:10d}"
        )
        values = np.full(count, b"ab").astype(h5py.string_dtype("utf-8", 2))
        file.create_dataset("name", data=values, **storage)
        file["name"].dims[0].attach_scale(file["point"])
        file["name"].attrs.update(kept)
    seal.seal(path)
    return path


def test_text_cannot_be_a_bomb(tmp_path):
    """Decoded it takes 50 times its bytes, so it may not be compressed besides."""
    bomb = text_of(tmp_path / "a.h5", 2**20, compression="gzip", chunks=(2**18,))
    assert bomb.stat().st_size < 20_000
    with pytest.raises(Damaged, match="name holds compressed text, which bbdfield never writes"):
        read_sidecar(bomb)
    count = 2**20
    plain = text_of(tmp_path / "b.h5", count)
    tracemalloc.start()
    try:
        names = read_sidecar(plain).arrays["name"]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert names.shape == (count,) and names.dtype == "<U2" and (names == "ab").all()
    assert peak < 12 * count + 2**25
