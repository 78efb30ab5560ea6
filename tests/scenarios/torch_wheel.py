"""PyTorch without CUDA, which few package indexes have: fetched once with this machine's own pip, and brought to a host."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from .site import LAB, ROOT, Site

CACHE = ROOT / ".cache" / "wheels"


def fetched() -> list[Path]:
    if not list(CACHE.glob("torch-*.whl")):
        CACHE.mkdir(parents=True, exist_ok=True)
        fetch = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "torch==2.13.0", "-d", str(CACHE)]
        subprocess.run(fetch, check=True)
    return sorted(CACHE.glob("torch-*.whl"))


def bring(site: Site) -> str:
    """The folder on the host that has it now."""
    site.login("trainer", "mkdir -p wheels")
    for wheel in fetched():
        with wheel.open("rb") as file:
            put = [str(LAB), "ssh", site.hosts[0], f"cat > /home/trainer/wheels/{wheel.name}"]
            subprocess.run(put, stdin=file, check=True)
    return "/home/trainer/wheels"
