"""What every kind of study configures."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, PlainValidator, ValidationError

from bbdfield.datasets import Dataset, load_dataset
from bbdfield.model.architecture import Lattice, Rates, Training
from bbdfield.model.initial import InitialFields
from bbdfield.model.ranges import RANGES, Range
from bbdfield.studies.config.combinations import impossible, listed, several_networks
from bbdfield.studies.config.mistakes import explain, one_line
from bbdfield.studies.config.sections import (
    DataSection,
    InitialSection,
    LatticeSection,
    OutputSection,
    Section,
    TrainingSection,
)
from bbdfield.studies.config.toml import is_tables, toml_value
from bbdfield.studies.config.values import choice, plain_text, whole
from bbdfield.studies.kinds import KINDS
from solvers.grids import Grid


class AnyStudy(Section):
    """What every kind of study configures: data, network, initial fields, training, output."""

    #: whether training.observe means anything
    records_steps: ClassVar[bool] = False

    kind: Annotated[str, choice(tuple(KINDS))]
    title: Annotated[str, PlainValidator(plain_text)] = ""
    seed: Annotated[int, whole(0, 2**63 - 1)] = 0
    data: DataSection = Field(default_factory=lambda: DataSection(name="mnist1d"))
    lattice: LatticeSection
    initial: InitialSection = Field(default_factory=InitialSection)
    training: TrainingSection
    output: OutputSection = Field(default_factory=OutputSection)

    def rungs(self) -> list[tuple[int, int]]:
        """(depth, width) of every lattice of the ladder, coarsest first."""
        return [(m, n) for m in listed(self.lattice.depth) for n in listed(self.lattice.width)]

    def fitted_against(self) -> str | None:
        """The spacing that the ladder refines, "a_x" or "a_y"; None without a ladder."""
        if len(listed(self.lattice.depth)) > 1:
            return "a_x"
        return "a_y" if len(listed(self.lattice.width)) > 1 else None

    def dataset(self) -> Dataset:
        """The data; a file is read again only when it has changed."""
        if self.data.file is None:
            return _load(self.data.name or "mnist1d", None, (), self.data.layout)
        try:
            found = os.stat(self.data.file)
        except OSError:
            return load_dataset(file=self.data.file)  # which says what is wrong
        version = (found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_size)
        return _load("mnist1d", self.data.file, version, self.data.layout)

    def lattice_at(self, depth: int, width: int) -> Lattice:
        """The network of one rung, with as many inputs and outputs as the data have."""
        keys, dataset = self.lattice, self.dataset()
        return Lattice(
            depth=depth,
            width=width,
            channels=keys.channels,
            range=self._range,
            outputs=dataset.outputs,
            data_channels=dataset.channels,
            scaling=keys.scaling,
            kappa=keys.kappa,
            padding=keys.padding,
            activation=keys.activation,
            loss=keys.loss,
            readout_modes=keys.readout_modes,
        )

    @property
    def _range(self) -> Range:
        kind: Any = RANGES[self.lattice.range]
        made: Range = kind(getattr(self.lattice, kind.key), tied=self.lattice.weights == "tied")
        return made

    def training_plan(self) -> Training:
        """The training law."""
        keys = self.training.model_dump(exclude={"rates", "optimizer", "backend", "precision", "checkpoint", "observe"})
        return Training(**keys, rates=Rates(**self.training.rates.model_dump()), seed=self.seed)

    def initial_fields(self, lattice: Lattice) -> InitialFields:
        """The random initial fields: the same functions for every rung."""
        return InitialFields(lattice, self.seed, **self.initial.model_dump())

    def grids(self) -> Iterator[tuple[str, Grid]]:
        """Every grid of the study with the key that made it."""
        for depth, width in self.rungs():
            yield "lattice.width", Grid(depth, width)

    def compression(self) -> str | None:
        """As the trajectory writer wants it."""
        return None if self.output.compression == "none" else self.output.compression

    def to_toml(self) -> str:
        """Every key, defaults included; reading it back gives an equal configuration."""
        top = self.model_dump()
        tables = {key: value for key, value in top.items() if value and is_tables(value)}
        plain = {key: value for key, value in top.items() if not isinstance(value, dict) and key not in tables}
        parts = ["".join(f"{key} = {toml_value(value)}\n" for key, value in plain.items())]
        for section, table in top.items():
            if isinstance(table, dict):
                lines = [f"{key} = {toml_value(value)}\n" for key, value in table.items() if value is not None]
                parts.append(f"[{section}]\n{''.join(lines)}")
        for section, entries in tables.items():
            for table in entries:
                lines = [f"{key} = {toml_value(value)}\n" for key, value in table.items()]
                parts.append(f"[[{section}]]\n{''.join(lines)}")
        return "\n".join(parts)

    @classmethod
    def from_table(cls, table: Mapping[str, Any], where: str = "configuration", folder: Path | None = None) -> Self:
        """Check a table of plain values.

        Parameters
        ----------
        where : what error messages call it, e.g. the file's name.
        folder : where a relative data.file lies (default: the working directory); the configuration keeps it absolute.

        Raises
        ------
        InputError
            One line: where, the key, what it needs and what it got.
        """
        try:
            config = cls.model_validate(table)
        except ValidationError as error:
            raise one_line(where, [explain(cls, detail) for detail in error.errors(include_url=False)]) from None
        if config.data.file is not None:
            absolute = str((folder or Path()).absolute() / config.data.file)
            config = config.model_copy(update={"data": DataSection(file=absolute, layout=config.data.layout)})
        problems = list(impossible(config)) or list(config.refusals())
        if config.training.observe and not cls.records_steps:
            problems.append(
                f'training.observe: kind = "{config.kind}" asks its own questions; remove it, or use kind = "continuum"'
            )
        if problems:
            raise one_line(where, problems)
        return config

    def refusals(self) -> Iterator[str]:
        """What this kind of study cannot do although the network can be trained, one line each."""
        yield from ()


class OneNetwork(AnyStudy):
    """A study of one network: no ladder."""

    def refusals(self) -> Iterator[str]:
        yield from several_networks(self)
        if self.lattice.scaling != "residual":
            yield f'lattice.scaling: kind = "{self.kind}" studies residual networks; use "residual"'
        allowed = ("kernel",) if self.kind in ("energy", "validity") else ("kernel", "taps")
        if self.lattice.range not in allowed:
            yield f'lattice.range: kind = "{self.kind}" is defined for {" and ".join(allowed)} weights; use "kernel"'


@lru_cache(maxsize=2)
def _load(name: str, file: str | None, version: tuple[int, ...], layout: str) -> Dataset:
    found = load_dataset(name, file)
    return found.as_channels() if layout == "channels" else found
