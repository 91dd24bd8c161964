"""kind = "regimes"."""

from __future__ import annotations

from pydantic import Field

from bbdfield.studies.config.sections import Section
from bbdfield.studies.config.study import AnyStudy


class RegimesSection(Section):
    """[regimes]"""


class RegimesConfig(AnyStudy):
    """kind = "regimes": do activation patterns settle before weights, on the lattice and in the field?"""

    regimes: RegimesSection = Field(default_factory=RegimesSection)
