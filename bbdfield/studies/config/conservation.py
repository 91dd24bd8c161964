"""kind = "conservation"."""

from __future__ import annotations

from pydantic import Field

from bbdfield.studies.config.sections import Section
from bbdfield.studies.config.study import AnyStudy


class ConservationSection(Section):
    """[conservation]"""


class ConservationConfig(AnyStudy):
    """kind = "conservation": what do gradient flows conserve, and how does training in steps depart from it?"""

    conservation: ConservationSection = Field(default_factory=ConservationSection)
