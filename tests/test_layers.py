"""Imports point down only, and importing the package stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

#: From bottom to top; a part may import what stands in the entries before its own, never its neighbour.
LAYERS = (
    ("solvers",),
    ("bbdfield.files", "bbdfield.interrupts", "bbdfield.provenance"),
    ("bbdfield.datasets", "bbdfield.storage"),
    ("bbdfield.model",),
    ("bbdfield.decomposition", "bbdfield.fields", "bbdfield.lattice", "bbdfield.problems", "bbdfield.propagation"),
    ("bbdfield.comparison", "bbdfield.observables", "bbdfield.plotting"),
    ("bbdfield.studies",),
    ("bbdfield.sweeps",),
    ("bbdfield.benchmarks",),
    ("bbdfield.cli",),
    ("bbdfield.__main__",),
)
HEIGHT = {part: height for height, parts in enumerate(LAYERS) for part in parts}

#: The front door re-exports the public names: it sees everything, and nothing below may go through it.
FRONT = "bbdfield"


def is_leaf(part: str) -> bool:
    """Modules that every part may use and that themselves use only solvers and each other."""
    return part == "bbdfield.errors" or (part.startswith("bbdfield._") and not part.startswith("bbdfield.__"))


def part_of(module: str, root: Path) -> str | None:
    """The part of the map that a module belongs to; None for other people's packages."""
    names = module.split(".")
    if names[0] == "solvers":
        return "solvers"
    if names[0] != "bbdfield":
        return None
    if len(names) > 1:
        inside = root / "bbdfield" / names[1]
        if inside.is_dir() or inside.with_suffix(".py").is_file():
            return f"bbdfield.{names[1]}"
    return FRONT


def imported(path: Path, root: Path) -> Iterator[tuple[int, str]]:
    """(line, part) of every import in a file, also of those inside functions and type-checking blocks."""
    package = path.relative_to(root).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join((*above, *([node.module] if node.module else [])))
            modules = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for module in modules:
            part = part_of(module, root)
            if part is not None:
                yield node.lineno, part


def violations(root: Path) -> list[str]:
    found = []
    for path in sorted([*root.glob("solvers/**/*.py"), *root.glob("bbdfield/**/*.py")]):
        here = path.relative_to(root)
        own = part_of(".".join(here.with_suffix("").parts), root)
        if here == Path("bbdfield", "__init__.py"):
            continue
        if own not in HEIGHT and not is_leaf(own):
            found.append(f"{here}: {own} has no place in the layers")
            continue
        for line, part in imported(path, root):
            if part == own or (is_leaf(part) and own != "solvers"):
                continue
            allowed = part in HEIGHT and HEIGHT[part] < (1 if is_leaf(own) else HEIGHT[own])
            if not allowed:
                found.append(f"{here}:{line}: {own} must not import {part}")
    return found


def test_imports_point_down():
    assert violations(ROOT) == []


@pytest.mark.parametrize(
    ("path", "line", "complaint"),
    [
        ("solvers/sweeps.py", "import bbdfield", "solvers must not import bbdfield"),
        ("solvers/sweeps.py", "from bbdfield.errors import E", "solvers must not import bbdfield.errors"),
        ("bbdfield/fields/a.py", "from bbdfield.lattice import b", "fields must not import bbdfield.lattice"),
        ("bbdfield/lattice/a.py", "import bbdfield.fields.a", "lattice must not import bbdfield.fields"),
        ("bbdfield/lattice/a.py", "from .. import fields", "lattice must not import bbdfield.fields"),
        ("bbdfield/lattice/a.py", "from ..fields.a import b", "lattice must not import bbdfield.fields"),
        ("bbdfield/storage/a.py", "import bbdfield.datasets", "storage must not import bbdfield.datasets"),
        ("bbdfield/model/a.py", "def f():\n    from bbdfield import run", "model must not import bbdfield"),
        ("bbdfield/studies/a.py", "import bbdfield.cli", "studies must not import bbdfield.cli"),
        ("bbdfield/studies/a.py", "from bbdfield.benchmarks import b", "studies must not import bbdfield.benchmarks"),
        ("bbdfield/errors.py", "from .datasets import c", "errors must not import bbdfield.datasets"),
        ("bbdfield/extras.py", "", "bbdfield.extras has no place in the layers"),
    ],
)
def test_a_wrong_import_is_noticed(tmp_path, path, line, complaint):
    allowed = {
        "solvers/__init__.py": "import numpy",
        "solvers/sweeps.py": "from solvers.grids import g",
        "bbdfield/__init__.py": "from bbdfield.cli import main",
        "bbdfield/errors.py": "from solvers.errors import InputError",
        "bbdfield/_version.py": "",
        "bbdfield/datasets.py": "from bbdfield.errors import InputError",
        "bbdfield/cli.py": "from bbdfield import studies",
        **{
            f"bbdfield/{part}/a.py": "from . import b\nfrom bbdfield import _version, datasets"
            for part in ("model", "fields", "lattice", "comparison", "plotting", "studies", "benchmarks")
        },
        "bbdfield/storage/a.py": "from solvers import grids\nfrom bbdfield._version import version",
    }
    for name, text in allowed.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert violations(tmp_path) == []
    (tmp_path / path).write_text(line)
    found = violations(tmp_path)
    assert len(found) == 1 and found[0].endswith(complaint)


@pytest.mark.parametrize("package", ["bbdfield", "bbdfield.datasets", "solvers"])
def test_import_is_light(package):
    heavy = ("matplotlib", "numba", "cupy", "click", "rich", "pydantic", "torch", "xarray", "pandas")
    code = f"import sys, {package}; print(*sorted(set({heavy!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
