"""Data files made to harm: refused in one line, without hanging and before memory is taken for what they claim."""

from __future__ import annotations

import io
import json
import os
import re
import resource
import signal
import struct
import subprocess
import sys
import time
import warnings
import zipfile
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest

from bbdfield import _data_files
from bbdfield.datasets import Dataset, load_dataset
from bbdfield.errors import InputError
from bbdfield.model.losses import prepare_targets

ROOT = Path(__file__).parents[1]
#: bytes of address space for the process that reads hostile files, and of memory that it may come to hold
SPACE, RESIDENT = 3 * 2**30, 350 * 2**20
TERA = 2**40


def npy(array) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.asarray(array), allow_pickle=True)
    return stream.getvalue()


def header(text: str, version=(1, 0), count=None) -> bytes:
    body = text.encode("latin-1") + b"\n"
    width = 2 if version[0] == 1 else 4
    return b"\x93NUMPY" + bytes(version) + (len(body) if count is None else count).to_bytes(width, "little") + body


def described(shape, descr="<f8", order=False) -> bytes:
    return header(f"{{'descr': {descr!r}, 'fortran_order': {order}, 'shape': {shape}, }}")


def archive(path: Path, *entries: tuple[str, bytes], compression=zipfile.ZIP_DEFLATED) -> Path:
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", compression) as made:
        warnings.simplefilter("ignore")  # duplicate names
        for name, content in entries:
            made.writestr(name, content)
    return path


Y = ("y.npy", npy([0, 1]))
X = ("x.npy", npy(np.ones((2, 5))))


def altered(content: bytes, signature: bytes, offset: int, value: bytes) -> bytes:
    """Every record of a zip that starts with `signature` gets other bytes."""
    found, place = bytearray(content), content.find(signature)
    while place >= 0:
        found[place + offset : place + offset + len(value)] = value
        place = content.find(signature, place + 1)
    return bytes(found)


def lying_npz(path: Path) -> Path:
    """x claims a terabyte, in its own header and in the archive's directory."""
    archive(path, ("x.npy", described((TERA // 8, 1))), Y, compression=zipfile.ZIP_STORED)
    content = path.read_bytes()
    size = struct.pack("<L", 0xFFFFFFF0)
    path.write_bytes(altered(altered(content, b"PK\x01\x02", 24, size), b"PK\x03\x04", 22, size))
    return path


def bomb_npz(path: Path, size=2**30) -> Path:
    """An honest array of zeros, a gigabyte in a megabyte."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as made:
        with made.open("x.npy", "w", force_zip64=True) as entry:
            entry.write(described((size // 8, 1)))
            for _ in range(0, size, 2**24):
                entry.write(bytes(2**24))
        made.writestr(*Y)
    return path


def header_bomb(path: Path) -> Path:
    """The header of x claims four gigabytes, and its compressed content provides a half."""
    return archive(path, ("x.npy", header("{", (2, 0), count=2**32 - 1) + bytes(2**29)), Y)


def crowd(path: Path) -> Path:
    """An archive of 30,000 names."""
    with zipfile.ZipFile(path, "w") as made:
        for i in range(30_000):
            made.writestr(f"{i}", b"")
    return path


def encrypted(path: Path) -> Path:
    content = archive(path, X, Y).read_bytes()
    path.write_bytes(altered(altered(content, b"PK\x01\x02", 8, b"\1"), b"PK\x03\x04", 6, b"\1"))
    return path


def sparse_npz(path: Path) -> Path:
    """A terabyte of holes: the file system claims the bytes but has none."""
    body = described((TERA // 8, 1))
    name = b"x.npy"
    extra = struct.pack("<HHQQ", 1, 16, len(body) + TERA, len(body) + TERA)
    local = struct.pack("<4s5H3L2H", b"PK\3\4", 45, 0, 0, 0, 0, 0, 2**32 - 1, 2**32 - 1, 5, len(extra)) + name + extra
    y = npy([0, 1])
    at = len(local) + len(body) + TERA
    second = struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, 0, 0, 0, zlib.crc32(y), len(y), len(y), 5, 0) + b"y.npy" + y
    wide = struct.pack("<HHQQQ", 1, 24, len(body) + TERA, len(body) + TERA, 0)
    big, limit = 2**32 - 1, struct.pack("<HHQ", 1, 8, at)
    central = struct.pack("<4s6H3L5H2L", b"PK\1\2", 45, 45, 0, 0, 0, 0, 0, big, big, 5, len(wide), 0, 0, 0, 0, big)
    central += name + wide
    central += struct.pack(
        "<4s6H3L5H2L", b"PK\1\2", 45, 45, 0, 0, 0, 0, zlib.crc32(y), len(y), len(y), 5, len(limit), 0, 0, 0, 0, big
    )
    central += b"y.npy" + limit
    start = at + len(second)
    end = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 2, 2, len(central), start)
    end += struct.pack("<4sLQL", b"PK\6\7", 0, start + len(central), 1)
    end += struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 2, 2, len(central), big, 0)
    with path.open("wb") as file:
        file.write(local + body)
        file.seek(at)
        file.write(second + central + end)
    return path


def hdf5(path: Path, fill) -> Path:
    with h5py.File(path, "w") as file:
        fill(file)
        if "y" not in file:
            file["y"] = np.array([0, 1])
    return path


def with_x(**options):
    return lambda file: file.create_dataset("x", **options)


def external_link(file):
    file["x"] = h5py.ExternalLink("/etc/passwd", "/x")


def soft_loop(file):
    file["x"] = h5py.SoftLink("/x")


def virtual(file):
    layout = h5py.VirtualLayout((2, 5), "f8")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", (2, 5))
    file.create_virtual_dataset("x", layout)


def external(file):
    file.create_dataset("x", (2, 5), "f8", external=[("/etc/passwd", 0, 80)])


def objects(file):
    file.create_dataset("x", (2, 5), h5py.vlen_dtype(np.float64))


def text(file):
    file.create_dataset("x", (2, 5), h5py.string_dtype())


def references(file):
    file.create_dataset("x", (2, 5), h5py.ref_dtype)


def compound(file):
    file.create_dataset("x", (2, 5), np.dtype([("a", "f8")]))


def vast_chunks(file):
    file.create_dataset("x", (2, 5), "f8", chunks=(2**20, 400), maxshape=(None, None), compression="gzip")


def chunk_bomb(file):
    """A chunk of 8 MiB whose stream unpacks to 640 megabytes."""
    x = file.create_dataset("x", (1, 2**20), "f8", chunks=(1, 2**20), compression="gzip")
    packer = zlib.compressobj(9)
    raw = b"".join(packer.compress(bytes(2**24)) for _ in range(40)) + packer.flush()
    x.id.write_direct_chunk((0, 0), raw)
    file["y"] = [0]


def short_chunk(raw, **options):
    """A chunk of fewer bytes than it should have: HDF5 itself reads beyond it, or dies."""

    def fill(file):
        x = file.create_dataset("x", (2, 5), "f8", chunks=(2, 5), **options)
        x.id.write_direct_chunk((0, 0), raw)

    return fill


def double_deflate(file):
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk((2, 5))
    plist.set_deflate(9)
    plist.set_deflate(9)
    space = h5py.h5s.create_simple((2, 5))
    h5py.h5d.create(file.id, b"x", h5py.h5t.NATIVE_DOUBLE, space, plist)


def some_chunks(file):
    file.create_dataset("x", (4, 5), "f8", chunks=(1, 5))[:2] = 1.0
    file["y"] = [0, 1, 0, 1]


def many_links(file):
    for i in range(2000):
        file[f"name{i}"] = h5py.SoftLink("/")


def sparse_hdf5(path: Path) -> Path:
    """A contiguous terabyte, of which the file system holds nothing."""
    with h5py.File(path, "w", libver="latest") as file:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        plist.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        space = h5py.h5s.create_simple((TERA // 8, 1))
        h5py.h5d.create(file.id, b"x", h5py.h5t.NATIVE_DOUBLE, space, plist)
        file["y"] = [0, 1]
    return path


NPZ = {
    "claims a terabyte": (lying_npz, "claims"),
    "a gigabyte of zeros": (bomb_npz, "claims 1.07e+09 bytes"),
    "holes": (sparse_npz, "claims"),
    "header of gigabytes": (header_bomb, "a header that no array"),
    "30,000 names": (crowd, "too many names"),
    "encrypted": (encrypted, "'x' is encrypted"),
    "lzma": (lambda p: archive(p, X, Y, compression=zipfile.ZIP_LZMA), "compressed in a way"),
    "twice": (lambda p: archive(p, X, X, Y), "holds 'x' twice"),
    "twice by name": (lambda p: archive(p, X, ("x", b""), Y), "holds 'x' twice"),
    "upwards": (lambda p: archive(p, X, Y, ("../../etc/cron.npy", b"")), "leads elsewhere"),
    "upwards by backslash": (lambda p: archive(p, X, Y, ("a\\..\\b", b"")), "leads elsewhere"),
    "absolute": (lambda p: archive(p, X, Y, ("/etc/cron.npy", b"")), "leads elsewhere"),
    "names that steer": (lambda p: archive(p, Y, ("\x1b[2J\n\u202e", b"")), "found: \\x1b[2J\\n\\u202e, y"),
    "names without end": (lambda p: archive(p, Y, *[("n" * 60_000, b"")] * 9), "no array 'x'"),
    "pickle": (lambda p: archive(p, ("x.npy", npy(np.array([{}, 1], object))), Y), "pickled objects"),
    "nested dtype": (lambda p: archive(p, ("x.npy", described((2, 5), [("a", "<f8")])), Y), "not real numbers"),
    "sub-array of terabytes": (
        lambda p: archive(p, ("x.npy", described((2,), "(1000000000,)f8")), Y),
        "cannot be read",
    ),
    "text": (lambda p: archive(p, ("x.npy", npy(["a", "b"])), Y), "not real numbers"),
    "dates": (lambda p: archive(p, ("x.npy", npy(np.zeros((2, 5), "M8[s]"))), Y), "not real numbers"),
    "no array": (lambda p: archive(p, ("x.npy", b"hello"), Y), "no NumPy array"),
    "raw bytes": (lambda p: archive(p, ("x", b"hello" * 9), Y), "no NumPy array"),
    "cut short": (lambda p: archive(p, ("x.npy", npy(np.ones((2, 5)))[:-8]), Y), "its header claims 80"),
    "too long": (lambda p: archive(p, ("x.npy", npy(np.ones((2, 5))) + b"12345678"), Y), "its header claims 80"),
    "negative shape": (lambda p: archive(p, ("x.npy", described((-2, -5)) + bytes(80)), Y), "impossible shape"),
    "boundless shape": (lambda p: archive(p, ("x.npy", described((10**4000,))), Y), "claims"),
    "zero of a boundless shape": (lambda p: archive(p, ("x.npy", described((0, 10**300))), Y), "cannot be read"),
    "deep header": (lambda p: archive(p, ("x.npy", header("(" * 9000)), Y), "cannot be read as npz"),
    "code in the header": (lambda p: archive(p, ("x.npy", header("__import__('os').abort()")), Y), "cannot be read"),
    "later version": (lambda p: archive(p, ("x.npy", header("{}", (3, 0))), Y), "a header that no array"),
}
HDF5 = {
    "claims a terabyte": (with_x(shape=(TERA // 8, 1), dtype="f8"), "claims"),
    "claims an exabyte in chunks": (with_x(shape=(2**57, 1), dtype="f8", chunks=(1, 1)), "claims"),
    "gigabytes never written": (with_x(shape=(2**28, 1), dtype="f8", chunks=(2**20, 1)), "claims"),
    "never written": (with_x(shape=(2, 5), dtype="f8"), "was never written"),
    "written in part": (some_chunks, "lacks chunks"),
    "chunks of gigabytes": (vast_chunks, "cut into chunks"),
    "a chunk that is a bomb": (chunk_bomb, "another size than it should have"),
    "short when unpacked": (short_chunk(zlib.compress(b"\1"), compression=1), "another size than it should have"),
    "short when shuffled": (short_chunk(b"\1" * 11, shuffle=True), "another size than it should have"),
    "too short for its checksum": (short_chunk(b"\1", fletcher32=True), "'x' is damaged"),
    "wrong checksum": (short_chunk(bytes(80) + b"\1\0\0\0", fletcher32=True), "'x' is damaged"),
    "packed twice": (double_deflate, "compressed in an unusual way"),
    "another filter": (with_x(data=np.ones((2, 5)), compression="lzf"), "compressed in an unusual way"),
    "external link": (external_link, "'x' links elsewhere"),
    "loop of links": (soft_loop, "'x' links elsewhere"),
    "virtual": (virtual, "values in other files"),
    "external values": (external, "values in other files"),
    "objects": (objects, "not real numbers"),
    "texts": (text, "not real numbers"),
    "references": (references, "not real numbers"),
    "compound": (compound, "not real numbers"),
    "empty": (with_x(data=h5py.Empty("f8")), "empty dataset"),
    "many names": (many_links, "no array 'x'"),
}
READER = f"""
import json, resource, sys, time
import numpy as np
from bbdfield.datasets import load_dataset
from bbdfield.errors import InputError
resource.setrlimit(resource.RLIMIT_AS, ({SPACE}, {SPACE}))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[1:]:
    started = time.perf_counter()
    try:
        load_dataset(file=path)
        told = "accepted"
    except InputError as error:
        told = str(error)
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    print(json.dumps([told, grown, time.perf_counter() - started]), flush=True)
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """What a process with bounded memory said to every hostile file."""
    folder, paths = tmp_path_factory.mktemp("hostile"), {}
    for kind, table in (("npz", NPZ), ("h5", HDF5)):
        for i, (name, (make, _)) in enumerate(table.items()):
            path = folder / f"{i}.{kind}"
            paths[kind, name] = make(path) if kind == "npz" else hdf5(path, make)
    paths["h5", "holes"] = sparse_hdf5(folder / "holes.h5")
    done = subprocess.run(
        [sys.executable, "-c", READER, *map(str, paths.values())],
        cwd=ROOT, env={**os.environ, "OPENBLAS_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0 and not done.stderr, done.stderr[-2000:]
    told = [json.loads(line) for line in done.stdout.splitlines()]
    return {key: (path, *answer) for (key, path), answer in zip(paths.items(), told, strict=True)}


@pytest.mark.parametrize(
    ("kind", "name", "words"),
    [("npz", name, words) for name, (_, words) in NPZ.items()]
    + [("h5", name, words) for name, (_, words) in HDF5.items()]
    + [("h5", "holes", "claims")],
)
def test_a_hostile_file_is_refused_in_one_line_and_little_memory(answers, kind, name, words):
    path, told, grown, seconds = answers[kind, name]
    assert str(path) in told and words in told
    assert told.isprintable() and len(told) < 900
    assert grown < RESIDENT and seconds < 10


def test_ordinary_arrays_of_every_real_type_are_read(tmp_path):
    for i, dtype in enumerate(("?", "i1", "<u2", ">i4", "<f2", ">f4", "<f8", np.longdouble)):
        for order in "CF":
            x = np.asarray(np.arange(10).reshape(2, 5) % 2, dtype, order=order)
            plain, packed = tmp_path / f"{i}{order}.npz", tmp_path / f"{i}{order}-packed.npz"
            np.savez(plain, x=x, y=[0, 1])
            np.savez_compressed(packed, x=x, y=[0, 1])
            for path in (plain, packed):
                np.testing.assert_array_equal(load_dataset(file=path).x[:, 0], x)
    with h5py.File(tmp_path / "packed.h5", "w") as file:
        file.create_dataset("x", data=x, chunks=(1, 5), compression="gzip", shuffle=True, fletcher32=True)
        file["y"] = np.array([0, 1])
    np.testing.assert_array_equal(load_dataset(file=tmp_path / "packed.h5").x[:, 0], x)


@pytest.mark.parametrize("shape", [(4, 5000), (3, 7), (1, 1), (2, 3, 5)])
@pytest.mark.parametrize("chunks", [True, 1, 2, 3])
@pytest.mark.parametrize("packed", [{}, {"compression": 9, "shuffle": True, "fletcher32": True}, {"fletcher32": True}])
def test_chunks_of_every_size_are_unpacked_as_hdf5_does(tmp_path, shape, chunks, packed):
    chunks = chunks if chunks is True else tuple(min(chunks, n) for n in shape)
    for dtype in ("<f8", ">f4", "<i2", "i1", "?"):
        x = np.random.default_rng(0).integers(0, 2 if dtype == "?" else 100, shape).astype(dtype)
        with h5py.File(tmp_path / "data.h5", "w") as file:
            file.create_dataset("x", data=x, chunks=chunks, maxshape=(None,) * x.ndim, **packed)
            file["y"] = np.arange(shape[0])
        found = load_dataset(file=tmp_path / "data.h5").x
        np.testing.assert_array_equal(found, x.reshape(found.shape))


def test_more_than_the_memory_is_refused(tmp_path, monkeypatch):
    np.savez(tmp_path / "data.npz", x=np.ones((100, 50)), y=np.arange(100))
    monkeypatch.setattr(_data_files, "memory", lambda: 20_000)
    with pytest.raises(InputError, match=r"data\.npz: its arrays need 4e\+04 bytes.*more than the memory"):
        load_dataset(file=tmp_path / "data.npz")


@pytest.mark.parametrize("suffix", [".npz", ".h5"])
def test_pipes_devices_loops_and_folders_are_no_data(tmp_path, suffix):
    pipe, folder, loop, zero = (tmp_path / f"{name}{suffix}" for name in ("pipe", "folder", "loop", "zero"))
    os.mkfifo(pipe)
    folder.mkdir()
    loop.symlink_to(loop)
    zero.symlink_to("/dev/zero")
    started = time.perf_counter()
    for path in (pipe, folder, loop, zero, tmp_path / f"nul\0{suffix}", tmp_path / f"{'x' * 5000}{suffix}"):
        with pytest.raises(InputError, match="no such file") as caught:
            load_dataset(file=path)
        assert "\n" not in str(caught.value)
    assert time.perf_counter() - started < 5


@pytest.mark.parametrize("value", [10**12, 65_535, 4096, -1, float("inf")])
def test_identifiers_are_no_classes(value):
    with pytest.raises(InputError, match=r"class|finite"):
        Dataset("toy", np.ones((3, 5)), np.array([0, 1, value]))
    with pytest.raises(InputError, match="classes for 2 samples"):
        Dataset("toy", np.ones((2, 5)), np.array([0, 1]), outputs=10**12)


def test_many_classes_cost_what_their_targets_do():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    targets = prepare_targets("mean-square", np.array([0, 29_999]), 30_000)
    assert targets.shape == (2, 30_000) and targets.sum() == 2 and targets[1, 29_999] == 1
    assert 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) < 2**27  # not 7 gigabytes


def test_values_beyond_float64_are_not_finite():
    huge = np.ones((2, 5), np.longdouble)
    huge[1, 2] = np.longdouble("1e4000")
    with pytest.raises(InputError, match=r"'x' has 1 values that are not finite, the first at \[1, 2\]"):
        Dataset("toy", huge, np.array([0, 1]))


def test_a_name_that_steers_is_shown_as_escapes():
    with pytest.raises(InputError) as caught:
        Dataset("\x1b[2J\n", np.ones(3), np.array([0, 1]), source="\u202e\x07")
    assert str(caught.value).isprintable() and "\\x1b[2J\\n" in str(caught.value)


MUTANTS = (
    f"""
import resource
resource.setrlimit(resource.RLIMIT_AS, ({SPACE}, {SPACE}))
"""
    + """
import random, sys
from pathlib import Path
import numpy as np
from bbdfield.datasets import load_dataset
from bbdfield.errors import InputError
source, target, count = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
whole, rng = source.read_bytes(), random.Random(7)
for i in range(count):
    content = bytearray(whole)
    for _ in range(rng.choice((1, 1, 2, 8))):
        place = rng.randrange(len(content) if rng.random() < 0.4 else min(len(content), 2200))
        content[place] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
    if rng.random() < 0.1:
        del content[rng.randrange(len(content)) :]
    target.write_bytes(content)
    try:
        load_dataset(file=target)
    except InputError as error:
        assert "\\n" not in str(error)
    print(i, flush=True)
"""
)


@pytest.mark.parametrize("suffix", [".npz", ".h5", "-packed.npz", "-packed.h5"])
def test_mutated_files_are_read_or_refused(tmp_path, suffix):
    source, target = tmp_path / f"whole{suffix}", tmp_path / f"mutant{suffix}"
    x, y = np.random.default_rng(0).integers(0, 9, (6, 2, 5)).astype(float), np.arange(6)
    if suffix.endswith("npz"):
        (np.savez_compressed if "packed" in suffix else np.savez)(source, x=x, y=y)
    else:
        with h5py.File(source, "w") as file:
            packed = {"chunks": (2, 2, 5), "compression": "gzip", "fletcher32": True} if "packed" in suffix else {}
            file.create_dataset("x", data=x, **packed)
            file["y"] = y

    done = subprocess.run(
        [sys.executable, "-c", MUTANTS, source, target, "250"],
        cwd=ROOT, env={**os.environ, "OPENBLAS_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    died = signal.Signals(-done.returncode).name if done.returncode < 0 else done.returncode
    assert not done.returncode, f"{died} after {done.stdout.split()[-1:]}: {done.stderr[-1500:]}"
    assert re.search(r"\b249$", done.stdout.strip())
