"""kind = "temperature"."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, Any

from pydantic import Field, PlainValidator

from bbdfield.studies.config.combinations import several_networks
from bbdfield.studies.config.sections import Section
from bbdfield.studies.config.study import AnyStudy
from bbdfield.studies.config.values import increasing, is_whole, refuse, show, whole


def _batches(value: Any) -> tuple[int, ...]:
    needs = "an increasing list of two or more minibatch sizes, whole numbers from 1 to 1000000"
    if not isinstance(value, (list, tuple)) or len(value) < 2 or not all(is_whole(n, 1, 10**6) for n in value):
        raise refuse(needs, value)
    if list(value) != sorted(set(value)):
        raise refuse(needs, list(value))
    return tuple(value)


class TemperatureSection(Section):
    """[temperature] the grid of learning rates and minibatches, whose ratio is the temperature.

    rates : in units of training.step, training.rates stay as they are.   batches : sizes of the minibatches.   seeds :
    of initial weights and sample order, from the study's seed on.   samples : training samples that are used, the first
    ones.   evaluations : how often losses are measured.   chains : independent ones that test the closed forms.
    """

    rates: Annotated[
        tuple[float, ...], increasing("rates", 1e-6, 1e6, "an increasing list of numbers from 1e-6 to 1e6")
    ] = (0.5, 1.0, 2.0, 4.0)
    batches: Annotated[tuple[int, ...], PlainValidator(_batches)] = (4, 8, 16, 32)
    seeds: Annotated[int, whole(1, 1000)] = 4
    samples: Annotated[int, whole(8, 10**6)] = 500
    evaluations: Annotated[int, whole(4, 10_000)] = 24
    chains: Annotated[int, whole(100, 10**6)] = 4000


class TemperatureConfig(AnyStudy):
    """kind = "temperature": is the gap between training and test loss a matter of the noise's temperature?"""

    temperature: TemperatureSection = Field(default_factory=TemperatureSection)

    def steps(self, rate: float) -> float:
        """Steps at some rate, so that all end at one time: to be a whole number."""
        return self.training.steps / rate

    def refusals(self) -> Iterator[str]:
        yield from list(several_networks(self)) or _impossible_temperature(self)


def _impossible_temperature(config: TemperatureConfig) -> Iterator[str]:
    keys, training = config.temperature, config.training
    if training.dynamics != "sgd":
        yield f'training.dynamics: needs "sgd", whose temperature is rate/batch (got "{training.dynamics}")'
    if training.batch not in keys.batches:
        among = show(list(keys.batches))
        yield f"training.batch: needs to be one of temperature.batches, {among} (got {training.batch})"
    for rate in keys.rates:
        steps = config.steps(rate)
        if abs(steps - round(steps)) > 1e-9 * steps or round(steps) < max(keys.evaluations, 20):
            yield (
                f"temperature.rates: training.steps / rate needs to be a whole number of at least"
                f" {max(keys.evaluations, 20)} steps, so that all networks train for one time"
                f" (got {training.steps} / {rate:g})"
            )
            break
    data = config.dataset()
    if keys.samples > len(data.x):
        yield f"temperature.samples: needs at most the {len(data.x)} training samples (got {keys.samples})"
    elif keys.batches[-1] >= keys.samples:
        yield (
            f"temperature.batches: needs minibatches smaller than temperature.samples, {keys.samples}, or there is no"
            f" noise (got {keys.batches[-1]})"
        )
    if data.x_test is None or training.evaluate == 0:
        yield "training.evaluate: needs test samples, with which the gap is measured; give data that have some"
    ratios = sorted(math.log(rate / batch) for rate in keys.rates for batch in keys.batches)
    if not any(b - a < 1e-9 for a, b in pairwise(ratios)):
        yield (
            "temperature.rates: needs pairs of rate and batch with the same rate/batch, or nothing can be compared at"
            f" equal temperature; use rates that are multiples as batches are (got {show(list(keys.rates))} and"
            f" {show(list(keys.batches))})"
        )
    if config.seed + keys.seeds > 2**63:
        yield f"temperature.seeds: needs seeds below 2⁶³ (got {keys.seeds} from {config.seed} on)"
