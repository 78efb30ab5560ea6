# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Persistence: the driver keeps GPUs initialised while nothing uses them, by its own daemon."""

from __future__ import annotations

from collections.abc import Mapping

DAEMON = "nvidia-persistenced.service"


def persistence_steps(unit: Mapping[str, str], wanted: bool, ours: bool) -> list[list[str]]:
    """The systemctl calls. Only a daemon that is installed and disabled is enabled, only one that we enabled disabled.

    Where the distribution starts it by udev (a static unit), or there is none, it is left as it is.
    """
    if unit.get("LoadState") != "loaded":
        return []
    enabled = unit.get("UnitFileState") == "enabled"
    if wanted and unit.get("UnitFileState") == "disabled":
        return [["enable", "--now", DAEMON]]
    if not wanted and ours and enabled:
        return [["disable", "--now", DAEMON]]
    return []
