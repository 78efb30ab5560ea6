# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which GPUs a CDI spec offers, and by which device nodes.

Targets need not have a YAML library, so YAML is read only as far as nvidia-ctk writes it: one key
a line, block lists, indentation. JSON, which the format allows as well, is read as JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

KIND = "nvidia.com/gpu"
TOP_LEVEL = re.compile(r"^([A-Za-z]+):\s*(.*?)\s*$")
NAME = re.compile(r"^\s*(?:-\s+)?name:\s*(\S.*?)\s*$")
NODE = re.compile(r"^\s*(?:-\s+)?path:\s*[\"']?(/dev/[^\"'\s]+)")

Devices = dict[str, list[str]]


def parse(text: str) -> Devices:
    """Device names with the nodes of each; empty for specs of another kind."""
    stripped = text.lstrip()
    return _from_json(stripped) if stripped.startswith("{") else _from_yaml(text)


def _from_json(text: str) -> Devices:
    try:
        spec = json.loads(text)
        if spec.get("kind") != KIND:
            return {}
        return {
            device["name"]: [node["path"] for node in device.get("containerEdits", {}).get("deviceNodes") or []]
            for device in spec.get("devices") or []
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def _from_yaml(text: str) -> Devices:
    section, kind, current = "", "", ""
    devices: Devices = {}
    for line in text.splitlines():
        top = TOP_LEVEL.match(line)
        if top:
            section, value = top.groups()
            kind = value.strip("\"'") if section == "kind" else kind
        elif section == "devices":
            name, node = NAME.match(line), NODE.match(line)
            if name:
                current = name.group(1).strip("\"'")
                devices[current] = []
            elif node and current:
                devices[current].append(node.group(1))
    return devices if kind == KIND else {}


def read(folders: Iterable[str]) -> tuple[list[str], Devices]:
    """The spec files in the folders, and their devices; later folders win, as in the engine."""
    files: list[str] = []
    devices: Devices = {}
    for folder in folders:
        for path in sorted(Path(folder).glob("*")):
            if path.suffix not in (".yaml", ".json"):
                continue
            try:
                found = parse(path.read_text(encoding="utf-8"))
            except (OSError, UnicodeDecodeError):
                continue
            if found:
                files.append(str(path))
                devices.update(found)
    return files, devices


def gpu_uuids(devices: Devices) -> list[str]:
    """The names that are identities: GPU-… and MIG-…."""
    return sorted(name for name in devices if name.startswith(("GPU-", "MIG-")))
