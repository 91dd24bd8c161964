"""kind = "signals"."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field, PlainValidator

from bbdfield.model.activations import activation_names
from bbdfield.studies.config.one_field import OneField
from bbdfield.studies.config.sections import Section
from bbdfield.studies.config.values import biases_of, choice, variances_of, whole


class SignalsSection(Section):
    """[signals] random networks of given variances, and directions in which the trained one is disturbed.

    activation : of the random networks.   variances : their [σ_w², σ_b²].   biases : σ_b² of the critical line's table.
    width, networks : how they are sampled.   settle, layers : layers to settle in, and layers after that are measured.
    directions : random directions of the trained network.
    """

    activation: Annotated[str, choice(activation_names)] = "tanh"
    variances: Annotated[tuple[tuple[float, float], ...], PlainValidator(variances_of)] = (
        (1.0, 0.05), (1.3, 0.05), (2.5, 0.05), (4.0, 0.05),
    )  # fmt: skip
    biases: Annotated[tuple[float, ...], PlainValidator(biases_of)] = (0.01, 0.05, 0.1)
    width: Annotated[int, whole(2, 20_000)] = 500
    networks: Annotated[int, whole(1, 100_000)] = 24
    settle: Annotated[int, whole(0, 100_000)] = 30
    layers: Annotated[int, whole(1, 100_000)] = 20
    directions: Annotated[int, whole(1, 100_000)] = 8


class SignalsConfig(OneField):
    """kind = "signals": how far signals travel in depth, in random networks and in one that is being trained."""

    signals: SignalsSection = Field(default_factory=SignalsSection)

    def refusals(self) -> Iterator[str]:
        yield from super().refusals()
        if self.training.probe < 2:
            yield f"training.probe: needs two samples or more, whose difference is followed (got {self.training.probe})"
