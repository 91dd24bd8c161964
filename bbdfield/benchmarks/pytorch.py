"""The lattice as PyTorch users train it: a list of layers, autograd, torch.optim.SGD with one learning rate per group.

Tied weights are `torch.nn.functional.conv1d`, untied ones sums over rolled copies (one channel) or one batched product
over windows: what was fastest of several ways to write them. Nothing is compiled. float64 on the CPU.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np

from bbdfield.benchmarks.problems import Problem
from bbdfield.benchmarks.refusals import require_known
from bbdfield.model.units import learning_rates


def installed() -> bool:
    return importlib.util.find_spec("torch") is not None


class PyTorchLattice:
    """The problem's lattice in PyTorch; `step(k)` is that of `LatticeSystem`.

    Tied: z (B, C, N) and weights (C, C', P) per layer. Untied: z (N, C, B) and weights (N, C, P·C') per layer, with one
    channel (P, N, 1, 1).

    Raises
    ------
    InputError
        for a lattice that it does not know.
    """

    name = "PyTorch"

    def __init__(self, problem: Problem, threads: int) -> None:
        import torch

        require_known(problem.lattice)
        torch.set_num_threads(threads)
        lattice, boundary, start = problem.lattice, problem.boundary, problem.start
        self.problem, self.lattice, self.torch = problem, lattice, torch
        self.tied, self.reach = lattice.range.tied, problem.taps // 2
        inputs = boundary.lifted(boundary.dataset.x, lattice.width)
        self.inputs = torch.tensor(inputs.transpose(2, 1, 0).copy())  # (n, C, N)
        self.labels = torch.tensor(np.argmax(boundary.targets, axis=1))
        self.order = [torch.tensor(boundary.batch(k)) for k in range(problem.training.steps)]
        y = (np.arange(lattice.width) + 0.5) * lattice.a_y
        basis = np.cos(np.pi / lattice.length_y * np.outer(y, np.arange(lattice.readout_modes)))
        self.basis = torch.tensor(lattice.a_y * basis)
        matrix = lattice.range.taps(lattice.a_y)
        self.moments = None if matrix is None else torch.tensor(matrix)  # (T, P)
        if self.tied:
            self.weights = [torch.tensor(w.transpose(0, 2, 1).copy(), requires_grad=True) for w in start.w]
            self.biases = [torch.tensor(b.T.copy(), requires_grad=True) for b in start.b]
        else:
            self.weights = [torch.tensor(self._arranged(w), requires_grad=True) for w in start.w]
            self.biases = [torch.tensor(b[..., None], requires_grad=True) for b in start.b]
        self.readout = torch.tensor(start.r.reshape(len(start.r), -1), requires_grad=True)  # (O, C·J)
        rates = learning_rates(lattice, problem.training.step, problem.training.rates)
        groups = [
            {"params": self.weights, "lr": rates.w},
            {"params": self.biases, "lr": rates.b},
            {"params": [self.readout], "lr": rates.r},
        ]
        self.optimizer = torch.optim.SGD(groups)

    def _arranged(self, w: np.ndarray) -> np.ndarray:
        """One layer's untied weights (N, C, P, C') as this program keeps them."""
        if self.lattice.channels == 1:
            return w.transpose(2, 0, 1, 3).copy()
        return w.reshape(*w.shape[:2], -1)

    def step(self, k: int) -> Any:
        """One SGD step on the samples of step k; the loss before it, as a tensor."""
        torch = self.torch
        index = self.order[k % len(self.order)]
        self.optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(self.logits(self.inputs[index]), self.labels[index])
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def finish(self) -> None:
        """Everything has been computed when `step` returns."""

    def logits(self, z: Any) -> Any:
        """Logits (B, O) of inputs z (B, C, N)."""
        if self.tied:
            for w, b in zip(self.weights, self.biases, strict=True):
                z = z + self._convolution(w, self.torch.tanh(z)) + b
        else:
            z = z.permute(2, 1, 0).contiguous()
            for w, b in zip(self.weights, self.biases, strict=True):
                z = z + self._local(w, self.torch.tanh(z)) + b
            z = z.permute(2, 1, 0)
        return (z @ self.basis).flatten(1) @ self.readout.T

    def _convolution(self, w: Any, s: Any) -> Any:
        conv1d, pad = self.torch.nn.functional.conv1d, self.torch.nn.functional.pad
        if self.moments is not None:
            w = w @ self.moments.T
        if self.lattice.padding == "zeros":
            return conv1d(s, w, padding=self.reach)
        return conv1d(pad(s, (self.reach, self.reach), mode="circular"), w)

    def _local(self, w: Any, s: Any) -> Any:
        """s (N, C', B); w as `_arranged`."""
        torch, reach = self.torch, self.reach
        if self.lattice.channels == 1:
            neighbours = [self._shifted(s, k) for k in range(-reach, reach + 1)]
            if self.moments is not None:
                left, here, right = neighbours
                first, second = self.moments[2, 1:]
                neighbours = [here, first * (right - left), second * (left - 2 * here + right)]
            return (w * torch.stack(neighbours)).sum(0)
        if self.lattice.padding == "zeros":
            padded = torch.nn.functional.pad(s, (0, 0, 0, 0, reach, reach))
        else:
            padded = torch.cat([s[-reach:], s, s[:reach]])
        windows = padded.unfold(0, 2 * reach + 1, 1)  # (N, C', B, T)
        if self.moments is not None:
            windows = windows @ self.moments
        return torch.bmm(w, windows.permute(0, 3, 1, 2).flatten(1, 2))

    def _shifted(self, s: Any, k: int) -> Any:
        """s at the cell k further on."""
        if k == 0:
            return s
        if self.lattice.padding == "circular":
            return self.torch.roll(s, -k, 0)
        ends = (0, 0, 0, 0, max(-k, 0), max(k, 0))
        padded = self.torch.nn.functional.pad(s, ends)
        return padded[: len(s)] if k < 0 else padded[k:]

    def state(self) -> dict[str, np.ndarray]:
        """w, b and r in the layouts of `LatticeSystem`."""
        w = np.stack([part.detach().numpy() for part in self.weights])
        b = np.stack([part.detach().numpy() for part in self.biases])
        return {
            "w": w.transpose(0, 1, 3, 2) if self.tied else self._restored(w),
            "b": b.transpose(0, 2, 1) if self.tied else b[..., 0],
            "r": self.readout.detach().numpy().reshape(self.problem.start.r.shape),
        }

    def _restored(self, w: np.ndarray) -> np.ndarray:
        """The inverse of `_arranged`, for all layers."""
        if self.lattice.channels == 1:
            return w.transpose(0, 2, 3, 1, 4)
        return w.reshape(self.problem.start.w.shape)
