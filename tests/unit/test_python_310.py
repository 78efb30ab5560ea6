"""Everything that runs on a target is Python 3.10: what Ubuntu 22.04 has."""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path

import pytest

from tests.python310 import prefix

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "plugins").rglob("*.py"))


@pytest.mark.parametrize("source", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_parses_as_python_310(source: Path) -> None:
    ast.parse(source.read_text(encoding="utf-8"), feature_version=(3, 10))


def test_compiles_on_python_310() -> None:
    found = prefix()
    if found is None:
        pytest.skip("no Python 3.10 on this machine")
    code = "import sys, pathlib; [compile(pathlib.Path(p).read_text(), p, 'exec') for p in sys.argv[1:]]"
    python = found / "bin" / "python3.10"
    run = subprocess.run(
        [str(python), "-c", code, *map(str, SOURCES)], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert run.returncode == 0, run.stderr
