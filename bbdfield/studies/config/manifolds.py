"""kind = "manifolds"."""

from __future__ import annotations

from pydantic import Field

from bbdfield.studies.config.sections import Section
from bbdfield.studies.config.study import AnyStudy


class ManifoldsSection(Section):
    """[manifolds]"""


class ManifoldsConfig(AnyStudy):
    """kind = "manifolds": which sets of parameters does no gradient leave?"""

    manifolds: ManifoldsSection = Field(default_factory=ManifoldsSection)
