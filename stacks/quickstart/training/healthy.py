"""Health check of the trainer: it has saved a checkpoint, and its heart beat within the last minute."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

FRESH = 60.0


def problem(heartbeat: Path, checkpoints: Path, now: float) -> str:
    if not any(checkpoints.glob("gen_*.npz")):
        return "no checkpoint yet"
    if not heartbeat.exists():
        return "no generation finished since the start"
    age = now - heartbeat.stat().st_mtime
    return f"nothing happened for {age:.0f} s" if age > FRESH else ""


if __name__ == "__main__":
    found = problem(Path("/tmp/heartbeat"), Path(os.environ.get("CHECKPOINTS", "/data/checkpoints")), time.time())
    print(found or "ok")
    sys.exit(1 if found else 0)
