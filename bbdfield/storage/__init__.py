"""The HDF5 trajectory: written by snapshots, readable at any moment, resumable, sealed when complete."""

from bbdfield.errors import Damaged
from bbdfield.storage.migrations import bring_up_to_date, migrate
from bbdfield.storage.reader import Trajectory, Variable, content_digest
from bbdfield.storage.schema import SCHEMA_VERSION
from bbdfield.storage.writer import TrajectoryWriter

__all__ = [
    "SCHEMA_VERSION",
    "Damaged",
    "Trajectory",
    "TrajectoryWriter",
    "Variable",
    "bring_up_to_date",
    "content_digest",
    "migrate",
]
