"""Conservation laws of gradient flows: quadratic forms of the weights on either side of hidden units.

Scale what enters a hidden unit by α and what leaves it by 1/α: a network whose activation has σ(αz) = ασ(z) does not
notice, so that the gradient has no part along this change of θ, and the flow θ̇ = −η ∂ℓ/∂θ keeps a quadratic form of
what enters (W, b: a row each) and what leaves (a column). Linear units can also be mixed with one another:

    relu       D_i  = |out_i|² − |in_i|² − b_i²            a number per hidden neuron, or channel of a tied kernel
    identity   D    = out outᵀ − in inᵀ − b bᵀ              a symmetric matrix; deep linear: W_{i+1}ᵀW_{i+1} − W_iW_iᵀ
    no σ       the same matrix between the last layer and a linear readout, whatever σ is elsewhere

with every square divided by the learning rate of its own group. (arXiv 2307.00144 and 2506.06194; the sign is that of D
above throughout. Deep convolutions, biases per cell, rates by group and readouts are derived here.) Across a skip
nothing is conserved: it cannot be scaled. In a residual block x + g(x) the laws of g hold inside (2506.06194); a
residual lattice with σ = 1 is the linear network of A[m] = 1 + W[m], whose matrix laws hold, and its field, ∂_x ẑ =
𝒦[ŵ]ẑ + b̂, keeps

    D̂(x) = ( ∂_x(ŵ₀ + ŵ₀ᵀ) + ∫du (ŵᵀŵ − ŵŵᵀ) ) / η̂_w − ∫dy b̂ b̂ᵀ / η̂_b         ŵ₀: the weight at u = 0  (derived here)

What one step of training does, since B(θ, ∂ℓ/∂θ) = 0 for the gradient of any minibatch (derived here, exact):

    SGD            D(θ + Δ) = D(θ) + D(Δ)                             D(Δ) = η² D(G) is subtracted
    weight decay   D(θ') = (1 − ηλ)² D(θ) + D(ηG)
    momentum       D is not conserved; matrices keep Q = out ȯutᵀ − ȯut outᵀ + in i̇nᵀ − i̇n inᵀ,  Q(k+1) = μ Q(k)

Of the flows, that with weight decay has D(t) = D(0) e^{−2λt} (2506.06194). 2405.12888 has the flows with momentum: it
finds all of their laws for linear networks, which depend on time, and none for relu networks.

Both heavy ball (μ the momentum) and conformal leapfrog (μ = e^{−γτ}) do the last; numbers of relu units have no Q.
Sizes are relative to the sum of absolute values of a form's own terms.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from bbdfield.decomposition.maps import source_cells
from bbdfield.errors import InputError
from bbdfield.model.activations import Activation, get_activation
from bbdfield.model.architecture import VELOCITIES, Lattice, Rates, Training
from bbdfield.model.ranges import Derivative
from bbdfield.model.run import Run, System
from bbdfield.model.units import learning_rates
from bbdfield.observables.observed import Observed
from bbdfield.observables.stepping import Progress, recorded
from solvers.grids import Grid

Array = npt.NDArray[Any]
#: "w" and "b" (lists, or arrays with the layer first) and "r" of a lattice
Parameters = Mapping[str, Any]
Arrange = Callable[[Array], Array]

#: where homogeneity is asked
_PROBES = np.array([-7.0, -1.0, -0.3, 0.3, 1.0, 7.0])


# forms


@dataclass(frozen=True)
class Part:
    """One group's share of what enters or leaves some units, as rows (…, units, entries).

    group, index : which parameters.   arrange : puts them into rows.   rate : the group's learning rate.
    shift : added to the parameters first: A = 1 + W of a residual lattice.
    """

    group: str
    index: int | slice | None
    arrange: Arrange
    rate: float = 1.0
    shift: Array | float = 0.0

    def rows(self, parameters: Parameters, shifted: bool) -> Array:
        values = parameters[self.group]
        values = np.asarray(values if self.index is None else values[self.index])
        if shifted and not (isinstance(self.shift, float) and self.shift == 0.0):
            values = values + self.shift
        rows = self.arrange(values)
        return rows if self.rate == 1.0 else rows / math.sqrt(self.rate)


@dataclass(frozen=True)
class Law:
    """D = Σ out outᵀ − Σ in inᵀ of hidden units, or its diagonal.

    name : between which layers.   matrix : whether units mix.   site : z[site] are the units, where there are several
    sites the first of them.
    """

    name: str
    outgoing: tuple[Part, ...]
    incoming: tuple[Part, ...]
    matrix: bool
    site: int = 0

    def form(self, one: Parameters, two: Parameters) -> Array:
        """The symmetric bilinear form B(one, two), (…, units) or (…, units, units), with D(Δ) = B(Δ, Δ)."""
        return self._sum(one, two, False, False)

    def value(self, parameters: Parameters) -> Array:
        """D(θ)."""
        return self._sum(parameters, parameters, True, True)

    def increment(self, step: Parameters) -> Array:
        """D(Δ): exactly what a step of gradient descent Δ adds to D."""
        return self._sum(step, step, False, False)

    def scale(self, parameters: Parameters) -> Array:
        """Sum of the absolute values of the terms of D(θ)."""
        total: Any = 0.0
        for part in (*self.outgoing, *self.incoming):
            rows = np.abs(part.rows(parameters, True))
            total = total + self._gram(rows, rows)
        return np.asarray(total)

    def charge(self, parameters: Parameters, velocity: Parameters) -> Array:
        """Q(θ, θ̇), antisymmetric (…, units, units); decays by the same factor in every step with momentum.

        Raises
        ------
        InputError
            for a law of single units: numbers have no antisymmetric part.
        """
        if not self.matrix:
            raise InputError(
                f"the law of {self.name} is a number for each unit, which momentum does not keep;"
                " only linear units, or those before a linear readout, keep an antisymmetric matrix"
            )
        total: Any = 0.0
        for part in (*self.outgoing, *self.incoming):
            product = part.rows(parameters, True) @ np.swapaxes(part.rows(velocity, False), -1, -2)
            total = total + (product - np.swapaxes(product, -1, -2))
        return np.asarray(total)

    def charge_scale(self, parameters: Parameters, velocity: Parameters) -> Array:
        """Sum of the absolute values of the terms of Q(θ, θ̇)."""
        total: Any = 0.0
        for part in (*self.outgoing, *self.incoming):
            product = np.abs(part.rows(parameters, True)) @ np.swapaxes(np.abs(part.rows(velocity, False)), -1, -2)
            total = total + product + np.swapaxes(product, -1, -2)
        return np.asarray(total)

    def _sum(self, one: Parameters, two: Parameters, first: bool, second: bool) -> Array:
        total: Any = 0
        for sign, parts in ((1, self.outgoing), (-1, self.incoming)):
            for part in parts:
                rows = part.rows(one, first)
                gram = self._gram(rows, rows if two is one and first == second else part.rows(two, second))
                total = total + sign * gram
        return np.asarray(total)

    def _gram(self, one: Array, two: Array) -> Array:
        if not self.matrix:
            diagonal: Array = (one * two).sum(axis=-1)
            return diagonal
        product = one @ np.swapaxes(two, -1, -2)
        return product if one is two else (product + np.swapaxes(product, -1, -2)) / 2


@dataclass(frozen=True)
class FieldLaw:
    """D̂(x) of a residual field with σ = 1, on the sites between the links of a grid: (n_x − 1, C, C).

    ∂_x is the difference of neighbouring links and the squares are their mean, which is of order 2 in h.

    rates : η̂; a rate of 0 leaves its term out.   h, cell_u, cell_y : measures of x, u and y.   centre : where u = 0.
    """

    name: str
    rates: Rates
    h: float
    cell_u: float
    cell_y: float
    centre: int
    matrix: ClassVar[bool] = True
    site: ClassVar[int] = 1

    def value(self, parameters: Parameters) -> Array:
        change = self._linear(parameters["w"]) / self.h
        return change / self.rates.w + self.increment(parameters)

    def increment(self, step: Parameters) -> Array:
        w, b = step["w"], step["b"]
        out = np.einsum("xokc,xokd->xcd", w, w)
        into = np.einsum("xckd,xekd->xce", w, w)
        squares = self.cell_u / self.rates.w * _mean(out - into)
        if self.rates.b:
            squares = squares - self.cell_y / self.rates.b * _mean(np.einsum("xyc,xyd->xcd", b, b))
        return np.asarray(squares)

    def scale(self, parameters: Parameters) -> Array:
        change = np.abs(self._linear(parameters["w"])) / self.h
        w, b = np.abs(parameters["w"]), np.abs(parameters["b"])
        squares = np.einsum("xokc,xokd->xcd", w, w) + np.einsum("xckd,xekd->xce", w, w)
        total = change + self.cell_u * _mean(squares)
        total = total / self.rates.w
        if self.rates.b:
            total = total + self.cell_y / self.rates.b * _mean(np.einsum("xyc,xyd->xcd", b, b))
        return np.asarray(total)

    def _linear(self, w: Array) -> Array:
        first = w[:, :, self.centre, :]
        change: Array = np.diff(first + np.swapaxes(first, -1, -2), axis=0)
        return change


def _mean(links: Array) -> Array:
    """Means of neighbouring links."""
    result: Array = 0.5 * (links[1:] + links[:-1])
    return result


# rows: what enters and what leaves


def _entering(w: Array) -> Array:
    """W (…, n_out, n_in) or (…, C_out, T, C_in): (…, units, entries) of what enters each output."""
    return w


def _kernel_entering(w: Array) -> Array:
    return w.reshape(*w.shape[:-2], -1)


def _all_cells_entering(w: Array) -> Array:
    """Untied (…, N, C_out, T, C_in), for channels as a whole: (…, C_out, N T C_in)."""
    moved = np.moveaxis(w, -4, -3)
    return moved.reshape(*moved.shape[:-3], -1)


def _bias_of_channel(b: Array) -> Array:
    """(…, N, C): (…, C, N)."""
    return np.swapaxes(b, -1, -2)


def _bias_of_unit(b: Array) -> Array:
    """(…, C): (…, C, 1)."""
    return b[..., None]


def _leaving(w: Array) -> Array:
    return np.swapaxes(w, -1, -2)


def _kernel_leaving(w: Array) -> Array:
    """(…, C_out, T, C_in): (…, C_in, C_out T)."""
    moved = np.moveaxis(w, -1, -3)
    return moved.reshape(*moved.shape[:-2], -1)


def _readout_leaving(r: Array) -> Array:
    """R (O, C, J): (C, O J)."""
    return np.swapaxes(r, 0, 1).reshape(r.shape[1], -1)


def readers(cells: int, taps: int, padding: str) -> npt.NDArray[np.int64]:
    """Which weights of an untied kernel read each cell: (N, F) places y'T + u of taps, N T for none.

    With zero padding, taps beyond the edge read nothing; with reflection a cell near the edge is read through more taps
    than T, or through the same cell's twice.
    """
    seen = source_cells(cells, taps // 2, padding)[np.arange(cells)[:, None] + np.arange(taps)].ravel()
    found = [np.flatnonzero(seen == y) for y in range(cells)]
    places = np.full((cells, max(len(entries) for entries in found)), cells * taps, np.int64)
    for y, entries in enumerate(found):
        places[y, : len(entries)] = entries
    return places


def _cell_leaving(places: npt.NDArray[np.int64]) -> Arrange:
    """Untied (…, N, C_out, T, C_in): (…, N, C_in, F C_out), what reads each cell."""

    def arrange(w: Array) -> Array:
        *lead, cells, c_out, taps, c_in = w.shape
        flat = np.moveaxis(w, -2, -3).reshape(*lead, cells * taps, c_out, c_in)
        padded = np.concatenate([flat, np.zeros_like(flat[..., :1, :, :])], axis=-3)
        read = padded[..., places, :, :]  # (…, N, F, C_out, C_in)
        return np.moveaxis(read, -1, -3).reshape(*lead, cells, c_in, -1)

    return arrange


def _channel_leaving(places: npt.NDArray[np.int64]) -> Arrange:
    """The same for channels as a whole: (…, C_in, N F C_out)."""
    of_cells = _cell_leaving(places)

    def arrange(w: Array) -> Array:
        moved = np.moveaxis(of_cells(w), -2, -3)
        return moved.reshape(*moved.shape[:-2], -1)

    return arrange


# which laws there are


def is_linear(activation: Activation) -> bool:
    """Whether σ(z) = σ'(0) z, asked at a few numbers."""
    return bool(np.array_equal(activation.f(_PROBES), activation.f(np.ones(1)) * _PROBES))


def is_homogeneous(activation: Activation) -> bool:
    """Whether σ(αz) = ασ(z) for α > 0, asked at a few numbers (multiples of two are exact)."""
    z = _PROBES
    doubled = np.array_equal(activation.f(2 * z), 2 * activation.f(z))
    return doubled and bool(np.allclose(activation.df(z) * z, activation.f(z), rtol=1e-12, atol=0))


def list_laws(
    w: Sequence[Array],
    b: Sequence[Array] | None,
    activation: Activation | str,
    *,
    padding: str = "zeros",
    residual: bool = False,
) -> list[Law]:
    """Return the laws of a network given as plain lists, one `Law` for each hidden layer that has any.

    Parameters are handed to them as {"w": w, "b": b}.

    Parameters
    ----------
    w : W of every layer: dense (n_out, n_in), tied kernels (C_out, T, C_in) or untied ones (N, C_out, T, C_in); a dense
        layer after convolutions reads their (N, C) values in a row.
    b : dense (n_out,); convolutions (N, C_out) or, shared by all cells, (C_out,); None without.
    activation : σ after every layer but the last.
    padding : of the convolutions.
    residual : pairs of dense layers are blocks x + g(x), as `bbdfield.lattice.dense.DenseNetwork` has them.

    Raises
    ------
    InputError
        for an activation for which nothing is conserved, a network without hidden layers, or shapes that do not fit.
    """
    sigma = get_activation(activation) if isinstance(activation, str) else activation
    matrix = is_linear(sigma)
    if not matrix and not is_homogeneous(sigma):
        raise InputError(
            f"layers with activation {sigma.name} conserve nothing, since σ(αz) is not ασ(z); use relu or identity"
        )
    laws = []
    for l in range(len(w) - 1):  # noqa: E741
        if residual and l % 2 == 1:
            continue
        name = f"layers {l + 1} and {l + 2}"
        single, cells = _resolution(w[l], w[l + 1], name)
        out = _leaving_part(w[l], w[l + 1], l + 1, single, cells, padding)
        into = [_entering_part(w[l], l, single)]
        if b is not None:
            into.append(_bias_part(b[l], l, single))
        laws.append(Law(name, (out,), tuple(into), matrix, l + 1))
    if not laws:
        raise InputError("a network without hidden layers conserves nothing of this kind; add a layer")
    return laws


def _resolution(w: Array, following: Array, name: str) -> tuple[bool, int]:
    """(whether every cell of a convolution is a unit of its own, N)."""
    channels = w.shape[-3] if w.ndim > 2 else w.shape[0]
    cells = w.shape[0] if w.ndim == 4 else following.shape[0] if following.ndim == 4 else 0
    if w.ndim > 2 and following.ndim == 2:
        cells = following.shape[1] // channels
    fits = following.shape[-1] == (channels * cells if w.ndim > 2 and following.ndim == 2 else channels)
    fits = fits and (w.ndim > 2 or following.ndim == 2) and (w.ndim != 4 or not cells or cells == w.shape[0])
    if not fits or w.ndim not in (2, 3, 4) or following.ndim not in (2, 3, 4):
        raise InputError(f"{name} do not fit: W has shapes {w.shape} and {following.shape}")
    return w.ndim == 4 and following.ndim != 3, cells


def _entering_part(w: Array, layer: int, single: bool) -> Part:
    if w.ndim == 2:
        return Part("w", layer, _entering)
    return Part("w", layer, _kernel_entering if w.ndim == 3 or single else _all_cells_entering)


def _bias_part(b: Array, layer: int, single: bool) -> Part:
    if b.ndim == 2:
        return Part("b", layer, _bias_of_unit if single else _bias_of_channel)
    if single:
        raise InputError(
            f"b[{layer}] is shared by all cells, but untied kernels have a law for every cell;"
            " give a bias of shape (N, C)"
        )
    return Part("b", layer, _bias_of_unit)


def _leaving_part(w: Array, following: Array, layer: int, single: bool, cells: int, padding: str) -> Part:
    if following.ndim == 3:
        return Part("w", layer, _kernel_leaving)
    if following.ndim == 4:
        places = readers(cells, following.shape[-2], padding)
        return Part("w", layer, _cell_leaving(places) if single else _channel_leaving(places))
    if w.ndim == 2:
        return Part("w", layer, _leaving)
    channels = w.shape[-3]

    def arrange(v: Array) -> Array:
        of_cells = np.moveaxis(v.reshape(len(v), cells, channels), 0, -1)  # (N, C, n_out)
        return of_cells if single else np.swapaxes(of_cells, 0, 1).reshape(channels, -1)

    return Part("w", layer, arrange)


def lattice_laws(lattice: Lattice, rates: Rates, start: Parameters | None = None) -> list[Law]:
    """Return the laws of a lattice whose groups have these learning rates; parameters are its θ, b and R.

    Parameters
    ----------
    start : parameters at some time. With a rate of 0 for b, laws hold only if b is zero (as it is assumed without);
        with one of 0 for R, that of the readout does not.

    Raises
    ------
    InputError
        for a network without any law, saying why.
    """
    sigma = lattice.law.activation(get_activation(lattice.activation), lattice.a_x)
    linear, skip, depth = is_linear(sigma), lattice.law.skip, lattice.depth
    if skip and not linear:
        raise InputError(
            f'lattice.scaling = "{lattice.scaling}" adds a skip to every layer, across which activation'
            f' {lattice.activation} conserves nothing; use activation = "identity", or scaling = "plain" with relu'
        )
    frozen = [name for name in ("w",) if getattr(rates, name) == 0]
    if rates.b == 0 and start is not None and np.any(start["b"]):
        frozen.append("b")
    if frozen:
        raise InputError(
            f"training.rates.{frozen[0]} = 0 holds {frozen[0]} fixed, and every law is a balance with it;"
            " give it a rate" + (", or start from biases that are zero" if frozen[0] == "b" else "")
        )
    tied, cells = lattice.range.tied, lattice.width
    if isinstance(lattice.range, Derivative) and not tied:
        raise InputError("laws of untied derivative weights are not known here; use tied ones, or range = taps")
    shift: Array | float = 0.0
    if skip:
        count, channels = lattice.range.components(lattice.grid).size, np.arange(lattice.channels)
        shift = np.zeros((lattice.channels, count, lattice.channels))
        shift[channels, lattice.range.centre(lattice.grid), channels] = skip

    def bias(index: int | slice, arrange: Arrange) -> tuple[Part, ...]:
        return (Part("b", index, arrange, rates.b),) if rates.b else ()

    laws = []
    if depth > 1 and (linear or is_homogeneous(sigma)):
        before, after = slice(0, depth - 1), slice(1, depth)
        leaving: Arrange = _kernel_leaving
        of_bias: Arrange = _bias_of_channel
        if not tied:
            taps = lattice.range.components(lattice.grid).size
            leaving, of_bias = _cell_leaving(readers(cells, taps, lattice.padding)), _bias_of_unit
        into = (Part("w", before, _kernel_entering, rates.w, shift), *bias(before, of_bias))
        laws.append(Law("neighbouring layers", (Part("w", after, leaving, rates.w, shift),), into, linear, 1))
    if rates.r:
        entering = _kernel_entering if tied else _all_cells_entering
        into = (Part("w", depth - 1, entering, rates.w, shift), *bias(depth - 1, _bias_of_channel))
        laws.append(
            Law("the last layer and the readout", (Part("r", None, _readout_leaving, rates.r),), into, True, depth)
        )
    if not laws:
        why = "one layer" if depth == 1 else f"activation {sigma.name}"
        raise InputError(
            f"with {why} and a fixed readout nothing is conserved; give training.rates.r, or use"
            ' activation = "relu" or "identity" with more layers'
        )
    return laws


def field_laws(lattice: Lattice, grid: Grid, rates: Rates, start: Parameters | None = None) -> list[FieldLaw]:
    """Return the law of a residual field with σ = 1 and tied weights; parameters are ŵ, b̂ on the grid.

    Raises
    ------
    InputError
        for any other field: its lattice may have laws, but the field equation has none of this kind.
    """
    if lattice.scaling != "residual" or not is_linear(get_activation(lattice.activation)) or not lattice.range.tied:
        raise InputError(
            f'a field keeps a law only for scaling = "residual", activation = "identity" and tied'
            f" weights; this one is of {'tied' if lattice.range.tied else 'untied'} weights, scaling"
            f' "{lattice.scaling}" and activation "{lattice.activation}"'
        )
    if rates.w == 0 or (rates.b == 0 and start is not None and np.any(start["b"])):
        raise InputError("training.rates of 0 hold w or b fixed, and the law is a balance; give them one")
    if grid.n_x < 2:
        raise InputError("a field on one cell in depth has no ∂_x; use field.n_x of 2 or more")
    cell = lattice.range.cell(grid.h_y)
    return [FieldLaw("the field", rates, grid.h_x, cell, grid.h_y, lattice.range.centre(grid))]


def laws_of(
    lattice: Lattice, grid: Grid, training: Training, kind: str, start: Parameters | None = None
) -> list[Law] | list[FieldLaw]:
    """The laws of a recorded run's parameters, of lattice or field; errors as theirs."""
    if kind == "field":
        return field_laws(lattice, grid, training.rates, start)
    return lattice_laws(lattice, learning_rates(lattice, 1.0, training.rates), start)


# sizes


def relative(error: Array, *scales: Array) -> float:
    """Largest |error| relative to the larger of the scales, component by component; components of nothing count 0."""
    return float(relative_each(error, *scales).max(initial=0.0))


def relative_each(error: Array, *scales: Array) -> Array:
    size = np.maximum.reduce([np.broadcast_to(scale, error.shape) for scale in scales])
    return np.divide(np.abs(error), size, out=np.zeros(error.shape), where=size > 0)


def gradients(law: Law, parameters: dict[str, list[Array]]) -> Array:
    """∂D/∂θ of every component of a law of lists, (components, D): 2 B(θ, e) for every direction e."""
    rows = []
    zero = {name: [np.zeros_like(part) for part in parts] for name, parts in parameters.items()}
    for name, parts in parameters.items():
        for i, part in enumerate(parts):
            for place in np.ndindex(part.shape):
                direction = {key: list(values) for key, values in zero.items()}
                direction[name][i] = np.zeros_like(part)
                direction[name][i][place] = 1
                rows.append(components(2 * law.form(parameters, direction), law.matrix))
    result: Array = np.stack(rows, axis=-1)
    return result


def components(values: Array, matrix: bool) -> Array:
    """The independent numbers of D in a row: all, or the upper triangles of matrices."""
    if not matrix:
        return values.ravel()
    upper = np.triu_indices(values.shape[-1])
    return values[..., upper[0], upper[1]].ravel()


# every step


class Steps:
    """Largest relative change of the laws in each step, and what is left of it after what it must be.

    conservation_change : |D(after) − D(before)|.
    conservation_rest : SGD: |D(after) − D(before) − D(Δ)|, with momentum |Q(after) − μ Q(before)|; for flows, whose
        steps are made of several gradients, the change itself.
    """

    names: ClassVar[tuple[str, ...]] = ("conservation_change", "conservation_rest")

    def __init__(self, lattice: Lattice, grid: Grid, training: Training, kind: str) -> None:
        self._told = lattice, grid, training, kind
        self._laws: list[Law] | list[FieldLaw] = laws_of(lattice, grid, training, kind)
        if training.second_order:
            charged(self._laws)
        self._checked = training.rates.b != 0

    def step(
        self, k: int, system: System | None, before: dict[str, np.ndarray], after: dict[str, np.ndarray]
    ) -> dict[str, float]:
        if not self._checked:  # b, which does not move, must be zero: any step can tell
            self._laws, self._checked = laws_of(*self._told, before), True
        training = self._told[2]
        change, rest = [], []
        moved = {name: after[name] - before[name] for name in ("w", "b", "r")}
        for law in self._laws:
            scales = law.scale(before), law.scale(after)
            difference = law.value(after) - law.value(before)
            change.append(relative(difference, *scales))
            if training.second_order:
                continue
            left = difference - law.increment(moved) if training.dynamics == "sgd" else difference
            rest.append(relative(left, *scales))
        if training.second_order:
            mu = decay(training)
            speeds = [
                {name: state[dot] for name, dot in zip("wbr", VELOCITIES, strict=True)} for state in (before, after)
            ]
            for law in charged(self._laws):
                left = law.charge(after, speeds[1]) - mu * law.charge(before, speeds[0])
                rest.append(relative(left, law.charge_scale(after, speeds[1]), law.charge_scale(before, speeds[0])))
        return {"conservation_change": max(change), "conservation_rest": max(rest)}


def charged(laws: Sequence[Law] | Sequence[FieldLaw]) -> list[Law]:
    """The laws that have a Q under momentum; InputError if none has."""
    found = [law for law in laws if isinstance(law, Law) and law.matrix]
    if not found:
        raise InputError(
            "with momentum only linear units, or those before a trained readout, keep anything; train"
            ' with dynamics = "sgd", give training.rates.r, or use activation = "identity"'
        )
    return found


def decay(training: Training) -> float:
    """μ = e^{−γτ}, by which Q decays in every step."""
    assert training.damping is not None
    return math.exp(-training.damping * training.step)


# a recorded run


def observe(run: Run, progress: Progress | None = None) -> Observed:
    """Every law's value at every snapshot, its relative drift, and what is left of each step's change.

    Arrays: conservation_value (t, conservation_law), conservation_scale (conservation_law), conservation_site
    (conservation_law): z[site] whose law it is; conservation_drift (t): largest relative |D(t) − D(0)|; for runs with
    momentum conservation_charge (t, conservation_charge_law); conservation_change, conservation_rest (step) as `Steps`.

    Raises
    ------
    InputError
        where nothing is conserved (saying why), for fewer than two snapshots, or a run with momentum whose file has no
        velocities.
    """
    training, fields = run.training, run.trajectory.fields
    if len(run.steps) < 2:
        raise InputError(f"{run.path}: has {len(run.steps)} snapshots, and a drift needs two; resume the run first")
    names = ("w", "b", "r", *(VELOCITIES if training.second_order else ()))
    missing = [name for name in names if name not in fields]
    if missing:
        raise InputError(
            f"{run.path}: has no {', '.join(missing)}, which enter all that is conserved with {training.dynamics}"
            " dynamics; give the trajectory that training recorded, not fields derived from it"
        )
    states = [{name: np.array(fields[name][i]) for name in names} for i in range(len(run.steps))]
    laws = _named(run, lambda: laws_of(run.lattice, run.grid, training, run.kind, states[0]))
    if training.second_order:
        _named(run, lambda: charged(laws))
    values = np.stack([np.concatenate([components(law.value(s), law.matrix) for law in laws]) for s in states])
    scales = np.stack([np.concatenate([components(law.scale(s), law.matrix) for law in laws]) for s in states])
    sites = np.concatenate([_sites(law, law.value(states[0])) for law in laws])
    each = np.array(
        [relative_each(value - values[0], scales[0], scale) for value, scale in zip(values, scales, strict=True)]
    )
    drift = each.max(axis=1)
    steps = recorded(run, Steps, progress)
    arrays: dict[str, tuple[tuple[str, ...], Array]] = {
        "conservation_value": (("t", "conservation_law"), values),
        "conservation_scale": (("conservation_law",), scales.max(axis=0)),
        "conservation_site": (("conservation_law",), sites),
        "conservation_drift": (("t",), drift),
        **{name: (("step",), numbers) for name, numbers in steps.items()},
    }
    summary: dict[str, Any] = {
        "laws": int(values.shape[1]),
        "dynamics": training.dynamics,
        "kind": run.kind,
        "drift": float(drift[-1]),
        "largest_drift": float(drift.max()),
        "rest": float(steps["conservation_rest"].sum()),
        "steps": int(run.steps[-1]),
    }
    told = [f"{values.shape[1]} conserved numbers: {', '.join(law.name for law in laws)}"]
    if training.second_order:
        arrays["conservation_charge"] = (("t", "conservation_charge_law"), _charges(laws, states))
        told.append(
            f"with momentum they drift by {drift[-1]:.2g}, as they may; the antisymmetric charges decay by μ ="
            f" {decay(training):.6g} in every step to {summary['rest']:.2g} summed over {summary['steps']} steps"
        )
    elif training.dynamics == "sgd":
        told.append(
            f"drift {drift[-1]:.2g} over {summary['steps']} steps; less what each step must add, D(Δ),"
            f" {summary['rest']:.2g} is left (sum of all steps)"
        )
    else:
        told.append(f"drift {drift[-1]:.2g} over {summary['steps']} steps of the integrated gradient flow")
    if run.kind == "field":
        told.append("the law is that of the limit: on a grid it drifts by the errors of grid and depth order")
    if "float32" in str(run.trajectory.attrs.get("backend")):
        told.append("the run was computed in float32: what is left is the rounding of that precision")
    return Observed(arrays, {"conservation_law": np.arange(values.shape[1])}, summary, told)


def _named(run: Run, make: Callable[[], Any]) -> Any:
    try:
        return make()
    except InputError as error:
        raise InputError(f"{run.path}: {error}") from None


def _sites(law: Law | FieldLaw, value: Array) -> Array:
    """The site of every component of a law."""
    units = 2 if law.matrix else 1
    several = value.ndim > units and not (law.site and isinstance(law, Law) and law.outgoing[0].group == "r")
    first = np.arange(law.site, law.site + len(value)) if several else np.array([law.site])
    shape = value.shape if several else (1, *value.shape)
    places = np.broadcast_to(first.reshape(-1, *[1] * (len(shape) - 1)), shape)
    return components(places, law.matrix)


def _charges(laws: Sequence[Law] | Sequence[FieldLaw], states: list[dict[str, np.ndarray]]) -> Array:
    """Q at every snapshot, the numbers above the diagonal in a row."""
    rows = []
    for state in states:
        speeds = {name: state[dot] for name, dot in zip("wbr", VELOCITIES, strict=True)}
        parts = []
        for law in charged(laws):
            charge = law.charge(state, speeds)
            upper = np.triu_indices(charge.shape[-1], 1)
            parts.append(charge[..., upper[0], upper[1]].ravel())
        rows.append(np.concatenate(parts))
    return np.array(rows)
