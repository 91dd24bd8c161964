"""The record of where a picture comes from, inside the picture: configuration, seed, versions, command.

It is one JSON text: the chunk ``bbdfield`` of a PNG, the comment of a GIF or MP4, the description of an SVG, the
subject of a PDF. `read_provenance` gets it back; ``exiftool`` and ``identify -verbose`` show it, too.

Importing this module does not import Matplotlib.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from html import unescape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bbdfield.errors import InputError

if TYPE_CHECKING:
    from bbdfield.model.run import Run

#: what every record starts with, and its name in a PNG
KEY = "bbdfield"
_START = f'{{"{KEY}": '
#: longest comment on a film, which goes to ffmpeg as an argument; a longer one is left without the configuration
_LONGEST_ARGUMENT = 100_000
#: no picture of ours is longer, and no record
_MOST_BYTES, _MOST_RECORD = 2**28, 2**22
#: attributes of a trajectory that say where it comes from
_ATTRIBUTES = ("config", "seed", "versions", "git_revision", "machine", "backend", "command", "created", "digest")

#: entries of run.json that say how the run went on, or which process it was
_LATER = ("finished", "seconds", "scores_sha256", "earlier", "process")

_current: ContextVar[Mapping[str, Any] | None] = ContextVar("record", default=None)


@contextmanager
def recorded(record: Mapping[str, Any]) -> Iterator[None]:
    """Every figure and film that is saved within carries this record, of plain JSON types."""
    token = _current.set(record)
    try:
        yield
    finally:
        _current.reset(token)


def record_of(run: Run) -> dict[str, Any]:
    """The record of a figure of one trajectory: what the trajectory says of itself."""
    attributes = run.trajectory.attrs
    return {"file": run.path.name, **{name: attributes[name] for name in _ATTRIBUTES if name in attributes}}


def record_of_study(run: Mapping[str, Any], configuration: str) -> dict[str, Any]:
    """The record of a study's figures: its run.json without what is known only later, and the text of config.toml."""
    return {**{key: value for key, value in run.items() if key not in _LATER}, "config": configuration}


def as_text(record: Mapping[str, Any] | None = None) -> str:
    """The record (default: that of the enclosing `recorded`) as ASCII; "" where nothing is known."""
    known = _current.get() if record is None else record
    return "" if known is None else f"{_START}{json.dumps(known, default=str)}}}"


def as_argument(record: Mapping[str, Any] | None = None) -> str:
    """`as_text`, short enough for a command line."""
    text = as_text(record)
    if len(text) <= _LONGEST_ARGUMENT:
        return text
    known = json.loads(text)[KEY]
    short = as_text({key: value for key, value in known.items() if key != "config"})
    return short if len(short) <= _LONGEST_ARGUMENT else ""


def metadata(suffix: str, record: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What Matplotlib is told to write into a png, pdf or svg file: the record, and neither date nor program."""
    text = as_text(record)
    if suffix == "png":
        return {"Software": None} | ({KEY: text} if text else {})
    if suffix == "pdf":
        return {"Creator": None, "Producer": None, "CreationDate": None} | ({"Subject": text} if text else {})
    return {"Creator": None, "Date": None} | ({"Description": text} if text else {})


# ---- reading it back


def read_provenance(path: str | Path) -> dict[str, Any]:
    """The record inside a .png, .gif, .svg, .pdf or .mp4 file that bbdfield drew.

    Raises
    ------
    InputError
        for a file that cannot be read, is of another kind, or carries no record.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; give a figure that bbdfield drew")
    suffix = path.suffix.lower().removeprefix(".")
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise InputError(f"{path}: is larger than any figure of bbdfield; give a figure that bbdfield drew")
        text = _of_image(path) if suffix in ("png", "gif") else _of_bytes(path.read_bytes(), suffix)
        if len(text) > _MOST_RECORD or not text.startswith(_START):
            raise ValueError("no record")
        record = json.loads(text)[KEY]
        if not isinstance(record, dict):
            raise ValueError("no table")
    except InputError:
        raise
    except (OSError, SyntaxError, ValueError, RecursionError) as error:  # Pillow says SyntaxError of a broken PNG
        raise InputError(
            f"{path}: carries no record of where it comes from; give a figure that bbdfield drew"
        ) from error
    return record


def _of_image(path: Path) -> str:
    from PIL import Image

    try:
        with warnings.catch_warnings(action="error"), Image.open(path, formats=("PNG", "GIF")) as image:
            text = image.info.get(KEY if image.format == "PNG" else "comment", "")
    except (Image.DecompressionBombError, Warning) as error:
        raise ValueError("larger than any figure") from error
    return text.decode("ascii") if isinstance(text, bytes) else str(text)


def _of_bytes(content: bytes, suffix: str) -> str:
    if suffix == "svg":
        found = re.search(rb"<dc:description>([^<]*)</dc:description>", content)
        return unescape(found[1].decode("ascii")) if found else ""
    if suffix == "pdf":
        found = re.search(rb"/Subject \(((?:[^()\\]|\\.)*+)\)", content)
        return re.sub(r"\\(.)", r"\1", found[1].decode("ascii")) if found else ""
    if suffix == "mp4":
        start = content.find(_START.encode())
        text = content[start : start + _MOST_RECORD].decode("latin-1") if start >= 0 else ""
        return text[: json.JSONDecoder().raw_decode(text)[1]] if text else ""
    return ""
