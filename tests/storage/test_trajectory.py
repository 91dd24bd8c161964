"""The trajectory file: what goes in comes out, by every route, and nothing else is ever believed."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import xarray
from examples import (
    CONFIG,
    EVERY,
    KILLED,
    STEPS,
    C,
    M,
    N,
    T,
    child,
    description,
    interrupted,
    refused,
    start,
    state,
    train,
    write,
)

from bbdfield.errors import InputError
from bbdfield.storage import (
    Trajectory,
    TrajectoryWriter,
    bring_up_to_date,
    content_digest,
    migrate,
    migrations,
    schema,
)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("compression", [None, "gzip"])
def test_round_trip(tmp_path: Path, tied: bool, compression: str | None) -> None:
    described = description(tied)
    path = write(tmp_path / "a.h5", described, compression=compression)
    steps = np.arange(0, STEPS + 1, EVERY)
    with Trajectory(path) as run:
        assert (run.kind, run.config, run.seed, run.complete) == ("lattice", CONFIG, 3, True)
        assert run.attrs["software"] == "bbdfield" and set(run.attrs["versions"]) >= {
            "python",
            "numpy",
            "h5py",
        }
        np.testing.assert_array_equal(run.step, steps)
        np.testing.assert_array_equal(run.t, 0.1 * steps)
        for i, step in enumerate(steps):
            for name, values in state(int(step), described).items():
                np.testing.assert_array_equal(run.fields[name][i], values)
        for name, (dims, shape) in described["fields"].items():
            assert run.fields[name].dims == ("t", *dims)
            assert run.fields[name].shape == (len(steps), *shape)
            assert run.fields[name].compression == compression
        for name, (dims, values) in described["boundary"].items():
            assert run.boundary[name].dims == dims
            np.testing.assert_array_equal(run.boundary[name][:], values)
            assert run.boundary[name].dtype == (np.float64 if values.dtype.kind == "f" else np.int64)
        assert set(run.coordinates) == set(described["coordinates"])
        np.testing.assert_array_equal(run.coordinates["y"], described["coordinates"]["y"])
        np.testing.assert_array_equal(run.scalar_step, np.arange(STEPS))
        np.testing.assert_array_equal(run.scalars["loss"], 1 / (1 + np.arange(STEPS)))
        np.testing.assert_array_equal(run.evaluation["test_accuracy"], steps / STEPS)
        run.verify()


def test_chunks_hold_one_snapshot_with_checksum(tmp_path: Path) -> None:
    with h5py.File(write(tmp_path / "a.h5"), "r") as file:
        for name, dataset in file["fields"].items():
            assert dataset.chunks == (1, *dataset.shape[1:]), name
            assert dataset.fletcher32 and dataset.maxshape[0] is None
    huge = schema.chunk_shape((64, 1024, 64, 64, 64))
    assert 2**25 < 8 * np.prod(huge) <= 2**26 and huge[0] == 1
    assert schema.chunk_shape((4, 3, 2)) == (1, 4, 3, 2) and schema.chunk_shape((0, 3)) == (1, 1, 3)


def test_indexing_counts_from_the_last_complete_snapshot(tmp_path: Path) -> None:
    path = interrupted(tmp_path / "a.h5", 6)
    with h5py.File(path, "r+") as file:  # the beginning of a fifth snapshot
        file["fields/w"].resize(5, axis=0)
        file["t"].resize(5, axis=0)
    with Trajectory(path) as run:
        assert run.n_snapshots == 4 and len(run.t) == 4
        w = run.fields["w"]
        whole = np.stack([state(step, description())["w"] for step in (0, 2, 4, 6)])
        for key in (
            -1,
            np.int64(2),
            slice(None),
            slice(-2, None),
            slice(0, 99, 2),
            [1, 3],
            ...,
            (..., 0),
            (1, 2),
        ):
            np.testing.assert_array_equal(w[key], whole[key])
        np.testing.assert_array_equal(w[-1, ..., 1:], whole[-1, ..., 1:])
        with pytest.raises(IndexError):
            w[4]


def test_xarray_sees_named_dimensions_and_coordinates(tmp_path: Path) -> None:
    described = description()
    path = write(tmp_path / "a.h5", described)
    with xarray.open_datatree(path, engine="h5netcdf") as tree:
        fields = tree["fields"]
        assert fields["z"].dims == ("t", "x_site", "y", "c_out", "sample")
        assert fields["w"].dims == ("t", "x_link", "c_out", "u", "c_in")
        assert fields["r"].dims == ("t", "output", "c_out", "mode")
        for name in ("x_site", "y", "c_out"):
            np.testing.assert_array_equal(fields["z"].coords[name], described["coordinates"][name])
        np.testing.assert_array_equal(fields["z"].coords["t"], 0.1 * np.arange(0, STEPS + 1, EVERY))
        assert "sample" not in fields["z"].coords and fields["y"].attrs["units"] == "L_y"
        np.testing.assert_array_equal(fields["z"].sel(t=0.2, method="nearest"), state(2, described)["z"])
        assert tree["scalars"]["loss"].dims == ("scalar_step",)
        np.testing.assert_array_equal(tree["scalars"]["loss"].coords["scalar_step"], np.arange(STEPS))
        assert tree["evaluation"]["test_accuracy"].dims == ("t",)
        assert tree["boundary"]["x"].dims == ("train_sample", "data_channel", "data_cell")
    for group, name in (("fields", "b"), ("scalars", "energy"), ("boundary", "lift"), ("boundary", "y")):
        with xarray.open_dataset(path, engine="h5netcdf", group=group) as dataset, Trajectory(path) as run:
            mine = getattr(run, group)[name]
            np.testing.assert_array_equal(dataset[name], mine[:])
            assert dataset[name].dims == (("scalar_step",) if group == "scalars" else mine.dims)


def test_existing_file_is_not_touched_unless_asked(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5")
    before = path.read_bytes()
    with pytest.raises(InputError, match="exists already"):
        TrajectoryWriter.create(path, **description())
    with pytest.raises(InputError, match="dimension"):  # a new file that fails leaves the old one in place
        bad = {**description(), "fields": {"w": (("y",), (N + 1,))}}
        TrajectoryWriter.create(path, overwrite=True, **bad)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["a.h5"]
    write(path, seed=4, overwrite=True)
    with Trajectory(path) as run:
        assert run.seed == 4


@pytest.mark.parametrize("place", ["absent/a.h5", "/proc/a.h5"])
def test_unwritable_places(tmp_path: Path, place: str) -> None:
    with pytest.raises(InputError) as caught:
        TrajectoryWriter.create(tmp_path / place, **description())
    assert "\n" not in str(caught.value) and str(tmp_path / place) in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": "other"}, "kind is 'other'"),
        ({"seed": -1}, "seed is -1"),
        ({"compression": "lzf"}, "compression 'lzf'"),
        ({"config": {"a": float("nan")}}, "config: cannot be stored"),
        ({"scalars": ["a/b"]}, "'a/b' cannot name"),
        ({"fields": {"w": (("t",), (3,))}}, "'t' cannot name a dimension"),
        ({"fields": {"w": (("y", "y"), (N, N))}}, "do not fit its shape"),
        ({"boundary": {"x": (("y",), np.array(["text"] * N))}}, "boundary x: values of type"),
    ],
)
def test_contradictory_descriptions(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        TrajectoryWriter.create(tmp_path / "a.h5", **{**description(), **change})
    assert os.listdir(tmp_path) == []


def test_bad_snapshots_are_refused_and_leave_the_file_usable(tmp_path: Path) -> None:
    described = description()
    good = state(0, described)
    with TrajectoryWriter.create(tmp_path / "a.h5", **described) as writer:
        writer.snapshot(0, 0.0, good, {"test_accuracy": 0.0})
        writer.scalar(0, loss=1.0, energy=0.0)
        for step, fields, evaluation, words in (
            (0, good, {"test_accuracy": 0.0}, "steps increase"),
            (2, {"w": good["w"]}, {"test_accuracy": 0.0}, "fields given: w"),
            (2, good, {}, "evaluation given: nothing"),
            (2, {**good, "w": good["w"][:1]}, {"test_accuracy": 0.0}, "field w has shape"),
            (2, {**good, "w": 1j * good["w"]}, {"test_accuracy": 0.0}, "complex128"),
        ):
            with pytest.raises(InputError, match=words):
                writer.snapshot(step, 0.1, fields, evaluation)
        with pytest.raises(InputError, match="steps increase"):
            writer.scalar(0, loss=1.0, energy=0.0)
        with pytest.raises(InputError, match="scalars given: loss"):
            writer.scalar(1, loss=1.0)
        writer.snapshot(2, 0.2, good, {"test_accuracy": 1.0})
    with Trajectory(tmp_path / "a.h5") as run:
        run.verify()
        np.testing.assert_array_equal(run.step, [0, 2])
    with pytest.raises(InputError, match="already closed"):
        writer.snapshot(4, 0.4, good, {"test_accuracy": 1.0})


def test_non_finite_values_survive(tmp_path: Path) -> None:
    described = description()
    fields = state(0, described)
    fields["w"].flat[:3] = np.nan, np.inf, -np.inf
    with TrajectoryWriter.create(tmp_path / "a.h5", **described) as writer:
        writer.scalar(0, loss=float("nan"), energy=0.0)
        writer.snapshot(1, 0.1, fields, {"test_accuracy": float("nan")})
    with Trajectory(tmp_path / "a.h5") as run:
        run.verify()
        np.testing.assert_array_equal(run.fields["w"][0], fields["w"])
        assert np.isnan(run.scalars["loss"]).all() and np.isnan(run.evaluation["test_accuracy"]).all()


def test_reading_while_writing(tmp_path: Path) -> None:
    path, described = tmp_path / "a.h5", description()
    look = """
        from bbdfield.storage import Trajectory
        with Trajectory(sys.argv[1]) as run:
            print(run.complete, run.step.tolist(), run.scalar_step.tolist(), run.fields["w"][:].shape)
    """
    with TrajectoryWriter.create(path, **described) as writer:
        with Trajectory(path) as run:
            assert run.n_snapshots == 0 and run.fields["w"].shape[0] == 0 and len(run.scalar_step) == 0
        train(writer, described, 4)
        with Trajectory(path) as run:
            np.testing.assert_array_equal(run.step, [0, 2, 4])
            np.testing.assert_array_equal(run.fields["z"][-1], state(4, described)["z"])
            assert not run.complete
            run.verify()
        other = child(look, path)
        assert other.stdout.strip() == f"False [0, 2, 4] [0, 1, 2, 3] {(3, M, C, T, C)}", other.stderr
    assert child(look, path).stdout.startswith("True [0, 2, 4]")


def test_exception_leaves_an_incomplete_file(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        with TrajectoryWriter.create(tmp_path / "a.h5", **description()) as writer:
            train(writer, description(), 3)
            raise KeyboardInterrupt
    with Trajectory(tmp_path / "a.h5") as run:
        assert not run.complete and run.step.tolist() == [0, 2] and run.scalar_step.tolist() == [0, 1]


@pytest.mark.parametrize("stop", [0, 3, 4, STEPS])
def test_resumed_equals_uninterrupted(tmp_path: Path, stop: int) -> None:
    whole = content_digest(write(tmp_path / "whole.h5"))
    path = interrupted(tmp_path / "a.h5", stop)
    with TrajectoryWriter.resume(path, config=CONFIG) as writer:
        assert writer.last_step == stop - stop % EVERY
        train(writer, description())
    assert content_digest(path) == whole and sorted(os.listdir(tmp_path)) == ["a.h5", "whole.h5"]
    with Trajectory(path) as run:
        run.verify()
        assert len(run.attrs["resumed"]) == 1 and "created" in run.attrs["resumed"][0]
    with pytest.raises(InputError, match="complete already"):
        TrajectoryWriter.resume(path, config=CONFIG)


def test_content_digest_depends_on_content_alone(tmp_path: Path) -> None:
    whole = content_digest(write(tmp_path / "a.h5"))
    assert content_digest(write(tmp_path / "b.h5", config={"other": 1}, compression="gzip")) == whole
    changed = description()
    changed["boundary"]["x"][1][0, 0, 0] += 1e-15
    assert content_digest(write(tmp_path / "c.h5", changed)) != whole
    assert content_digest(interrupted(tmp_path / "d.h5", 6)) != whole


def test_resume_before_the_first_snapshot(tmp_path: Path) -> None:
    TrajectoryWriter.create(tmp_path / "a.h5", **description()).abandon()
    with TrajectoryWriter.resume(tmp_path / "a.h5", config=CONFIG) as writer:
        assert writer.last_step is None
        train(writer, description())
    assert content_digest(tmp_path / "a.h5") == content_digest(write(tmp_path / "whole.h5"))


def test_resume_refuses_another_configuration(tmp_path: Path) -> None:
    path = interrupted(tmp_path / "a.h5", 4)
    before = path.read_bytes()
    with pytest.raises(InputError, match="differs in depth;"):
        TrajectoryWriter.resume(path, config={**CONFIG, "depth": 9})
    assert path.read_bytes() == before


def test_killed_between_snapshots(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    assert child(KILLED, path, 5).returncode == -signal.SIGKILL
    with pytest.raises(OSError, match="already open for"):
        h5py.File(path, "r")
    with Trajectory(path) as run:
        assert not run.complete and run.step.tolist() == [0, 2, 4] and run.scalar_step.tolist() == [0, 1, 2, 3]
        np.testing.assert_array_equal(run.fields["z"][2], state(4, description())["z"])
    with TrajectoryWriter.resume(path, config=CONFIG) as writer:
        train(writer, description())
    assert content_digest(path) == content_digest(write(tmp_path / "whole.h5"))


def test_killed_at_any_moment(tmp_path: Path) -> None:
    """Kill a writer, and those that resume it, wherever they are; what can be read is right at every look."""
    path, last, killed_with = tmp_path / "a.h5", -1, []
    for _ in range(3):
        process = start(KILLED, path, 10**6)
        try:
            before, deadline = last, time.monotonic() + 60
            while last < before + 10 * EVERY:
                assert process.poll() is None and time.monotonic() < deadline
                if path.exists():
                    with Trajectory(path) as run:
                        assert run.n_snapshots == 0 or run.step[-1] >= last
                        last = int(run.step[-1]) if run.n_snapshots else last
        finally:
            process.kill()
            process.communicate()
        killed_with.append(process.returncode)
        with Trajectory(path) as run:
            last = int(run.step[-1])
            np.testing.assert_array_equal(run.step, np.arange(0, last + 1, EVERY))
            np.testing.assert_array_equal(run.scalars["energy"], np.arange(last))
            for i, step in enumerate(run.step.tolist()):
                for name, values in state(step, description()).items():
                    np.testing.assert_array_equal(run.fields[name][i], values)
    assert killed_with == [-signal.SIGKILL] * 3


def test_failed_write_keeps_earlier_snapshots(tmp_path: Path) -> None:
    """A limit on the file's size stands in for a disk that fills up after the check before a snapshot."""
    code = """
        import resource
        described = example.description(scale=50)
        writer = example.TrajectoryWriter.create(sys.argv[1], **described)
        disconnect = writer._disconnect
        def lift_the_limit_for_other_files():
            resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
            disconnect()
        writer._disconnect = lift_the_limit_for_other_files
        resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, -1))
        try:
            example.train(writer, described, 100)
        except example.InputError as error:
            print(error)
            sys.exit(2)
    """
    result = child(code, tmp_path / "a.h5")
    assert result.returncode == 2, result.stderr
    assert "is the disk full" in result.stdout and result.stdout.count("\n") == 1
    described = description(scale=50)
    with Trajectory(tmp_path / "a.h5") as run:
        assert not run.complete and run.n_snapshots >= 1
        for i, step in enumerate(run.step.tolist()):
            np.testing.assert_array_equal(run.fields["z"][i], state(step, described)["z"])


def test_no_space_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.h5"
    with pytest.raises(InputError, match="the disk is full"):
        with TrajectoryWriter.create(path, **description()) as writer:
            train(writer, description(), 4)
            monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
            writer.snapshot(6, 0.6, state(6, description()), {"test_accuracy": 0.0})
    with Trajectory(path) as run:
        assert not run.complete and run.step.tolist() == [0, 2, 4]


def test_resuming_reaches_the_disk_before_it_replaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a power cut could leave neither file."""
    path, done = interrupted(tmp_path / "a.h5", 4), []
    replace = os.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: done.append(os.fstat(descriptor).st_ino))
    monkeypatch.setattr(os, "replace", lambda *paths: (done.append("replaced"), replace(*paths)))
    TrajectoryWriter.resume(path, config=CONFIG).abandon()
    assert done == [path.stat().st_ino, "replaced"]


def test_a_symbolic_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    path, link = interrupted(tmp_path / "disk" / "a.h5", 4), tmp_path / "link.h5"
    link.symlink_to(path)
    writer = TrajectoryWriter.resume(link, config=CONFIG)
    with pytest.raises(InputError, match=r"disk/a\.h5: another process is writing it"):
        TrajectoryWriter.resume(path, config=CONFIG)
    with writer:
        train(writer, description())
    assert link.is_symlink() and sorted(os.listdir(tmp_path)) == ["disk", "link.h5"]
    with Trajectory(path) as run:
        assert run.complete
    write(link, overwrite=True, seed=9)
    with Trajectory(path) as run:
        assert link.is_symlink() and run.complete and run.seed == 9
    assert os.listdir(tmp_path / "disk") == ["a.h5"]


def test_a_scale_of_another_name_is_refused(tmp_path: Path) -> None:
    with h5py.File(write(tmp_path / "a.h5"), "r+") as file:
        file["x_link"].attrs["NAME"] = np.bytes_("x_site")
    refused(tmp_path / "a.h5", "dimension x_link has a scale of another name")


def test_a_header_that_cannot_be_trusted_cannot_be_repaired(tmp_path: Path) -> None:
    with h5py.File(write(tmp_path / "a.h5"), "r+") as file:
        file.attrs["config"] = schema.text('{"depth":3}')
    refused(tmp_path / "a.h5", "config is not JSON as bbdfield writes it", "or move it away and run the study again")


def test_writer_notices_that_its_file_was_replaced(tmp_path: Path) -> None:
    writer = TrajectoryWriter.create(tmp_path / "a.h5", **description())
    write(tmp_path / "b.h5", seed=9).replace(tmp_path / "a.h5")
    with pytest.raises(InputError, match="replaced by another process"):
        writer.close()
    with Trajectory(tmp_path / "a.h5") as run:
        run.verify()


def test_files_that_are_no_trajectory(tmp_path: Path) -> None:
    refused(tmp_path / "absent.h5", "no such file")
    refused(tmp_path, "no such file")
    for content in (b"", b"some text\n" * 100):
        (tmp_path / "text.h5").write_bytes(content)
        refused(tmp_path / "text.h5", "not an HDF5 file")
    for version, words in (("earliest", "none written by bbdfield"), ("latest", "not a bbdfield trajectory")):
        with h5py.File(tmp_path / "foreign.h5", "w", libver=version) as file:
            file["data"] = np.zeros(3)
        refused(tmp_path / "foreign.h5", words)


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.999])
def test_truncated_file(tmp_path: Path, kept: float) -> None:
    path = write(tmp_path / "a.h5")
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    refused(path, "truncated")


V1 = ("t", "step", "scalar_step")


def as_version_1(path: Path, described: dict[str, Any] | None = None) -> Path:
    """A finished file as the first schema had it: flag and digest in attributes, neither chain nor seal."""
    write(path, described)
    with h5py.File(path, "r+") as file:
        names = [name for name in json.loads(file.attrs["datasets"]) if name not in ("chain", "word")]
        del file["chain"], file["word"]
        file.attrs["datasets"] = schema.text(json.dumps(names))
        file.attrs["schema_version"], file.attrs["complete"] = 1, True
        attributes = {name: schema.plain(value) for name, value in file.attrs.items()}
        attributes |= {name: json.loads(attributes[name]) for name in schema.JSON_ATTRIBUTES}
        file.attrs["digest"] = schema.text(migrations._digest_of_one(file, attributes, names))
    return path


def test_migration_from_version_1(tmp_path: Path) -> None:
    old = as_version_1(tmp_path / "old.h5")
    refused(old, "bbdfield.storage.migrate")
    before = old.read_bytes()
    migrate(old, tmp_path / "new.h5")
    assert old.read_bytes() == before and sorted(os.listdir(tmp_path)) == ["new.h5", "old.h5"]
    with Trajectory(tmp_path / "new.h5") as run:
        assert run.complete and run.seed == 3 and run.attrs["schema_version"] == 2
        run.verify()
    assert content_digest(tmp_path / "new.h5") == content_digest(write(tmp_path / "whole.h5"))
    with pytest.raises(InputError, match="exists already"):
        migrate(old, tmp_path / "new.h5")
    with pytest.raises(InputError, match="no migration from schema 2"):
        migrate(tmp_path / "new.h5", tmp_path / "newer.h5")


def test_version_1_is_converted_where_it_lies(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    old = as_version_1(tmp_path / "old.h5")
    bring_up_to_date(old)
    assert f"{old}: converted from schema version 1 to 2" in caplog.messages
    with Trajectory(old) as run:
        assert run.complete
        run.verify()
    content = old.read_bytes()
    bring_up_to_date(old)
    assert old.read_bytes() == content and len(caplog.messages) == 1 and os.listdir(tmp_path) == ["old.h5"]
    bring_up_to_date(tmp_path / "none.h5")
    altered = as_version_1(tmp_path / "altered.h5")
    with h5py.File(altered, "r+") as file:
        file["scalars/loss"][0] += 1e-15
    content = altered.read_bytes()
    with pytest.raises(InputError, match=r"altered\.h5: altered after it was completed"):
        bring_up_to_date(altered)
    assert altered.read_bytes() == content and sorted(os.listdir(tmp_path)) == ["altered.h5", "old.h5"]


def test_altered_and_unfinished_files_of_version_1_are_not_migrated(tmp_path: Path) -> None:
    old = as_version_1(tmp_path / "old.h5")
    with h5py.File(old, "r+") as file:
        file["scalars/loss"][0] += 1e-15
    with pytest.raises(InputError, match=r"old\.h5: altered after it was completed"):
        migrate(old, tmp_path / "new.h5")
    with h5py.File(old, "r+") as file:
        file.attrs["complete"] = False
    with pytest.raises(InputError, match=r"only finished files are converted; move it away and run the study again"):
        migrate(old, tmp_path / "new.h5")
    assert os.listdir(tmp_path) == ["old.h5"]


def test_migrations_are_chained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An even older file whose seed was called otherwise, as an example of the path a change of schema takes."""
    old = as_version_1(tmp_path / "old.h5")
    with h5py.File(old, "r+") as file:
        file.attrs["schema_version"] = 0
        file.attrs["random_seed"] = file.attrs["seed"]
        del file.attrs["seed"]
    with pytest.raises(InputError, match="no migration"):
        migrate(old, tmp_path / "new.h5")

    def rename_seed(file: h5py.File) -> None:
        file.attrs["seed"] = file.attrs["random_seed"]
        del file.attrs["random_seed"]
        file.attrs["schema_version"] = 1

    monkeypatch.setitem(schema.MIGRATIONS, 0, rename_seed)
    refused(old, "bbdfield.storage.migrate")
    migrate(old, tmp_path / "new.h5")
    with Trajectory(tmp_path / "new.h5") as run:
        assert run.seed == 3 and run.complete


def test_large_configuration_and_closed_file(tmp_path: Path) -> None:
    config = {"samples": ["x" * 100] * 2000}
    with Trajectory(write(tmp_path / "a.h5", config=config)) as run:
        assert run.config == config
        run.verify()
    with pytest.raises(InputError, match="closed"):
        run.fields["w"][0]
