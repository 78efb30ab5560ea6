"""Health check: a browser shows a task. GET /health says healthy whether one starts or not.

A reset takes a second or two of a core, so it is done only when no session's browser has answered lately: at most
once a minute. A server whose sessions are all taken is judged by how the last of them fared.
"""

from __future__ import annotations

import json
import sys
import urllib.request

from websockets.sync.client import connect

SERVER = "127.0.0.1:8000"
LATELY = 50.0
WAIT = 25.0


def problem() -> str:
    with urllib.request.urlopen(f"http://{SERVER}/browser", timeout=5) as answer:
        browsers = json.load(answer)
    if browsers["sessions"] >= browsers["most"]:
        return "" if browsers["well"] else f"all sessions are taken, and: {browsers['last_failure']}"
    if browsers["well"] and browsers["answered_seconds_ago"] < LATELY:
        return ""
    return reset()


def reset() -> str:
    with connect(f"ws://{SERVER}/ws", open_timeout=5, close_timeout=5, max_size=None) as session:
        session.send(json.dumps({"type": "reset", "data": {"seed": 1, "task_name": "click-test"}}))
        answer = json.loads(session.recv(timeout=WAIT))
        if answer["type"] != "observation":
            return str(answer["data"].get("message", answer["data"]))
        seen = answer["data"]["observation"]
        if "button" not in seen["axtree_txt"]:
            return f"the browser shows no task: {seen['axtree_txt'][:200]!r}"
        session.send(json.dumps({"type": "close"}))
    return ""


if __name__ == "__main__":
    try:
        found = problem()
    except Exception as error:  # whatever keeps it from answering
        found = f"{type(error).__name__}: {error}"
    print(found or "a browser answers")
    sys.exit(1 if found else 0)
