"""Seal, chain and repair: whatever happens to a file, it is whole, or said to be damaged, and mended if it can be."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import signal
import tracemalloc
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import xarray
from examples import CONFIG, STEPS, child, description, interrupted, refused, start, state, train, write

from bbdfield.errors import Damaged, InputError
from bbdfield.storage import Trajectory, TrajectoryWriter, chain, content_digest, schema, seal


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 0x10
    path.write_bytes(content)


def chunk(path: Path, name: str, row: int = 0) -> int:
    """Where in the file the values of one snapshot begin."""
    with h5py.File(path, "r") as file:
        return int(file[name].id.get_chunk_info(row).byte_offset)


def resumed(path: Path) -> int | None:
    """Resume and finish; the step from which that went on."""
    with TrajectoryWriter.resume(path, config=CONFIG) as writer:
        last = writer.last_step
        train(writer, description())
    return last


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> str:
    return content_digest(write(tmp_path_factory.mktemp("whole") / "a.h5"))


def test_a_finished_file_ends_with_its_seal_and_other_readers_do_not_mind(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5")
    content = path.read_bytes()
    body, trailer = content[: -seal.SIZE], content[-seal.SIZE :]
    assert trailer == seal.MAGIC + len(body).to_bytes(8, "little") + hashlib.sha256(body).digest()
    with h5py.File(path, "r") as file:
        assert file["step"][-1] == STEPS
    with xarray.open_datatree(path, engine="h5netcdf") as tree:
        np.testing.assert_array_equal(tree["fields"]["z"][-1], state(STEPS, description())["z"])
    assert path.read_bytes() == content
    with Trajectory(path) as run:
        assert run.complete and run.damage == ""


def test_the_chain_is_as_documented(tmp_path: Path) -> None:
    """Computed once more, from what h5py reads."""
    path = interrupted(tmp_path / "a.h5", 5)
    with h5py.File(path, "r") as file:
        value = bytes.fromhex(schema.plain(file.attrs["digest"]))
        steps, begin = file["scalar_step"][:], 0
        for i, step in enumerate(file["step"][:]):
            end = int(np.sum(steps < step))
            total = hashlib.sha256(value + step.tobytes() + file["t"][i].tobytes())
            for name in sorted(file["fields"]):
                total.update(file["fields"][name][i].tobytes())
            total.update(file["evaluation/test_accuracy"][i].tobytes() + steps[begin:end].tobytes())
            for name in ("energy", "loss"):
                total.update(file["scalars"][name][begin:end].tobytes())
            value, begin = total.digest(), end
            assert file["chain"][i].tobytes() == value
    assert i == 2


def test_every_flipped_byte_of_a_finished_file_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5")
    content = path.read_bytes()
    places = [*np.random.default_rng(0).integers(0, len(content), 60), *range(len(content) - seal.SIZE, len(content))]
    for place in places:
        flip(path, int(place))
        with pytest.raises(Damaged) as caught:
            Trajectory(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)
        path.write_bytes(content)
    Trajectory(path).close()


@pytest.mark.parametrize("more", [-1, -seal.SIZE + 1, 1, 100])
def test_a_finished_file_with_another_end_is_refused(tmp_path: Path, whole: str, more: int) -> None:
    path = write(tmp_path / "a.h5")
    content = path.read_bytes()
    path.write_bytes(content[:more] if more < 0 else content + bytes(more))
    refused(path, "bytes follow its end that do not belong there", "--resume")
    assert resumed(path) == STEPS and content_digest(path) == whole


def test_without_its_seal_a_file_is_unfinished(tmp_path: Path, whole: str) -> None:
    """As a kill between HDF5's closing of the file and the seal leaves it; h5py's r+ cuts the seal off as well."""
    path = write(tmp_path / "a.h5")
    with h5py.File(path, "r+"):
        pass
    with Trajectory(path) as run:
        assert not run.complete and run.n_snapshots == 5 and run.content_digest() == whole
        run.verify()
    assert resumed(path) == STEPS and content_digest(path) == whole
    with Trajectory(path) as run:
        assert run.complete


def test_killed_between_closing_and_sealing(tmp_path: Path, whole: str) -> None:
    """Once with all scalars before the last snapshot, once with scalars after it, which are computed again."""
    code = """
        from bbdfield.storage import seal
        seal.seal = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        with example.TrajectoryWriter.create(sys.argv[1], **example.description()) as writer:
            example.train(writer, example.description(), int(sys.argv[2]))
    """
    for stop, last in ((STEPS, STEPS), (7, 6)):
        path = tmp_path / f"{stop}.h5"
        assert child(code, path, stop).returncode == -signal.SIGKILL
        with Trajectory(path) as run:
            assert not run.complete and run.step[-1] == last and run.scalar_step[-1] == last - 1
        assert resumed(path) == last and content_digest(path) == whole


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("name", ["fields/z", "fields/w", "t", "chain", "evaluation/test_accuracy", "scalars/loss"])
def test_resume_repairs_flipped_bytes(
    tmp_path: Path, whole: str, caplog: pytest.LogCaptureFixture, name: str, finished: bool
) -> None:
    path = write(tmp_path / "a.h5") if finished else interrupted(tmp_path / "a.h5", STEPS)
    shared = name == "scalars/loss"  # all in one chunk; step 5 is the last before snapshot 3
    flip(path, chunk(path, name, 0 if shared else 3) + (5 * 8 if shared else 3))
    refused(path, "its seal does not fit" if finished else "snapshot 3 of 5 (step 6) is damaged", "--resume")
    with pytest.raises(Damaged):
        content_digest(path)
    with caplog.at_level(logging.WARNING, "bbdfield"):
        assert resumed(path) == 4
    assert len(caplog.messages) == 1 and "\n" not in caplog.text.strip()
    assert str(path) in caplog.text and "kept 3 snapshots, computing again from step 4" in caplog.text
    assert content_digest(path) == whole
    with Trajectory(path) as run:
        assert run.complete and len(run.attrs["resumed"]) == 1


def test_resume_repairs_the_list_of_steps(tmp_path: Path, whole: str) -> None:
    path = interrupted(tmp_path / "a.h5", STEPS)
    flip(path, chunk(path, "step", 2))
    refused(path)
    assert resumed(path) == 2 and content_digest(path) == whole


def test_resume_starts_again_if_no_snapshot_is_left(
    tmp_path: Path, whole: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "a.h5")
    flip(path, chunk(path, "fields/b", 0))
    with caplog.at_level(logging.WARNING, "bbdfield"):
        assert resumed(path) is None
    assert "no snapshot could be kept, computing again from the start" in caplog.text
    assert content_digest(path) == whole


@pytest.mark.parametrize("name", ["command", "boundary/x", "y"])
def test_what_no_snapshot_can_do_without_is_not_repaired(tmp_path: Path, name: str) -> None:
    path = interrupted(tmp_path / "a.h5", 4)
    with h5py.File(path, "r+") as file:
        if name == "command":
            file.attrs[name] = schema.text("another")
        else:
            file[name][0] += 1e-15
    refused(path, "its configuration or its constant data were altered", "move it away")
    before = path.read_bytes()
    with pytest.raises(Damaged, match="move it away"):
        TrajectoryWriter.resume(path, config=CONFIG)
    assert path.read_bytes() == before


@pytest.mark.parametrize("finished", [True, False])
def test_truncated_anywhere(tmp_path: Path, whole: str, finished: bool) -> None:
    """Refused at every length; what can be resumed ends bitwise as if nothing had happened."""
    path = write(tmp_path / "a.h5") if finished else interrupted(tmp_path / "a.h5", STEPS)
    content, mended, lost = path.read_bytes(), 0, 0
    for size in [*range(0, len(content), 4001), len(content) - 1]:
        path.write_bytes(content[:size])
        refused(path, "again")
        try:
            resumed(path)
        except Damaged as error:
            lost += 1
            assert "move it away" in str(error) and path.read_bytes() == content[:size]
        else:
            mended += 1
            assert content_digest(path) == whole
    assert mended > 3 and lost > 1


def test_killed_and_then_damaged(tmp_path: Path, whole: str) -> None:
    """A file still marked as being written: its damage is said, not waited for, and mended where it can be."""
    path = tmp_path / "a.h5"
    code = """
        writer = example.TrajectoryWriter.create(sys.argv[1], **example.description())
        example.train(writer, example.description(), 5)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    assert child(code, path).returncode == -signal.SIGKILL
    content, good = path.read_bytes(), content_digest(path)
    counts = {"whole": 0, "damaged": 0, "mended": 0}
    for place in (2000, 14302, 17895, *range(1000, len(content), 5003)):
        for change in (
            lambda at: content[:at],
            lambda at: content[:at] + bytes([content[at] ^ 16]) + content[at + 1 :],
        ):
            path.write_bytes(change(place))
            try:
                assert content_digest(path) == good
                counts["whole"] += 1
            except Damaged:
                counts["damaged"] += 1
            try:
                resumed(path)
                assert content_digest(path) == whole
                counts["mended"] += 1
            except Damaged as error:
                assert "move it away" in str(error)
    assert counts["damaged"] > 5 and counts["mended"] > 5


def test_resume_can_itself_be_repeated(tmp_path: Path) -> None:
    """The list of resumptions stays of bounded length."""
    path = interrupted(tmp_path / "a.h5", 2)
    for _ in range(3):
        TrajectoryWriter.resume(path, config=CONFIG).abandon()
    with Trajectory(path) as run:
        assert len(run.attrs["resumed"]) == 3 and run.n_snapshots == 2


@pytest.mark.parametrize("compression", [None, "gzip"])
def test_checking_takes_bounded_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compression: str | None
) -> None:
    monkeypatch.setattr(schema, "_SLAB_BYTES", 2**18)
    monkeypatch.setattr(chain, "_AT_ONCE", 2**16)
    path = tmp_path / "a.h5"
    described = {**description(scale=2000), "compression": compression}  # 2.5 MB of z
    writer = TrajectoryWriter.create(path, **described)
    train(writer, described)
    writer.abandon()
    for finish in (False, True):
        if finish:
            seal.seal(path)
        tracemalloc.start()
        with Trajectory(path) as run:
            assert run.complete == finish
            run.verify()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2.5e6, peak


def test_what_is_checked_is_remembered_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    computed = []
    original = seal._sha256
    monkeypatch.setattr(seal, "_sha256", lambda *given: computed.append(1) or original(*given))
    monkeypatch.setattr(seal, "_checked", set())
    path = write(tmp_path / "a.h5")
    computed.clear()
    for _ in range(2):  # too young: a change now could leave the time of the change as it is
        Trajectory(path).close()
    assert len(computed) == 2
    monkeypatch.setattr(seal, "_SETTLED", -1)
    for _ in range(3):
        Trajectory(path).close()
    assert len(computed) == 3
    with Trajectory(path) as run:
        run.verify()
    assert len(computed) == 4
    flip(path, 5000)
    refused(path, "its seal does not fit")
    os.utime(path, (4e9, 4e9))  # a clock that was wrong: nothing written then is ever remembered
    monkeypatch.setattr(seal, "_SETTLED", 2e9)
    flip(path, 5000)
    computed.clear()
    os.utime(path, (4e9, 4e9))
    for _ in range(2):
        Trajectory(path).close()
    assert len(computed) == 2


def test_an_unfinished_file_is_remembered_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seal, "_checked", set())
    monkeypatch.setattr(seal, "_SETTLED", -1)
    path = interrupted(tmp_path / "a.h5", 4)
    Trajectory(path).close()
    with monkeypatch.context() as patch:
        patch.setattr("bbdfield.storage.chain.links", lambda *_: pytest.fail("computed again"))
        Trajectory(path).close()
    flip(path, chunk(path, "fields/z", 1))
    refused(path, "snapshot 1 of 3")


def test_a_file_replaced_while_it_is_opened_is_opened_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, other = write(tmp_path / "a.h5"), write(tmp_path / "b.h5", seed=9)
    original = h5py.File

    def replaced_before(*given: Any, **more: Any) -> h5py.File:
        if other.exists():
            os.replace(other, path)
        return original(*given, **more)

    monkeypatch.setattr("bbdfield.storage.guard.h5py.File", replaced_before)
    with Trajectory(path) as run:
        assert run.seed == 9 and run.complete


def test_a_file_that_another_process_writes_with_h5py(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5")
    content = path.read_bytes()
    holder = start(
        """
        import h5py, time
        with h5py.File(sys.argv[1], "r+"):
            print("held", flush=True)
            time.sleep(60)
        """,
        path,
    )
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        path.write_bytes(content)  # or the file would only be unfinished
        refused(path, "is locked", "another process")
    finally:
        holder.kill()
        holder.communicate()


def test_two_writers_of_one_file(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    holder = start(
        """
        import time
        writer = example.TrajectoryWriter.create(sys.argv[1], **example.description())
        example.train(writer, example.description(), 4)
        print("held", flush=True)
        time.sleep(60)
        """,
        path,
    )
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        content = path.read_bytes()
        with pytest.raises(InputError, match=r"a\.h5: another process is writing it; wait for that process, stop it"):
            TrajectoryWriter.create(path, **description(), overwrite=True)
        with pytest.raises(InputError, match=r"a\.h5: another process is writing it"):
            TrajectoryWriter.resume(path, config=CONFIG)
        assert path.read_bytes() == content
    finally:
        holder.kill()
        holder.communicate()
    with TrajectoryWriter.resume(path, config=CONFIG) as writer:
        train(writer, description())
    assert os.listdir(tmp_path) == ["a.h5"], "the lock is gone"
    with Trajectory(path) as run:
        assert run.complete and run.n_snapshots == 5


def test_two_processes_resume_one_file_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one comes while the first one is copying what is kept."""
    path, real, others = interrupted(tmp_path / "a.h5", 5), TrajectoryWriter.snapshot, []

    def slow(self: TrajectoryWriter, *args: Any, **more: Any) -> None:
        real(self, *args, **more)
        if not others:
            others.append(child("example.TrajectoryWriter.resume(sys.argv[1], config=example.CONFIG)", path))

    monkeypatch.setattr(TrajectoryWriter, "snapshot", slow)
    with TrajectoryWriter.resume(path, config=CONFIG) as writer:
        train(writer, description())
    assert others[0].returncode == 1 and "a.h5: another process is writing it" in others[0].stderr
    with Trajectory(path) as run:
        run.verify()
        assert run.complete and run.n_snapshots == 5


def test_a_lock_that_a_killed_writer_left_is_no_lock(tmp_path: Path) -> None:
    (tmp_path / ".a.h5.lock").touch()
    write(tmp_path / "a.h5")
    assert os.listdir(tmp_path) == ["a.h5"]


def test_directory_that_cannot_be_written(tmp_path: Path) -> None:
    """As another user, because nothing is forbidden to root."""
    code = """
        import numpy.random
        from bbdfield.provenance import provenance
        from bbdfield.storage.sidecar import write_sidecar
        provenance()
        os.chmod(sys.argv[1], 0o555)
        pid = os.fork()
        if pid == 0:
            if os.getuid() == 0:
                os.setuid(65534)
            for attempt in (
                lambda path: example.TrajectoryWriter.create(path, **example.description()),
                lambda path: write_sidecar(path, kind="k", config={}, arrays={}),
            ):
                try:
                    attempt(Path("a.h5"))
                except example.InputError as error:
                    print(error, flush=True)
            os._exit(0)
        os.waitpid(pid, 0)
        os.chmod(sys.argv[1], 0o755)
    """
    result = child(f"os.chdir(sys.argv[1])\n{re.sub('^ {8}', '', code, flags=re.MULTILINE)}", tmp_path)
    line = "a.h5: directory . cannot be written; change its permissions or take another"
    assert result.stdout.splitlines() == [line, line], result.stderr


SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

/* Counts what writes to .h5 files; at one of them kills the process, or has the disk full from then on. */
static long seen = 0, at = -1;
static int full = 0;

long arm(long place, int disk_full) { long counted = seen; seen = 0; at = place; full = disk_full; return counted; }

static int fails(int descriptor, int is_write) {
    char link[64], path[512];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    if (!strstr(path, ".h5")) return 0;
    long place = seen++;
    if (at < 0 || place < at) return 0;
    if (!full) kill(getpid(), SIGKILL);
    return is_write;
}

ssize_t pwrite64(int descriptor, const void *bytes, size_t size, off_t place) {
    static ssize_t (*real)(int, const void *, size_t, off_t);
    if (!real) real = dlsym(RTLD_NEXT, "pwrite64");
    if (fails(descriptor, 1)) { errno = ENOSPC; return -1; }
    return real(descriptor, bytes, size, place);
}
ssize_t pwrite(int descriptor, const void *bytes, size_t size, off_t place) {
    return pwrite64(descriptor, bytes, size, place);
}
ssize_t write(int descriptor, const void *bytes, size_t size) {
    static ssize_t (*real)(int, const void *, size_t);
    if (!real) real = dlsym(RTLD_NEXT, "write");
    if (fails(descriptor, 1)) { errno = ENOSPC; return -1; }
    return real(descriptor, bytes, size);
}
int ftruncate64(int descriptor, off_t size) {
    static int (*real)(int, off_t);
    if (!real) real = dlsym(RTLD_NEXT, "ftruncate64");
    fails(descriptor, 0);
    return real(descriptor, size);
}
int ftruncate(int descriptor, off_t size) { return ftruncate64(descriptor, size); }
"""

HARNESS = """
    import ctypes
    from bbdfield.storage import Trajectory, TrajectoryWriter, content_digest
    shim = ctypes.CDLL(sys.argv[1])
    path, full = Path(sys.argv[2]), int(sys.argv[3])
    described = example.description()

    def write():
        with TrajectoryWriter.create(path, **described) as writer:
            example.train(writer, described, 4)
            writer.scalar(5, loss=0.0, energy=0.0)

    def resume():
        with TrajectoryWriter.resume(path, config=example.CONFIG) as writer:
            example.train(writer, described, 4)
            writer.scalar(5, loss=0.0, energy=0.0)

    def broken_off(work, at):
        read, told = os.pipe()
        pid = os.fork()
        if pid == 0:
            shim.arm(at, full)
            try:
                work()
            except example.InputError as error:
                os.write(told, str(error).encode())
                sys.exit(2)  # the usual way, since HDF5 closes all its files then
            sys.exit(0)
        os.close(told)
        status = os.waitpid(pid, 0)[1]
        with os.fdopen(read) as told:
            return os.waitstatus_to_exitcode(status), told.read()

    def check(found, said, steps):
        assert found == (2 if full else -9), (found, said)
        assert not full or (said.count(os.linesep) == 0 and "No space left" in said), said
        with Trajectory(path) as run:
            assert not run.damage and run.step.tolist() == [0, 2, 4][: run.n_snapshots], run.step
            assert run.n_snapshots >= steps, (run.n_snapshots, steps)
            for i, step in enumerate(run.step.tolist()):
                for name, values in example.state(step, described).items():
                    assert (run.fields[name][i] == values).all()
            return run.n_snapshots

    shim.arm(-1, 0)
    write()
    writes, whole = shim.arm(-1, 0), content_digest(path)
    absent, steps = 0, 0
    for at in [*range(0, writes, int(sys.argv[4])), writes - 1]:
        path.unlink(missing_ok=True)
        found, said = broken_off(write, at)
        if not path.exists():  # not yet renamed into place
            absent += 1
            assert found == (2 if full else -9) and steps == 0
            continue
        steps = check(found, said, steps)
        resume()
        assert content_digest(path) == whole, at
    assert steps == 3 and 0 < absent < at

    path.unlink()
    writer = TrajectoryWriter.create(path, **described)
    example.train(writer, described, 3)
    writer.abandon()
    before = path.read_bytes()
    shim.arm(-1, 0)
    resume()
    writes = shim.arm(-1, 0)
    for at in [*range(0, writes, int(sys.argv[4])), writes - 1]:
        path.write_bytes(before)
        found, said = broken_off(resume, at)
        check(found, said, 2)
        resume()
        assert content_digest(path) == whole, at
    print("ok", writes)
"""


EVERY = 17


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that is loaded before the C library and lets writing fail, really."""
    source = tmp_path_factory.mktemp("shim") / "shim.c"
    source.write_text(SHIM)
    library = source.with_suffix(".so")
    assert os.system(f"cc -shared -fPIC -O1 -o {library} {source} -ldl") == 0
    return library


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
@pytest.mark.parametrize("full", [0, 1], ids=["killed", "disk-full"])
def test_broken_off_at_writes(tmp_path: Path, shim: Path, full: int) -> None:
    """Killed before, or the disk full from, some write to the file on: readable, and resumed to the same bits.

    With 1 in place of EVERY it is every single write.
    """
    result = child(HARNESS, shim, tmp_path / "a.h5", full, EVERY, LD_PRELOAD=str(shim))
    assert result.stdout.startswith("ok"), result.stdout + result.stderr[-3000:]
    assert json.loads(result.stdout.split()[1]) > 50
