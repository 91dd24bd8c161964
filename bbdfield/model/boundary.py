"""The boundary: data and their order of arrival, the lift at x = 0 and the readout at x = L_x.

Everything data-dependent reaches the bulk through here: samples enter as z(0, y) = E x(y), and the loss of the logits
acts back at x = L_x. A field simulation gets its initial fields and one of these, and nothing else of the lattice's
run.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from bbdfield.datasets import Dataset, on_cells
from bbdfield.errors import InputError
from bbdfield.model.architecture import Lattice, Training
from bbdfield.model.initial import STREAM_LIFT, STREAM_SAMPLES
from bbdfield.model.losses import prepare_targets


@dataclass(frozen=True)
class Boundary:
    """Data, lift and sample sequence of one training run.

    lift : E (C, D) with |E|² = C.  sample_index : (steps, batch), or (1, batch) where all steps see the same samples.
    probe_index : samples (of the test set where there is one) on which z is recorded.
    """

    dataset: Dataset
    lattice: Lattice
    training: Training
    lift: np.ndarray
    sample_index: np.ndarray
    probe_index: np.ndarray

    @classmethod
    def draw(cls, dataset: Dataset, lattice: Lattice, training: Training) -> Boundary:
        """Seeded lift and sample order: epochs of permutations cut into minibatches, so no sample repeats in an epoch.

        Raises
        ------
        InputError
            when the data do not fit the lattice (channels, outputs) or the batch or probe is larger than the data.
        """
        if dataset.x.shape[1] != lattice.data_channels:
            given = dataset.x.shape[1]
            wanted = lattice.data_channels
            raise InputError(f"lattice.data_channels = {wanted}, but {dataset.source} has {given} channels")
        if dataset.outputs != lattice.outputs:
            raise InputError(f"lattice.outputs = {lattice.outputs}, but {dataset.source} has {dataset.outputs} outputs")
        count = dataset.x.shape[0]
        if training.batch > count:
            raise InputError(
                f"training.batch = {training.batch}: {dataset.source} has only {count} samples; use a smaller batch"
            )
        probes = dataset.x if dataset.x_test is None else dataset.x_test
        if training.probe > probes.shape[0]:
            raise InputError(f"training.probe = {training.probe}: only {probes.shape[0]} samples to probe; use fewer")
        rng = np.random.default_rng([training.seed, STREAM_SAMPLES])
        rows = 1 if training.full_batch else training.steps
        per_epoch = count // training.batch
        epochs = [
            rng.permutation(count)[: per_epoch * training.batch].reshape(per_epoch, training.batch)
            for _ in range(-(-rows // per_epoch))
        ]
        sample_index = np.concatenate(epochs)[:rows].astype(np.int64)
        lift = np.random.default_rng([training.seed, STREAM_LIFT]).standard_normal(
            (lattice.channels, lattice.data_channels)
        )
        lift *= np.sqrt(lattice.channels) / np.linalg.norm(lift)
        return cls(dataset, lattice, training, lift, sample_index, np.arange(training.probe, dtype=np.int64))

    @cached_property
    def targets(self) -> np.ndarray:
        """Training targets as the loss wants them, (n, outputs)."""
        return prepare_targets(self.lattice.loss, self.dataset.y, self.lattice.outputs)

    def batch(self, step: int) -> np.ndarray:
        """Sample indices of one step."""
        return self.sample_index[0 if self.training.full_batch else step]

    def _interpolation(self, width: int) -> np.ndarray:
        """(data width, width): the spline is linear in the signal, so it is one matrix."""
        if width not in self._matrices:
            native = self.dataset.x.shape[-1]
            self._matrices[width] = on_cells(np.eye(native)[:, None, :], width)[:, 0, :]
        return self._matrices[width]

    @cached_property
    def _matrices(self) -> dict[int, np.ndarray]:
        return {}

    def lifted(self, x: np.ndarray, width: int) -> np.ndarray:
        """z(0, y) = E x(y) on `width` cells: x (B, D, data width) -> (width, C, B)."""
        signal = x if width == x.shape[-1] else x @ self._interpolation(width)
        return np.ascontiguousarray(np.einsum("cd,sdy->ycs", self.lift, signal))

    def input(self, index: np.ndarray, width: int) -> np.ndarray:
        """z(0, y) of training samples."""
        return self.lifted(self.dataset.x[index], width)

    def probe_input(self, width: int) -> np.ndarray:
        """z(0, y) of the probe set."""
        data = self.dataset.x if self.dataset.x_test is None else self.dataset.x_test
        return self.lifted(data[self.probe_index], width)

    @cached_property
    def test_targets(self) -> np.ndarray:
        """Targets of the test samples that are evaluated, (n, outputs)."""
        if self.dataset.y_test is None:
            return np.zeros((0, self.lattice.outputs))
        y = self.dataset.y_test[: self.training.evaluate]
        return (
            prepare_targets(self.lattice.loss, y, self.lattice.outputs)
            if len(y)
            else np.zeros((0, self.lattice.outputs))
        )
