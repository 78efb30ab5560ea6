# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The oldest versions that are accepted, each with its reason."""

from __future__ import annotations

# The first engine that knows CDI (behind a switch) and works rootless with it.
ENGINE_FLOOR = (26, 1)
# The first toolkit without the container escape CVE-2026-24260.
TOOLKIT_FLOOR = (1, 19, 1)
# CUDA 12 needs it.
DRIVER_FLOOR = (525,)


def dotted(version: tuple[int, ...]) -> str:
    """(1, 19, 1) as 1.19.1."""
    return ".".join(map(str, version))
