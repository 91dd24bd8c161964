"""Samples that drive the boundary: the shipped MNIST-1D, a user's own file, and signals on another lattice.

A sample is a signal x_d(y) on the unit interval, given at the cell centres y_i = (i + ½)/width, with D data
channels (D = 1 for MNIST-1D). Its answer is a class label or a vector of real targets.
"""

from __future__ import annotations

import dataclasses
import hashlib
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bbdfield._data_files import memory, read_arrays
from bbdfield._text import visible
from bbdfield.errors import InputError

__all__ = ["Dataset", "load_dataset", "on_cells", "shipped_file"]

#: Sets that come with the package, and the line that says where each is from.
SHIPPED = {
    "mnist1d": "shipped MNIST-1D (Greydanus & Kobak, arXiv 2011.14439; Apache-2.0)",
    "waves": "shipped smooth signals for convergence studies (data/make_waves.py)",
}

# More classes than this are taken for identifiers or measurements, not class labels; so are more than the second
# number if there are fewer samples than classes.
_MOST_CLASSES, _MANY_CLASSES = 65_536, 4096


@dataclass(frozen=True, eq=False)
class Dataset:
    """Checked training and test samples.

    Whatever real type comes in, signals leave as float64, labels as int64 and targets as float64; the arrays
    are copies, C-contiguous and read-only, so that ``digest`` cannot go stale.

    Parameters
    ----------
    name
        What reports call the set.
    x
        Signals, shape (n, D, width), or (n, width) for D = 1.
    y
        Class labels counted from 0, shape (n,), or real targets, shape (n, outputs).
    x_test, y_test
        The same for the test samples (with their own n); both or neither.
    outputs
        Number of logits O. 0, the default, takes it from the answers: the largest label + 1, or the number of
        targets per sample.
    source
        Where the data came from: a citation or a file.

    Raises
    ------
    InputError
        One line with the set, the array and the remedy, if shapes disagree, samples are missing, or a
        value is not finite or not a label.
    """

    name: str
    x: npt.NDArray[np.float64]
    y: npt.NDArray[np.int64] | npt.NDArray[np.float64]
    x_test: npt.NDArray[np.float64] | None = None
    y_test: npt.NDArray[np.int64] | npt.NDArray[np.float64] | None = None
    outputs: int = 0
    source: str = "memory"

    def __post_init__(self) -> None:
        where = f"dataset '{visible(self.name, '')}' ({visible(self.source, '')})"
        checked = _check_pair(where, "x", self.x, "y", self.y)
        if (self.x_test is None) != (self.y_test is None):
            lone, other = ("y_test", "x_test") if self.x_test is None else ("x_test", "y_test")
            raise InputError(f"{where}: '{lone}' without '{other}'; give both or neither")
        if self.x_test is not None:
            checked |= _check_pair(where, "x_test", self.x_test, "y_test", self.y_test)
            _check_same_kind(where, checked)
        for key, values in checked.items():
            values.flags.writeable = False
            object.__setattr__(self, key, values)
        object.__setattr__(self, "outputs", _count_outputs(where, self.outputs, checked))
        if self.has_labels:
            _check_classes(where, self.outputs, len(self.y))

    @property
    def channels(self) -> int:
        """Number of data channels D."""
        return self.x.shape[1]

    @property
    def width(self) -> int:
        """Number of places at which a signal is given."""
        return self.x.shape[2]

    @property
    def has_labels(self) -> bool:
        """True for class labels, False for real targets."""
        return self.y.ndim == 1

    def as_channels(self) -> Dataset:
        """The same samples with every number of a signal in a channel of its own, at one place: (n, D · width, 1).

        On a lattice of width 1 they are the input of a dense network.
        """
        flat = {
            key: values.reshape(len(values), -1, 1)
            for key in ("x", "x_test")
            if (values := getattr(self, key)) is not None
        }
        return dataclasses.replace(self, **flat)

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hexadecimal) over names, types, shapes and bytes of the arrays, not over their source."""
        total = hashlib.sha256()
        for key in ("x", "y", "x_test", "y_test"):
            values = getattr(self, key)
            if values is not None:
                little = values.astype(values.dtype.newbyteorder("<"), copy=False)
                total.update(f"{key} {little.dtype.str} {little.shape}\n".encode())
                total.update(little.tobytes())
        return total.hexdigest()


def load_dataset(name: str = "mnist1d", file: str | Path | None = None) -> Dataset:
    """Load a shipped data set, or the user's own file.

    Parameters
    ----------
    name
        A shipped set ("mnist1d", "waves"). With a file it is only what reports call the set; a shipped name is then
        replaced by the file's own.
    file
        HDF5 (.h5, .hdf5) or npz with ``x``, ``y`` and, together or not at all, ``x_test``, ``y_test``; shapes
        as for `Dataset`. Pickled objects are refused.

    Raises
    ------
    InputError
        The set is unknown, the file missing, foreign or truncated, a key missing, or an array refused by
        `Dataset`.
    """
    if file is None:
        if name not in SHIPPED:
            known = ", ".join(sorted(SHIPPED))
            raise InputError(f"unknown dataset '{name}'; choose one of: {known}, or name a file of your own")
        path, source = shipped_file(name), SHIPPED[name]
    else:
        path, source = Path(file), str(file)
        name = path.stem if name in SHIPPED else name
    read = read_arrays(path, ("x", "y", "x_test", "y_test"), needed=("x", "y"))
    return Dataset(name, read["x"], read["y"], read.get("x_test"), read.get("y_test"), source=source)


def shipped_file(name: str, package: Path = Path(__file__).parent) -> Path:
    """Path of a shipped data file: inside an installed package, or beside it in a source checkout.

    Raises
    ------
    InputError
        The file is in neither place, so the installation is incomplete.
    """
    places = (package / "_data" / f"{name}.h5", package.parent / "data" / f"{name}.h5")
    for path in places:
        if path.is_file():
            return path
    found = " nor at ".join(map(str, places))
    raise InputError(f"the shipped file {name}.h5 is neither at {found}; reinstall bbdfield")


def on_cells(x: npt.ArrayLike, width: int) -> npt.NDArray[np.float64]:
    """Signals given at the cell centres of one lattice, at the cell centres of another.

    Both lattices divide the unit interval; cell i of n has its centre at (i + ½)/n. Between the data the
    signal is the not-a-knot cubic spline through them, fourth-order accurate in the data's spacing. The
    outermost centres of a finer lattice lie up to half a data cell outside the data, where the end pieces are
    continued. Equal widths return the data unchanged; on an odd multiple of the data's width each data centre
    is a centre again, and the value there is the datum to rounding. A coarser lattice samples the spline,
    unsmoothed.

    Parameters
    ----------
    x
        Signals, shape (..., width of the data), finite.
    width
        Number of cells wanted, at least 1.

    Returns
    -------
    array of shape (..., width), float64

    Raises
    ------
    InputError
        The signals have fewer than 4 places, are not real and finite, or the width is not a positive integer.
    """
    signals = np.asarray(x)
    if signals.ndim == 0 or signals.dtype.kind not in "biuf":
        raise InputError(
            f"signals to interpolate: shape {signals.shape}, type {signals.dtype};"
            " give an array of real numbers, places last"
        )
    signals = np.array(signals, dtype=np.float64)
    wanted = _positive_integer(width)
    given = signals.shape[-1]
    if not np.isfinite(signals).all():
        raise InputError("signals to interpolate: not all values are finite; clean the data first")
    if given == wanted:
        return signals
    if given < 4:
        raise InputError(
            f"signals to interpolate from {given} to {wanted} cells: a cubic spline needs at least 4 places;"
            f" use lattice.width = {given}, or longer signals"
        )
    # Imported here because importing it takes longer than the rest of the package.
    from scipy.interpolate import CubicSpline

    spline = CubicSpline(_centres(given), signals, axis=-1, bc_type="not-a-knot")
    return np.ascontiguousarray(spline(_centres(wanted)), dtype=np.float64)


def _centres(cells: int) -> npt.NDArray[np.float64]:
    return (np.arange(cells) + 0.5) / cells


def _positive_integer(width: int) -> int:
    try:
        wanted = operator.index(width)
    except TypeError:
        raise InputError(f"width {width!r}: give a whole number of cells") from None
    if wanted < 1:
        raise InputError(f"width {wanted}: a lattice needs at least 1 cell")
    return wanted


# ---- judging arrays


def _check_pair(where: str, x_key: str, x: npt.ArrayLike, y_key: str, y: npt.ArrayLike | None) -> dict[str, np.ndarray]:
    signals = _real(where, x_key, x)
    if signals.ndim == 2:
        signals = signals[:, np.newaxis, :]
    if signals.ndim != 3:
        images = "; images do not exist yet" if signals.ndim == 4 else ""
        raise InputError(
            f"{where}: '{x_key}' has {signals.ndim} dimensions{images};"
            " store it as (samples, width) or (samples, channels, width)"
        )
    if signals.size == 0:
        raise InputError(f"{where}: '{x_key}' is empty, shape {signals.shape}; give at least one sample")
    answers = _labels_or_targets(where, y_key, _real(where, y_key, y))
    if len(answers) != len(signals):
        raise InputError(
            f"{where}: {len(signals)} samples in '{x_key}' but {len(answers)} in '{y_key}'; store one answer per sample"
        )
    return {x_key: np.array(signals, dtype=np.float64, order="C"), y_key: answers}


def _real(where: str, key: str, values: npt.ArrayLike | None) -> np.ndarray:
    """Real and finite numbers of any type."""
    array = np.asarray(values)
    if array.dtype.kind not in "biuf":
        raise InputError(f"{where}: '{key}' holds {array.dtype}, not real numbers; store integers or floats")
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        with np.errstate(over="ignore"):  # what float64 cannot hold becomes infinite
            array = array.astype(np.float64)
    finite = np.isfinite(array)
    if not finite.all():
        first = ", ".join(map(str, np.unravel_index(finite.argmin(), finite.shape)))
        raise InputError(
            f"{where}: '{key}' has {finite.size - np.count_nonzero(finite)} values that are not finite, the first at"
            f" [{first}];"
            " remove or repair those samples"
        )
    return array


def _labels_or_targets(where: str, key: str, values: np.ndarray) -> np.ndarray:
    if values.ndim == 2:
        if values.shape[1] == 0:
            raise InputError(f"{where}: '{key}' has shape {values.shape}; give a target for every sample")
        if values.shape[1] == 1 and values.dtype.kind in "biu":
            raise InputError(f"{where}: '{key}' is a column of integers; store labels as (samples,), targets as floats")
        return np.array(values, dtype=np.float64, order="C")
    if values.ndim != 1:
        raise InputError(
            f"{where}: '{key}' has {values.ndim} dimensions;"
            " store labels as (samples,) or targets as (samples, outputs)"
        )
    # Integers kept as floats are labels; anything else of one dimension is a mistake.
    if values.dtype.kind == "f" and (values != np.rint(values)).any():
        raise InputError(
            f"{where}: '{key}' has one number per sample but not all are whole, so they are no class labels;"
            " store real targets as (samples, outputs)"
        )
    if len(values) and not 0 <= values.min() <= values.max() < _MOST_CLASSES:
        raise InputError(
            f"{where}: '{key}' has labels from {values.min():g} to {values.max():g};"
            f" number the classes 0, 1, 2, ... (fewer than {_MOST_CLASSES})"
        )
    return np.array(values, dtype=np.int64)


def _check_same_kind(where: str, checked: Mapping[str, np.ndarray]) -> None:
    x, x_test, y, y_test = (checked[key] for key in ("x", "x_test", "y", "y_test"))
    for axis, what in ((1, "channels"), (2, "width")):
        if x_test.shape[axis] != x.shape[axis]:
            raise InputError(
                f"{where}: 'x_test' has {what} {x_test.shape[axis]} but 'x' {x.shape[axis]}; make them equal"
            )
    if y_test.shape[1:] != y.shape[1:]:
        raise InputError(
            f"{where}: 'y_test' has shape {y_test.shape} but 'y' {y.shape};"
            " store both as labels, or both as targets of one length"
        )


def _count_outputs(where: str, outputs: int, checked: Mapping[str, np.ndarray]) -> int:
    answers = [checked[key] for key in ("y", "y_test") if key in checked]
    if answers[0].ndim == 2:
        needed = answers[0].shape[1]
        if outputs not in (0, needed):
            raise InputError(f"{where}: outputs is {outputs} but 'y' has {needed} targets; make them equal")
        return needed
    needed = 1 + max(int(labels.max()) for labels in answers)
    if outputs and outputs < needed:
        raise InputError(f"{where}: outputs is {outputs} but there is a label {needed - 1}; give {needed}")
    return outputs or needed


def _check_classes(where: str, outputs: int, samples: int) -> None:
    """Labels become rows of zeros and a one: refuse identifiers, and more numbers than the memory holds."""
    if outputs > _MOST_CLASSES or outputs > max(_MANY_CLASSES, samples):
        raise InputError(
            f"{where}: {outputs} classes for {samples} samples; number the classes 0, 1, 2, ... and give outputs to fit"
        )
    if 8 * outputs * samples > memory():
        raise InputError(
            f"{where}: {outputs} classes for {samples} samples need more than the memory; give fewer of either"
        )
