"""kind = "decomposition"."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from bbdfield.studies.config.sections import Section
from bbdfield.studies.config.study import OneNetwork
from bbdfield.studies.config.values import SIZES, whole


class DecompositionSection(Section):
    """[decomposition] random networks that are tried beside the trained one, see `bbdfield.studies.cases`.

    cases : on which the identity is tried; 288 is every network × activation × loss × batch × skip once.
    round_trip : depths of the networks that are taken from b to z and back.
    """

    cases: Annotated[int, whole(1, 100_000)] = 288
    round_trip: Annotated[int | tuple[int, ...], SIZES] = (16, 256, 4096)


class DecompositionConfig(OneNetwork):
    """kind = "decomposition": is L = L_bulk + L_boundary, at every step of a training and for every other network?"""

    decomposition: DecompositionSection = Field(default_factory=DecompositionSection)
