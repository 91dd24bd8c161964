"""Figures of invariant manifolds: distances to them, condensation, and what depends on y."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bbdfield.plotting import style

#: kind -> its words, its colour
LOOKS = {
    "equal": ("equal", style.ORDER_COLORS[1]),
    "opposite": ("opposite", style.ORDER_COLORS[2]),
    "zero": ("zero", "#E69F00"),
    "proportional": ("proportional", style.ORDER_COLORS[3]),
    "inputs": ("equal inputs, unequal outputs: no invariant manifold", style.ORDER_COLORS[0]),
}
NEAR, DECAYED = "#56B4E9", "#7a7a7a"
_LEAST = 1e-16
#: where all distances are larger, or one is exactly 0, they are shown on a linear scale
_NEAR = 0.03
#: deviations below are rounding
_ROUNDING = 1e-10


@style.styled
def figure_manifolds(
    panels: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray | None]],
    kinds: Sequence[str],
    activation: str,
    bitwise: bool,
) -> Figure:
    """Distance to the manifold against steps, with a strip for what is exactly zero.

    Parameters
    ----------
    panels : network -> distances (kind, step), NaN for kinds that it has not; of nearby starts (pair, step); and, or
        None, of nearby starts with weight decay.
    bitwise : whether all ties held bit for bit, in these and all other networks.
    """
    figure = style.new_figure(11.0, 5.6)
    axes = figure.subplots(2, len(panels), sharex=True, squeeze=False, height_ratios=[4.2, 1])
    for column, (name, (distance, *starts)) in enumerate(panels.items()):
        top, strip = axes[:, column]
        steps = np.arange(distance.shape[1])
        on = [k for k, row in enumerate(distance) if np.isfinite(row).all() and not row.any()]
        for k, row in enumerate(distance):
            if not np.isfinite(row).all() or k in on:
                continue
            words, color = LOOKS[kinds[k]]
            top.plot(steps[1:], style.positive(row[1:]), color=color, linewidth=2.2, label=words)
            _say(top, words, steps, row, color)
        words = "starts near equal neurons"
        for near, color, label in zip(starts, (NEAR, DECAYED), (words, f"{words}, weight decay"), strict=True):
            for pair, row in enumerate([] if near is None else near):
                top.plot(
                    steps[1:], style.positive(row[1:]), color=color, linewidth=1.0, label=label if pair == 0 else None
                )
        _strip(strip, [kinds[k] for k in on], steps[-1])
        top.set_xscale("log")
        top.set_yscale("log")
        low, high = top.get_ylim()
        top.set_ylim(max(low / 4, _LEAST), high * 2)
        top.set_title(f"{name}, {activation}, with momentum")
        top.spines["bottom"].set_visible(False)
        top.tick_params(axis="x", which="both", length=0)
        _cut(top, strip)
        strip.set_xlabel("step")
        if column == 0:
            top.set_ylabel("distance to the manifold\n(norm per neuron at the start = 1)")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    distances = [distance for distance, *_ in panels.values()]
    go = _go([near for _, near, _ in panels.values()])
    decayed = [near for *_, near in panels.values() if near is not None]
    with_decay = f", but {_go(decayed)} with weight decay" if decayed and _go(decayed) != go else ""
    apart = _apart([distance[list(kinds).index("inputs")] for distance in distances])
    figure.suptitle(f"{_kept(distances, kinds, bitwise)};\n{apart}; starts nearby {go}{with_decay}")
    return figure


def _kept(distances: Sequence[np.ndarray], kinds: Sequence[str], bitwise: bool) -> str:
    """Which ties held in every panel that has them, and which did not."""
    held: list[str] = []
    broken: list[str] = []
    for k, kind in enumerate(kinds):
        rows = [distance[k] for distance in distances if np.isfinite(distance[k]).all()]
        if kind != "inputs" and rows:
            (broken if any(row.any() for row in rows) else held).append(LOOKS[kind][0])
    if not held:
        return "No tie holds bit for bit in all of these networks"
    kept = f"{_and(held).capitalize()} neurons stay so bit for bit through {len(distances[0][0]) - 1:,} steps"
    if broken:
        return f"{kept}, {_and(broken)} ones not in all of these networks"
    return kept if bitwise else f"{kept} here, though not in all networks"


def _apart(rows: Sequence[np.ndarray]) -> str:
    """What became of neurons that share only their inputs."""
    left = [bool(row[-1] > 0) for row in rows]
    if not all(left):
        part = f"part in {sum(left)} of {len(left)} networks" if any(left) else "do not part"
        return f"neurons that share only their inputs {part}"
    at_once = all(row[1] > 0 for row in rows)
    return f"neurons that share only their inputs part{' at once' if at_once else ''}"


def _go(starts: Sequence[np.ndarray]) -> str:
    """Whether pairs end farther from the manifold than they start."""
    ratios = np.concatenate([near[:, -1] / near[:, 0] for near in starts])
    return "move away" if ratios.min() > 1 else "come nearer" if ratios.max() < 1 else "go either way"


def _and(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else ""


def _say(ax: Axes, words: str, steps: np.ndarray, row: np.ndarray, color: Any) -> None:
    """The first distance, where the line begins."""
    if row[0] == 0 and len(row) > 1 and row[1] > 0:
        ax.plot(steps[1], row[1], "o", color=color, markersize=5)
        ax.annotate(
            "exactly 0 at the start,\nhere after one step", (steps[1], row[1]), (10, -2), textcoords="offset points",
            fontsize=9, color=color, va="top",
        )  # fmt: skip


def _strip(ax: Axes, kinds: Sequence[str], last: int) -> None:
    """What is exactly zero: one line each, and no scale."""
    ax.set_ylim(-0.6, max(len(kinds), 1) - 0.4)
    for level, kind in enumerate(reversed(kinds)):
        words, color = LOOKS[kind]
        ax.plot([1, last], [level, level], color=color, linewidth=2.6)
        ax.text(1.15, level + 0.08, words, color=color, fontsize=9, va="bottom")
    ax.set_facecolor("#f4f4f4")
    ax.set_yticks([0.5 * (len(kinds) - 1)], ["exactly 0"])
    ax.tick_params(axis="y", length=0)
    ax.grid(False)


def _cut(top: Axes, strip: Axes) -> None:
    """Marks of a broken axis between the two."""
    mark: dict[str, Any] = {
        "marker": [(-1, -0.6), (1, 0.6)],
        "markersize": 9,
        "linestyle": "none",
        "color": style.DARK,
        "mec": style.DARK,
        "mew": 1,
        "clip_on": False,
    }
    top.plot([0], [0], transform=top.transAxes, **mark)
    strip.plot([0], [1], transform=strip.transAxes, **mark)


@style.styled
def figure_condensation(
    cosines: np.ndarray,
    moments: Sequence[int],
    looks: np.ndarray,
    directions: Mapping[str, np.ndarray],
    scores: Mapping[str, Any],
) -> Figure:
    """Cosines of neurons at three moments, and along how many lines they point.

    Parameters
    ----------
    cosines : (3, n, n).   moments : their steps.   looks : (k,) steps.   directions : network -> (k,).
    scores : of starts near a manifold and of small ones.
    """
    figure = style.new_figure(12.5, 3.9)
    axes = figure.subplots(1, 4, width_ratios=[1, 1, 1, 1.7])
    order = _sorted(cosines[1])
    for ax, matrix, step in zip(axes, cosines, moments, strict=False):
        shown = matrix[np.ix_(order, order)]
        mesh = ax.imshow(shown, vmin=-1, vmax=1, cmap=style.SIGNED, interpolation="nearest")
        ax.grid(False)
        ax.set_title(f"step {step:,}")
        ax.set_xlabel("neuron")
    axes[0].set_ylabel("neuron")
    figure.colorbar(mesh, ax=axes[:3], label="cosine of incoming weights", shrink=0.75)
    looked = {"small": "-", "ordinary": ":"}
    for name, values in directions.items():
        network, start = name.rsplit(", ", 1)
        color = style.ORDER_COLORS[1] if network == "two layers" else style.ORDER_COLORS[0]
        size = f" (× {scores['small'][name]['share']:.2g})" if start == "small" else ""
        axes[3].plot(looks, values, looked[start], color=color, label=f"{network}, {start} start{size}")
    axes[3].set_yscale("log")
    axes[3].set_yticks([1, 2, 5, 10, 20], ["1", "2", "5", "10", "20"])
    axes[3].minorticks_off()
    axes[3].set_ylim(0.9, None)
    axes[3].set_xlabel("step")
    axes[3].set_ylabel("lines along which neurons point")
    figure.legend(*axes[3].get_legend_handles_labels(), loc="outside lower right", ncols=4)
    small = scores["small"]["two layers, small"]
    condensed = small["least"] < 0.5 * small["start"]
    title = (
        f"From a small start {small['neurons']} neurons condense: from {small['start']:.3g} directions to"
        f" {small['least']:.2g} at step {small['least_step']:,}, and {small['end']:.2g} at the end"
        if condensed
        else f"No condensation: neurons point along {small['least']:.3g} directions or more"
    )
    figure.suptitle(title)
    return figure


def _sorted(matrix: np.ndarray) -> np.ndarray:
    """Neurons by their sign relative to the leading direction, so that blocks show."""
    _, vectors = np.linalg.eigh(matrix)
    leading = vectors[:, -1]
    return np.argsort(leading * np.sign(leading[np.argmax(np.abs(leading))]), kind="stable")


@style.styled
def figure_translation(t: np.ndarray, values: Mapping[str, np.ndarray], wave: float) -> Figure:
    """Deviation from what does not depend on y against time.

    Parameters
    ----------
    t : (n,) times.   values : "system, start" -> (n, 2) of parameters and of z.   wave : the size of the wave.
    """
    figure = style.new_figure(10.5, 4.2)
    axes = figure.subplots(1, 2, sharey=True)
    colors = {"uniform": style.ORDER_COLORS[1], "wave": style.ORDER_COLORS[0]}
    for ax, part, words in zip(axes, (0, 1), ("parameters", "pre-activations $z$ on the probe samples"), strict=True):
        for name, of in values.items():
            system, start = name.split(", ")
            words_start = "no $y$ at the start" if start == "uniform" else f"wave of {_power(wave)} along $y$"
            system_words = "network" if system == "lattice" else "field theory"
            look = (
                {"linestyle": "-"} if system == "lattice" else {"linestyle": "none", "marker": "o", "markersize": 3.5}
            )
            shown = np.maximum(of[:, part], _LEAST / 10)
            ax.plot(t, shown, color=colors[start], label=f"{system_words}, {words_start}", **look)
        ax.set_yscale("log")
        ax.set_xlabel(style.T_LABEL)
        ax.set_title(words)
    axes[0].set_ylabel("relative deviation from invariance in $y$")
    axes[0].set_ylim(_LEAST / 10, None)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    worst = max(float(of.max()) for name, of in values.items() if name.endswith("uniform"))
    waves = [of for name, of in values.items() if name.endswith("wave")]
    grown = max((float(of[-1, 0] / of[0, 0]) for of in waves if of[0, 0] > 0), default=1.0)
    does = (
        f"grows {grown:.2g}-fold" if grown > 1.05 else f"shrinks to {grown:.2g}" if grown < 0.95 else "stays as large"
    )
    stays = "stays so to" if worst < _ROUNDING else "comes to depend on it by"
    figure.suptitle(f"What does not depend on $y$ {stays} {_power(worst)}; a small wave along $y$ {does}")
    return figure


def _power(value: float) -> str:
    """One digit times a power of ten."""
    mantissa, exponent = f"{value:.0e}".split("e")
    return rf"${mantissa}\times 10^{{{int(exponent)}}}$" if value else "0"


@style.styled
def figure_observed(
    arrays: Mapping[str, np.ndarray], coordinates: Mapping[str, np.ndarray], summary: Mapping[str, Any], name: str
) -> Figure:
    """What `bbdfield.observables.manifolds` found in a run: least distances over time, and all pairs at the end."""
    t = np.asarray(coordinates["t"])
    kinds = [kind for kind in LOOKS if f"manifolds_{kind}" in arrays]
    pairs = [kind for kind in kinds if kind != "zero"]
    figure = style.new_figure(10.5 if pairs else 6.5, 4.6)
    axes = figure.subplots(1, 2 if pairs else 1, squeeze=False)[0]
    lines = {}
    for kind in kinds:
        values = np.asarray(arrays[f"manifolds_{kind}"])
        if kind != "zero":
            upper = np.triu_indices(values.shape[1], 1)
            values = values[:, upper[0], upper[1]]
        lines[f"nearest to {LOOKS[kind][0]}"] = (values.min(axis=1), LOOKS[kind][1], "-")
    best = min(pairs, key=lambda kind: summary[kind]["last"]) if pairs else ""
    if pairs:
        i, j = summary[best]["pair"]
        of_pair = np.asarray(arrays[f"manifolds_{best}"])[:, i, j]
        lines[f"channels {i} and {j} to {LOOKS[best][0]}"] = (of_pair, LOOKS[best][1], ":")
    has_width = bool(summary["translation"])
    if has_width:
        lines["dependence on $y$"] = (np.asarray(arrays["manifolds_translation"]), style.GREY, "--")
    for words, (values, color, dashes) in lines.items():
        marker = "o" if len(t) == 1 else None
        axes[0].plot(t, values, color=color, linestyle=dashes, marker=marker, label=words)
    least = min(float(values.min()) for values, *_ in lines.values())
    if 0 < least < _NEAR:
        axes[0].set_yscale("log")
    else:
        axes[0].set_ylim(min(0.0, -0.02 * (least == 0)), None)
        if pairs:
            axes[0].axhline(
                np.sqrt(0.5), color=style.DARK, linewidth=0.8, linestyle=":", label="unrelated, $1/\\sqrt{2}$"
            )
    axes[0].set_xlabel(style.T_LABEL)
    axes[0].set_ylabel("relative distance (0 on the manifold)")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4 if pairs else 2, fontsize=8)
    title = f"{style.literal(name)}\nits fields depend on $y$ by {summary['translation'][-1]:.2g}" if has_width else ""
    if pairs:
        matrix = np.array(arrays[f"manifolds_{best}"])[-1]
        np.fill_diagonal(matrix, np.nan)
        mesh = axes[1].imshow(matrix, cmap=style.POSITIVE, interpolation="nearest", vmin=0)
        axes[1].grid(False)
        axes[1].set_xlabel("channel")
        axes[1].set_ylabel("channel")
        axes[1].set_title(f"at the end: distance of pairs to {LOOKS[best][0]}")
        for axis in (axes[1].xaxis, axes[1].yaxis):
            axis.set_major_locator(MaxNLocator(integer=True))
        figure.colorbar(mesh, ax=axes[1], label="relative distance")
        i, j = summary[best]["pair"]
        first, last = summary[best]["pair_first"], summary[best]["last"]
        moved = "come nearer" if last < 0.95 * first else "move away" if last > 1.05 * first else "stay as far"
        title = (
            f"{style.literal(name)}\nchannels {i} and {j}, nearest to {LOOKS[best][0]}, {moved}"
            f" ({first:.2g} at first, {last:.2g} at the end)"
        )
    figure.suptitle(title, fontsize=11)
    return figure
