# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The filter gpu_uuids; gpu_uuids.yml documents it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible_collections.gpulab.fleet.plugins.module_utils._gpus import gpu_uuids


class FilterModule:
    """gpu_uuids"""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"gpu_uuids": gpu_uuids}
