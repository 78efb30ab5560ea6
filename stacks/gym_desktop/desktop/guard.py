"""supervisord tells this when a program cannot be kept running: then the container ends, for the engine to start anew."""

from __future__ import annotations

import os
import signal
import sys


def main() -> None:
    while True:
        print("READY", end="\n", flush=True)
        header = dict(part.split(":", 1) for part in sys.stdin.readline().split())
        body = sys.stdin.read(int(header["len"]))
        print(f"gym_desktop: cannot be kept running: {body}; the container ends", file=sys.stderr, flush=True)
        print("RESULT 2", "OK", sep="\n", end="", flush=True)
        os.kill(os.getppid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
