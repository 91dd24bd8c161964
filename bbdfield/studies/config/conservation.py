"""kind = "conservation"."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import Field, PlainValidator

from bbdfield.model.architecture import Lattice
from bbdfield.studies.config.combinations import several_networks
from bbdfield.studies.config.intrinsic import IntrinsicKeys
from bbdfield.studies.config.study import AnyStudy
from bbdfield.studies.config.values import increasing, is_whole, positive, real, refuse, whole


def _hidden(value: Any) -> tuple[int, ...]:
    if not isinstance(value, (list, tuple)) or not value or not all(is_whole(n, 1, 10_000) for n in value):
        raise refuse("a list of widths of hidden layers, whole numbers from 1 to 10000", value)
    return tuple(value)


class ConservationSection(IntrinsicKeys):
    """[conservation] the dense network beside the lattice, and how far from the flow it is taken.

    hidden : widths of its hidden layers; inputs and outputs are those of the data.   rate : its learning rate.
    momentum, weight_decay : of the runs with them.   factors : by which all rates are multiplied to see how the drift
    falls with them.   factor_steps : steps of these runs, few so that only the leading order counts.   The other keys
    are those of the intrinsic dynamics.
    """

    hidden: Annotated[tuple[int, ...], PlainValidator(_hidden)] = (32, 32)
    rate: Annotated[float, real(positive, "a number > 0")] = 0.1
    momentum: Annotated[float, real(lambda x: 0 < x < 1, "a number between 0 and 1")] = 0.9
    weight_decay: Annotated[float, real(positive, "a number > 0")] = 0.01
    factors: Annotated[
        tuple[float, ...], increasing("factors", 1e-6, 1.0, "an increasing list of numbers from 1e-6 to 1")
    ] = (0.001, 0.002, 0.004, 0.008, 0.016)
    factor_steps: Annotated[int, whole(1, 10_000)] = 10


class ConservationConfig(AnyStudy):
    """kind = "conservation": what do gradient flows conserve, and how does training in steps depart from it?"""

    conservation: ConservationSection = Field(default_factory=ConservationSection)

    def network(self) -> Lattice:
        """The network that is trained."""
        return self.lattice_at(*self.rungs()[0])

    def refusals(self) -> Iterator[str]:
        yield from list(several_networks(self)) or _impossible(self)


def _impossible(config: ConservationConfig) -> Iterator[str]:
    keys, training = config.conservation, config.training
    if training.dynamics != "sgd":
        yield f'training.dynamics: needs "sgd"; momentum has a run of its own here (got "{training.dynamics}")'
    if training.precision != "float64":
        yield f'training.precision: needs "float64", to whose rounding laws are followed (got "{training.precision}")'
    if len(keys.factors) < 3:
        yield f"conservation.factors: needs three or more, to which a slope is fitted (got {list(keys.factors)})"
    if max(keys.hidden) < 2:
        got = list(keys.hidden)
        yield f"conservation.hidden: needs a layer of two units or more, whose charges momentum keeps (got {got})"
    if keys.rate * keys.weight_decay >= 1:
        yield (
            "conservation.weight_decay: needs conservation.rate * weight_decay < 1, or a step turns all weights round"
            f" (got {keys.rate:g} * {keys.weight_decay:g})"
        )
    if keys.factor_steps > training.steps:
        yield f"conservation.factor_steps: needs at most training.steps, {training.steps} (got {keys.factor_steps})"
