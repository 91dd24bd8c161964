"""Keys of the intrinsic dynamics, which are a part of the conservation study."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any

from pydantic import PlainValidator

from bbdfield.studies.config.sections import Section
from bbdfield.studies.config.values import is_whole, refuse, whole

#: deeper ladders take minutes, and their errors say nothing new
MOST_LAYERS = 4096


def _ladder(value: Any) -> tuple[int, ...]:
    given = list(value) if isinstance(value, (list, tuple)) else []
    rises = all(is_whole(n, 2, MOST_LAYERS) for n in given) and all(p < q for p, q in pairwise(given))
    if len(given) < 2 or not rises:
        raise refuse(f"an increasing list of two or more whole numbers from 2 to {MOST_LAYERS}", value)
    return tuple(given)


class IntrinsicKeys(Section):
    """What the intrinsic dynamics add to [conservation].

    intrinsic_depths : layers M of the residual networks.   intrinsic_cells : n_x of the field solver beside them.
    intrinsic_samples : of the data, on which all linear networks are trained.
    """

    intrinsic_depths: Annotated[tuple[int, ...], PlainValidator(_ladder)] = (8, 16, 32, 64, 128)
    intrinsic_cells: Annotated[tuple[int, ...], PlainValidator(_ladder)] = (8, 16, 32, 64, 96)
    intrinsic_samples: Annotated[int, whole(1, 100_000)] = 64
