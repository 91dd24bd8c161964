"""The figures of a study: which data go into which figure, under which file name.

Matplotlib is loaded with this module; import it where figures are made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bbdfield.comparison.scores import Score
from bbdfield.model.run import Run
from bbdfield.plotting.convergence import FittedOrder, figure_convergence
from bbdfield.plotting.curves import TrainingCurve, figure_depth_profile, figure_error_over_time, figure_training
from bbdfield.plotting.fields import figure_field_comparison
from bbdfield.plotting.style import save

if TYPE_CHECKING:
    from bbdfield.studies.config import StudyConfig

QUANTITIES = ("z", "w", "b", "loss")


def write_figures(
    out_dir: Path,
    lattice_runs: Sequence[Run],
    field_runs: Mapping[tuple[int, int], Run],
    scores: Sequence[tuple[int, int, Score]],
    summary: Mapping[str, Any],
    config: StudyConfig,
) -> list[Path]:
    """Write all figures of a study to `out_dir`/figures; the ones over fields and time show the finest rung.

    Parameters
    ----------
    out_dir : the run directory.
    lattice_runs : one per rung.
    field_runs : (order, rung) -> field run.
    scores : (order, rung, score).
    summary : the content of scores.json, for fitted orders and the error of the field's own grid.

    Returns
    -------
    The files, in the order in which a report shows them.
    """
    folder = out_dir / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    finest = max(range(len(lattice_runs)), key=lambda i: lattice_runs[i].grid.n_x * lattice_runs[i].grid.n_y)
    network = lattice_runs[finest]
    last_fields = {order: run for (order, rung), run in sorted(field_runs.items()) if rung == finest}
    last_scores = {order: score for order, rung, score in scores if rung == finest}
    best = last_fields[max(last_fields)]

    files = [
        save(figure_field_comparison(network, best, quantity="z"), folder / "z-comparison.png"),
        save(figure_field_comparison(network, best, quantity="w"), folder / "w-comparison.png"),
    ]
    curves = [TrainingCurve.of(run, f"network {run.grid.n_x} × {run.grid.n_y}") for run in lattice_runs]
    curves += [TrainingCurve.of(run, f"field of order {order}") for order, run in last_fields.items()]
    files.append(save(figure_training(curves), folder / "training.png"))

    axis = config.fitted_against()
    if axis is not None:
        spacings = [
            run.lattice.a_x / run.lattice.length_x if axis == "a_x" else run.lattice.a_y / run.lattice.length_y
            for run in lattice_runs
        ]
        errors = _by_order({(order, rung): score.error for order, rung, score in scores}, len(lattice_runs))
        rungs = {size: rung for rung, size in enumerate(config.rungs())}
        changes = {(r["order"], rungs[r["depth"], r["width"]]): r.get("grid_error_by") or {} for r in summary["rungs"]}
        grid = _by_order({key: change for key, change in changes.items() if change}, len(lattice_runs))
        figure = figure_convergence(spacings, errors, _fits(summary), spacing_name=axis, grid_errors=grid)
        files.append(save(figure, folder / "convergence.png"))
    files.append(save(figure_error_over_time(last_scores), folder / "error-over-time.png"))
    files.append(save(figure_depth_profile(last_scores), folder / "depth-profile.png"))
    return files


@dataclass(frozen=True)
class _Fit:
    order: float
    ci: tuple[float, float] | None


def _fits(summary: Mapping[str, Any]) -> dict[int, dict[str, FittedOrder]]:
    """Fitted orders of scores.json; without those that could not be fitted."""
    intervals = summary["fitted_order_ci"]
    return {
        int(order): {
            name: _Fit(slope, tuple(ci) if (ci := intervals[order][name]) else None)
            for name, slope in slopes.items()
            if slope is not None
        }
        for order, slopes in summary["fitted_order"].items()
    }


def _by_order(values: Mapping[tuple[int, int], Mapping[str, float]], rungs: int) -> dict[int, dict[str, list[float]]]:
    """order -> quantity -> one number per rung, NaN where there is none."""
    missing: dict[str, float] = {}
    return {
        order: {
            name: [values.get((order, rung), missing).get(name, float("nan")) for rung in range(rungs)]
            for name in QUANTITIES
        }
        for order in sorted({order for order, _ in values})
    }
