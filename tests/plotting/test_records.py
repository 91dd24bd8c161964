"""Every picture says where it comes from, in every format, and a reader gets it back."""

from __future__ import annotations

import json
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from PIL import Image

from bbdfield._text import visible
from bbdfield.errors import InputError
from bbdfield.lattice.training import train
from bbdfield.model.run import Run
from bbdfield.plotting import animation, fields, style
from bbdfield.plotting.records import as_argument, as_text, read_provenance, record_of_study, recorded

ROOT = Path(__file__).parents[2]
HOSTILE = "<script>]]>\"'&\\ ) (\\( \x1b[31m \u202e é \ud83d $\\frac --> \r\n\0"
RECORD = {"config": f'title = "{HOSTILE}"\n', "seed": 3, "versions": {"numpy": "2"}, HOSTILE: [HOSTILE, None, 1.5]}


def drawn(path, record=None):
    figure = style.new_figure(2, 1)
    figure.subplots().plot([0, 1])
    return style.save(figure, path, record)


@pytest.fixture(scope="module")
def run(tmp_path_factory, problems, signals):
    path = tmp_path_factory.mktemp("run") / "lattice.h5"
    train(problems.lattice(), signals, problems.training(), out=path).close()
    with Run(path) as opened:
        yield opened


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_a_record_comes_back_whatever_it_holds(tmp_path, suffix):
    path = drawn(tmp_path / f"figure.{suffix}", RECORD)
    assert read_provenance(path) == RECORD
    with recorded({"seed": 1}), recorded(RECORD):
        assert drawn(tmp_path / f"around.{suffix}").read_bytes() == path.read_bytes()
    assert drawn(tmp_path / f"other.{suffix}", {"seed": 4}).read_bytes() != path.read_bytes()
    with pytest.raises(InputError, match="carries no record"):
        read_provenance(drawn(tmp_path / f"bare.{suffix}"))  # `recorded` ended with its block


def test_an_svg_with_a_hostile_record_is_well_formed(tmp_path):
    import xml.etree.ElementTree as ElementTree

    tree = ElementTree.fromstring(drawn(tmp_path / "figure.svg", RECORD).read_bytes())
    (found,) = tree.iter("{http://purl.org/dc/elements/1.1/}description")
    assert json.loads(found.text)["bbdfield"]["seed"] == 3


def test_a_figure_of_a_trajectory_carries_the_trajectorys_own_record(run, tmp_path):
    path = fields.plot_trajectory(run, tmp_path / "plot.png")
    record = read_provenance(path)
    attributes = run.trajectory.attrs
    assert record["file"] == "lattice.h5" and record["config"] == attributes["config"]
    assert {"seed", "versions", "git_revision", "machine", "command", "created", "backend"} <= set(record)
    assert all(record[name] == attributes[name] for name in set(record) - {"file"})
    with recorded({"seed": "of something else"}):
        assert fields.plot_trajectory(run, tmp_path / "again.png").read_bytes() == path.read_bytes()


def test_a_film_carries_it_too(run, tmp_path):
    path = animation.animate_trajectory(run, tmp_path / "film.gif")
    assert read_provenance(path)["config"] == run.trajectory.attrs["config"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["film.gif"]


def test_an_mp4s_comment_is_found_and_short_enough_for_a_command(tmp_path):
    path = tmp_path / "film.mp4"
    path.write_bytes(b"\0\0\0\x18ftypisom\xff data" + as_argument(RECORD).encode() + b"\xa9too {}")
    assert read_provenance(path) == RECORD
    large = {**RECORD, "config": "x" * 200_000}
    short = json.loads(as_argument(large))["bbdfield"]
    assert "config" not in short and short["seed"] == 3
    assert as_argument({"seed": "x" * 200_000}) == ""


def test_a_studys_record_is_what_is_known_when_it_draws():
    run = {"started": "2026", "finished": None, "seed": 3, "process": {"pid": 1}, "earlier": [], "scores_sha256": None}
    assert record_of_study(run, "kind = 1") == {"started": "2026", "seed": 3, "config": "kind = 1"}


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(*chunks: bytes, size: int = 1) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", size, size, 8, 0, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IDAT", zlib.compress(b"\0\0")) + chunk(b"IEND", b"")
    )


BAD = {
    "empty.png": b"",
    "text.png": b"hello",
    "other.png": png(),
    "nothing.png": png(chunk(b"tEXt", b"bbdfield\0{")),
    "list.png": png(chunk(b"tEXt", b'bbdfield\0{"bbdfield": [1]}')),
    "deep.png": png(chunk(b"tEXt", b'bbdfield\0{"bbdfield": ' + b"[" * 100_000)),
    "bomb.png": png(chunk(b"zTXt", b"bbdfield\0\0" + zlib.compress(b'{"bbdfield": ' + b" " * 300_000_000))),
    "vast.png": png(size=2**31 - 1),
    "jpeg.png": b"\xff\xd8\xff\xe0",
    "cut.svg": b"<svg><dc:description>{&quot;bbdfield&quot;: {",
    "none.pdf": b"%PDF-1.4 /Subject (x",
    "none.mp4": b'{"bbdfield": [',
    "figure.jpg": b"",
}


@pytest.mark.parametrize("name", BAD)
def test_what_carries_no_record_is_refused_in_one_line(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(BAD[name])
    with pytest.raises(InputError, match=re.escape(name)) as caught:
        read_provenance(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="no such file"):
        read_provenance(tmp_path)


def test_a_pictures_own_text_stays_what_the_format_allows(tmp_path):
    with Image.open(drawn(tmp_path / "figure.png", RECORD)) as image:
        assert set(image.info) == {"bbdfield", "dpi"} and image.info["bbdfield"].isascii()
    assert (
        as_text() == ""
        and as_text({"a": float("inf")})
        and as_text({"path": Path("x")}) == '{"bbdfield": {"path": "x"}}'
    )


def test_a_figure_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    path = drawn(tmp_path / "figure.png")
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(InputError, match=r"figure\.png: No space left"):
        drawn(path, RECORD)
    assert path.read_bytes() == before and [entry.name for entry in tmp_path.iterdir()] == ["figure.png"]


@pytest.mark.parametrize("name", ["$", "$\\frac", "$x$ $", "\\$5", "a_b^c{", HOSTILE, "x" * 10_000, "$" * 61])
def test_a_name_of_ones_own_is_drawn_as_it_stands(tmp_path, name):
    figure = style.new_figure(4, 2)
    figure.subplots().set_title(f"{style.literal(name)}: $L$")
    style.save(figure, tmp_path / "figure.svg")
    shown = style.literal(name)
    assert len(shown) < 300 and not re.search(r"(?<!\\)\$", shown)
    assert not {"\x1b", "\u202e", "\n", "\0"} & set(shown)


def test_characters_that_steer_are_shown_as_escapes():
    assert visible("ẑ(x, y) – 5\u00a0% 10⁻⁴ 😀") == "ẑ(x, y) – 5\u00a0% 10⁻⁴ 😀"
    assert visible("a\x1b[2J\x9b\u202e\u2066\ufeff\ud800\u2028b\tc\n") == (
        "a\\x1b[2J\\x9b\\u202e\\u2066\\ufeff\\ud800\\u2028b\tc\n"
    )
    assert visible("a\nb", keep="") == "a\\nb" and visible("abcdef", longest=4) == "abc…"


def test_the_module_is_light():
    code = "import sys, bbdfield.plotting.records; sys.exit('matplotlib' in sys.modules or 'PIL' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
