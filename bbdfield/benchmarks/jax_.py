"""The lattice as JAX users train it: a scan over stacked weights and its gradient in one jitted step.

`jax.lax.scan` over layers, `jax.value_and_grad`, `jax.jit` with donated parameters; tied weights are
`jax.lax.conv_general_dilated`, untied ones sums over rolled copies (one channel) or one contraction over windows: what
was fastest of several ways to write them. float64 on the CPU.
"""

from __future__ import annotations

import importlib.util
from functools import partial
from typing import Any

import numpy as np

from bbdfield.benchmarks.problems import Problem
from bbdfield.benchmarks.refusals import require_known
from bbdfield.model.units import learning_rates


def installed() -> bool:
    return importlib.util.find_spec("jax") is not None


class JaxLattice:
    """The problem's lattice in JAX; `step(k)` is that of `LatticeSystem`.

    Tied: z (B, C, N) and weights (M, C, C', P). Untied: z (N, C, B) and weights (M, P, N, C, C').

    Raises
    ------
    InputError
        for a lattice that it does not know.
    """

    name = "JAX"

    def __init__(self, problem: Problem) -> None:
        import jax
        import jax.numpy as jnp

        require_known(problem.lattice)
        jax.config.update("jax_enable_x64", True)
        self.jax, self.jnp = jax, jnp
        lattice, boundary, start = problem.lattice, problem.boundary, problem.start
        self.problem, self.lattice = problem, lattice
        self.tied, self.reach = lattice.range.tied, problem.taps // 2
        y = (np.arange(lattice.width) + 0.5) * lattice.a_y
        basis = np.cos(np.pi / lattice.length_y * np.outer(y, np.arange(lattice.readout_modes)))
        self.basis = lattice.a_y * basis
        self.moments = lattice.range.taps(lattice.a_y)
        rates = learning_rates(lattice, problem.training.step, problem.training.rates)
        self.rates = {"w": rates.w, "b": rates.b, "r": rates.r}
        w = start.w.transpose(0, 1, 3, 2) if self.tied else start.w.transpose(0, 3, 1, 2, 4)
        b = start.b.transpose(0, 2, 1) if self.tied else start.b[..., None]
        inputs = boundary.lifted(boundary.dataset.x, lattice.width)
        labels = np.argmax(boundary.targets, axis=1)
        with jax.default_device(jax.devices("cpu")[0]):
            self.order = [jnp.asarray(boundary.batch(k)) for k in range(problem.training.steps)]
            # copied: jnp.asarray may keep NumPy's memory, and the step gives its arguments away
            self.u = {"w": jnp.array(w), "b": jnp.array(b), "r": jnp.array(start.r.reshape(len(start.r), -1))}
            self.inputs = jnp.asarray(inputs.transpose(2, 1, 0))  # (n, C, N)
            self.labels = jnp.asarray(labels)
        self._step = jax.jit(self._updated, donate_argnums=0)
        self.loss: Any = None

    def step(self, k: int) -> Any:
        """One SGD step on the samples of step k; the loss before it, perhaps still being computed."""
        self.u, self.loss = self._step(self.u, self.inputs, self.labels, self.order[k % len(self.order)])
        return self.loss

    def finish(self) -> None:
        """Wait until everything has been computed."""
        self.jax.block_until_ready((self.u, self.loss))

    def _updated(self, u: dict[str, Any], inputs: Any, labels: Any, index: Any) -> tuple[dict[str, Any], Any]:
        loss, gradient = self.jax.value_and_grad(self._loss)(u, inputs[index], labels[index])
        return {name: value - self.rates[name] * gradient[name] for name, value in u.items()}, loss

    def _loss(self, u: dict[str, Any], z: Any, labels: Any) -> Any:
        jax, jnp = self.jax, self.jnp
        z = z if self.tied else jnp.transpose(z, (2, 1, 0))
        operator = self._convolution if self.tied else self._local

        def layer(z: Any, weights: tuple[Any, Any]) -> tuple[Any, None]:
            w, b = weights
            return z + operator(w, jnp.tanh(z)) + b, None

        z, _ = jax.lax.scan(layer, z, (u["w"], u["b"]))
        z = z if self.tied else jnp.transpose(z, (2, 1, 0))
        logits = jnp.reshape(z @ self.basis, (len(z), -1)) @ u["r"].T
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1))

    def _convolution(self, w: Any, s: Any) -> Any:
        reach = self.reach
        if self.moments is not None:
            w = w @ self.moments.T
        ends = [(reach, reach)]
        if self.lattice.padding == "circular":
            s, ends = self.jnp.pad(s, ((0, 0), (0, 0), (reach, reach)), mode="wrap"), [(0, 0)]
        return self.jax.lax.conv_general_dilated(s, w, (1,), ends, dimension_numbers=("NCW", "OIW", "NCW"))

    def _local(self, w: Any, s: Any) -> Any:
        """w (P, N, C, C'), s (N, C', B)."""
        jnp, reach = self.jnp, self.reach
        if self.lattice.padding == "circular":
            shifted = partial(jnp.roll, s, axis=0)
            neighbours = [shifted(-k) for k in range(-reach, reach + 1)]
        else:
            padded = jnp.pad(s, ((reach, reach), (0, 0), (0, 0)))
            neighbours = [padded[k : k + len(s)] for k in range(2 * reach + 1)]
        if self.moments is not None:
            left, here, right = neighbours
            first, second = self.moments[2, 1:]
            neighbours = [here, first * (right - left), second * (left - 2 * here + right)]
        if self.lattice.channels == 1:
            return sum(w[p] * neighbour for p, neighbour in enumerate(neighbours))
        return jnp.einsum("pyac,pycs->yas", w, jnp.stack(neighbours))

    def state(self) -> dict[str, np.ndarray]:
        """w, b and r in the layouts of `LatticeSystem`."""
        w, b, r = (np.asarray(self.u[name]) for name in ("w", "b", "r"))
        return {
            "w": w.transpose(0, 1, 3, 2) if self.tied else w.transpose(0, 2, 3, 1, 4),
            "b": b.transpose(0, 2, 1) if self.tied else b[..., 0],
            "r": r.reshape(self.problem.start.r.shape),
        }
