# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The oldest versions that are accepted, each with its reason; and what a site accepts in spite of them."""

from __future__ import annotations

import re
from collections.abc import Iterable

# The first engine that knows CDI (behind a switch) and works rootless with it.
ENGINE_FLOOR = (26, 1)
# The first toolkit without the container escape CVE-2026-24260.
TOOLKIT_FLOOR = (1, 19, 1)
# CUDA 12 needs it.
DRIVER_FLOOR = (525,)


def dotted(version: tuple[int, ...]) -> str:
    """(1, 19, 1) as 1.19.1."""
    return ".".join(map(str, version))


def accepted(version: str, names: Iterable[str]) -> bool:
    """Whether a site names this very version as one it accepts: as the publisher writes it, or as Debian does."""
    plain = re.sub(r"^\d+:", "", version)
    upstream = (plain.rpartition("-")[0] or plain).split("+")[0]
    return not {version, plain, upstream}.isdisjoint(str(name) for name in names)
