"""Figures and report of a study: complete, self-contained, and safe whatever its files say."""

from __future__ import annotations

import base64
import json
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest

from bbdfield.errors import InputError
from bbdfield.studies.config import parse_config
from bbdfield.studies.continuum import CAPTIONS
from bbdfield.studies.report import write_report
from bbdfield.studies.run import run_study

HOSTILE = "<script>alert('x')</script>\"><img src=http://example.org/x.png onerror=alert(1)> & $x_"
STUDY = f"""
kind = "continuum"
title = {json.dumps(HOSTILE)}
[data]
file = "<b>data.npz"
[lattice]
depth = [2, 4]
width = 10
channels = 2
radius = "1/4"
readout_modes = 3
[training]
steps = 8
batch = 8
rates = {{ w = 2.0, b = 0.2, r = 0.5 }}
snapshot_every = 2
probe = 4
evaluate = 8
[field]
n_x = 8
backend = "numpy"
"""


def study(folder, signals, *changes):
    arrays = {name: getattr(signals, name) for name in ("x", "y", "x_test", "y_test")}
    np.savez(folder / "<b>data.npz", **arrays)
    config = parse_config(STUDY, folder=folder, overrides=changes)
    run_study(config, folder / "run", workers=1, say=lambda _: None)
    return folder / "run"


@pytest.fixture(scope="module")
def finished(tmp_path_factory, signals):
    """A study of two depths with its report, not to be changed."""
    return study(tmp_path_factory.mktemp("study"), signals)


@pytest.fixture
def run_dir(finished, tmp_path):
    """A copy of what the report is made from."""
    return shutil.copytree(finished, tmp_path / "copy", ignore=shutil.ignore_patterns("*.h5", "report.html"))


class Page(HTMLParser):
    """Tags with their attributes, and the text."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def test_a_ladder_has_all_figures(finished):
    assert {path.stem for path in (finished / "figures").iterdir()} == set(CAPTIONS)
    assert all(path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n") for path in (finished / "figures").iterdir())


def test_without_a_ladder_there_is_no_convergence_figure(tmp_path, signals):
    out = study(tmp_path, signals, "lattice.depth=4", "field.orders=[1]", "field.refine_x=1")
    assert {path.stem for path in (out / "figures").iterdir()} == set(CAPTIONS) - {"convergence"}
    text = Page(out / "report.html").text
    assert "Fitted orders" not in text and "4 layers of 10 cells" in text


def test_report_holds_numbers_figures_configuration_and_provenance(finished):
    page = Page(finished / "report.html")
    scores = json.loads((finished / "scores.json").read_text())
    shown = [base64.b64decode(image["src"].removeprefix("data:image/png;base64,")) for image in page.all("img")]
    assert shown == [(finished / "figures" / f"{name}.png").read_bytes() for name in CAPTIONS]
    assert all(caption in page.text for caption in CAPTIONS.values())
    assert (finished / "config.toml").read_text() in page.text
    for value in json.loads((finished / "run.json").read_text())["versions"].values():
        assert value in page.text
    assert "bbdfield run run/config.toml --out run-again" in page.text
    assert "2 and 4 layers of 10 cells" in page.text and "order 0 and 1" in page.text
    assert f"{scores['fitted_order']['1']['z']:.2f}" in page.text
    assert f"{100 * scores['lattice'][1]['test_accuracy']:.1f} %" in page.text
    rows = [row for row in scores["rungs"] if row["error"]["z"] > 1e-3]
    assert rows and all(f"{row['error']['z']:.3g}" in page.text for row in rows)


def test_report_loads_nothing_and_runs_nothing(finished):
    page = Page(finished / "report.html")
    allowed = (
        "html head meta title style body h1 h2 p div table caption thead tbody tr th td small sup sub figure img pre"
    )
    assert {tag for tag, _ in page.tags} <= {*allowed.split(), "figcaption"}
    assert all(image["src"].startswith("data:image/png;base64,") for image in page.all("img"))
    names = {name for _, attributes in page.tags for name in attributes}
    assert not [name for name in names if name.startswith("on") or name in ("href", "style", "action", "data")]
    style = page.text[page.text.index(":root") : page.text.index(".key td")]
    assert "url(" not in style and "@import" not in style


def test_what_files_say_is_text_and_not_markup(run_dir):
    run = json.loads((run_dir / "run.json").read_text())
    (run_dir / "run.json").write_text(json.dumps({**run, "command": HOSTILE, HOSTILE: [HOSTILE, {"<b>": "<i>"}]}))
    shutil.copy(run_dir / "figures" / "training.png", run_dir / "figures" / "<img src=x onerror=y>.png")
    page = Page(write_report(run_dir))
    # title, headline, command and list; the configuration holds it in TOML's own escapes
    assert page.text.count(HOSTILE) == 4
    assert not page.all("script") and not page.all("b") and not page.all("i")
    assert len(page.all("img")) == len(CAPTIONS) + 1
    assert all(set(image) == {"src", "alt"} for image in page.all("img"))


def test_equal_files_give_an_equal_report(finished, run_dir):
    first = write_report(run_dir).read_bytes()
    assert write_report(run_dir).read_bytes() == first
    assert [path.name for path in run_dir.glob("report*")] == ["report.html"]


@pytest.mark.parametrize("name", ["config.toml", "scores.json", "run.json"])
@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe", b"{", b"[1]", b'{"rungs": [1]}', b'{"rungs": [{}]}'])
def test_missing_or_broken_files_are_named_in_one_line(run_dir, name, content):
    if content is None:
        (run_dir / name).unlink()
    else:
        (run_dir / name).write_bytes(content)
    if name == "run.json" and content and content.startswith(b'{"'):
        assert "rungs" in Page(write_report(run_dir)).text
        return
    with pytest.raises(InputError, match=name.replace(".", r"\.")) as caught:
        write_report(run_dir)
    assert "\n" not in str(caught.value)
    assert not (run_dir / "report.html").exists()


def test_scores_that_are_no_numbers_are_refused(run_dir):
    scores = json.loads((run_dir / "scores.json").read_text())
    for wrong in ("<script>", True, [1], {}):
        scores["rungs"][0]["error"]["z"] = wrong
        (run_dir / "scores.json").write_text(json.dumps(scores))
        with pytest.raises(InputError, match=r"scores\.json: not the scores of a study"):
            write_report(run_dir)


def test_what_was_not_measured_is_a_dash_and_a_horizon_is_told(run_dir):
    scores = json.loads((run_dir / "scores.json").read_text())
    finest = scores["rungs"][-1]
    finest.update(horizon=6.0, grid_error=None, test_accuracy_field=None)
    scores["fitted_order"]["1"]["z"] = scores["fitted_order_ci"]["1"]["z"] = None
    (run_dir / "scores.json").write_text(json.dumps(scores))
    text = Page(write_report(run_dir)).text
    assert "first exceeds 10 % at t = 6" in text and "t = 6–" in text
    assert "–" in text and "the error of ẑ scales as" not in text


def test_figures_must_be_images_of_this_directory(run_dir, tmp_path):
    (run_dir / "figures" / "training.png").write_bytes(b"secret")
    with pytest.raises(InputError, match="not a PNG image"):
        write_report(run_dir)
    (run_dir / "figures" / "training.png").unlink()
    shutil.copy(run_dir / "figures" / "z-comparison.png", tmp_path / "elsewhere.png")
    (run_dir / "figures" / "training.png").symlink_to(tmp_path / "elsewhere.png")
    with pytest.raises(InputError, match="outside the run directory"):
        write_report(run_dir)
    shutil.rmtree(run_dir / "figures")
    with pytest.raises(InputError, match="holds no figure"):
        write_report(run_dir)
    config = (run_dir / "config.toml").read_text()
    (run_dir / "config.toml").write_text(config.replace("figures = true", "figures = false"))
    assert not Page(write_report(run_dir)).all("img")
