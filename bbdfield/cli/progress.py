"""Progress on standard error."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

#: seconds between two lines of progress about one job where there is no terminal to draw bars on
_QUIET = 10.0


class Progress:
    """Bars, one per job, on a terminal; elsewhere a line now and then. `say` prints between them."""

    def __init__(self) -> None:
        from rich.console import Console

        self.console = Console(stderr=True, markup=False, highlight=False)
        self._bars: Any = None
        self._tasks: dict[str, Any] = {}
        self._told: dict[str, float] = {}

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            from rich import progress

            self._bars = progress.Progress(
                progress.TextColumn("{task.description}", markup=False),
                progress.BarColumn(),
                progress.MofNCompleteColumn(),
                progress.TextColumn("loss {task.fields[loss]:.4g}"),
                progress.TimeRemainingColumn(),
                console=self.console,
            )
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def say(self, line: str) -> None:
        self.console.print(line, soft_wrap=True)

    def report(self, job: str, done: int, total: int, loss: float) -> None:
        if self._bars is not None:
            if job not in self._tasks:
                self._tasks[job] = self._bars.add_task(job, total=total, loss=loss)
            self._bars.update(self._tasks[job], completed=done, loss=loss)
            return
        now = time.monotonic()
        if done == total or now - self._told.setdefault(job, now) > _QUIET:
            self._told[job] = now
            self.say(f"{job}: {done}/{total}, loss {loss:.4g}")

    def of(self, job: str) -> Callable[[int, int, float], None]:
        """`report` for one job."""
        return lambda done, total, loss: self.report(job, done, total, loss)
