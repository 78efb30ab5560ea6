#!/usr/bin/python3
# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Close the GPUs' device nodes to everybody but the users who have the GPU.

This file is a module of the collection and, as /usr/local/lib/gpulab/shares.py, a program on the host that runs at
boot and whenever the CDI specs are made anew. It uses the standard library only.

    shares.py settle    make nodes that are missing, and give each to those whose CDI spec names it
    shares.py release   open them again, as the driver would

The driver makes and repairs its nodes itself, by a setuid program that any user can start; it would open them again
at once. So it is told to leave them alone (NVreg_ModifyDeviceFiles=0), and what it no longer makes is made here.
Access lists are written as the kernel keeps them (xattr), because setfacl need not be installed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import pwd
import re
import stat
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

PROGRAM = "/usr/local/lib/gpulab/shares.py"
SETTINGS = "/etc/gpulab/shares.json"
SPECS = "/var/lib/gpulab/cdi"
SPEC_NAME = "nvidia.json"
ACL = "system.posix_acl_access"

# The driver's own service gives up root and opens the nodes later.
SERVICES = ("nvidia-persistenced", "nvpd")

# What the driver gives the nodes in /dev/nvidia-caps.
CAPABILITY_MODE = 0o444

# Entries of an access list: tag, permissions, id. NO_ID where the tag needs none.
USER_OBJ, USER, GROUP_OBJ, MASK, OTHER, NO_ID = 0x01, 0x02, 0x04, 0x10, 0x20, 0xFFFFFFFF
Entry = tuple[int, int, int]


# --- access lists ------------------------------------------------------------------------------------


def shared_with(uids: set[int]) -> list[Entry]:
    """Read and write for root and these users, nothing for anybody else."""
    named = [(USER, 6, uid) for uid in sorted(uids - {0})]
    mask = [(MASK, 6, NO_ID)] if named else []
    return [(USER_OBJ, 6, NO_ID), *named, (GROUP_OBJ, 0, NO_ID), *mask, (OTHER, 0, NO_ID)]


def by_mode(mode: int) -> list[Entry]:
    """The access list that a mode alone stands for."""
    return [(USER_OBJ, mode >> 6 & 7, NO_ID), (GROUP_OBJ, mode >> 3 & 7, NO_ID), (OTHER, mode & 7, NO_ID)]


def pack(entries: list[Entry]) -> bytes:
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def unpack(data: bytes) -> list[Entry]:
    return [(tag, permissions, who) for tag, permissions, who in struct.iter_unpack("<HHI", data[4:])]


def access(node: Path) -> list[Entry]:
    try:
        return unpack(os.getxattr(node, ACL))
    except OSError as error:
        if error.errno not in (errno.ENODATA, errno.EOPNOTSUPP):
            raise
        return by_mode(stat.S_IMODE(node.stat().st_mode))


def give(node: Path, entries: list[Entry]) -> None:
    """One call: at no moment is the node open to anybody else."""
    os.setxattr(node, ACL, pack(entries))


# --- who may open what -------------------------------------------------------------------------------


def nodes(root: Path) -> list[Path]:
    """The driver's device nodes."""
    found = [*(root / "dev").glob("nvidia*"), *(root / "dev").glob("nvidia-caps*/*")]
    return sorted(path for path in found if stat.S_ISCHR(path.lstat().st_mode))


def named_nodes(spec: Mapping[str, Any]) -> set[str]:
    """The device nodes of a CDI spec."""
    edits = [
        spec.get("containerEdits") or {},
        *(each.get("containerEdits") or {} for each in spec.get("devices") or []),
    ]
    return {node.get("hostPath") or node["path"] for each in edits for node in each.get("deviceNodes") or []}


def services() -> set[int]:
    uids = set()
    for name in SERVICES:
        with contextlib.suppress(KeyError):
            uids.add(pwd.getpwnam(name).pw_uid)
    return uids


def plan(root: Path, openers: Mapping[str, list[int]]) -> dict[Path, list[Entry]]:
    """Each node's access list; openers are the host's uids that act for a user."""
    allowed: dict[str, set[int]] = {}
    for user, uids in openers.items():
        try:
            text = (root / SPECS.lstrip("/") / user / SPEC_NAME).read_text(encoding="utf-8")
            names = named_nodes(json.loads(text))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue  # without a spec there is no GPU
        for name in names:
            allowed.setdefault(name, set()).update(uids)
    always = services()
    return {node: shared_with(allowed.get(f"/{node.relative_to(root)}", set()) | always) for node in nodes(root)}


def differing(wanted: Mapping[Path, list[Entry]]) -> dict[Path, list[Entry]]:
    return {node: entries for node, entries in wanted.items() if access(node) != entries}


def open_again(root: Path) -> dict[Path, list[Entry]]:
    """Each node's access as the driver itself would set it."""
    told = parameters(root).get("DeviceFileMode", "")
    mode = int(told) if told.isdigit() else 0o666
    return {node: by_mode(mode if node.parent.name == "dev" else CAPABILITY_MODE) for node in nodes(root)}


# --- nodes that the driver does not make any more --------------------------------------------------------


def parameters(root: Path) -> dict[str, str]:
    """How the loaded driver was told to behave."""
    return dict(re.findall(r"^(\w+): (.*)$", text(root / "proc/driver/nvidia/params"), re.MULTILINE))


def left_alone(root: Path) -> bool:
    """Whether the loaded driver leaves its nodes alone; one that is not loaded does."""
    return parameters(root).get("ModifyDeviceFiles", "0") == "0"


def text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def numbers(root: Path) -> dict[str, tuple[int, int]]:
    """The nodes that belong to what is loaded: path below /dev, major and minor."""
    majors = {name: int(number) for number, name in re.findall(r"^ *(\d+) (\S+)$", text(root / "proc/devices"), re.M)}
    driver = majors.get("nvidia", majors.get("nvidia-frontend"))
    found: dict[str, tuple[int, int]] = {}
    if driver is not None:
        found = {"nvidiactl": (driver, 255), "nvidia-modeset": (driver, 254)}
        for one in (root / "proc/driver/nvidia/gpus").glob("*/information"):
            minor = re.search(r"Device Minor:\s*(\d+)", text(one))
            if minor:
                found[f"nvidia{minor.group(1)}"] = (driver, int(minor.group(1)))
    if "nvidia-uvm" in majors:
        found |= {"nvidia-uvm": (majors["nvidia-uvm"], 0), "nvidia-uvm-tools": (majors["nvidia-uvm"], 1)}
    if "nvidia-caps" in majors:
        for top, _, names in os.walk(root / "proc/driver/nvidia/capabilities"):
            for name in names:
                minor = re.search(r"DeviceFileMinor:\s*(\d+)", text(Path(top, name)))
                if minor:
                    found[f"nvidia-caps/nvidia-cap{minor.group(1)}"] = (majors["nvidia-caps"], int(minor.group(1)))
    return found


def make_missing(root: Path) -> list[Path]:
    """Make the nodes that the driver would have made, for root alone until they are given to users."""
    made = []
    for name, (major, minor) in sorted(numbers(root).items()):
        node = root / "dev" / name
        if not node.exists():
            node.parent.mkdir(mode=0o755, exist_ok=True)
            os.mknod(node, stat.S_IFCHR | 0o600, os.makedev(major, minor))
            made.append(node)
    return made


# --- the program ---------------------------------------------------------------------------------------


def settle(root: Path) -> list[str]:
    """Bring all nodes to where they should be; says what was done."""
    try:
        settings = json.loads((root / SETTINGS.lstrip("/")).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    with only_one(root):
        return settle_all(root, settings["openers"])


@contextlib.contextmanager
def only_one(root: Path) -> Iterator[None]:
    """One at a time: what was read of the specs before another run's changes must not be acted on after them."""
    path = root / "run/gpulab/shares.lock"
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def settle_all(root: Path, openers: Mapping[str, list[int]]) -> list[str]:
    said = []
    if left_alone(root):
        if parameters(root) and "nvidia-uvm" not in text(root / "proc/devices"):
            subprocess.run(["modprobe", "nvidia-uvm"], check=False, stdin=subprocess.DEVNULL)
        said = [f"{node}: made" for node in make_missing(root)]
    for node, entries in differing(plan(root, openers)).items():
        give(node, entries)
        said.append(f"{node}: for {', '.join(str(who) for tag, _, who in entries if tag == USER) or 'nobody'}")
    return said


def release(root: Path) -> list[str]:
    changes = differing(open_again(root))
    for node, entries in changes.items():
        give(node, entries)
    return [f"{node}: open again" for node in changes]


def main(argv: list[str]) -> int:
    commands = {"settle": settle, "release": release}
    if len(argv) != 1 or argv[0] not in commands:
        print("usage: shares.py settle|release", file=sys.stderr)
        return 2
    prefix = "<5>" if "JOURNAL_STREAM" in os.environ else ""
    for line in commands[argv[0]](Path("/")):
        print(f"{prefix}{line}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
