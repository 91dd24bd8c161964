"""Files made to harm: refused by what they declare, before anything of that size is read, allocated or followed.

Each is planted into a good file, which is then sealed again, because a seal is no signature; and once without seal.
"""

from __future__ import annotations

import ctypes
import json
import struct
import time
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from examples import CONFIG, child, description, refused, state, write

from bbdfield.errors import Damaged, InputError
from bbdfield.storage import Trajectory, TrajectoryWriter, guard, schema, seal
from bbdfield.storage.sidecar import read_sidecar, write_sidecar


def scaled(file: h5py.File, name: str, dims: str, dataset: h5py.Dataset) -> h5py.Dataset:
    """Dress a dataset as bbdfield would, as far as that goes."""
    dataset.attrs["dims"] = schema.text(dims)
    for axis, dim in enumerate(dims.split()[: dataset.ndim]):
        dataset.dims[axis].attach_scale(file[dim])
    return dataset


def z(file: h5py.File, shape: Any = None, dtype: Any = "<f8", **more: Any) -> h5py.Dataset:
    """Another dataset in the place of /fields/z."""
    del file["fields/z"]
    made = file["fields"].create_dataset("z", shape or (5, 4, 5, 2, 4), dtype, **more)
    return scaled(file, "z", "t x_site y c_out sample", made)


def named(file: h5py.File, name: str) -> None:
    file["fields"].create_dataset(name, data=np.zeros(3))


def listed(file: h5py.File, change: Callable[[list[Any]], list[Any]]) -> None:
    file.attrs["datasets"] = schema.text(json.dumps(change(json.loads(schema.plain(file.attrs["datasets"])))))


def huge_dimension(file: h5py.File, length: int) -> None:
    del file["sample"]
    file.create_dataset("sample", (length,), "i8").make_scale(f"{schema.NO_COORDINATE} {0:10d}")
    z(file, (5, 4, 5, 2, length), chunks=(1, 1, 1, 1, 1024))


def bomb(file: h5py.File) -> None:
    """420 MB of zeros in half a megabyte: what deflate can do at its best."""
    length = 2**18
    del file["sample"]
    file.create_dataset("sample", (length,), "i8").make_scale(f"{schema.NO_COORDINATE} {0:10d}")
    made = z(file, (5, 4, 5, 2, length), chunks=(1, 1, 1, 2, length), compression="gzip")
    zeros = zlib.compress(bytes(16 * length))
    for i, j, k in np.ndindex(5, 4, 5):
        made.id.write_direct_chunk((i, j, k, 0, 0), zeros)


def virtual(file: h5py.File) -> None:
    del file["fields/z"]
    layout = h5py.VirtualLayout((5, 4, 5, 2, 4), "<f8")
    layout[:] = h5py.VirtualSource("/etc/other.h5", "z", (5, 4, 5, 2, 4))
    scaled(file, "z", "t x_site y c_out sample", file["fields"].create_virtual_dataset("z", layout))


def committed(file: h5py.File) -> None:
    file["kept"] = np.dtype("<f8")
    z(file, dtype=file["kept"])
    del file["kept"]


def filtered(file: h5py.File) -> None:
    plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plan.set_chunk((1, 4, 5, 2, 4))
    plan.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, (3,))
    del file["fields/z"]
    space = h5py.h5s.create_simple((5, 4, 5, 2, 4))
    low = h5py.h5d.create(file["fields"].id, b"z", h5py.h5t.IEEE_F64LE, space, plan)
    scaled(file, "z", "t x_site y c_out sample", h5py.Dataset(low))


def array_attribute(file: h5py.File) -> None:
    file.attrs["seed"] = np.zeros(2000, dtype="i8")


def dense(file: h5py.File) -> None:
    for number in range(100):
        file.attrs[f"a{number}"] = number


def many(file: h5py.File) -> None:
    for number in range(guard.MOST_MEMBERS + 1):
        file["fields"].create_group(f"g{number}")


def huge_json(file: h5py.File) -> None:
    file.attrs["config"] = schema.text('{"a": "' + "x" * (5 * schema.MOST_TEXT) + '"}')


def member(file: h5py.File) -> None:
    """A second group inside a group that leads back to the root."""
    file["fields"]["loop"] = file["/"]


def two_names(file: h5py.File) -> None:
    del file["fields/b"]
    file["fields/b"] = file["fields/r"]


PLANTS: dict[str, tuple[Callable[[h5py.File], Any], str]] = {
    "name ..": (lambda file: named(file, ".."), "impossible name"),
    "name ../../x": (lambda file: file["fields"].create_group("..x"), "impossible name"),
    "long name": (lambda file: named(file, "n" * 4000), "impossible name"),
    "name with a line": (lambda file: named(file, "a\nb"), "impossible name"),
    "list with ..": (lambda file: listed(file, lambda old: [*old, "../secret"]), "../secret is missing"),
    "list of numbers": (lambda file: listed(file, lambda old: [*old, 7]), "7 is missing"),
    "huge shape": (lambda file: huge_dimension(file, 2**40), "more than a file of"),
    "absurd shape": (lambda file: huge_dimension(file, 2**50), "more than a file of"),
    "huge contiguous shape": (lambda file: scaled_scale(file, 2**33), "more than a file of"),
    "compression bomb": (bomb, "more than 200 to 1"),
    "wrong length": (lambda file: z(file, (5, 4, 5, 2, 3)), "entries along sample"),
    "short": (lambda file: z(file, (3, 4, 5, 2, 4)), "holds 3 of 5 entries"),
    "other number of dimensions": (lambda file: z(file, (5, 4)), "zip()"),
    "float32": (lambda file: z(file, dtype="<f4"), "not float64 or int64"),
    "big endian": (lambda file: z(file, dtype=">f8"), "not float64 or int64"),
    "complex": (lambda file: z(file, dtype="<c16"), "not float64 or int64"),
    "compound": (lambda file: z(file, dtype=[("a", "<f8")]), "not float64 or int64"),
    "enumeration": (lambda file: z(file, dtype=h5py.enum_dtype({"A": 1}, "i8")), "not float64 or int64"),
    "objects": (lambda file: z(file, dtype=h5py.string_dtype()), "not float64 or int64"),
    "ragged": (lambda file: z(file, dtype=h5py.vlen_dtype("f8")), "not float64 or int64"),
    "references": (lambda file: z(file, dtype=h5py.ref_dtype), "not float64 or int64"),
    "regions": (lambda file: z(file, dtype=h5py.regionref_dtype), "not float64 or int64"),
    "opaque": (lambda file: z(file, dtype=h5py.opaque_dtype(np.dtype("V9"))), "not float64 or int64"),
    "text": (lambda file: z(file, dtype="S9"), "not float64 or int64"),
    "committed type": (committed, "not float64 or int64"),
    "committed type beside": (lambda file: file.__setitem__("kind", np.dtype("f8")), "does not belong there"),
    "external link": (lambda file: replaced(file, h5py.ExternalLink("/etc/other.h5", "/z")), "links elsewhere"),
    "soft link": (lambda file: replaced(file, h5py.SoftLink("/fields/w")), "links elsewhere"),
    "dangling link": (lambda file: replaced(file, h5py.SoftLink("/nowhere")), "links elsewhere"),
    "soft link as group": (lambda file: regrouped(file, h5py.SoftLink("/evaluation")), "links elsewhere"),
    "external storage": (lambda file: outside(file), "values lie elsewhere"),
    "virtual dataset": (virtual, "values lie elsewhere"),
    "compact storage": (lambda file: compact(file), "values lie elsewhere"),
    "unknown filter": (filtered, "filter that is not"),
    "lzf": (lambda file: z(file, chunks=(1, 4, 5, 2, 4), compression="lzf"), "filter that is not"),
    "scale and offset": (
        lambda file: z(file, chunks=(1, 4, 5, 2, 4), dtype="<i8", scaleoffset=2),
        "filter that is not",
    ),
    "huge chunks": (
        lambda file: z(file, chunks=(2**11, 4, 5, 2, 4), maxshape=(None, 4, 5, 2, 4)),
        "larger than its shape",
    ),
    "group in place": (lambda file: replaced(file, None), "not a plain dataset"),
    "dataset in place": (lambda file: regrouped(file, 3.0), "is no group"),
    "cyclic link": (member, "does not belong there"),
    "cyclic group": (lambda file: regrouped(file, file["/"]), "fields has attributes"),
    "two names": (two_names, "another name of a dataset"),
    "many members": (many, "more than any file of bbdfield"),
    "attribute on a group": (lambda file: file["fields"].attrs.create("a", 1), "has attributes"),
    "unknown attribute": (lambda file: file["t"].attrs.create("a", 1), "an unknown attribute a"),
    "long units": (lambda file: file["y"].attrs.create("units", schema.text("x" * 9999)), "of absurd length"),
    "long scale": (lambda file: rescaled(file), "of absurd length"),
    "dims missing": (lambda file: file["fields/z"].attrs.__delitem__("dims"), "has no dims"),
    "dims of another kind": (lambda file: file["fields/z"].attrs.create("dims", np.zeros(3)), "neither a short text"),
    "dims strange": (lambda file: file["fields/z"].attrs.create("dims", schema.text("t a b c d")), "has no scale"),
    "many attributes": (dense, "attributes, more than any"),
    "attribute array": (array_attribute, "neither a short text nor an integer"),
    "attribute of objects": (lambda file: file.attrs.create("kind", "lattice"), "neither a short text nor an integer"),
    "attribute reference": (lambda file: file.attrs.create("kind", file["t"].ref, dtype=h5py.ref_dtype), "neither"),
    "attribute float": (lambda file: file.attrs.create("seed", 1.5), "neither a short text nor an integer"),
    "huge JSON": (huge_json, "more than any of bbdfield"),
    "deep JSON": (lambda file: configured(file, '{"a": ' + "[" * 10**5 + "]" * 10**5 + "}"), "recursion"),
    "NaN": (lambda file: configured(file, '{"a": NaN}'), "not JSON as bbdfield writes it"),
    "infinity": (lambda file: configured(file, '{"a": -Infinity}'), "not JSON as bbdfield writes it"),
    "overflow": (lambda file: configured(file, '{"a": 1e999}'), "not JSON as bbdfield writes it"),
    "repeated key": (lambda file: configured(file, '{"a": 1, "a": 2}'), "not JSON as bbdfield writes it"),
    "long number": (lambda file: configured(file, '{"a": ' + "9" * 10**5 + "}"), "digits"),
    "no JSON": (lambda file: configured(file, "{"), "damaged (Expecting"),
    "config a list": (lambda file: configured(file, "[]"), "attribute config is missing or not a dict"),
    "not UTF-8": (lambda file: file.attrs.create("command", np.array(b"\xff\xfe")), "codec"),
    "negative count": (lambda file: file["step"].__setitem__(1, -5), "steps do not increase after entry 1 of 5"),
    "steps decrease": (lambda file: file["step"].__setitem__(1, 0), "steps do not increase"),
    "scalars decrease": (lambda file: file["scalar_step"].__setitem__(3, 0), "steps do not increase"),
}


def replaced(file: h5py.File, by: Any) -> None:
    del file["fields/z"]
    if by is None:
        file["fields"].create_group("z")
    else:
        file["fields/z"] = by


def regrouped(file: h5py.File, by: Any) -> None:
    del file["fields"]
    file["fields"] = by


def outside(file: h5py.File) -> None:
    z(file, (5, 4, 5, 2, 4), external=[("/etc/passwd", 0, 8 * 800)])


def compact(file: h5py.File) -> None:
    plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plan.set_layout(h5py.h5d.COMPACT)
    del file["fields/z"]
    space = h5py.h5s.create_simple((5, 4, 5, 2, 4))
    low = h5py.h5d.create(file["fields"].id, b"z", h5py.h5t.IEEE_F64LE, space, plan)
    scaled(file, "z", "t x_site y c_out sample", h5py.Dataset(low))


def scaled_scale(file: h5py.File, length: int) -> None:
    """A coordinate of absurd length, contiguous and never written."""
    name = "nothing"
    del file["boundary/empty"], file[name]
    file.create_dataset(name, (length,), "f8").make_scale(name)
    scaled(file, "empty", name, file["boundary"].create_dataset("empty", (length,), "f8"))


def rescaled(file: h5py.File) -> None:
    file["nothing"].attrs["NAME"] = np.array(schema.NO_COORDINATE.encode() + b"x" * 5000)


def configured(file: h5py.File, text: str) -> None:
    file.attrs["config"] = schema.text(text)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write(tmp_path_factory.mktemp("good") / "a.h5").read_bytes()


@pytest.mark.parametrize("sealed", [True, False], ids=["sealed", "unsealed"])
@pytest.mark.parametrize("plant", PLANTS)
def test_hostile_trajectory(tmp_path: Path, good: bytes, plant: str, sealed: bool) -> None:
    path = tmp_path / "a.h5"
    path.write_bytes(good)
    put, words = PLANTS[plant]
    with h5py.File(path, "r+", libver="latest") as file:
        put(file)
    if sealed:
        seal.seal(path)
    began = time.monotonic()
    tracemalloc.start()
    try:
        for repair in (False, True):
            with pytest.raises(Damaged) as caught:
                with Trajectory(path, repair=repair):
                    pass
                if repair:
                    TrajectoryWriter.resume(path, config=CONFIG).abandon()
                    raise Damaged("repaired, " + words.split("|")[0])
            message = str(caught.value)
            assert "\n" not in message and len(message) < 1000
            if not repair:
                assert str(path) in message and any(word in message for word in words.split("|")), message
        assert tracemalloc.get_traced_memory()[1] < 3 * path.stat().st_size + 2e7
    finally:
        tracemalloc.stop()
    assert time.monotonic() - began < 5


def test_the_plants_are_what_is_refused(tmp_path: Path) -> None:
    """The same file with nothing planted, sealed again, is read."""
    path = write(tmp_path / "a.h5")
    with h5py.File(path, "r+", libver="latest") as file:
        file.attrs["config"] = file.attrs["config"]
    seal.seal(path)
    with Trajectory(path) as run:
        assert run.complete


def test_user_defined_links_are_not_followed(tmp_path: Path) -> None:
    """HDF5 makes them only through C; this one would tell if anything followed it."""
    followed = []
    traverse = ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_void_p] * 6)(lambda *_: followed.append(1) or -1)

    class LinkClass(ctypes.Structure):
        names = ("create", "move", "copy", "traverse", "delete", "query")
        _fields_ = [("version", ctypes.c_int), ("id", ctypes.c_int), ("comment", ctypes.c_char_p)]
        _fields_ += [(name, ctypes.c_void_p) for name in names]

    library = ctypes.CDLL(h5py.h5p.__file__)
    kind = LinkClass(version=1, id=99, comment=b"ours", traverse=ctypes.cast(traverse, ctypes.c_void_p))
    assert library.H5Lregister(ctypes.byref(kind)) >= 0
    path = write(tmp_path / "a.h5")
    with h5py.File(path, "r+", libver="latest") as file:
        del file["fields/z"]
        fields, none = file["fields"], ctypes.c_int64(0)
        assert (
            library.H5Lcreate_ud(ctypes.c_int64(fields.id.id), b"z", 99, b"data", ctypes.c_size_t(5), none, none) >= 0
        )
    seal.seal(path)
    refused(path, "z links elsewhere")
    assert not followed


@pytest.mark.parametrize("version", [0, 1])
def test_other_superblocks_never_reach_the_library(
    tmp_path: Path, version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.h5")
    content = bytearray(path.read_bytes())
    content[8] = version
    path.write_bytes(content[: -seal.SIZE])
    monkeypatch.setattr("bbdfield.storage.guard.h5py.File", lambda *_: pytest.fail("opened"))
    refused(path, "none written by bbdfield")


@pytest.mark.parametrize("place", [12, 20], ids=["base address", "extension"])
def test_superblocks_that_lead_elsewhere(tmp_path: Path, place: int) -> None:
    path = write(tmp_path / "a.h5")
    content = bytearray(path.read_bytes()[: -seal.SIZE])
    content[place : place + 8] = struct.pack("<Q", 4096)
    path.write_bytes(seal.sealed(bytes(content)))
    refused(path, "its superblock is not one that bbdfield writes")


def test_writers_refuse_what_readers_would_take_for_a_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "BOMB_BYTES", 10**6)
    described = {**description(scale=1000), "compression": "gzip"}
    zeros = {name: np.zeros_like(values) for name, values in state(0, described).items()}
    writer = TrajectoryWriter.create(tmp_path / "a.h5", **described)
    with pytest.raises(InputError, match=r"more than 200 to 1.*compression none"):
        for step in range(100):
            writer.snapshot(step, 0.1 * step, zeros, {"test_accuracy": 0.0})
    with Trajectory(tmp_path / "a.h5") as run:
        assert run.n_snapshots == step > 0


def test_zeros_are_believed_up_to_a_point(tmp_path: Path) -> None:
    """Constant fields compress far more than 200 to 1 and are no attack."""
    described = {**description(scale=1000), "compression": "gzip"}
    zeros = {name: np.zeros_like(values) for name, values in state(0, described).items()}
    path = tmp_path / "a.h5"
    with TrajectoryWriter.create(path, **described) as writer:
        for step in range(30):
            writer.snapshot(step, 0.1 * step, zeros, {"test_accuracy": 0.0})
    with Trajectory(path) as run:
        assert run.fields["z"].nbytes > 100 * path.stat().st_size and not run.fields["z"][-1].any()


SIDECARS: dict[str, tuple[Callable[[h5py.File], Any], str]] = {
    "bomb": (
        lambda file: bare(file, (2**30,), chunks=(2**26,), compression="gzip"),
        "more than 200 to 1|than a file of",
    ),
    "huge": (lambda file: bare(file, (2**40,)), "more than a file of"),
    "long text": (lambda file: bare(file, (3,), dtype="S70000"), "not float64 or int64 or short text"),
    "text of any length": (lambda file: bare(file, (3,), dtype=h5py.string_dtype()), "or short text"),
    "not UTF-8": (lambda file: bare(file, (3,), dtype="S3").__setitem__(0, b"\xff\xff"), "codec"),
    "link": (lambda file: file.__setitem__("x", h5py.SoftLink("/energy")), "links elsewhere"),
    "group": (lambda file: file.create_group("x"), "not a plain dataset"),
    "name": (lambda file: file.create_group(".x"), "impossible name"),
    "config": (lambda file: configured(file, '{"a": NaN}'), "not JSON as bbdfield writes it"),
    "no kind": (lambda file: file.attrs.__delitem__("kind"), "kind"),
    "lengths": (lambda file: file["energy"].attrs.create("dims", schema.text("n n")), "do not fit"),
}


def bare(file: h5py.File, shape: tuple[int, ...], dtype: Any = "f8", **more: Any) -> h5py.Dataset:
    file.create_dataset("m", shape, "i8").make_scale(f"{schema.NO_COORDINATE} {0:10d}")
    return scaled(file, "x", "m", file.create_dataset("x", shape, dtype, **more))


@pytest.mark.parametrize("plant", SIDECARS)
def test_hostile_sidecar(tmp_path: Path, plant: str) -> None:
    path = write_sidecar(tmp_path / "a.h5", kind="k", config={}, arrays={"energy": (("n",), np.arange(3.0))})
    put, words = SIDECARS[plant]
    with h5py.File(path, "r+", libver="latest") as file:
        put(file)
    with pytest.raises(Damaged, match="no seal"):
        read_sidecar(path)
    seal.seal(path)
    tracemalloc.start()
    with pytest.raises(Damaged) as caught:
        read_sidecar(path)
    assert tracemalloc.get_traced_memory()[1] < 3 * path.stat().st_size + 2e7
    tracemalloc.stop()
    message = str(caught.value)
    assert str(path) in message and "\n" not in message and any(word in message for word in words.split("|")), message


def test_little_memory_is_enough_to_refuse(tmp_path: Path) -> None:
    """With the memory of the process limited to a little more than it has, nothing but the refusal is seen."""
    path = write(tmp_path / "a.h5")
    with h5py.File(path, "r+", libver="latest") as file:
        bomb(file)
    seal.seal(path)
    code = """
        import resource
        from bbdfield.storage import Trajectory
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 2**27, used + 2**27))
        try:
            Trajectory(sys.argv[1])
        except example.InputError as error:
            print(error)
    """
    result = child(code, path)
    assert "more than 200 to 1" in result.stdout and result.stdout.count("\n") == 1, result.stderr


@pytest.mark.parametrize("made", ["sealed", "unsealed"])
def test_a_file_of_holes_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: str) -> None:
    """A terabyte that takes no room, with a trailer that only hashing all of it would show to be wrong."""
    path, size = write(tmp_path / "a.h5"), 2**40
    with open(path, "r+b") as file:
        if made == "sealed":
            file.seek(size)
            file.write(seal.MAGIC + size.to_bytes(8, "little") + bytes(32))
        else:
            file.truncate(size)
    monkeypatch.setattr(seal, "_sha256", lambda *_: pytest.fail("it was read"))
    refused(path, "bytes only", "are on the disk")
    with pytest.raises(Damaged, match="are on the disk"):
        Trajectory(path, repair=True)
