"""Which GPUs this container can see, and whether they are the ones it was meant to have."""

from __future__ import annotations

import re
import shutil
import subprocess


def visible() -> list[str]:
    """UUIDs of the GPUs that the driver's own tool lists here; none where the tool is not there."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    answer = subprocess.run([tool, "-L"], capture_output=True, text=True, timeout=30, check=False)
    return re.findall(r"UUID: ((?:GPU|MIG)-[0-9a-fA-F-]+)", answer.stdout)


def missing(wanted: str, seen: list[str]) -> str:
    """What was asked for and is not there: empty when all is well.

    wanted is empty (no GPU), "any" (at least one) or a list of UUIDs with commas between.
    """
    if wanted == "any":
        return "" if seen else "any GPU"
    return ", ".join(uuid for uuid in wanted.split(",") if uuid and uuid not in seen)
