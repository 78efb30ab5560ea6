"""A Python 3.10 of this machine, as Ubuntu 22.04 has it; no suite of Debian's does."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path


def prefix() -> Path | None:
    """Where one is installed that starts; a version manager's shim may stand on PATH without one behind it."""
    candidates = [shutil.which("python3.10"), *Path.home().glob(".pyenv/versions/3.10.*/bin/python3.10")]
    for python in filter(None, candidates):
        ask = [str(python), "-c", "import sys; print(sys.base_prefix)"]
        answer = subprocess.run(ask, capture_output=True, text=True, check=False)
        if answer.returncode == 0:
            return Path(answer.stdout.strip())
    return None
