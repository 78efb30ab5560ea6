"""Where the lab keeps things, how its things are named, and how it speaks."""

import os
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROGRAM = HERE / "lab"
STATE = Path(os.environ.get("GPULAB_LAB_DIR") or "/var/lib/gpulab-lab")
CACHE = Path(os.environ.get("GPULAB_LAB_CACHE") or "/var/cache/gpulab-lab")

# Every network namespace, link and control group of a host starts with this, so that ours are told from others'.
PREFIX = "gl-"
BRIDGE = "gpulab0"
SUBNET = "10.77.0.0/24"
GATEWAY = "10.77.0.1"
FIRST_ADDRESS, LAST_ADDRESS = 10, 250

_started = time.monotonic()


class LabError(Exception):
    """Something a person can mend; the text says what."""


class NotPossible(LabError):
    """This machine cannot run the lab; the text says what is missing."""


def say(text: str) -> None:
    """Tell the person in front of the screen what is going on; results go to stdout, this does not."""
    print(f"[{time.monotonic() - _started:6.1f}s] {text}", file=sys.stderr, flush=True)


def address(number: int) -> str:
    return SUBNET.rsplit(".", 1)[0] + f".{number}"
