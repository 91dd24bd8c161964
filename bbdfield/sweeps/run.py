"""One sweep: from its plan to a directory with a run of every point, a table of all, figures and a report.

    plan -> which points stand already -> the others, in worker processes -> index -> scores.json -> figures -> report

A point's own directory is what counts. The table of the sweep is written now and then while points run, and whole
again at the end; a kill at any instant costs at most what the running points did since their last snapshots.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bbdfield import files, interrupts
from bbdfield.errors import Damaged, InputError
from bbdfield.plotting.records import record_of_study, recorded
from bbdfield.provenance import now, provenance
from bbdfield.studies.log import LOGGER, logged
from bbdfield.studies.report import figures_of, read_json, read_text, write_page
from bbdfield.studies.run import CONFIG, was_altered
from bbdfield.sweeps import groups, index
from bbdfield.sweeps.describe import CAPTIONS, describe, settings_text
from bbdfield.sweeps.index import FAILURE, FINISHED, POINTS, UNFINISHED, Row
from bbdfield.sweeps.plan import Point, Sweep
from bbdfield.sweeps.point import DISK, Outcome, Task
from bbdfield.sweeps.point import FAILURE as FAILURE_FILE

PLAN, SCORES, ABOUT, REPORT, STOP = "sweep.toml", "scores.json", "sweep.json", "report.html", ".stop"
OUTPUTS = (index.CSV, index.HDF5, index.RUNGS, SCORES, ABOUT, REPORT, STOP, "log.txt", "figures")
#: what sweep.json keeps of each session before the last
SESSION = "created finished seconds command versions git_revision machine workers threads scheduler".split()
#: the index is written at most every so many seconds, and in at most so large a part of the time
EVERY, SHARE = 5.0, 0.01

Say = Callable[[str], None]


@dataclass(frozen=True)
class Progress:
    """How far a sweep is: points, and seconds until the last will be there (None: not known yet)."""

    finished: int
    failed: int
    remaining: int
    seconds_left: float | None

    @property
    def total(self) -> int:
        return self.finished + self.failed + self.remaining


def run_sweep(
    sweep: Sweep,
    out: Path,
    *,
    workers: int | None = None,
    threads: int = 1,
    scheduler: str | None = None,
    overwrite: bool = False,
    resume: bool = False,
    retry_failed: bool = False,
    say: Say | None = None,
    report: Callable[[Progress], None] | None = None,
) -> dict[str, Any]:
    """Run a sweep into the directory `out` and return its scores (the content of scores.json).

    Parameters
    ----------
    workers : processes on this machine (default: one per CPU).
    threads : of compiled kernels in each of them.
    scheduler : address of a Dask scheduler, whose workers run the points instead.
    overwrite : replace an earlier sweep in `out`.
    resume : go on with one; its plan may have changed: a point that stands is not computed again.
    retry_failed : with `resume`, compute failed points once more.
    say : gets one line per stage (default: standard error); all lines also go to log.txt.
    report : called whenever a point has ended.

    Raises
    ------
    InputError
        for a directory that is not to be written into, a plan of which no point is possible, a scheduler that does not
        answer, or a full disk.
    KeyboardInterrupt
        after one Ctrl-C (`interrupts.Stopped`) when running points have saved their next snapshots, after two at once.
    """
    points = sweep.points()
    _check_directory(out, overwrite=overwrite, resume=resume)
    if scheduler is not None and not resume:  # a finished sweep needs none
        from bbdfield.sweeps.cluster import check_scheduler

        check_scheduler(scheduler)
    files.make_directory(out)
    with files.locked(out):
        _check_directory(out, overwrite=overwrite, resume=resume)  # another process may have been first
        if overwrite:
            _clear(out)
        files.write_text(out / PLAN, sweep.to_toml())
        with logged(out), interrupts.deferred():
            state = _State(sweep, out, points, _teller(say), report, scheduler, workers or os.cpu_count() or 1, threads)
            return state.run(retry_failed)


def verdict(scores: dict[str, Any], out: Path) -> str:
    """One line: "195 of 200 points finished, 5 failed; first: seed = 3: ..."."""
    counts = scores["counts"]
    line = f"{counts['finished']} of {counts['points']} points finished"
    if counts["failed"]:
        settings, reason = next(iter(failures_of(out)), ("", "see sweep.csv"))
        line += f", {counts['failed']} failed; first: {settings}{': ' if settings else ''}{reason}"
    return line


def write_report(run_dir: Path) -> Path:
    """Write report.html from what the directory of a sweep holds.

    Raises
    ------
    InputError
        when the sweep has not finished, or a file is missing or not what a sweep writes.
    Damaged
        when scores.json or sweep.toml was altered, by the digests in sweep.json, or sweep.h5.
    """
    about = read_json(run_dir / ABOUT)
    if not about.get("finished"):
        raise InputError(f"{run_dir}: holds a sweep that has not finished; go on with --resume")
    for name, wanted in ((SCORES, about.get("scores_sha256")), (PLAN, about.get("plan_sha256"))):
        if wanted is not None and _sha256(read_text(run_dir / name)) != wanted:
            remedy = "restore it, or resume with it" if name == PLAN else "--resume computes it again"
            raise Damaged(f"{run_dir / name}: altered since it was written (digest differs); {remedy}")
    scores, plan = read_json(run_dir / SCORES), read_text(run_dir / PLAN)
    failures = failures_of(run_dir)
    try:
        title = str(scores["title"] or f"Sweep {run_dir.resolve().name}")
        description = describe(scores, failures)
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise InputError(
            f"{run_dir / SCORES}: not the scores of a sweep ({type(error).__name__}); resume it"
        ) from error
    name = run_dir.resolve().name
    return write_page(
        run_dir / REPORT,
        title,
        description,
        figures_of(run_dir, CAPTIONS, expected=False),
        command=shlex.join(["bbdfield", "sweep", f"{name}/{PLAN}", "--out", f"{name}-again"]),
        note=f"The plan below is complete. {index.CSV} and {index.HDF5} have every setting and score of every point,"
        f" {POINTS}/ their runs.",
        provenance=about,
        configuration=plan,
    )


def failures_of(out: Path) -> list[tuple[str, str]]:
    """(settings, reason) of every failed point of a sweep's directory."""
    about, columns = index.read_index(out)
    try:
        keys, status, reasons = about["keys"], columns["status"].tolist(), columns["reason"].tolist()
        found = [number for number, each in enumerate(status) if each == FAILURE]
        return [(settings_text({key: columns[key][n].item() for key in keys}), reasons[n]) for n in found]
    except (ArithmeticError, AttributeError, LookupError, TypeError) as error:
        raise InputError(f"{out / index.HDF5}: holds no sweep; resume the sweep to write it again") from error


@dataclass
class _State:
    """A sweep while it runs."""

    sweep: Sweep
    out: Path
    points: list[Point]
    say: Say
    report: Callable[[Progress], None] | None
    scheduler: str | None
    workers: int
    threads: int
    rows: dict[str, Row] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)  # of their statuses
    took: list[float] = field(default_factory=list)  # seconds of every point that finished in this session
    began: float = 0.0

    def run(self, retry_failed: bool) -> dict[str, Any]:
        started, stop = time.monotonic(), self.out / STOP
        stop.unlink(missing_ok=True)
        about = self._about()
        files.write_text(self.out / ABOUT, _dump(about))
        self._look(retry_failed)
        try:
            self._compute()
        finally:
            stop.unlink(missing_ok=True)
        self._write_index()
        about |= self._circumstances() | ({} if self.scheduler else {"workers": self.workers})
        if interrupts.asked():
            files.write_text(self.out / ABOUT, _dump(about | {"seconds": round(time.monotonic() - started, 1)}))
            self.say(f"stopped with {self.counts[UNFINISHED]} of {len(self.points)} points to go")
            raise interrupts.Stopped
        scores = self._scores()
        text = _dump(scores)
        files.write_text(self.out / SCORES, text)
        self._forget_pictures()
        seconds = round(time.monotonic() - started, 1)
        about |= {"finished": now(), "seconds": seconds, "scores_sha256": _sha256(text)}
        files.write_text(self.out / ABOUT, _dump(about))
        if self.sweep.figures:
            self.say("drawing")
            with recorded(record_of_study(about, self.sweep.to_toml())):
                self._draw()
        report = write_report(self.out)
        if self.sweep.figures:
            self.say(f"report: {report}")
        return scores

    def _about(self) -> dict[str, Any]:
        """This session and, in a few words each, those before it; a point's own run.json says which computed it."""
        before: dict[str, Any] = {}
        with suppress(InputError):
            before = read_json(self.out / ABOUT)
        earlier = before.get("earlier")
        about = {**provenance(), "finished": None, "seconds": None, "workers": None, "threads": self.threads}
        about |= {"scheduler": self.scheduler} if self.scheduler else {"workers": self.workers}
        told = {key: before[key] for key in SESSION if key in before}
        return {
            **about,
            "seeds": sorted({point.config.seed for point in self.points if point.config is not None}),
            "plan_sha256": _sha256(self.sweep.to_toml()),
            "earlier": [*(earlier if isinstance(earlier, list) else []), *([told] if told else [])],
        }

    def _circumstances(self) -> dict[str, Any]:
        """On which devices and data the points ran, whenever that was."""
        told = (each for row in self.rows.values() for each in row.device.split("; "))
        devices = dict.fromkeys(each for each in told if ": " in each)  # "lattice: NumPy on the CPU", and no numbers
        data = {row.data.get("digest"): row.data for row in self.rows.values() if row.data}
        return {"device": "; ".join(devices), "data": [*data.values()]}

    # which points there are, and how they stand

    def _look(self, retry_failed: bool) -> None:
        """Read what stands already, and say it."""
        merged = self.sweep.count() - len(self.points)
        if merged:
            self.say(f"{merged} of {self.sweep.count()} combinations are the same run as another one: computed once")
        refused = [point for point in self.points if point.config is None]
        if refused:
            first = f"{settings_text(refused[0].settings)}: {refused[0].refusal}"
            self.say(f"{len(refused)} of {len(self.points)} points are impossible; first: {first}")
        for found in index.collect(self.out, self.points):
            self._enter(found)
        for row in self.rows.values():
            if row.status == UNFINISHED:
                self._mend(row.point)
        if retry_failed:
            self._forget_failures()
        other = self._others()
        if other:
            self.say(
                f"{other} runs in {self.out / POINTS} are no points of this sweep (any more); they stay as they are"
            )
        of = f"of {len(self.points)} points"
        self.say(f"{self.counts[FINISHED]} {of} stand already, {self.counts[UNFINISHED]} to compute")
        again = sum(row.status == FAILURE and row.point.config is not None for row in self.rows.values())
        if again:
            self.say(f"{again} failed points stay failed; --retry-failed computes them again")

    def _mend(self, point: Point) -> None:
        """Say what was altered in an unfinished point; a configuration that does not fit its name is written again."""
        assert point.config is not None
        run = index.directory_of(self.out, point)
        if was_altered(run):
            self.say(f"{run / SCORES}: altered since it was written; it is computed again from the trajectories")
        try:
            same = (run / CONFIG).read_text(encoding="utf-8", errors="replace") == point.config.to_toml()
        except FileNotFoundError:
            return
        except OSError as error:
            raise InputError(f"{run / CONFIG}: cannot be read ({error.strerror}); check the directory") from error
        if not same:
            self.say(f"{run / CONFIG}: altered since it was written; it is written again")
            files.write_text(run / CONFIG, point.config.to_toml())

    def _forget_failures(self) -> None:
        for row in list(self.rows.values()):
            if row.status == FAILURE and row.point.config is not None:
                (index.directory_of(self.out, row.point) / FAILURE_FILE).unlink(missing_ok=True)
                self._enter(Row(row.point))

    def _others(self) -> int:
        """Number of runs that are no points of this plan."""
        folder = self.out / POINTS
        return sum(_is_run(path) and path.name not in self.rows for path in folder.glob("*"))

    def _enter(self, row: Row) -> None:
        """Take note of how a point stands now."""
        before = self.rows.get(row.point.name)
        if before is not None:
            self.counts[before.status] -= 1
        self.counts[row.status] += 1
        self.rows[row.point.name] = row

    # computing

    def _compute(self) -> None:
        """Run what is unfinished; the table follows now and then."""
        tasks = [self._task(row.point) for row in self.rows.values() if row.status == UNFINISHED]
        self._tell()
        if not tasks or interrupts.asked():
            return
        files.make_directory(self.out / POINTS)
        due, self.began = 0.0, time.monotonic()
        with closing(self._outcomes(tasks)) as outcomes:  # on a full disk, say, workers are stopped at once
            for outcome in outcomes:
                self._take(outcome)
                self._tell()
                before = time.monotonic()
                if before >= due:
                    self._write_index()
                    due = time.monotonic() + max(EVERY, (time.monotonic() - before) / SHARE)

    def _outcomes(self, tasks: list[Task]) -> Generator[Outcome]:
        if self.scheduler is not None:
            from bbdfield.sweeps.cluster import run_on_cluster

            self.say(f"points run on the cluster at {self.scheduler}")
            yield from run_on_cluster(tasks, self.scheduler, say=self.say)
            return
        from bbdfield.sweeps.local import run_local

        self.workers = min(self.workers, len(tasks))
        each = f"{self.threads} thread{'s' if self.threads > 1 else ''} each"
        self.say(f"points run in {self.workers} processes, {each}")
        yield from run_local(tasks, self.workers, self.threads)

    def _task(self, point: Point) -> Task:
        assert point.config is not None
        directory = index.directory_of(self.out.absolute(), point)
        return Task(point.name, point.config.to_toml(), directory, self.out.absolute() / STOP, self.threads)

    def _take(self, outcome: Outcome) -> None:
        """Enter what has become of a point."""
        point = self.rows[outcome.name].point
        row = Row(point)
        if outcome.status == FINISHED:
            row = index.read_row(self.out, point)
            if row.status == FINISHED:
                self.took.append(outcome.seconds)
            else:
                row = Row(
                    point, FAILURE, "finished, but its files are not there; is this the same file system?", "error"
                )
        elif outcome.status == FAILURE:
            if outcome.kind_of_failure == DISK:
                raise InputError(f"{outcome.reason}; the sweep stops, --resume goes on when there is room")
            row = Row(point, FAILURE, outcome.reason, outcome.kind_of_failure)
            LOGGER.warning("%s failed: %s", settings_text(point.settings) or point.name, outcome.reason)
        self._enter(row)

    def _tell(self) -> None:
        if self.report is None:
            return
        finished, failed, remaining = (self.counts[key] for key in (FINISHED, FAILURE, UNFINISHED))
        left = None
        if self.took:  # of a cluster, how fast it is is all that is known
            spent = sum(self.took) / self.workers if self.scheduler is None else time.monotonic() - self.began
            left = spent / len(self.took) * remaining
        self.report(Progress(finished, failed, remaining, left))

    # what is written

    def _write_index(self) -> None:
        about = {"title": self.sweep.title, "points_kind": str(self.sweep.base["kind"])}
        index.write_index(self.out, list(self.rows.values()), self.sweep.keys, about)

    def _scores(self) -> dict[str, Any]:
        """What the points say together: no times, no paths, no names of machines."""
        rows, kind = list(self.rows.values()), str(self.sweep.base["kind"])
        found = groups.observations(rows)
        main = groups.main_scores(kind, self.sweep.scores, found)
        missing = [score for score in self.sweep.scores if score not in main]
        if missing:
            self.say(f"sweep.scores: no point has {', '.join(missing)}; sweep.csv has the names of all scores")
        swept = {key: len({groups.toml_text(row.point.settings[key]) for row in rows}) for key in self.sweep.keys}
        return {
            "kind": "sweep",
            "title": self.sweep.title,
            "points_kind": kind,
            "counts": {
                "points": len(rows),
                **{status: self.counts[status] for status in (FINISHED, FAILURE, UNFINISHED)},
            },
            "swept": swept,
            "main_scores": main,
            "groups": groups.summarise(found, main),
            "fitted_orders": groups.fit_orders(found, main) if kind == "continuum" else [],
        }

    def _forget_pictures(self) -> None:
        """Report and figures of an earlier plan; what else lies there is the user's own."""
        (self.out / REPORT).unlink(missing_ok=True)
        for path in (self.out / "figures").glob("*.png"):
            if path.stem in CAPTIONS:
                path.unlink()

    def _draw(self) -> None:
        from bbdfield.sweeps.figures import draw

        draw(self.sweep, list(self.rows.values()), self.out / "figures")


# the directory


def _check_directory(out: Path, *, overwrite: bool, resume: bool) -> None:
    """Refuse a directory that is not to be written into; touches nothing."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file; choose another directory with --out")
    if not out.is_dir() or not files.is_occupied(out):
        return
    if not (out / PLAN).is_file():
        wanted = "resumed" if resume else "overwritten"
        raise InputError(f"{out}: is not a sweep's directory, so it is not {wanted}; choose another one")
    if not overwrite and not resume:
        raise InputError(f"{out}: exists already; choose another directory, or --overwrite or --resume it")


def _clear(out: Path) -> None:
    """Remove what a sweep left, but what is not its own; sweep.toml still says whose directory it is."""
    runs = (path for path in (out / POINTS).glob("*") if _is_run(path))
    try:
        for path in [*(out / name for name in OUTPUTS), *runs]:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be removed ({error.strerror}); choose another directory") from error


def _is_run(path: Path) -> bool:
    """Whether a directory has the name of a point."""
    return len(path.name) == 16 and set(path.name) <= set("0123456789abcdef")


def _teller(say: Say | None) -> Say:
    def tell(line: str) -> None:
        LOGGER.info(line)
        (say or (lambda text: print(text, file=sys.stderr)))(line)

    return tell


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _dump(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=1, allow_nan=False) + "\n"
