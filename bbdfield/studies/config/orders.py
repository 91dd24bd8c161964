"""kind = "orders"."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import Field, PlainValidator

from bbdfield.errors import InputError
from bbdfield.model.architecture import DYNAMICS
from bbdfield.model.ranges import RANGES
from bbdfield.model.scalings import SCALINGS
from bbdfield.studies.config.continuum import StudyConfig
from bbdfield.studies.config.sections import FieldSection, Section
from bbdfield.studies.config.study import OneNetwork
from bbdfield.studies.config.toml import given_keys
from bbdfield.studies.config.values import ORDERS, SOME_ORDERS, any_table, choice, each_of, whole, width_orders_of
from solvers.padding import PADDINGS


class LadderSection(Section):
    """[[ladder]] of an orders study: one spacing is refined, everything else is kept; lists are all tried.

    spacing : "a_x" (depth is the ladder), "a_y" (width is) or "step" (training.step is halved `halvings` times).
    orders, width_order : of the field theory, in a_x and a_y.
    lattice, initial, training, field : keys that differ from the study's own sections.
    """

    spacing: Annotated[str, choice(("a_x", "a_y", "step"))]
    scaling: Annotated[str, choice(tuple(SCALINGS))] = "residual"
    range: Annotated[str, choice(tuple(RANGES))] = "kernel"
    weights: Annotated[tuple[str, ...], each_of(("tied", "untied"))] = ("tied",)
    padding: Annotated[tuple[str, ...], each_of(PADDINGS)] = ("circular",)
    dynamics: Annotated[tuple[str, ...], each_of(DYNAMICS)] = ("sgd",)
    orders: Annotated[tuple[int, ...], SOME_ORDERS] = ORDERS
    width_order: Annotated[tuple[int, ...], PlainValidator(width_orders_of)] = ()
    halvings: Annotated[int, whole(2, 12)] = 3
    lattice: Annotated[dict[str, Any], PlainValidator(any_table)] = Field(default_factory=dict)
    initial: Annotated[dict[str, Any], PlainValidator(any_table)] = Field(default_factory=dict)
    training: Annotated[dict[str, Any], PlainValidator(any_table)] = Field(default_factory=dict)
    field: Annotated[dict[str, Any], PlainValidator(any_table)] = Field(default_factory=dict)


class OrdersConfig(OneNetwork):
    """kind = "orders": does every scaling, range and order converge as it declares?"""

    field: FieldSection = Field(default_factory=FieldSection)
    ladder: tuple[LadderSection, ...] = ()

    def combinations(self) -> Iterator[tuple[str, LadderSection, StudyConfig]]:
        """(name, its ladder, the continuum study) of every combination of the lists.

        Raises
        ------
        InputError
            for one that is not possible, by its name.
        """
        for ladder in self.ladder:
            for names in itertools.product(
                ladder.weights, ladder.padding, ladder.dynamics, ladder.width_order or (None,)
            ):
                weights, padding, dynamics, width_order = names
                parts = [ladder.spacing, ladder.scaling, ladder.range, weights, padding, dynamics]
                name = "-".join([*parts, *([f"p{width_order}"] if width_order is not None else [])])
                yield name, ladder, StudyConfig.from_table(self._table(ladder, *names), name)

    def _table(
        self, ladder: LadderSection, weights: str, padding: str, dynamics: str, width_order: int | None
    ) -> dict[str, Any]:
        """The keys of one combination's study."""
        table = given_keys(self.model_dump(exclude={"ladder", "kind", "title"}))
        own = {"kappa"} if ladder.scaling != self.lattice.scaling else set()
        own |= {kind.key for kind in RANGES.values()} if ladder.range != self.lattice.range else set()
        table["lattice"] = {key: value for key, value in table["lattice"].items() if key not in own}
        table["lattice"] |= {
            "scaling": ladder.scaling,
            "range": ladder.range,
            "weights": weights,
            "padding": padding,
            **ladder.lattice,
        }
        table["initial"] |= ladder.initial
        table["training"] |= {"dynamics": dynamics, **ladder.training}
        order = {} if width_order is None else {"width_order": width_order}
        table["field"] |= {"orders": list(ladder.orders), **order, **ladder.field}
        if self.data.file is not None:
            table["data"] = {"file": self.data.file, "layout": self.data.layout}
        return {"kind": "continuum", **table}

    def refusals(self) -> Iterator[str]:
        yield from list(super().refusals()) or self._refused()

    def _refused(self) -> Iterator[str]:
        if not self.ladder:
            yield "ladder: is missing; add a section [[ladder]] with spacing, scaling and range"
        for number, ladder in enumerate(self.ladder):
            yield from (f"ladder.{number}.{problem}" for problem in _misplaced(ladder))
        names: set[str] = set()
        try:
            for name, ladder, study in self.combinations():
                if name in names:
                    yield f"ladder: {name} stands in two of them; give each combination once"
                names.add(name)
                yield from (f"ladder: {name}: {problem}" for problem in _no_ladder(ladder, study))
        except InputError as error:
            yield f"ladder: {error}"


#: keys of a ladder's own that its tables must not change behind its back: section -> keys
_LADDERS_OWN = {
    "lattice": ("scaling", "range", "weights", "padding"),
    "initial": (),
    "training": ("dynamics",),
    "field": ("orders", "width_order"),
}


def _misplaced(ladder: LadderSection) -> Iterator[str]:
    """Keys that stand in the wrong table, or mean nothing for this spacing."""
    for section, own in _LADDERS_OWN.items():
        for key in own:
            if key in getattr(ladder, section):
                yield f"{section}.{key}: is a key of the ladder itself; write {key} beside spacing"
    nothing = ("orders", "width_order", "field") if ladder.spacing == "step" else ("halvings",)
    for key in nothing:
        if getattr(ladder, key) != LadderSection.model_fields[key].get_default(call_default_factory=True):
            yield f'{key}: means nothing for spacing = "{ladder.spacing}"; remove it'


def _no_ladder(ladder: LadderSection, study: StudyConfig) -> Iterator[str]:
    """Why a combination cannot be refined."""
    if ladder.spacing != "step":
        size = "depth" if ladder.spacing == "a_x" else "width"
        if study.fitted_against() != ladder.spacing:
            yield f"lattice.{size} needs a list of sizes to refine {ladder.spacing}"
        elif len(study.rungs()) < 3:
            yield "needs three sizes or more, so that two local orders can agree"
        return
    if len(study.rungs()) > 1:
        yield "lattice.depth and lattice.width need one size each, since the training step is refined"
    if study.training.dynamics == "adaptive-flow":
        yield 'training.dynamics: "adaptive-flow" chooses its steps itself; give another one'
    if study.training.batch != len(study.dataset().x):
        count = len(study.dataset().x)
        yield f"training.batch: needs all {count} training samples, so that every step sees the same"
