"""A robot that never rests: asks a policy server with openpi's own client, and holds each answer against what it must be.

openpi_load.py PORT WANTED NAME=FOLDER...    NAME is a checkpoint as the server calls it, FOLDER has it here

Goes on until WANTED inferences were answered and standard input has ended; says how far it is every 50. The last line is
JSON: how many were answered by whom in which order, how often it connected anew, the longest time without an answer, and
every answer that was not the one that the policy of its connection must give.
"""

from __future__ import annotations

import json
import select
import sys
import time
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from openpi_client.websocket_client_policy import WebsocketClientPolicy
from smallpi.policy import SmallPolicy
from websockets.exceptions import WebSocketException

PAUSE = 0.01  # a robot acts between two inferences
PATIENCE = 60  # seconds without any server
SAME, OTHER = 1e-4, 1e-2  # two policies' answers are further apart than one policy's on two machines


def observation(random: np.random.Generator) -> dict[str, Any]:
    return {
        "observation/image": random.integers(256, size=(224, 224, 3), dtype=np.uint8),
        "observation/state": random.normal(0, 1, 8).astype(np.float32),
        "prompt": "pick up the cup",
    }


def connected(port: int) -> WebsocketClientPolicy:
    """As soon as a server answers; openpi's client waits by itself only where the connection is refused."""
    began = time.monotonic()
    while True:
        try:
            return WebsocketClientPolicy("127.0.0.1", port)
        except (OSError, EOFError, WebSocketException):
            if time.monotonic() - began > PATIENCE:
                raise
            time.sleep(0.1)


def wrong(answer: np.ndarray, name: str, known: dict[str, SmallPolicy], seen: dict[str, Any]) -> str:
    """What is wrong with an answer of a connection whose server said this name; empty when nothing is."""
    if name not in known:
        return f"a server says that it is {name}"
    distances = {each: float(np.abs(answer - policy.infer(seen)["actions"]).max()) for each, policy in known.items()}
    others = [each for each, distance in distances.items() if each != name and distance < OTHER]
    return "" if distances[name] < SAME and not others else f"{name} answered {distances}"


def told_to_stop() -> bool:
    return bool(select.select([sys.stdin], [], [], 0)[0]) and not sys.stdin.readline()


def main() -> None:
    port, wanted = int(sys.argv[1]), int(sys.argv[2])
    folders = dict(each.split("=", 1) for each in sys.argv[3:])
    known = {
        name: SmallPolicy.default(Path(folder)) if name == "default" else SmallPolicy.checkpoint(Path(folder))
        for name, folder in folders.items()
    }
    random = np.random.default_rng(1)
    policy = connected(port)
    answered_by: list[str] = []
    problems: list[str] = []
    connections, longest, last = 1, 0.0, time.monotonic()
    stop = False
    while len(answered_by) < wanted or not stop:
        stop = stop or told_to_stop()
        seen = observation(random)
        while True:
            try:
                answer = policy.infer(seen)["actions"]
                break
            except (OSError, EOFError, WebSocketException):
                policy = connected(port)
                connections += 1
        longest, last = max(longest, time.monotonic() - last), time.monotonic()
        name = str(policy.get_server_metadata()["checkpoint"])
        problem = wrong(answer, name, known, seen)
        problems += [problem] if problem else []
        answered_by.append(name)
        if len(answered_by) % 50 == 0:
            print(len(answered_by), flush=True)
        time.sleep(PAUSE)
    print(json.dumps({
        "answered": [[name, len(list(group))] for name, group in groupby(answered_by)],
        "connections": connections,
        "longest_s": round(longest, 2),
        "wrong": problems,
    }))  # fmt: skip


if __name__ == "__main__":
    main()
