"""Writing TOML."""

from __future__ import annotations

import re
from datetime import date, time
from typing import Any

BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


_ESCAPES = {'"': '\\"', "\\": "\\\\"}


def is_tables(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(entry, dict) for entry in value)


def given_keys(table: dict[str, Any]) -> dict[str, Any]:
    """A table without the keys that have no value."""
    return {
        key: given_keys(value) if isinstance(value, dict) else value
        for key, value in table.items()
        if value is not None
    }


def toml_value(value: Any) -> str:
    """A value as TOML, whatever a TOML file can hold; tables on one line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, str):
        return f'"{"".join(map(_escaped, value))}"'
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{toml_key(key)} = {toml_value(entry)}' for key, entry in value.items())} }}"
    if isinstance(value, (date, time)):  # a datetime is a date
        return value.isoformat()
    return f"[{', '.join(map(toml_value, value))}]"


def toml_key(key: str) -> str:
    """A key as TOML: in quotes where it needs them."""
    return key if BARE_KEY.fullmatch(key) else toml_value(key)


def _escaped(character: str) -> str:
    if character < " " or character == "\x7f":
        return f"\\u{ord(character):04X}"
    return _ESCAPES.get(character, character)
