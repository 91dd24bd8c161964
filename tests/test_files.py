"""Atomic files and locked directories."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bbdfield import files
from bbdfield.errors import InputError

ROOT = Path(__file__).parents[1]

HOLD = """
import sys, time
from pathlib import Path
from bbdfield import files
with files.locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def hold(directory: Path) -> subprocess.Popen[str]:
    """Another process that holds the lock of a directory."""
    command = [sys.executable, "-c", HOLD, str(directory)]
    process = subprocess.Popen(command, env={"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_a_second_process_is_told_who_writes(tmp_path):
    with hold(tmp_path) as process:
        with pytest.raises(InputError, match=rf": process {process.pid} on .* is writing into it; wait for it"):
            with files.locked(tmp_path):
                pass
        process.kill()
        process.wait()
        with files.locked(tmp_path, wait=30):
            assert files.is_occupied(tmp_path) is False, "a lock is no content"
    with files.locked(tmp_path):
        pass


def test_a_lock_waits_for_the_other(tmp_path):
    with hold(tmp_path) as process:
        process.send_signal(signal.SIGSTOP)
        with pytest.raises(InputError, match="is writing into it"), files.locked(tmp_path, wait=0.2):
            pass
        process.kill()


def test_a_hostile_writer_file_is_not_shown(tmp_path):
    with hold(tmp_path) as process:
        (tmp_path / files.WRITER).write_bytes(b"\x1b[31m" + b"x" * 10**6)
        with pytest.raises(InputError, match="another process is writing"), files.locked(tmp_path):
            pass
        process.kill()


def test_a_text_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "scores.json"
    files.write_text(path, "old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"scores\.json: No space left on device; give a file"):
        files.write_text(path, "new")
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["scores.json"]


@pytest.mark.parametrize("make", [files.make_directory, lambda path: files.write_text(path / "a", "b")])
def test_a_place_that_cannot_be_written(tmp_path, make):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="Not a directory"):
        make(tmp_path / "file" / "inside")


def test_a_file_that_is_being_written(tmp_path):
    path = tmp_path / "a.h5"
    with files.locked_file(path):
        assert os.listdir(tmp_path) == [".a.h5.lock"]
        with pytest.raises(InputError, match=r"a\.h5: another process is writing it; wait for that process, stop it"):
            with files.locked_file(path):
                pass
        with files.locked_file(tmp_path / "b.h5"):
            pass
    assert not os.listdir(tmp_path)


def test_a_lock_that_is_removed_while_it_is_taken_is_taken_again(tmp_path, monkeypatch):
    """Its holder ends between this process's opening and locking it: what was opened guards no name any more."""
    path, lock, real, taken = tmp_path / "a.h5", tmp_path / ".a.h5.lock", fcntl.flock, []

    def flock(descriptor: int, how: int) -> None:
        real(descriptor, how)
        taken.append(descriptor)
        if len(taken) == 1:
            lock.unlink()
        elif len(taken) == 2:
            lock.unlink()
            lock.touch()  # another process has made its own

    monkeypatch.setattr(fcntl, "flock", flock)
    with files.locked_file(path):
        assert len(taken) == 3
        with pytest.raises(InputError, match="another process"), files.locked_file(path):
            pass
    assert not os.listdir(tmp_path)


def test_a_file_system_without_locks(tmp_path, monkeypatch, caplog):
    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", none)
    with files.locked_file(tmp_path / "a.h5"):
        assert "a.h5: this file system has no locks; write it once only" in caplog.text


@pytest.mark.parametrize("reason", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_directory_on_a_file_system_without_locks(tmp_path, monkeypatch, caplog, reason):
    def none(*_: object) -> None:
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr(fcntl, "flock", none)
    with files.locked(tmp_path):
        assert f"{tmp_path}: this file system has no locks; run it once only" in caplog.text
    with files.locked(tmp_path):  # nothing is left that would keep the next run out
        pass


def test_a_place_where_no_lock_can_be_made(tmp_path):
    with pytest.raises(InputError, match=r"a\.h5: cannot be locked \(No such file or directory\); choose another"):
        with files.locked_file(tmp_path / "nowhere" / "a.h5"):
            pass
