"""Ranges: which weights a neuron has across the width. Adding one is a file here and its entry below."""

from bbdfield.model.ranges.base import Range
from bbdfield.model.ranges.derivative import Derivative
from bbdfield.model.ranges.kernel import Kernel
from bbdfield.model.ranges.taps import Taps

RANGES: dict[str, type[Range]] = {kind.name: kind for kind in (Kernel, Taps, Derivative)}

__all__ = ["RANGES", "Derivative", "Kernel", "Range", "Taps"]
