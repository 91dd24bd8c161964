"""Whatever stands in the files of a run directory: a page that shows it as text, or one line that refuses it."""

from __future__ import annotations

import copy
import json
import os
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest

from bbdfield.errors import InputError
from bbdfield.studies.config import parse_config
from bbdfield.studies.describe import Description, Table
from bbdfield.studies.report import read_text, write_page, write_report
from bbdfield.studies.run import run_study

HOSTILE = (
    "<script>alert(1)</script>",
    "</title></pre></style><style>*{display:none}</style>",
    "\"' onload=alert(1) x='",
    "]]><![CDATA[ --> <!-- &lt;b&gt; &#60;",
    "javascript:alert(1)",
    "\x1b]0;owned\x07\x1b[2J\x9b31m\b\r",
    "\u202eevil\u2066\u200f\u2028\ufeff",
    "$\\frac{$ $x$ $",
    "{0.__class__} %s %n",
)
STUDY = """
kind = "continuum"
title = {title}
[data]
file = {file}
[lattice]
depth = [2, 4]
width = 10
channels = 2
radius = "1/4"
readout_modes = 3
[training]
steps = 4
batch = 8
rates = {{ w = 2.0, b = 0.2, r = 0.5 }}
snapshot_every = 2
probe = 4
evaluate = 8
[field]
n_x = 4
backend = "numpy"
"""
NAME = "$\\frac<b>\x1b[2J.npz"


@pytest.fixture(scope="module")
def finished(tmp_path_factory, signals):
    """A study whose title and data file try everything at once, not to be changed."""
    folder = tmp_path_factory.mktemp("study")
    np.savez(folder / NAME, **{name: getattr(signals, name) for name in ("x", "y", "x_test", "y_test")})
    title = json.dumps("".join(HOSTILE), ensure_ascii=True).replace("\\u007f", "\\u007F")
    config = parse_config(STUDY.format(title=title, file=json.dumps(NAME)), folder=folder)
    run_study(config, folder / "run", workers=1, say=lambda _: None)
    return folder / "run"


@pytest.fixture
def run_dir(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "copy", ignore=shutil.ignore_patterns("*.h5", "report.html"))


class Page(HTMLParser):
    """Tags with their attributes, and the text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, tuple(name for name, _ in attrs)))

    def handle_data(self, data):
        self.text += data

    def handle_comment(self, data):
        raise AssertionError(data)

    def unknown_decl(self, data):
        raise AssertionError(data)


ALLOWED = {
    ("html", ("lang",)), ("head", ()), ("meta", ("charset",)), ("meta", ("http-equiv", "content")),
    ("meta", ("name", "content")), ("title", ()), ("style", ()), ("body", ()), ("h1", ()), ("h2", ()), ("p", ()),
    ("div", ("class",)), ("table", ()), ("table", ("class",)), ("caption", ()), ("thead", ()), ("tbody", ()),
    ("tr", ()), ("th", ()), ("td", ()), ("small", ()), ("figure", ()), ("img", ("src", "alt")), ("figcaption", ()),
    ("pre", ()),
}  # fmt: skip


def check_page(path):
    text = path.read_text(encoding="utf-8")
    assert not [
        c for c in text if c != "\n" and (ord(c) < 32 or 127 <= ord(c) < 160 or c in "\u202e\u2066\u200f\u2028")
    ]
    page = Page(text)
    assert set(page.tags) <= ALLOWED
    assert text.count("<style>") == 1 and text.count("<script") == 0
    return page


def test_a_study_of_hostile_names_runs_and_its_report_shows_them(finished):
    page = check_page(finished / "report.html")
    for text in HOSTILE[:5]:
        assert text in page.text
    assert "\\x1b]0;owned\\x07" in page.text and "\\u202eevil" in page.text
    assert "$\\frac<b>\\x1b[2J.npz" in page.text  # the data file, in the summary
    assert len(list((finished / "figures").glob("*.png"))) == 6


@pytest.mark.parametrize("hostile", HOSTILE)
def test_names_and_values_of_run_json_are_text(run_dir, hostile):
    record = json.loads((run_dir / "run.json").read_text())
    record |= {hostile: hostile, "versions": {hostile: [hostile, {hostile: hostile}]}, "git_revision": hostile}
    (run_dir / "run.json").write_text(json.dumps(record))
    (run_dir / "log.txt").write_text(hostile)
    check_page(write_report(run_dir))


def test_names_of_figures_are_text(run_dir):
    for i, hostile in enumerate(HOSTILE):
        name = hostile.replace("/", "|").encode("utf-8", "replace")[:100] + b"%d.png" % i
        shutil.copy(run_dir / "figures" / "training.png", os.fsencode(run_dir / "figures") + b"/" + name)
    shutil.copy(run_dir / "figures" / "training.png", os.fsencode(run_dir / "figures") + b"/\xff\xfe.png")
    assert sum(tag == "img" for tag, _ in check_page(write_report(run_dir)).tags) == 7 + len(HOSTILE)


def test_a_title_is_cut_and_shown_whole_in_the_configuration_only(run_dir):
    path = run_dir / "config.toml"
    lines = [line for line in path.read_text().split("\n") if not line.startswith("title")]
    path.write_text("\n".join([f'title = "{"x" * 1_000_000}"', *lines]))
    text = write_report(run_dir).read_text()
    assert text.count("x" * 199 + "…") == 2 and text.count("x" * 1_000_000) == 1


WRONG = [
    None, [], {}, "<script>", True, -1, 0, 1e308, float("nan"), float("inf"), 10**400, [[]], [None], ["<b>"], {"a": {}},
]  # fmt: skip


def places(value, path=()):
    """Paths of everything in a nested table."""
    yield path
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, entry in entries:
        yield from places(entry, (*path, name))


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: repr(wrong)[:20])
def test_scores_altered_anywhere_give_a_page_or_one_line(run_dir, wrong):
    scores = json.loads((run_dir / "scores.json").read_text())
    shutil.rmtree(run_dir / "figures")
    config = run_dir / "config.toml"
    config.write_text(config.read_text().replace("figures = true", "figures = false"))
    told = set()
    for path in list(places(scores))[1::3]:
        altered = copy.deepcopy(scores)
        inner = altered
        for name in path[:-1]:
            inner = inner[name]
        inner[path[-1]] = wrong
        (run_dir / "scores.json").write_text(json.dumps(altered))
        (run_dir / "report.html").unlink(missing_ok=True)
        try:
            check_page(write_report(run_dir))
            told.add("page")
        except InputError as error:
            assert "\n" not in str(error) and str(error).isprintable() and not (run_dir / "report.html").exists()
            told.add("refused")
    assert told


@pytest.mark.parametrize("name", ["config.toml", "scores.json", "run.json"])
def test_what_is_no_plain_text_is_refused(run_dir, name):
    path = run_dir / name
    for content, words in (
        (b"[" * 200_000, "valid"), (b'{"a": ' * 3000 + b"1" + b"}" * 3000, "valid"),
        (b'{"a": ' + b"1" * 5000 + b"}", "valid"), (b"\xff", "text"), (b"\x1b[2J", "valid"),
    ):  # fmt: skip
        path.write_bytes(content)
        with pytest.raises(InputError, match=words) as caught:
            write_report(run_dir)
        assert str(caught.value).isprintable() and name in str(caught.value)
    path.unlink()
    for make, words in (
        (lambda: os.mkfifo(path), "no plain file"),
        (lambda: path.mkdir(), "no plain file"),
        (lambda: path.symlink_to(path), "cannot be read"),
        (lambda: path.symlink_to("/dev/zero"), "no plain file"),
        (lambda: os.truncate(os.open(path, os.O_CREAT | os.O_WRONLY), 2**40), "more than a study ever writes"),
    ):
        make()
        with pytest.raises(InputError, match=words):
            write_report(run_dir)
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


def test_figures_that_are_no_plain_files_are_refused(run_dir):
    os.mkfifo(run_dir / "figures" / "pipe.png")
    with pytest.raises(InputError, match=r"pipe\.png: no plain file"):
        write_report(run_dir)
    (run_dir / "figures" / "pipe.png").unlink()
    os.truncate(run_dir / "figures" / "training.png", 2**40)
    with pytest.raises(InputError, match="more than a study ever writes"):
        write_report(run_dir)


def test_deep_provenance_is_refused_or_shown(run_dir):
    deep = "x"
    for _ in range(400):
        deep = {"a": [deep]}
    (run_dir / "run.json").write_text(json.dumps({"deep": deep}))
    try:
        check_page(write_report(run_dir))
    except InputError as error:
        assert "\n" not in str(error)


def test_every_part_of_a_page_is_escaped(tmp_path):
    everything = "".join(HOSTILE)
    table = Table(everything, [everything], [[f"{everything}\n{everything}"]], everything)
    path = write_page(
        tmp_path / "page.html",
        everything,
        Description(everything, [table], everything),
        [(everything, everything, b"\x89PNG\r\n\x1a\n")],
        command=everything,
        note=everything,
        provenance={everything: {everything: [everything]}},
        configuration=everything,
    )
    page = check_page(path)
    assert page.text.count("<script>alert(1)</script>") == 16
    assert read_text(path).endswith("</html>\n")


def test_a_page_that_cannot_be_written_leaves_the_old_one(run_dir, monkeypatch):
    path = write_report(run_dir)
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(InputError, match=r"report\.html: No space left"):
        write_report(run_dir)
    assert path.read_bytes() == before and not list(run_dir.glob("*.part"))
