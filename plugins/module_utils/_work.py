# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Running containers are somebody's work: listed, waited for, stopped by their own grace period, started again.

What is stopped is written down first, in the user's home, so that a run that is killed in between does not leave
somebody's training off for good: the next run starts it again.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ansible_collections.gpulab.fleet.plugins.module_utils._docker_api import get, post
from ansible_collections.gpulab.fleet.plugins.module_utils._files import write_atomic

SCHEMA = 1
GRACE = 10  # seconds; the engine's own default
MARGIN = 30  # seconds the engine may take beyond a container's grace period

PROJECT = "com.docker.compose.project"
PROBE = "gpulab.probe"  # containers of the proof: gone in seconds, nobody's work


def record_path(home: Path) -> Path:
    """Where the containers that were stopped for a change are written down."""
    return home / ".local" / "state" / "gpulab" / "stopped.json"


def running(socket: str) -> list[dict[str, Any]]:
    """The containers at work, in the order in which they were started; none when there is no engine."""
    if not Path(socket).exists():
        return []
    found = []
    for row in get(socket, "/containers/json"):
        labels = row.get("Labels") or {}
        if PROBE in labels:
            continue
        with contextlib.suppress(OSError):  # it has just ended
            state = get(socket, f"/containers/{row['Id']}/json")
            found.append(
                {
                    "id": row["Id"],
                    "name": state["Name"].lstrip("/"),
                    "image": row.get("Image", ""),
                    "project": labels.get(PROJECT, ""),
                    "since": state["State"]["StartedAt"][:19] + "Z",
                    "started": state["State"]["StartedAt"],
                    "grace": state["Config"].get("StopTimeout") or GRACE,
                    "temporary": bool(state["HostConfig"].get("AutoRemove")),
                }
            )
    return sorted(found, key=lambda each: str(each["started"]))


def told(container: Mapping[str, Any]) -> str:
    """A container in words."""
    stack = f"stack {container['project']}, " if container["project"] else ""
    end = ", gone for good when stopped (--rm)" if container["temporary"] else ""
    return f"{container['name']} ({stack}image {container['image']}, running since {container['since']}{end})"


def wait_until_idle(busy: Callable[[], Sequence[Any]], seconds: float, pause: float = 2) -> bool:
    """Whether the work came to its end within that time."""
    deadline = time.monotonic() + seconds
    while busy():
        if time.monotonic() >= deadline:
            return False
        time.sleep(pause)
    return True


def may_go_on(when_busy: str, busy: Callable[[], Sequence[Any]], seconds: float, check: bool = False) -> bool:
    """What the site wants where work is in the way: skip (no), wait (until it ends, or no), proceed (yes)."""
    if when_busy == "proceed" or not busy():
        return True
    # A prediction does not sit and wait: it says what would be found now.
    return when_busy == "wait" and not check and wait_until_idle(busy, seconds)


def load(home: Path) -> dict[str, Any]:
    """What was stopped and not started again: {stopped_at, containers}; empty when nothing."""
    with contextlib.suppress(OSError, ValueError):
        data = json.loads(record_path(home).read_text(encoding="utf-8"))
        if isinstance(data, dict) and data.get("schema") == SCHEMA:
            return data
    return {}


def stop(socket: str, home: Path) -> list[dict[str, Any]]:
    """Write down what runs, then stop it, last started first, each with its own grace period."""
    work = running(socket)
    before = load(home)
    known = before.get("containers", [])
    names = {each["id"] for each in work}
    containers = [each for each in known if each["id"] not in names] + work
    if not containers:
        return []
    data = {"schema": SCHEMA, "stopped_at": before.get("stopped_at", time.time()), "containers": containers}
    write_atomic(record_path(home), (json.dumps(data, indent=2) + "\n").encode(), 0o600, 0o700)

    def end(group: list[dict[str, Any]]) -> None:
        for each in reversed(group):
            post(socket, f"/containers/{each['id']}/stop", timeout=each["grace"] + MARGIN)

    each_at_once(groups(work), end)
    return work


def start(socket: str, home: Path, seconds: float) -> tuple[list[dict[str, Any]], list[str]]:
    """Start what was stopped, in its order, and wait until all of it is healthy: (what runs again, what does not)."""
    data = load(home)
    containers = [each for each in data.get("containers", []) if not each["temporary"]]
    deadline = time.monotonic() + seconds
    wrong: list[str] = []
    back: list[dict[str, Any]] = []

    def begin(group: list[dict[str, Any]]) -> None:
        for each in group:
            trouble = bring_back(socket, each, deadline)
            if trouble:
                wrong.append(f"{each['name']}: {trouble}")
            else:
                back.append(each)

    each_at_once(groups(containers), begin)
    if not wrong:
        record_path(home).unlink(missing_ok=True)
    return back, sorted(wrong)


def bring_back(socket: str, container: Mapping[str, Any], deadline: float) -> str:
    """Start one container and wait until it is well; what is wrong otherwise."""
    try:
        post(socket, f"/containers/{container['id']}/start", timeout=120)
        while True:
            state = get(socket, f"/containers/{container['id']}/json")["State"]
            health = (state.get("Health") or {}).get("Status", "")
            if state["Running"] and not state.get("Restarting") and health in ("", "none", "healthy"):
                return ""
            if state["Status"] == "exited" and state["ExitCode"] == 0:
                return ""  # it had no more than that to do
            if time.monotonic() > deadline:
                log = ((state.get("Health") or {}).get("Log") or [{}])[-1].get("Output", "").strip()
                return f"{health or state['Status']} {state.get('Error') or log}".strip()
            time.sleep(0.3)
    except OSError as error:
        return str(error)


def groups(containers: Iterable[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Containers that depend on one another keep their order: those of a stack; the others are by themselves."""
    found: dict[str, list[dict[str, Any]]] = {}
    for each in containers:
        found.setdefault(each["project"] or f"/{each['id']}", []).append(each)
    return list(found.values())


def each_at_once(work: Sequence[list[dict[str, Any]]], do: Callable[[list[dict[str, Any]]], None]) -> None:
    if work:
        with ThreadPoolExecutor(max_workers=min(8, len(work))) as pool:
            list(pool.map(do, work))
