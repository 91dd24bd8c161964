"""Text that came from a file, a name or a configuration, made safe to show."""

from __future__ import annotations

import unicodedata

#: control, format (among them those that turn the direction of writing), surrogate, private and unassigned characters,
#: and separators of lines and paragraphs: they steer what shows the text instead of being shown
_STEERING = frozenset(("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"))


def visible(text: str, keep: str = "\n\t", longest: int | None = None) -> str:
    """The text with every character that would steer a terminal or a page as its escape, such as ``\\x1b``.

    keep : characters that stay as they are.   longest : the text is cut to so many characters, with an ellipsis.
    """
    if longest is not None and len(text) > longest:
        text = f"{text[: longest - 1]}…"
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c in keep or unicodedata.category(c) not in _STEERING else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
