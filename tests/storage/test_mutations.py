"""Files changed at random: refused, or what is read of them is bit for bit what was written. Nothing else happens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from examples import child

#: of each of three files; thousands have been run
NUMBER = 84

CODE = """
    import collections, json, resource, time, tempfile
    import numpy as np
    from bbdfield.errors import Damaged, InputError
    from bbdfield.storage import Trajectory, TrajectoryWriter, content_digest
    from mutators import mutate

    os.fsync = lambda _: None
    folder, state_of_file, first, number = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    described, path = example.description(), folder / "a.h5"
    whole = content_digest(example.write(folder / "whole.h5"))
    if state_of_file == "finished":
        example.write(path)
    elif state_of_file == "unfinished":
        example.interrupted(path, 7)
    else:  # killed: as the writer's last flush left it
        writer = TrajectoryWriter.create(folder / "other.h5", **described)
        example.train(writer, described, 7)
        path.write_bytes((folder / "other.h5").read_bytes())
        writer.abandon()
    content = path.read_bytes()
    with Trajectory(path) as run:
        attributes, steps = run.attrs, run.step.tolist()
        boundary = {name: variable[()] for name, variable in run.boundary.items()}
        loss = run.scalars["loss"]

    def same(run):
        assert run.attrs == attributes and run.step.tolist() == steps[: run.n_snapshots]
        assert all((run.boundary[name][()] == values).all() for name, values in boundary.items())
        assert (run.scalars["loss"] == loss[: len(run.scalar_step)]).all()
        for i, step in enumerate(run.step.tolist()):
            assert run.t[i] == 0.1 * step
            for name, values in example.state(step, described).items():
                assert (run.fields[name][i] == values).all(), (name, i)

    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, used + 2**28))
    counts, slowest = collections.Counter(), 0.0
    for case in range(first, first + number):
        signal.alarm(20)
        way = mutate(path, content, case, edits=state_of_file != "killed")
        if path.read_bytes() == content:
            counts["unchanged"] += 1
            continue
        began = time.monotonic()
        try:
            with Trajectory(path) as run:
                same(run)
                assert state_of_file != "finished" or not run.complete, (case, way)
                counts["used " + way] += 1
        except InputError as error:
            assert str(path) in str(error) and os.linesep not in str(error), (case, error)
            counts["refused"] += 1
        slowest = max(slowest, time.monotonic() - began)
        if case % 4 < 3:
            continue
        try:
            with TrajectoryWriter.resume(path, config=example.CONFIG) as writer:
                example.train(writer, described)
            assert content_digest(path) == whole, (case, way)
            counts["mended"] += 1
        except InputError as error:
            assert os.linesep not in str(error), (case, error)
            counts["lost"] += 1
    print(json.dumps({"slowest": slowest, **counts}))
"""


@pytest.mark.parametrize("state", ["finished", "unfinished", "killed"])
def test_mutated_files(tmp_path: Path, state: str) -> None:
    """With 256 MB of memory to spare, in a process of its own, so that a crash or a hang of HDF5 is seen as well."""
    result = child(CODE, tmp_path, state, 0, NUMBER)
    assert result.returncode == 0, result.stderr[-3000:]
    counts = json.loads(result.stdout)
    used = {way for way in counts if way.startswith("used ")}
    if state == "finished":  # through h5py, a snapshot can be taken away so that it seems never to have been written
        assert used <= {"used change_a_length"}, counts
    assert counts["refused"] > NUMBER // 3 and counts["mended"] > NUMBER // 12 and counts["slowest"] < 10, counts
