"""Reading a study: one TOML file, with the configuration of its kind."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bbdfield.errors import InputError
from bbdfield.studies.config.conservation import ConservationConfig
from bbdfield.studies.config.continuum import StudyConfig
from bbdfield.studies.config.decomposition import DecompositionConfig
from bbdfield.studies.config.energy import EnergyConfig
from bbdfield.studies.config.faults import FaultsConfig
from bbdfield.studies.config.manifolds import ManifoldsConfig
from bbdfield.studies.config.orders import OrdersConfig
from bbdfield.studies.config.regimes import RegimesConfig
from bbdfield.studies.config.signals import SignalsConfig
from bbdfield.studies.config.study import AnyStudy
from bbdfield.studies.config.symmetry import SymmetryConfig
from bbdfield.studies.config.temperature import TemperatureConfig
from bbdfield.studies.config.toml import BARE_KEY
from bbdfield.studies.config.validity import ValidityConfig
from bbdfield.studies.config.values import show

#: no configuration is longer, and a larger file is something else
MOST_BYTES = 2**24


CONFIGS: dict[str, type[AnyStudy]] = {
    "continuum": StudyConfig,
    "decomposition": DecompositionConfig,
    "symmetry": SymmetryConfig,
    "energy": EnergyConfig,
    "orders": OrdersConfig,
    "validity": ValidityConfig,
    "signals": SignalsConfig,
    "conservation": ConservationConfig,
    "regimes": RegimesConfig,
    "manifolds": ManifoldsConfig,
    "temperature": TemperatureConfig,
    "faults": FaultsConfig,
}


def load_config(path: Path, overrides: Sequence[str] = ()) -> AnyStudy:
    """Read and check a study.

    Parameters
    ----------
    path : the TOML file.
    overrides : "a.b=c" each; c is read as a TOML value, and as a plain string when it is none.

    Raises
    ------
    InputError
        One line naming the file, the key and the remedy.
    """
    path = Path(path)
    return parse_config(read_text(path), str(path), path.parent, overrides)


def read_text(path: Path) -> str:
    """The text of a TOML file; `InputError` for one that cannot be read."""
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for, for ever
            raise InputError(f"{path}: is not a plain file; give a TOML file")
        with open(path, "rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise InputError(f"{path}: is larger than {MOST_BYTES // 2**20} MiB; give a TOML file")
        return content.decode("utf-8-sig")
    except InputError:
        raise
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{path}: no such file; check the path") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{path}: cannot be read ({reason}); give a TOML file") from None


def parse_config(
    text: str, where: str = "configuration", folder: Path | None = None, overrides: Sequence[str] = ()
) -> AnyStudy:
    """`load_config` of a text instead of a file."""
    table = parse_table(text, where, overrides)
    if "sweep" in table:
        raise InputError(f"{where}: sweep: this file describes a sweep; use bbdfield sweep, or remove [sweep]")
    return model_of(table).from_table(table, where, folder)


def parse_table(text: str, where: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The tables of a TOML text with some keys overridden, "a.b=c" each; nothing in them is checked."""
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split()) if isinstance(error, ValueError) else "nested too deeply"
        raise InputError(f"{where}: not valid TOML: {reason}") from None
    for override in overrides:
        _override(table, override)
    return table


def model_of(table: Mapping[str, Any]) -> type[AnyStudy]:
    """The configuration of the table's kind; any, to refuse a kind that there is not."""
    kind = table.get("kind")
    return CONFIGS.get(kind, StudyConfig) if isinstance(kind, str) else StudyConfig


def _override(table: dict[str, Any], override: str) -> None:
    """Set one key, "a.b=c", in a table of tables."""
    key, equals, text = override.partition("=")
    names = [name.strip() for name in key.split(".")]
    if not equals or not all(BARE_KEY.fullmatch(name) for name in names):
        raise InputError(f"--set {show(override)}: needs KEY=VALUE, such as lattice.width=40")
    for name in names[:-1]:
        table = table.setdefault(name, {})
        if not isinstance(table, dict):
            raise InputError(f"--set {show(override)}: {name} is no section; check the key")
    table[names[-1]] = _override_value(text.strip())


def _override_value(text: str) -> Any:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    return parsed["value"] if list(parsed) == ["value"] else text
