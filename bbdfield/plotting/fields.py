"""Fields as images: ẑ and b̂ over (x, y), ŵ over (x, u); network beside field, and the evolution of one trajectory.

x and y are shown in units of L_x and L_y, u in units of L_y. Signed fields have a symmetric diverging scale, and panels
that are to be compared share one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure

from bbdfield.errors import InputError
from bbdfield.fields.coarse_graining import restrict, restrict_sites
from bbdfield.model.run import Run
from bbdfield.plotting import style
from bbdfield.plotting.curves import TrainingCurve, draw_loss, smoothing_width
from bbdfield.plotting.records import record_of
from solvers.grids import Grid

QUANTITIES = ("z", "w", "b")
Channel = int | tuple[int, int]


@dataclass(frozen=True)
class Plane:
    """What one image shows: values (horizontal, vertical), the edges of its cells, and its labels.

    Edges are in units of L_x (horizontal) and L_y (vertical); vertical_ticks are given where the vertical axis counts.
    """

    values: np.ndarray
    horizontal: np.ndarray
    vertical: np.ndarray
    vertical_label: str
    symbol: str
    component: str
    vertical_ticks: tuple[int, ...] = ()


def plane(
    run: Run, quantity: str, snapshot: int, *, sample: int = 0, channel: Channel = 0, grid: Grid | None = None
) -> Plane:
    """One component of ẑ, ŵ or b̂ at one snapshot, on the run's own grid or evaluated at the points of `grid`.

    Parameters
    ----------
    quantity : "z" (x, y), "w" (x, u) or "b" (x, y); untied ŵ is taken in the middle of the width.
    snapshot : its index in the run.
    sample : index into the probe set (z only).
    channel : of z and b; for w (c_out, c_in), where one number stands for both.

    Raises
    ------
    InputError
        for a quantity, snapshot, sample or channel that the run does not have.
    """
    out, into = (channel, channel) if isinstance(channel, int) else channel
    _known(run, quantity, snapshot, sample, out, into)
    own = run.grid
    grid = grid or own
    symbol = style.SYMBOLS[quantity]
    if quantity == "z":
        values = run.z(snapshot)
        if grid != own:
            values = restrict_sites(values, own, grid)
        component = f"channel {out}, sample {sample}"
        values = values[:, :, out, sample]
        return Plane(values, _site_edges(grid.n_x), _cells(grid.n_y), style.Y_LABEL, symbol, component)
    state = run.fields(snapshot)
    if grid != own:
        state = restrict(state, grid)
    if quantity == "b":
        return Plane(state.b[:, :, out], _cells(grid.n_x), _cells(grid.n_y), style.Y_LABEL, symbol, f"channel {out}")
    weights, of = state.w, run.lattice.range
    label = style.U_LABEL if of.dimension == "u" else of.dimension
    if not of.tied:
        weights, label = weights[:, grid.n_y // 2], f"{label}, mid-width"
    component = f"channels {into} → {out}"
    if of.dimension != "u":
        counted = of.components(grid)
        edges = np.append(counted - 0.5, counted[-1] + 0.5)
        ticks = tuple(int(k) for k in counted)
        return Plane(weights[:, out, :, into], _cells(grid.n_x), edges, label, symbol, component, ticks)
    half = weights.shape[-2] // 2
    taps = (np.arange(2 * half + 2) - half - 0.5) / grid.n_y
    return Plane(weights[:, out, :, into], _cells(grid.n_x), taps, label, symbol, component)


def draw_plane(ax: Axes, content: Plane, limit: float, *, colormap: str = style.SIGNED) -> QuadMesh:
    """The image of a plane on the scale [-limit, limit], with labelled axes."""
    mesh = ax.pcolormesh(
        content.horizontal, content.vertical, content.values.T, cmap=colormap, vmin=-limit, vmax=limit, rasterized=True
    )
    ax.grid(False)
    ax.set_xlim(content.horizontal[0], content.horizontal[-1])
    ax.set_ylim(content.vertical[0], content.vertical[-1])
    ax.set_xticks([0, 0.5, 1], ["0", ".5", "1"])
    if content.vertical_ticks:
        ax.set_yticks(content.vertical_ticks)
    elif content.vertical[0] == 0:
        ax.set_yticks([0, 0.5, 1], ["0", ".5", "1"])
    else:
        reach = float(f"{0.75 * content.vertical[-1]:.1g}")
        ax.set_yticks([-reach, 0, reach], [f"−{reach:g}", "0", f"{reach:g}"])
    ax.set_xlabel(style.X_LABEL)
    ax.set_ylabel(content.vertical_label)
    return mesh


@style.styled
def figure_field_comparison(
    run: Run,
    sim: Run,
    *,
    quantity: str = "z",
    sample: int = 0,
    channel: Channel = 0,
    snapshots: Sequence[int] | None = None,
) -> Figure:
    """Rows network | field | difference, columns times: the field theory against the network that was trained.

    Network and field share one scale; the difference, taken on the network's own points, has its own.

    Parameters
    ----------
    run, sim : lattice run and field run of the same training.
    quantity, sample, channel : as in `plane`.
    snapshots : indices into the times that both have stored (default: four, from the first to the last).

    Raises
    ------
    InputError
        when the runs have no snapshot in common, or not what was asked for.
    """
    steps, in_sim, in_run = np.intersect1d(sim.steps, run.steps, return_indices=True)
    if not steps.size:
        raise InputError(
            f"{sim.path} and {run.path} have no snapshot in common; record both with the same snapshot_every"
        )
    chosen = _spread(steps.size, 4) if snapshots is None else list(snapshots)
    if not chosen or not all(-steps.size <= i < steps.size for i in chosen):
        raise InputError(
            f"snapshots = {chosen}: {run.path} and {sim.path} have {steps.size} in common, 0 to {steps.size - 1}"
        )

    exact = [plane(run, quantity, int(in_run[i]), sample=sample, channel=channel) for i in chosen]
    field = [plane(sim, quantity, int(in_sim[i]), sample=sample, channel=channel) for i in chosen]
    wanted = [plane(sim, quantity, int(in_sim[i]), sample=sample, channel=channel, grid=run.grid) for i in chosen]
    difference = [
        dataclasses.replace(mine, values=theirs.values - mine.values)
        for mine, theirs in zip(exact, wanted, strict=True)
    ]
    limit = style.symmetric_limit(*[p.values for p in (*exact, *field)])
    fine = style.symmetric_limit(*[p.values for p in difference])

    columns = len(chosen)
    figure = style.new_figure(2.1 + 2.35 * columns, 6.9)
    axes = figure.subplots(3, columns, sharex=True, sharey=True, squeeze=False)
    rows = [
        ("network", exact, limit, style.SIGNED),
        (_name(sim), field, limit, style.SIGNED),
        ("difference", difference, fine, style.DIFFERENCE),
    ]
    for row, (name, planes, scale, colormap) in enumerate(rows):
        for column, content in enumerate(planes):
            mesh = draw_plane(axes[row, column], content, scale, colormap=colormap)
            axes[row, column].label_outer()
        axes[row, 0].set_ylabel(f"{name}\n{planes[0].vertical_label}")
        if row == 1:
            bar = figure.colorbar(mesh, ax=axes[:2].ravel().tolist(), aspect=34, pad=0.015)
            bar.set_label(f"{exact[0].symbol}, network and field")
        elif row == 2:
            bar = figure.colorbar(mesh, ax=axes[2].tolist(), aspect=16, pad=0.015)
            bar.set_label(f"field − network\n({_magnification(limit, fine, difference)})")
    for column, i in enumerate(chosen):
        axes[0, column].set_title(f"$t$ = {run.t[in_run[i]]:.4g}")
    last = float(np.linalg.norm(difference[-1].values) / (np.linalg.norm(exact[-1].values) or 1.0))
    who = f"{exact[0].symbol} of the {_sizes(run)} network and of its {_name(sim)} ({exact[0].component})"
    when = f"$t$ = {run.t[in_run[chosen[-1]]]:.4g}"
    figure.suptitle(f"{who}: they differ by {style.fraction(last)} at {when}")
    return figure


@style.styled
def figure_trajectory(
    run: Run, *, channel: Channel = 0, sample: int = 0, snapshots: Sequence[int] | None = None
) -> Figure:
    """The evolution of one trajectory, of network or field: ẑ and ŵ at some times, and the loss beneath.

    Raises
    ------
    InputError
        when the run has no snapshot yet, or not what was asked for.
    """
    require_snapshots(run)
    chosen = _spread(run.t.size, 5) if snapshots is None else list(snapshots)
    planes = {
        quantity: [plane(run, quantity, i, sample=sample, channel=channel) for i in chosen] for quantity in ("z", "w")
    }
    columns = len(chosen)
    figure = style.new_figure(1.6 + 2.2 * columns, 7.2)
    spec = figure.add_gridspec(3, columns, height_ratios=(1, 1, 0.8))
    for row, contents in enumerate(planes.values()):
        axes = [figure.add_subplot(spec[row, column]) for column in range(columns)]
        limit = style.symmetric_limit(*[content.values for content in contents])
        for column, (ax, content) in enumerate(zip(axes, contents, strict=True)):
            mesh = draw_plane(ax, content, limit)
            if column:
                ax.set_ylabel("")
                ax.tick_params(labelleft=False)
            if row == 0:
                ax.set_title(f"$t$ = {run.t[chosen[column]]:.4g}")
                ax.set_xlabel("")
                ax.tick_params(labelbottom=False)
        figure.colorbar(mesh, ax=axes, aspect=18, pad=0.015).set_label(f"{contents[0].symbol}, {contents[0].component}")
    ax = figure.add_subplot(spec[2, :])
    draw_loss(ax, [TrainingCurve.of(run, "training loss")])
    for i in chosen:
        ax.axvline(run.t[i], color=style.GREY, linewidth=0.8, linestyle=":")
    figure.suptitle(trajectory_title(run))
    return figure


def plot_trajectory(run: Run, out: str | Path, *, channel: Channel = 0, sample: int = 0) -> Path:
    """Write `figure_trajectory` to a .png, .pdf or .svg file."""
    return style.save(figure_trajectory(run, channel=channel, sample=sample), out, record_of(run))


def trajectory_title(run: Run) -> str:
    """What was trained, on which grid, and how its loss went."""
    what = f"{_sizes(run)} network" if run.kind == "lattice" else f"{_name(run)} on {_sizes(run)} cells"
    loss = run.loss[np.isfinite(run.loss)]
    if not loss.size:
        return what
    width = smoothing_width(loss.size)
    return f"{what}: loss {loss[:width].mean():.3g} → {loss[-width:].mean():.3g} until $t$ = {run.t[-1]:.4g}"


def require_snapshots(run: Run) -> None:
    if not run.t.size:
        raise InputError(f"{run.path}: no snapshot yet, so there is nothing to draw; resume the run first")


def _known(run: Run, quantity: str, snapshot: int, sample: int, out: int, into: int) -> None:
    if quantity not in QUANTITIES:
        raise InputError(f"quantity = {quantity!r}: use one of {', '.join(QUANTITIES)}")
    require_snapshots(run)
    counts = [("snapshot", snapshot, run.t.size), ("channel", out, run.lattice.channels)]
    counts += [("channel", into, run.lattice.channels), ("sample", sample, len(run.boundary.probe_index))]
    for name, value, count in counts:
        if not -count <= value < count:
            raise InputError(f"{name} = {value}: {run.path} has {count}, numbered 0 to {count - 1}")


def _site_edges(count: int) -> np.ndarray:
    """Edges of the cells around the sites 0, 1/n, ..., 1; those at the ends are halved."""
    return np.concatenate([[0.0], (np.arange(count) + 0.5) / count, [1.0]])


def _cells(count: int) -> np.ndarray:
    return np.arange(count + 1) / count


def _spread(count: int, wanted: int) -> list[int]:
    """Up to `wanted` indices from the first to the last of `count`."""
    return np.unique(np.linspace(0, count - 1, wanted).round().astype(int)).tolist()


def _sizes(run: Run) -> str:
    return f"{run.grid.n_x} × {run.grid.n_y}"


def _name(run: Run) -> str:
    """How a run is called in a figure."""
    if run.kind == "lattice":
        return "network"
    order = run.config.get("field", {}).get("order")
    return "field" if order is None else f"field of order {order}"


def _magnification(limit: float, fine: float, difference: Sequence[Plane]) -> str:
    if not any(np.any(content.values) for content in difference):
        return "equal everywhere"
    return f"enlarged {float(f'{limit / fine:.2g}'):.0f} ×"
