"""What the tests of this folder share; they, and the processes they start, can import `examples` and `mutators`."""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of files are finished here, and none has to outlive a power cut."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
