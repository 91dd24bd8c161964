"""What goes to standard output: tables, JSON, one-line summaries."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from bbdfield._text import visible

if TYPE_CHECKING:
    from rich.console import Console

    from bbdfield.model.run import Run
    from bbdfield.studies.describe import Description


def one_line(text: str) -> str:
    """A message as one line; control characters of a file's name or content must not reach the terminal."""
    return visible(" ".join(text.split()))


def say(line: str, err: bool = False) -> None:
    """A line of text to standard output, or to standard error."""
    click.echo(visible(line), err=err)


def plain(value: Any) -> Any:
    """As JSON knows it: NaN and infinity become null, arrays lists."""
    if isinstance(value, dict):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return None if isinstance(value, float) and (value != value or abs(value) == float("inf")) else value


def print_json(value: Any) -> None:
    click.echo(json.dumps(plain(value), indent=1, allow_nan=False))


def console() -> Console:
    """Standard output; a file or pipe is wide enough for any table."""
    from rich.console import Console

    console = Console(markup=False, highlight=False)
    return console if console.is_terminal else Console(markup=False, highlight=False, width=140)


def number(value: Any, form: str = ".2e") -> str:
    known = plain(value)
    return "-" if known is None else format(known, form)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD)
    for column in columns:
        table.add_column(visible(column, keep="\n"), justify="right" if column else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(visible(cell, keep="\n") for cell in row))
    # The title by itself: above a narrow table it would be broken to the table's width.
    console().print(Text(visible(title, keep=""), style="bold"), soft_wrap=True)
    console().print(table)


def print_summary(run: Run) -> None:
    """What a recorded run came to, in one line."""
    told = f"{run.path}: {len(run.t)} snapshots up to t = {run.t[-1]:g}, loss {run.loss[0]:.4g} -> {run.loss[-1]:.4g}"
    accuracy = plain(float(run.evaluation["test_accuracy"][-1]))
    say(told if accuracy is None else f"{told}, test accuracy {accuracy:.3f}")


def print_description(name: str, description: Description) -> None:
    """Its tables, the first one under the name of the whole, and what they say."""
    for i, table in enumerate(description.tables):
        rows = [[cell if isinstance(cell, str) else _shown(cell) for cell in row] for row in table.rows]
        print_table(table.title if i else f"{name}: {table.title}", table.head, rows)
    if description.message:
        console().print(visible(description.message), soft_wrap=True)


def _shown(cell: float | None) -> str:
    return str(cell) if isinstance(cell, int) else number(cell)


def flat(value: Any) -> str:
    """A nested value on one line; of a long list, only how long it is (--json has all)."""
    as_json = plain(value)
    if isinstance(as_json, list):
        return f"[{len(as_json)} entries]" if len(as_json) > 12 else f"[{', '.join(map(flat, as_json))}]"
    if isinstance(as_json, dict):
        return ", ".join(f"{key} {flat(entry)}" if not isinstance(entry, dict) else f"{key} ({flat(entry)})"
                         for key, entry in as_json.items())  # fmt: skip
    if isinstance(as_json, bool):
        return "yes" if as_json else "no"
    return "-" if as_json is None else f"{as_json:.6g}" if isinstance(as_json, float) else str(as_json)
