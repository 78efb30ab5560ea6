# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which GPUs a setting means: all, none, or a list of UUIDs and indices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def gpu_uuids(wanted: Any, gpus: Sequence[Mapping[str, Any]]) -> list[str]:
    """UUIDs for what an inventory says; what the host does not have is kept as it is written.

    A GPU in MIG mode cannot compute itself: V(all) means its instances.
    """
    if wanted in (None, "none"):
        return []
    if wanted == "all":
        found: list[str] = []
        for gpu in gpus:
            mig = gpu.get("mig") or {}
            names = [each["uuid"] for each in mig.get("instances", [])] if mig.get("enabled") else [gpu["uuid"]]
            found += [name for name in names if name]
        return found
    if isinstance(wanted, str) or not isinstance(wanted, Sequence):
        raise ValueError(f"gpus: {wanted!r} is not one of: all, none, a list of UUIDs and indices such as [0, GPU-…]")
    by_index = {str(gpu["index"]): gpu["uuid"] for gpu in gpus if gpu["uuid"]}
    return list(dict.fromkeys(by_index.get(str(each), str(each)) for each in wanted))
