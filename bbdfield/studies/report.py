"""The report of a study: one self-contained HTML file made from what the run directory holds."""

from __future__ import annotations

import base64
import json
import math
import shlex
import tomllib
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any

from bbdfield.errors import InputError

QUANTITIES = {"z": "ẑ", "w": "ŵ", "b": "b̂", "loss": "loss"}
#: figures in the order in which they are shown, with their captions; others follow under their file name
CAPTIONS = {
    "z-comparison": "Pre-activations ẑ(x, y) of the network, of the field theory, and their difference, which has a"
    " scale of its own, at four training times. Finest rung, highest order.",
    "w-comparison": "Weights ŵ(x, u) of the network, of the field theory, and their difference, which has a scale"
    " of its own, at four training times. Finest rung, highest order.",
    "training": "Training loss (thin: every step of the networks; thick: running mean) and test accuracy. Networks are"
    " grey and solid, the field theory at the finest rung is dashed.",
    "convergence": "Relative L2 error of the field theory over all stored times against the lattice spacing. Lines are"
    " fits, with the slope and its 95 % confidence interval; triangles show the slope that theory expects. Grey"
    " crosses: change when the field solver's own grid is refined.",
    "error-over-time": "Relative error at each stored time, at the finest rung. Dotted: the error of weights and biases"
    " relative to how far they have moved. The horizon is the first time at which the error of ẑ exceeds 10 %.",
    "depth-profile": "Relative error at each depth at the last stored time, at the finest rung.",
}
_PNG = b"\x89PNG\r\n\x1a\n"
_CSS = """
:root { color-scheme: light dark; --text: #1d2026; --soft: #5c6470; --line: #d8dce2; --back: #ffffff; --box: #f4f6f8; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e4e7eb; --soft: #9aa3af; --line: #3a414b; --back: #15181c; --box: #1e2227; } }
body { font: 16px/1.55 system-ui, sans-serif; color: var(--text); background: var(--back); max-width: 62rem;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.7rem; line-height: 1.25; margin-bottom: .4rem; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; }
.table { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .3rem 0 1rem; }
caption { text-align: left; color: var(--soft); padding-bottom: .3rem; }
th, td { padding: .25rem .8rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th { font-weight: 600; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
small { color: var(--soft); display: block; }
figure { margin: 0 0 1.8rem; }
figure img { display: block; max-width: 100%; height: auto; background: #fff; border-radius: 4px; }
figcaption { color: var(--soft); font-size: .92rem; margin-top: .4rem; }
pre { background: var(--box); padding: .8rem 1rem; border-radius: 4px; overflow-x: auto; font-size: .85rem; }
.key td { text-align: left; white-space: normal; overflow-wrap: anywhere; }
"""


def write_report(run_dir: Path) -> Path:
    """Write report.html from config.toml, scores.json, run.json and figures/*.png of a run directory.

    Everything is in the one file: no script, no address to load anything from. Equal inputs give an equal file.

    Returns
    -------
    Path of report.html.

    Raises
    ------
    InputError
        when one of these files is missing, unreadable or not what a study writes.
    """
    config_text = _read(run_dir, "config.toml")
    try:
        config = tomllib.loads(config_text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{run_dir / 'config.toml'}: no valid TOML ({error}); run the study again") from error
    scores, provenance = _json(run_dir, "scores.json"), _json(run_dir, "run.json")
    figures = _figures(run_dir, expected=_at(run_dir, config, "output", "figures") is True)
    try:
        body = [
            f"<h1>{_text(config.get('title') or 'Study ' + run_dir.resolve().name)}</h1>",
            f"<p>{_summary(run_dir, config)}</p>",
            _results(scores),
            *(_figure(name, caption, image) for name, caption, image in figures),
            "<h2>Reproduce</h2>",
            "<p>The configuration below is complete; the same versions on the same kind of machine give the same"
            " numbers.</p>",
            f"<pre>{_text(_command(run_dir))}</pre>",
            "<h2>Provenance</h2>",
            _pairs(provenance),
            "<h2>Configuration</h2>",
            f"<pre>{_text(config_text)}</pre>",
        ]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{run_dir / 'scores.json'}: not the scores of a study ({type(error).__name__}: {error}); run it again"
        ) from error
    path = run_dir / "report.html"
    part = run_dir / "report.html.part"
    try:
        part.write_text(_page(_text(config.get("title") or "bbdfield study"), "\n".join(body)), encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); check the directory") from error
    return path


def _page(title: str, body: str) -> str:
    # keeps the page self-contained even if something in it were not
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{_CSS}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


# reading the run directory


def _read(run_dir: Path, name: str) -> str:
    path = run_dir / name
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise InputError(f"{path}: missing; give the directory of a finished study, or resume this one") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as text; check the file") from error


def _json(run_dir: Path, name: str) -> dict[str, Any]:
    try:
        value = json.loads(_read(run_dir, name))
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{run_dir / name}: no valid JSON ({error}); run the study again") from error
    if not isinstance(value, dict):
        raise InputError(f"{run_dir / name}: holds no table of values; run the study again")
    return value


def _at(run_dir: Path, config: Mapping[str, Any], section: str, key: str) -> Any:
    """config[section][key] of the resolved configuration."""
    try:
        return config[section][key]
    except (KeyError, TypeError) as error:
        raise InputError(f"{run_dir / 'config.toml'}: {section}.{key} is missing; run the study again") from error


def _figures(run_dir: Path, *, expected: bool) -> list[tuple[str, str, bytes]]:
    """(name, caption, PNG) of every figure, the known ones first."""
    folder = run_dir / "figures"
    paths = {path.stem: path for path in sorted(folder.glob("*.png"))}
    if expected and not paths:
        raise InputError(f"{folder}: holds no figure; resume the study, or set output.figures = false")
    known = [name for name in CAPTIONS if name in paths]
    found = []
    for name in (*known, *(name for name in paths if name not in CAPTIONS)):
        path = paths[name]
        if not path.resolve().is_relative_to(run_dir.resolve()):
            raise InputError(f"{path}: links to a file outside the run directory; put the figure itself there")
        try:
            image = path.read_bytes()
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}); draw the figures again") from error
        if not image.startswith(_PNG):
            raise InputError(f"{path}: not a PNG image; draw the figures again")
        found.append((name, CAPTIONS.get(name, name), image))
    return found


# the parts of the page


def _text(value: Any) -> str:
    return escape(str(value), quote=True)


def _number(value: Any, digits: int = 3) -> str:
    """A number, or a dash for none; small ones as 1.23·10⁻⁴."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{value!r} where a number belongs")
    if isinstance(value, int):
        return str(value)
    if value != 0 and not 1e-3 <= abs(value) < 1e5:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        return f"{mantissa}·10<sup>{int(exponent)}</sup>".replace("-", "−")
    return f"{value:.{digits}g}".replace("-", "−")


def _decimal(value: Any) -> str:
    """A number with two decimals, as orders are given."""
    text = _number(value)
    return text if text == "–" else f"{value:.2f}".replace("-", "−")


def _percent(value: Any) -> str:
    text = _number(value)
    return text if text == "–" else f"{100 * value:.1f} %"


def _summary(run_dir: Path, config: Mapping[str, Any]) -> str:
    """What was done, in two sentences."""

    def of(section: str, key: str) -> Any:
        return _at(run_dir, config, section, key)

    table = config.get("data")
    data = table.get("name") or Path(str(table.get("file"))).name if isinstance(table, dict) else "its data"
    steps = f"{of('training', 'steps')} steps of τ = {of('training', 'step')}"
    law = (
        f"minibatch gradient descent, {steps}, {of('training', 'batch')} samples each"
        if of("training", "dynamics") == "sgd"
        else f"the gradient flow on {of('training', 'batch')} samples, {steps}"
    )
    network = (
        f"Residual networks with {_listed(of('lattice', 'depth'))} layers of {_listed(of('lattice', 'width'))} cells,"
        f" {of('lattice', 'channels')} channels and {of('lattice', 'weights')} kernel weights of radius"
        f" {of('lattice', 'radius')} (activation {of('lattice', 'activation')}, padding {of('lattice', 'padding')})"
        f" were trained on {data} with the {of('lattice', 'loss')} loss by {law}."
    )
    own = {key: f"the lattice's own {name}" for key, name in (("n_x", "depth"), ("n_y", "width"))}
    grid = " × ".join(
        own[key] if of("field", key) == "lattice" else f"{of('field', key)} {key[-1]}-cells" for key in own
    )
    field = (
        f"From the same initial fields, and driven by the same data in the same order, the field equations of order"
        f" {_listed(of('field', 'orders'))} in the lattice spacing were integrated on a grid of {grid}"
        f" ({of('field', 'depth_scheme')} in depth) and compared with the networks at equal training times."
    )
    return _text(f"{network} {field}")


def _results(scores: Mapping[str, Any]) -> str:
    """The key message and the tables of numbers."""
    rungs = scores.get("rungs") or []
    parts = ["<h2>Results</h2>"]
    if rungs:
        parts.append(f"<p>{_headline(rungs, scores)}</p>")
    if scores.get("fitted_order"):
        parts.append(_fitted_table(scores))
    if rungs:
        parts.append(_rung_table(rungs))
    if scores.get("lattice"):
        parts.append(
            _table(
                "The networks themselves, at the end of training",
                ["layers", "width", "training loss", "test accuracy"],
                [
                    [*(_number(r[key], 4) for key in ("depth", "width", "train_loss")), _percent(r["test_accuracy"])]
                    for r in scores["lattice"]
                ],
            )
        )
    return "\n".join(parts)


def _headline(rungs: list[Mapping[str, Any]], scores: Mapping[str, Any]) -> str:
    finest = max(rungs, key=lambda rung: (rung["depth"] * rung["width"], rung["order"]))
    order = str(finest["order"])
    text = (
        f"At the finest rung ({_number(finest['depth'])} layers of {_number(finest['width'])} cells) the field of order"
        f" {_number(finest['order'])} has a relative error of {_number(finest['error']['z'])} in ẑ,"
        f" {_number(finest['error']['w'])} in ŵ and {_number(finest['error']['loss'])} in the loss"
    )
    slope = (scores.get("fitted_order") or {}).get(order, {}).get("z")
    if slope is not None:
        text += f"; over the ladder the error of ẑ scales as {_spacing(scores)}<sup>{_decimal(slope)}</sup>"
    horizon = finest["horizon"]
    return text + (
        "; its error in ẑ never exceeds 10 %."
        if horizon is None
        else f"; its error in ẑ first exceeds 10 % at t = {_number(horizon)}."
    )


def _spacing(scores: Mapping[str, Any]) -> str:
    return {"a_x": "a<sub>x</sub>", "a_y": "a<sub>y</sub>"}[scores["fitted_against"]]


def _fitted_table(scores: Mapping[str, Any]) -> str:
    intervals, local = scores.get("fitted_order_ci") or {}, scores.get("local_orders") or {}
    rows = []
    for order, slopes in scores["fitted_order"].items():
        row = [_text(order)]
        for name in QUANTITIES:
            cell = _decimal(slopes.get(name))
            interval = intervals.get(order, {}).get(name)
            if interval:
                cell += f" [{_decimal(interval[0])}, {_decimal(interval[1])}]"
            between = local.get(order, {}).get(name)
            if between:
                cell += f"<small>{', '.join(_decimal(value) for value in between)}</small>"
            row.append(cell)
        rows.append(row)
    title = (
        f"Fitted orders of convergence in {_spacing(scores)}, with 95 % confidence interval;"
        " beneath, those between neighbouring rungs"
    )
    return _table(title, ["order of the theory", *QUANTITIES.values()], rows)


def _rung_table(rungs: Iterable[Mapping[str, Any]]) -> str:
    head = ["layers", "width", "order", *QUANTITIES.values(), "ŵ / moved", "b̂ / moved"]
    head += ["solver's grid", "horizon", "accuracy"]
    rows = [
        [
            _number(rung["depth"]),
            _number(rung["width"]),
            _number(rung["order"]),
            *(_number(rung["error"][name]) for name in QUANTITIES),
            *(_number(rung["error_over_movement"][name]) for name in ("w", "b")),
            _number(rung["grid_error"]),
            "never" if rung["horizon"] is None else f"t = {_number(rung['horizon'])}",
            _percent(rung.get("test_accuracy_field")),
        ]
        for rung in rungs
    ]
    title = (
        "Relative L2 errors of the field theory over all stored times, also relative to how far weights and biases"
        " moved; change when the solver's grid is refined; first t with more than 10 % error in ẑ; test accuracy of the"
        " field"
    )
    return _table(title, head, rows)


def _table(title: str, head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table of cells that are HTML already."""
    top = "".join(f"<th>{cell}</th>" for cell in head)
    lines = "\n".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return (
        f'<div class="table"><table>\n<caption>{title}</caption>\n<thead><tr>{top}</tr></thead>\n'
        f"<tbody>\n{lines}\n</tbody></table></div>"
    )


def _pairs(values: Mapping[str, Any]) -> str:
    """Names and values of run.json, nested tables on one line."""

    def shown(value: Any) -> str:
        if isinstance(value, dict):
            return ", ".join(f"{key} {shown(entry)}" for key, entry in value.items())
        if isinstance(value, list):
            return ", ".join(shown(entry) for entry in value)
        return "–" if value is None or value == "" else str(value)

    rows = "\n".join(
        f"<tr><th>{_text(key.replace('_', ' '))}</th><td>{_text(shown(value))}</td></tr>"
        for key, value in values.items()
    )
    return f'<table class="key"><tbody>\n{rows}\n</tbody></table>'


def _figure(name: str, caption: str, image: bytes) -> str:
    data = base64.b64encode(image).decode("ascii")
    return (
        f'<figure><img src="data:image/png;base64,{data}" alt="{_text(name)}">'
        f"<figcaption>{_text(caption)}</figcaption></figure>"
    )


def _command(run_dir: Path) -> str:
    name = run_dir.resolve().name
    return shlex.join(["bbdfield", "run", f"{name}/config.toml", "--out", f"{name}-again"])


def _listed(values: Any) -> str:
    """16, 32 and 64."""
    if not isinstance(values, list):
        return str(values)
    texts = [str(value) for value in values]
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"
