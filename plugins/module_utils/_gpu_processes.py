# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The processes that NVML sees on the GPUs, with what everybody may know of them: owner, command, start, container."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from types import ModuleType
from typing import Any

from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._files import read_text
from ansible_collections.gpulab.fleet.plugins.module_utils._gpu_holders import clean
from ansible_collections.gpulab.fleet.plugins.module_utils._subid import parse

QUESTIONS = {
    "compute": "nvmlDeviceGetComputeRunningProcesses",
    "graphics": "nvmlDeviceGetGraphicsRunningProcesses",
    "mps": "nvmlDeviceGetMPSComputeRunningProcesses",
}
ANCESTORS = 64
CGROUP = re.compile(r"(?:docker-|/docker/|libpod-)([0-9a-f]{64})")
SHIM = "containerd-shim"


@dataclass(frozen=True)
class Process:
    """One process; whatever could not be learned is empty."""

    pid: int
    kind: str
    memory: int | None
    user: str = ""
    uid: int | None = None
    command: str = ""
    since: str = ""
    container: str = ""

    def plain(self) -> dict[str, Any]:
        return {
            "pid": self.pid,
            "kind": self.kind,
            "user": self.user,
            "command": self.command,
            "since": self.since,
            "memory_used_bytes": self.memory,
            "container": self.container[:12],
        }


def by_gpu(library: ModuleType | Any, proc: Path = Path("/proc")) -> dict[str, list[Process]]:
    """The processes on each GPU or MIG instance, by its UUID. NVML must have been initialised."""
    found: dict[str, list[Process]] = {}
    for handle in _devices(library):
        with contextlib.suppress(library.NVMLError):
            uuid = library.nvmlDeviceGetUUID(handle)
            uuid = uuid.decode() if isinstance(uuid, bytes) else uuid
            found[uuid] = sorted(_on(library, handle, proc), key=lambda process: process.pid)
    return found


def _devices(library: Any) -> Iterator[Any]:
    """GPUs, and what partitioned ones are divided into."""
    for index in range(library.nvmlDeviceGetCount()):
        try:
            handle = library.nvmlDeviceGetHandleByIndex(index)
        except library.NVMLError:
            continue
        yield handle
        with contextlib.suppress(library.NVMLError):
            if library.nvmlDeviceGetMigMode(handle)[0]:
                for number in range(library.nvmlDeviceGetMaxMigDeviceCount(handle)):
                    with contextlib.suppress(library.NVMLError):
                        yield library.nvmlDeviceGetMigDeviceHandleByIndex(handle, number)


def _on(library: Any, handle: Any, proc: Path) -> list[Process]:
    seen: dict[int, Process] = {}
    for kind, question in QUESTIONS.items():
        # What this GPU or driver does not know, or does not tell this user, is simply not there.
        with contextlib.suppress(library.NVMLError, AttributeError):
            for each in getattr(library, question)(handle):
                seen.setdefault(each.pid, describe(each.pid, kind, each.usedGpuMemory, proc))
    return list(seen.values())


def describe(pid: int, kind: str = "compute", memory: int | None = None, proc: Path = Path("/proc")) -> Process:
    """What /proc says of a process to everybody."""
    place = proc / str(pid)
    try:
        uid = place.stat().st_uid
        command = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        command = command or f"[{(place / 'comm').read_text(encoding='utf-8', errors='replace').strip()}]"
    except OSError:
        return Process(pid, kind, memory)
    return Process(pid, kind, memory, name_of(uid), uid, clean(command), started(place, proc), container_of(pid, proc))


def name_of(uid: int, etc: Path = Path("/etc")) -> str:
    """Whose process it is. In a rootless container a user of the image's is one of somebody's subordinate ids."""
    with contextlib.suppress(KeyError):
        return pwd.getpwuid(uid).pw_name
    with contextlib.suppress(FleetError, OSError):
        for each in parse(read_text(etc / "subuid"), "subuid"):
            if each.start <= uid < each.start + each.count:
                return name_of(int(each.owner), etc) if each.owner.isdecimal() else clean(each.owner)
    return f"uid {uid}"


def _stat(place: Path) -> list[str]:
    """The fields of /proc/PID/stat after the name, which may hold anything."""
    with contextlib.suppress(OSError):
        return (place / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    return []


def started(place: Path, proc: Path = Path("/proc")) -> str:
    fields = _stat(place)
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = (proc / "stat").read_text(encoding="ascii").splitlines()
        boot = int(next(line for line in lines if line.startswith("btime ")).split()[1])
        at = boot + int(fields[19]) // os.sysconf("SC_CLK_TCK") if len(fields) > 19 else None
        if at is not None:
            return datetime.fromtimestamp(at, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    return ""


def container_of(pid: int, proc: Path = Path("/proc")) -> str:
    """The id of the container that a process is in: its control group says so, or the shim that it descends from."""
    with contextlib.suppress(OSError):
        if match := CGROUP.search((proc / str(pid) / "cgroup").read_text(encoding="utf-8", errors="replace")):
            return match.group(1)
    for _generation in range(ANCESTORS):
        fields = _stat(proc / str(pid))
        if len(fields) < 2 or not fields[1].isdecimal() or int(fields[1]) <= 1:
            break
        pid = int(fields[1])
        with contextlib.suppress(OSError):
            words = (proc / str(pid) / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if SHIM in words[0] and "-id" in words[:-1]:
                return clean(words[words.index("-id") + 1])
    return ""
