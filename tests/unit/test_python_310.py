"""Everything that runs on a target is Python 3.10: what Ubuntu 22.04 has."""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "plugins").rglob("*.py"))


@pytest.mark.parametrize("source", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_parses_as_python_310(source: Path) -> None:
    ast.parse(source.read_text(encoding="utf-8"), feature_version=(3, 10))


def python_310() -> str | None:
    """A Python 3.10 that starts; a version manager's shim may stand on PATH without one behind it."""
    try:
        run = subprocess.run(
            ["python3.10", "-c", "import sys; print(sys.executable)"], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return None
    return run.stdout.strip() or None


@pytest.mark.skipif(python_310() is None, reason="no Python 3.10 on this machine")
def test_compiles_on_python_310() -> None:
    code = "import sys, pathlib; [compile(pathlib.Path(p).read_text(), p, 'exec') for p in sys.argv[1:]]"
    run = subprocess.run(
        [str(python_310()), "-c", code, *map(str, SOURCES)], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert run.returncode == 0, run.stderr
