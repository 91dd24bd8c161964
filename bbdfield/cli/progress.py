"""Progress on standard error."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from bbdfield._text import visible

if TYPE_CHECKING:
    from bbdfield.sweeps.run import Progress as SweepProgress

#: seconds between two lines of progress about one job where there is no terminal to draw bars on
_QUIET = 10.0


class _Display(ABC):
    """Bars on a terminal; elsewhere a line now and then. `say` prints between them."""

    def __init__(self) -> None:
        from rich.console import Console

        self.console = Console(stderr=True, markup=False, highlight=False)
        self._bars: Any = None

    @abstractmethod
    def columns(self) -> list[Any]:
        """What stands in a line beside its name, its bar and its counts."""

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            from rich import progress

            self._bars = progress.Progress(
                progress.TextColumn("{task.description}", markup=False),
                progress.BarColumn(),
                progress.MofNCompleteColumn(),
                *self.columns(),
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
        self.console.print(visible(line), soft_wrap=True)


class Progress(_Display):
    """One bar per job, with its loss and the time left."""

    def __init__(self) -> None:
        super().__init__()
        self._tasks: dict[str, Any] = {}
        self._told: dict[str, float] = {}

    def columns(self) -> list[Any]:
        from rich import progress

        return [progress.TextColumn("loss {task.fields[loss]:.4g}"), progress.TimeRemainingColumn()]

    def report(self, job: str, done: int, total: int, loss: float) -> None:
        if self._bars is not None:
            if job not in self._tasks:
                self._tasks[job] = self._bars.add_task(visible(job, keep=""), total=total, loss=loss)
            self._bars.update(self._tasks[job], completed=done, loss=loss)
            return
        now = time.monotonic()
        if done == total or now - self._told.setdefault(job, now) > _QUIET:
            self._told[job] = now
            self.say(f"{job}: {done}/{total}, loss {loss:.4g}")

    def of(self, job: str) -> Callable[[int, int, float], None]:
        """`report` for one job."""
        return lambda done, total, loss: self.report(job, done, total, loss)


class PointsProgress(_Display):
    """One bar for the points of a sweep: finished, failed, remaining and the time left."""

    def __init__(self) -> None:
        super().__init__()
        self._task: Any = None
        self._told = -_QUIET

    def columns(self) -> list[Any]:
        from rich import progress

        return [progress.TextColumn("{task.fields[told]}", markup=False)]

    def report(self, points: SweepProgress) -> None:
        done = points.finished + points.failed
        told = f"{points.finished} finished, {points.failed} failed, {points.remaining} remaining"
        if points.seconds_left is not None and points.remaining:
            told += f", {_duration(points.seconds_left)} left"
        if self._bars is not None:
            if self._task is None:
                self._task = self._bars.add_task("points", total=points.total, told=told)
            self._bars.update(self._task, completed=done, told=told)
            return
        now = time.monotonic()
        if not points.remaining or now - self._told > _QUIET:
            self._told = now
            self.say(f"points: {told}")


def _duration(seconds: float) -> str:
    """In words: "40 s", "12 min", "3 h 20 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
