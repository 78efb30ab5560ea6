"""A control group of its own for every host.

Without it all hosts share one payload group, and after one of them ran a rootful engine no new host starts.
It also is the surest way to end a host: everything that ever ran in it is in the group.
"""

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from .machine import cgroup_mount
from .settings import PREFIX, LabError


def path(name: str) -> Path:
    mount = cgroup_mount()
    if mount is None:
        raise LabError("no control group v2 mount in /proc/mounts")
    return mount / f"{PREFIX}{name}"


def make(name: str) -> Path:
    """A fresh group; what an earlier boot left is removed."""
    remove(name)
    group = path(name)
    group.mkdir(exist_ok=True)
    return group


def populated(name: str) -> bool:
    try:
        events = (path(name) / "cgroup.events").read_text()
    except (OSError, LabError):
        return False
    return "populated 1" in events


def remove(name: str) -> None:
    """Kill what runs in the group and remove it, its sub-groups first."""
    group = path(name)
    if not group.exists():
        return
    deadline = time.monotonic() + 10
    while populated(name):
        with contextlib.suppress(OSError):
            (group / "cgroup.kill").write_text("1")
        if time.monotonic() > deadline:
            raise LabError(f"processes in {group} do not die; see {group}/cgroup.procs")
        time.sleep(0.02)
    for folder, _, _ in os.walk(group, topdown=False):
        with contextlib.suppress(FileNotFoundError):
            Path(folder).rmdir()


@contextlib.contextmanager
def frozen(name: str) -> Iterator[None]:
    """Nothing in the host runs while this is held: its files stand still."""
    group = path(name)
    switch, events = group / "cgroup.freeze", group / "cgroup.events"
    if not group.exists():
        yield
        return
    # Thaws when its input ends, which it does however this process comes to its end.
    thaw = ["sh", "-c", 'read -r _; echo 0 > "$1"', "sh", str(switch)]
    with subprocess.Popen(thaw, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True):
        switch.write_text("1")
        deadline = time.monotonic() + 10
        while "frozen 1" not in events.read_text():
            if time.monotonic() > deadline:
                raise LabError(f"{name} does not freeze")
            time.sleep(0.01)
        yield
