"""Processes that try what may hang, crash or eat memory, one request at a time, and are replaced when they do.

A request and its answer are one line of JSON each. What a child runs is a module of this package with a function
``answer(request) -> dict``; `serve` is the child's side.
"""

from __future__ import annotations

import importlib
import json
import os
import queue
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bbdfield.errors import InputError
from bbdfield.studies.faults.programs import environment

Request = dict[str, Any]
Answer = dict[str, Any]

#: seconds in which a child has to be ready
_START = 120.0
_MIB = 2**20


class Child:
    """One such process, of module `task`; started again after a hang or a crash."""

    def __init__(self, task: str, setting: Mapping[str, Any], timeout: float) -> None:
        self._command = [sys.executable, "-m", __name__, task, json.dumps(setting)]
        self._timeout = timeout
        self._process: subprocess.Popen[bytes] | None = None
        self._buffer = b""

    def ask(self, request: Request) -> Answer:
        """Its answer; {"hung": seconds} or {"crashed": signal or exit code} if it gives none."""
        process = self._process or self._start()
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
            line = self._line(self._timeout)
        except TimeoutError:
            self.stop()
            return {"hung": self._timeout}
        except (BrokenPipeError, EOFError):
            code = process.wait()
            self.stop()
            return {"crashed": -code if code < 0 else code}
        answer: Answer = json.loads(line)
        return answer

    def stop(self) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.communicate()
            self._process, self._buffer = None, b""

    def _start(self) -> subprocess.Popen[bytes]:
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(),
            start_new_session=True,
        )
        try:
            self._line(_START)
        except (TimeoutError, EOFError) as error:
            self.stop()
            raise InputError(f"a process for trials did not start ({error}); look at what it wrote above") from error
        return self._process

    def _line(self, seconds: float) -> bytes:
        assert self._process is not None and self._process.stdout is not None
        descriptor, deadline = self._process.stdout.fileno(), time.monotonic() + seconds
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([descriptor], [], [], left)[0]:
                raise TimeoutError("no answer")
            read = os.read(descriptor, 1 << 16)
            if not read:
                raise EOFError("it ended")
            self._buffer += read
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def ask_all(
    task: str, setting: Mapping[str, Any], requests: Iterable[Request], *, count: int, timeout: float
) -> Iterator[tuple[Request, Answer]]:
    """Answers to all requests, in the order in which they come, from `count` children side by side."""
    waiting, answers = iter(requests), queue.Queue[tuple[Request, Answer] | BaseException | None]()
    lock, over = threading.Lock(), threading.Event()

    def work() -> None:
        try:
            with Child(task, setting, timeout) as child:
                while not over.is_set():
                    with lock:
                        request = next(waiting, None)
                    if request is None:
                        break
                    answers.put((request, child.ask(request)))
            answers.put(None)
        except BaseException as error:
            answers.put(error)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    running = count
    try:
        while running:
            found = answers.get()
            if isinstance(found, BaseException):
                raise found
            if found is None:
                running -= 1
            else:
                yield found
    finally:
        over.set()
        for thread in threads:
            thread.join()


# the child's side


def serve(task: str, setting: Mapping[str, Any]) -> None:
    """Answer requests from standard input until it ends; standard output belongs to the answers alone."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    module: Any = importlib.import_module(f"{__package__}.{task}")
    module.begin(setting)
    limit_memory(int(setting["memory"]))
    answers.write(b"ready\n")
    answers.flush()
    for line in sys.stdin.buffer:
        before = _memory("VmRSS")
        _forget_peak()
        began = time.monotonic()
        answer: Answer = module.answer(json.loads(line))
        answer |= {"seconds": time.monotonic() - began, "peak": max(0.0, _memory("VmHWM") - before)}
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.flush()


def limit_memory(mib: int) -> None:
    """Bound the address space at three times what one request may take, so that more becomes a MemoryError."""
    import resource

    most = int((_memory("VmSize") + 3 * mib) * _MIB)
    if most > 0 and sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))


def _memory(key: str) -> float:
    """MiB of this process, from /proc; 0 where there is none."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(key + ":"):
                return int(line.split()[1]) / 1024
    return 0.0


def _forget_peak() -> None:
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


class Output:
    """Standard output and error of this process, libraries in C included, caught in a file in memory."""

    def __init__(self) -> None:
        self._file = os.memfd_create("output")
        self._kept = [os.dup(1), os.dup(2)]

    def catch(self) -> None:
        os.ftruncate(self._file, 0)
        os.lseek(self._file, 0, os.SEEK_SET)
        for descriptor in (1, 2):
            os.dup2(self._file, descriptor)

    def release(self) -> str:
        sys.stdout.flush()
        sys.stderr.flush()
        for descriptor, kept in zip((1, 2), self._kept, strict=True):
            os.dup2(kept, descriptor)
        size = os.lseek(self._file, 0, os.SEEK_END)
        return os.pread(self._file, min(size, 1 << 16), max(0, size - (1 << 16))).decode("utf-8", "replace")


def command_line(arguments: Sequence[str], output: Output) -> tuple[int | None, str]:
    """``python -m bbdfield`` with these arguments, in this process: (exit code, what it wrote).

    None instead of a code if it ended in an exception, whose traceback is what it wrote.
    """
    import runpy
    import traceback

    before, sys.argv = sys.argv, ["bbdfield", *arguments]
    code: int | None = None
    problem = ""
    output.catch()
    try:
        runpy.run_module("bbdfield", run_name="__main__")
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
    except BaseException:
        problem = traceback.format_exc()
    finally:
        sys.argv = before
        written = output.release()
    return code, written + problem


if __name__ == "__main__":
    serve(sys.argv[1], json.loads(sys.argv[2]))
