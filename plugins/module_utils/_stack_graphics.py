# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Whether a service that renders has what the driver needs for it: asked of the CDI spec first, of the container later.

nvidia-ctk puts into a spec what it finds on the host; a host whose driver came without its graphics part computes well, and
a simulator on it ends without a word or hangs. NVIDIA_DRIVER_CAPABILITIES decides nothing here: CDI gives all that a spec has.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError

# What for, and where its file may be: one of them is enough. The loader in the image reads it, it names the library.
NEEDED = {
    "EGL": ("/usr/share/glvnd/egl_vendor.d/10_nvidia.json", "/etc/glvnd/egl_vendor.d/10_nvidia.json"),
    "Vulkan": (
        "/usr/share/vulkan/icd.d/nvidia_icd.json",
        "/etc/vulkan/icd.d/nvidia_icd.json",
        "/usr/share/vulkan/icd.d/nvidia_icd.x86_64.json",
    ),
}
LIBRARIES = {"EGL": "libEGL_nvidia.so", "Vulkan": "libGLX_nvidia.so"}


def check_specs(services: Sequence[str], specs: Iterable[Path]) -> None:
    """Before anything is stopped: an error names what the specs of the user's engine lack for these services."""
    if not services:
        return
    paths, seen = set(), []
    for spec in specs:
        seen.append(str(spec))
        paths |= mounted(spec)
    names = {path.rpartition("/")[2] for path in paths}
    missing = []
    for what, files in NEEDED.items():
        library = LIBRARIES[what]
        if not paths & set(files):
            missing.append(f"{files[0].rpartition('/')[2]} ({what})")
        if not any(name.startswith(library) for name in names):
            missing.append(f"{library} ({what})")
    if missing:
        where = ", ".join(seen) or "no CDI spec"
        raise FleetError("STACK_GRAPHICS_MISSING", f"{', '.join(services)}: {where} lacks {', '.join(missing)}")


def mounted(spec: Path) -> set[str]:
    """The paths in containers that a spec mounts, for all devices or for one."""
    try:
        read = json.loads(spec.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return set()
    edits = [read.get("containerEdits")] + [device.get("containerEdits") for device in read.get("devices") or []]
    mounts: list[dict[str, Any]] = [mount for edit in edits if edit for mount in edit.get("mounts") or []]
    return {str(mount.get("containerPath")) for mount in mounts}


def lacking(root: Path) -> list[str]:
    """What a container lacks for rendering; root is its file system, as /proc/PID/root has it."""
    return [
        f"{files[0]} ({what})"
        for what, files in NEEDED.items()
        if not any((root / file.lstrip("/")).is_file() for file in files)
    ]
