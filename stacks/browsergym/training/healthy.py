"""Health check of the trainer: it has saved a checkpoint, and its heart beat within the last two minutes."""

from __future__ import annotations

import sys
import time
from pathlib import Path

FRESH = 120.0  # an episode takes seconds, on a busy host some more


def problem(heartbeat: Path, checkpoints: Path, now: float) -> str:
    if not any(checkpoints.glob("*/episode_*.npz")):
        return "no checkpoint yet"
    if not heartbeat.exists():
        return "no episode finished since the start"
    age = now - heartbeat.stat().st_mtime
    return f"nothing happened for {age:.0f} s" if age > FRESH else ""


if __name__ == "__main__":
    found = problem(Path("/tmp/heartbeat"), Path("/workspace/checkpoints"), time.time())
    print(found or "ok")
    sys.exit(1 if found else 0)
