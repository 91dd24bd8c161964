"""The HDF5 trajectory: written by snapshots, readable at any moment, resumable, sealed when complete."""

from bbdfield.storage.reader import Trajectory, Variable, content_digest, migrate
from bbdfield.storage.schema import SCHEMA_VERSION
from bbdfield.storage.writer import TrajectoryWriter

__all__ = [
    "SCHEMA_VERSION",
    "Trajectory",
    "TrajectoryWriter",
    "Variable",
    "content_digest",
    "migrate",
]
