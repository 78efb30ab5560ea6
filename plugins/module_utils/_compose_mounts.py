# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The host's files and devices that a Compose file asks for, as far as a user can reach them. Runs as that user."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

from ansible_collections.gpulab.fleet.plugins.module_utils._compose_gpus import device_source

ENGINE_SOCKETS = ("/var/run/docker.sock", "/run/docker.sock")


def adapt(service: dict[str, Any], where: str, home: Path, socket: Path) -> tuple[list[str], list[tuple[str, str]]]:
    """(notes, problems) of a service's binds and devices."""
    notes: list[str] = []
    problems: list[tuple[str, str]] = []
    for mount in service.get("volumes") or []:
        if mount.get("type") != "bind":
            continue
        source, target = str(mount["source"]), f"{mount['source']}:{mount['target']}"
        if source in ENGINE_SOCKETS:
            mount["source"] = str(socket)
            mount.setdefault("bind", {}).pop("create_host_path", None)
            notes.append(
                f"{where}.volumes: {target} became {socket}, the user's own engine; with it the container can do "
                "whatever the user can"
            )
        elif not Path(source).is_relative_to(home):
            note, problem = _outside(source, bool(mount.get("read_only")))
            notes += [f"{where}.volumes: {target}: {note}"] if note else []
            problems += [("STACK_NEEDS_ROOT", f"{where}.volumes: {target}: {problem}")] if problem else []
    for device in service.get("devices") or []:
        source = device_source(device)
        if not source.startswith("/"):
            continue
        if not Path(source).exists():
            text = f"{where}.devices: {source} is not on this host: take it out, or load its driver"
            problems.append(("STACK_NEEDS_ROOT", text))
        elif shut := closed(source):
            notes.append(
                f"{where}.devices: {', '.join(shut)} cannot be opened: a container keeps no groups of its user, so "
                "that only the owner's or everybody's rights count (a udev rule can set MODE=0666)"
            )
    return notes, problems


def _outside(source: str, read_only: bool) -> tuple[str, str]:
    """(note, problem) of a bind whose source is not in the user's home."""
    path = Path(source)
    if not path.exists():
        parent = next(each for each in path.parents if each.exists())
        if os.access(parent, os.W_OK | os.X_OK):
            return "made in a folder that is not the user's own", ""
        return "", f"it is not there, and only root can make it in {parent}: make it, or choose a folder of the user's"
    needed = os.R_OK | (os.X_OK if path.is_dir() else 0)
    if not os.access(path, needed):
        return "", "the user may not read it: give it to the user, or choose a folder of the user's"
    if source == "/dev" or (source.startswith("/dev/") and source != "/dev/shm"):
        return "shows devices that were not handed out, every GPU's among them", ""
    if not read_only and not os.access(path, os.W_OK):
        return "the user cannot write there, so that the container cannot either", ""
    return "", ""


def closed(source: str) -> list[str]:
    """Those device nodes (of one, or of a folder of them) that a container of this user could not open."""
    path, found = Path(source), []
    for node in sorted(path.rglob("*")) if path.is_dir() else [path]:
        try:
            state = node.stat()
        except OSError:
            continue
        if not (stat.S_ISCHR(state.st_mode) or stat.S_ISBLK(state.st_mode)):
            continue
        mine = state.st_uid == os.getuid() and state.st_mode & 0o600 == 0o600
        group = state.st_gid == os.getgid() and state.st_mode & 0o060 == 0o060
        if not (mine or group or state.st_mode & 0o006 == 0o006):
            found.append(str(node))
    return found
