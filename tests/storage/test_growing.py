"""A file that is being written, seen by other programs."""

from __future__ import annotations

import subprocess
import sys

import numpy as np

from bbdfield.storage import TrajectoryWriter

XARRAY = """
import sys, xarray
with xarray.open_datatree(sys.argv[1], engine="h5netcdf", driver_kwds={"swmr": True}) as tree:
    print(tree["fields"].w.isel(t=-1).values.tolist(), tree.t.values.tolist())
"""


def test_xarray_reads_a_file_while_it_grows(tmp_path):
    path = tmp_path / "a.h5"
    writer = TrajectoryWriter.create(
        path, kind="lattice", config={}, seed=0, coordinates={"y": [0.25, 0.75]}, boundary={},
        fields={"w": (("y",), (2,))}, scalars=["loss"], evaluation=[],
    )  # fmt: skip
    with writer:
        for k in range(3):
            writer.snapshot(k, 0.5 * k, {"w": np.full(2, float(k))})
            # another process: this one has the file open already
            seen = subprocess.run([sys.executable, "-c", XARRAY, path], capture_output=True, text=True, timeout=120)
            assert seen.stdout == f"{[float(k)] * 2} {[0.5 * n for n in range(k + 1)]}\n", seen.stderr
