"""`bbdfield bench` from the command line: what it writes and prints, and what it refuses."""

from __future__ import annotations

import copy
import json
import os

import pytest

from bbdfield.benchmarks import jax_, programs, pytorch
from bbdfield.benchmarks.describe import describe, digits
from bbdfield.benchmarks.problems import taps
from bbdfield.benchmarks.programs import NOT_INSTALLED, train_lattice
from bbdfield.benchmarks.run import PROVENANCE, draw
from bbdfield.cli import main
from bbdfield.errors import InputError
from bbdfield.plotting.benchmarks import figure_forecast, figure_scaling, figure_sites
from bbdfield.plotting.records import read_provenance

PARTS = ("sites", "scaling", "forecast")


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """A small run of everything: its directory; what it printed lies beside."""
    folder = tmp_path_factory.mktemp("bench") / "out"
    assert main(["bench", "--sizes", "small", "--threads", "1", "--depths", "12,6", "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def results(out):
    return json.loads((out / "bench.json").read_text())


def test_what_is_recorded_about_the_run(results):
    assert results["format"] == 1 and results["sizes"] == "small" and results["threads"] == 1
    assert results["machine"]["cpus"] == os.cpu_count() and results["machine"]["cpu"]
    assert results["versions"]["numpy"][0].isdigit() and results["versions"]["torch"].startswith("2.13.0")
    assert results["seconds"] > 0 and results["largest_resident_mb"] > 10
    assert results["config"] == {"only": list(PARTS), "depths": [6, 12], "cells": [4], "steps": 3}
    assert "NumPy" in results["device"]["numpy"] and results["started"].endswith("+00:00")
    assert set(PARTS) <= set(results)


def test_figures_carry_the_record_of_the_run(out, results):
    for part in PARTS:
        record = read_provenance(out / "figures" / f"{part}.png")
        assert record == {key: results[key] for key in PROVENANCE}
        assert {"config", "versions", "git_revision", "device", "command"} <= set(record)


def test_sites_hold_every_program_on_every_range(results):
    problems = results["sites"]
    assert {problem["range"] for problem in problems} == {"kernel", "taps", "derivative"}
    assert {problem["weights"] for problem in problems} == {"tied", "untied"}
    for problem in problems:
        assert [row["program"] for row in problem["lattice"] if row["program"] != "cupy"] == [
            "numpy",
            "numba",
            "PyTorch",
            "JAX",
        ]
        rows = {row["program"]: row for row in problem["lattice"] if "seconds" in row}
        assert {"numpy", "numba", "PyTorch"} <= set(rows)
        for row in rows.values():
            seconds = row["seconds"]
            assert 0 < seconds["minimum"] <= seconds["median"] and seconds["repeats"] == results["repeats"]
            assert row["ns_per_site"] == pytest.approx(1e9 * seconds["median"] / problem["sites"])
            assert row["ms_per_step"] == pytest.approx(1e3 * seconds["median"])
            ratio = rows["PyTorch"]["seconds"]["median"] / seconds["median"]
            assert row["times_faster_than"]["PyTorch"] == pytest.approx(ratio)
            amount = problem["operations_per_step"]
            if problem["ceiling"]["kind"] == "copy":
                amount = problem["bytes_per_site_at_least"] * problem["sites"]
            fraction = amount / seconds["median"] / problem["ceiling"]["per_second"]
            assert row["fraction_of_ceiling"] == pytest.approx(fraction)
        for row in problem["field"]:
            assert ("fraction_of_ceiling" in row) == ("seconds" in row and row["scheme"] == "euler")
        theories = {(row["order"], row["scheme"]) for row in problem["field"] if "seconds" in row}
        assert theories == {(0, "euler"), (1, "midpoint"), (1, "rk4")}


def test_scaling_holds_every_axis_with_exponents(results):
    found = {(entry["axis"], entry["program"]) for entry in results["scaling"]}
    sizes = ("depth", "width", "channels", "batch")
    assert found == {(axis, name) for axis in sizes for name in ("lattice", "field", "PyTorch")} | {("cells", "field")}
    for entry in results["scaling"]:
        assert len(entry["seconds"]) == len(entry["sizes"]) == 2
        assert isinstance(entry["time"]["exponent"], float)
        assert (entry["bytes"] is None) == (entry["memory"] is None) == (entry["program"] == "PyTorch")


def test_the_forecast_is_the_lattices_loss_to_the_error_that_it_states(results):
    forecast = results["forecast"]
    assert [entry["depth"] for entry in forecast["lattices"]] == [6, 12], "--depths, rising"
    for row in forecast["fields"]:
        lattice = next(entry for entry in forecast["lattices"] if entry["depth"] == row["depth"])
        assert len(row["loss"]) == len(lattice["loss"]) == forecast["steps"]
        pairs = list(zip(row["loss"], lattice["loss"], strict=True))
        squares = [sum((a - b) ** 2 for a, b in pairs), sum(b**2 for _, b in pairs)]
        assert row["relative_error"] == pytest.approx((squares[0] / squares[1]) ** 0.5)
        assert row["largest_relative_error"] == pytest.approx(max(abs(a / b - 1) for a, b in pairs))
        assert 0 < row["relative_error"] < 0.01
        whole = lattice["pytorch"]["seconds_of_step"]["median"] * forecast["steps"]
        assert row["times_faster_than_pytorch"] == pytest.approx(whole / row["seconds"]["median"])
    assert forecast["cold_seconds"] > 0
    assert set(forecast["exponents"]) == {"lattice", "PyTorch", "field on 4 cells"}


def test_report_shows_every_table_and_figure(out, results):
    page = (out / "report.html").read_text()
    assert page.count("<img") == 3 and page.count("<table>") == 5
    assert "://" not in page and "<script" not in page
    assert results["command"].split()[0] in page and results["machine"]["cpu"] in page
    assert sorted(path.name for path in (out / "figures").iterdir()) == [f"{part}.png" for part in sorted(PARTS)]


def test_json_of_one_part_and_nothing_else(capsys, tmp_path):
    capsys.readouterr()
    assert main(["bench", "--sizes", "small", "--only", "forecast", "--threads", "1", "--json"]) == 0
    printed, told = capsys.readouterr()
    found = json.loads(printed)
    assert set(PARTS) & set(found) == {"forecast"} and "ceilings" in found
    assert "forecast: the field" in told


def test_tables_on_standard_output(capsys, out, tmp_path):
    again = tmp_path / "again"
    capsys.readouterr()
    arguments = ["bench", "--sizes", "small", "--only", "scaling", "--threads", "1", "--out", str(again)]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "growth of time and memory" in printed and f"report: {again / 'report.html'}" in printed
    assert main([*arguments, "--overwrite"]) == 0
    assert sorted(path.name for path in (again / "figures").iterdir()) == ["scaling.png"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--only", "sites,speed"], "--only: there is no part 'speed'; use some of sites, scaling, forecast"),
        (["--sizes", "huge"], "--sizes: 'huge' does not exist; use one of small, full"),
        (["--depths", "64,many"], "--depths: '64,many' is no list of numbers of layers, such as 64,256"),
        (["--depths", "0"], "--depths: '0' is no list of numbers of layers, such as 64,256"),
        (["--threads", "9999"], "--threads 9999: this process may use"),
        (["--overwrite"], "--overwrite: there is nothing to overwrite without --out"),
        (["--out", "mine"], "mine: exists already; choose another directory with --out, or add --overwrite"),
        (["--out", "mine", "--overwrite"], "mine: is not a benchmark's directory, so it is not overwritten"),
        (["--out", "mine/file"], "mine/file: is a file; choose another directory with --out"),
    ],
)
def test_bad_input_is_one_line(arguments, complaint, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("mine")
    capsys.readouterr()
    assert main(["bench", *arguments]) == 2
    printed, told = capsys.readouterr()
    assert printed == "" and told.count("\n") == 1 and told.startswith(f"bbdfield: {complaint}"), told
    assert [path.name for path in tmp_path.rglob("*")] == ["mine", "file"]


def test_without_frameworks_the_rows_say_so(monkeypatch, results):
    monkeypatch.setattr(pytorch, "installed", lambda: False)
    monkeypatch.setattr(jax_, "installed", lambda: False)
    contest = train_lattice(taps(8), 1)
    assert contest.missing["PyTorch"] == contest.missing["JAX"] == NOT_INSTALLED
    assert not {"PyTorch", "JAX"} & set(contest.programs)

    without = copy.deepcopy(results)
    for problem in without["sites"]:
        problem["lattice"] = [
            {"program": row["program"], "missing": NOT_INSTALLED} if row["program"] in ("PyTorch", "JAX") else row
            for row in problem["lattice"]
        ]
        for row in problem["lattice"]:
            if "times_faster_than" in row:
                row["times_faster_than"] = {"numpy": row["times_faster_than"]["numpy"]}
    without["scaling"] = [entry for entry in without["scaling"] if entry["program"] != "PyTorch"]
    for lattice in without["forecast"]["lattices"]:
        lattice["pytorch"] = None
    for row in without["forecast"]["fields"]:
        row["times_faster_than_pytorch"] = None
    tables = {table.title: table for table in describe(without).tables}
    cost = tables["cost of training a lattice, ns per layer, cell, channel and sample"]
    assert cost.rows[0][cost.head.index("PyTorch")] == NOT_INSTALLED
    assert cost.rows[0][cost.head.index("vs JAX")] == "–"


def test_figures_without_frameworks(results, tmp_path):
    without = copy.deepcopy(results)
    for lattice in without["forecast"]["lattices"]:
        lattice["pytorch"] = None
    for row in without["forecast"]["fields"]:
        row["times_faster_than_pytorch"] = None
    for problem in without["sites"]:
        problem["lattice"] = [row for row in problem["lattice"] if row["program"] not in ("PyTorch", "JAX")]
    assert len(draw(without, tmp_path / "figures")) == 3
    assert figure_sites(without["sites"]).get_suptitle() == "Cost of a training step per site"
    assert "as fast as it is trained here" in figure_forecast(without["forecast"]).get_suptitle()


def test_titles_say_what_the_numbers_say(results):
    made = copy.deepcopy(results)
    for problem in made["sites"]:
        for row in problem["lattice"]:
            row["ns_per_site"] = {"numba": 2.0, "PyTorch": 30.0, "JAX": 5.0}.get(row["program"], 100.0)
    made["sites"][0]["lattice"][0 if made["sites"][0]["lattice"][0]["program"] == "numba" else 1]["ns_per_site"] = 1.0
    assert "2.5 to 5.0 times as fast as the faster of PyTorch and JAX" in figure_sites(made["sites"]).get_suptitle()
    for row in made["forecast"]["fields"]:
        row |= {"largest_relative_error": 0.0072, "times_faster_than_pytorch": 161.4}
    title = figure_forecast(made["forecast"]).get_suptitle()
    assert title == "4 cells forecast every loss of 12 layers within 0.72 %, 161 times as fast as PyTorch trains it"
    for entry in made["scaling"]:
        entry["time"]["exponent"] = 0.03 if entry["program"] == "field" else 1.0
    assert "grows with the layers that it describes to the power 0.03" in figure_scaling(made["scaling"]).get_suptitle()


def test_a_backend_without_code_for_a_case_is_left_out(monkeypatch):
    def refuse(problem, backend):
        if backend != "numpy":
            raise InputError("training.backend: no compiled code")
        return kept(problem, backend)

    kept = programs.lattice_system
    monkeypatch.setattr(programs, "lattice_system", refuse)
    contest = train_lattice(taps(8), 1)
    assert "numpy" in contest.programs and contest.missing["numba"] == "training.backend: no compiled code"
    assert programs.fastest_lattice(taps(8))[0] == "numpy"


@pytest.mark.parametrize(
    ("value", "text"), [(2281.4, "2,281"), (118000.0, "118,000"), (5.874, "5.87"), (0.0318, "0.0318"), (99.96, "100")]
)
def test_digits(value, text):
    assert digits(value) == text


@pytest.mark.parametrize(("load", "busy"), [(0.1, False), (3.0, True), (None, False)])
def test_a_busy_machine_is_told(load, busy, results):
    made = {**results, "machine": {**results["machine"], "cpus": 2, "load_at_start": load}}
    assert ("do not trust these ratios" in describe(made).message) == busy
