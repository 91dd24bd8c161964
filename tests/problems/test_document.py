"""The example of docs/exact-solutions.md prints what it says."""

from __future__ import annotations

import re
from pathlib import Path

DOCUMENT = Path(__file__).parents[2] / "docs" / "exact-solutions.md"


def test_example(capsys):
    text = DOCUMENT.read_text(encoding="utf-8")
    code, printed = re.search(r"```python\n(.*?)```\n\n```text\n(.*?)```", text, re.DOTALL).groups()
    exec(compile(code, str(DOCUMENT), "exec"), {})
    assert capsys.readouterr().out == printed
