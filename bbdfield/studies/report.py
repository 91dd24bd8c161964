"""The report of a study: one self-contained HTML file made from what the run directory holds."""

from __future__ import annotations

import base64
import json
import shlex
import stat
import tomllib
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from bbdfield._text import visible
from bbdfield.errors import InputError
from bbdfield.files import write_text
from bbdfield.studies.describe import Cell, Description, Table, at, number
from bbdfield.studies.kinds import KINDS, Kind, kind_of

_PNG = b"\x89PNG\r\n\x1a\n"
#: no text or figure of a study is longer, and no title is shown in full beyond this
_MOST_BYTES, _LONGEST_TITLE = 2**26, 200
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
        when one of these files is missing, unreadable or not what a study writes, or the page cannot be written.
    """
    config_text = read_text(run_dir / "config.toml")
    try:
        config = tomllib.loads(config_text)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else _one_line(error)
        raise InputError(f"{run_dir / 'config.toml'}: no valid TOML ({reason}); run the study again") from error
    scores, provenance = read_json(run_dir / "scores.json"), read_json(run_dir / "run.json")
    kind = _kind(run_dir, config)
    try:
        expected = at(config, "output", "figures") is True
        return write_page(
            run_dir / "report.html",
            str(config.get("title") or f"Study {run_dir.resolve().name}"),
            kind.describe(config, scores),
            figures_of(run_dir, kind.CAPTIONS, expected=expected),
            command=_command(run_dir),
            note="The configuration below is complete; the same versions on the same kind of machine give the same"
            " numbers.",
            provenance=provenance,
            configuration=config_text,
        )
    except InputError as error:
        raise InputError(str(error) if str(run_dir) in str(error) else f"{run_dir}: {error}") from error
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        what = f"{type(error).__name__}: {_one_line(error)}"
        raise InputError(f"{run_dir / 'scores.json'}: not the scores of a study ({what}); run it again") from error


def write_page(
    path: Path,
    title: str,
    description: Description,
    figures: Sequence[tuple[str, str, bytes]],
    *,
    command: str,
    note: str,
    provenance: Mapping[str, Any],
    configuration: str | None = None,
) -> Path:
    """Write one self-contained page: results, figures, how to repeat them, where they come from.

    Parameters
    ----------
    figures : (name, caption, PNG), as `figures_of` finds them.
    command, note : what repeats the results, and what to expect of that.
    configuration : the text of config.toml, where there is one.

    Raises
    ------
    InputError
        when the page cannot be written.
    """
    title = visible(title, "", _LONGEST_TITLE)
    body = [
        f"<h1>{_text(title)}</h1>",
        f"<p>{_text(description.summary)}</p>",
        _results(description),
        *(_figure(name, caption, image) for name, caption, image in figures),
        "<h2>Reproduce</h2>",
        f"<p>{_text(note)}</p>",
        f"<pre>{_text(command)}</pre>",
        "<h2>Provenance</h2>",
        _pairs(provenance),
    ]
    if configuration is not None:
        body += ["<h2>Configuration</h2>", f"<pre>{_text(configuration)}</pre>"]
    write_text(path, _page(_text(title), "\n".join(body)))
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


def read_text(path: Path) -> str:
    """The text of a file in a run directory.

    Raises
    ------
    InputError
        when it is missing, no plain file, longer than any that a study writes, or no text.
    """
    try:
        return _bytes(path, "give the directory of a finished study, or resume this one").decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: cannot be read as text; check the file") from error


def _bytes(path: Path, remedy: str) -> bytes:
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise InputError(f"{path}: no plain file; {remedy}")
        if found.st_size > _MOST_BYTES:
            raise InputError(f"{path}: {found.st_size} bytes, more than a study ever writes there; {remedy}")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"{path}: missing; {remedy}") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); {remedy}") from error


def read_json(path: Path) -> dict[str, Any]:
    """The table that a JSON file in a run directory holds.

    Raises
    ------
    InputError
        as of `read_text`, or for a file that holds no table in JSON.
    """
    text = read_text(path)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else _one_line(error)
        raise InputError(f"{path}: no valid JSON ({reason}); run the study again") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: holds no table of values; run the study again")
    return value


def _one_line(error: Exception) -> str:
    return visible(" ".join(str(error).split()), "", 200)


def _kind(run_dir: Path, config: Mapping[str, Any]) -> Kind:
    name = config.get("kind")
    if not isinstance(name, str) or name not in KINDS:
        given, known = visible(repr(name), "", 60), ", ".join(KINDS)
        raise InputError(f"{run_dir / 'config.toml'}: kind is {given}, not one of {known}; run the study again")
    return kind_of(name)


def figures_of(run_dir: Path, captions: Mapping[str, str], *, expected: bool = True) -> list[tuple[str, str, bytes]]:
    """(name, caption, PNG) of every figure in a run directory, the known ones first.

    Raises
    ------
    InputError
        without any that is `expected`, or for one that is no PNG file of this directory.
    """
    folder = run_dir / "figures"
    paths = {path.stem: path for path in sorted(folder.glob("*.png"))}
    if expected and not paths:
        raise InputError(f"{folder}: holds no figure; resume the study, or set output.figures = false")
    known = [name for name in captions if name in paths]
    found = []
    for name in (*known, *(name for name in paths if name not in captions)):
        path = paths[name]
        if not path.resolve().is_relative_to(run_dir.resolve()):
            raise InputError(f"{path}: links to a file outside the run directory; put the figure itself there")
        image = _bytes(path, "draw the figures again")
        if not image.startswith(_PNG):
            raise InputError(f"{path}: not a PNG image; draw the figures again")
        found.append((name, captions.get(name, name), image))
    return found


# the parts of the page


def _text(value: Any) -> str:
    """As text of the page: no markup, and no character that hides or turns around what stands beside it."""
    return escape(visible(str(value)), quote=True)


def _results(description: Description) -> str:
    """The key message and the tables of numbers."""
    parts = ["<h2>Results</h2>"]
    if description.message:
        parts.append(f"<p>{_text(description.message)}</p>")
    return "\n".join([*parts, *map(_table, description.tables)])


def _table(table: Table) -> str:
    title = ", ".join(part for part in (table.title[:1].upper() + table.title[1:], table.note) if part)
    top = "".join(f"<th>{_text(cell)}</th>" for cell in table.head)
    lines = "\n".join(f"<tr>{''.join(f'<td>{_cell(cell)}</td>' for cell in row)}</tr>" for row in table.rows)
    return (
        f'<div class="table"><table>\n<caption>{_text(title)}</caption>\n<thead><tr>{top}</tr></thead>\n'
        f"<tbody>\n{lines}\n</tbody></table></div>"
    )


def _cell(value: Cell) -> str:
    if not isinstance(value, str):
        return _text(number(value))
    first, _, beneath = value.partition("\n")
    return _text(first) + (f"<small>{_text(beneath)}</small>" if beneath else "")


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
