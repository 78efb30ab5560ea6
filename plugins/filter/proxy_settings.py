# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""gpulab_proxy as the hosts get it: with the certificates themselves instead of the name of their file."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

DOCUMENTATION = r"""
name: proxy_settings
short_description: A site's proxy with its certificates as text
version_added: 0.2.0
description:
  - Replaces C(ca), where it is the path of a file on the controller, by what the file holds. A file that cannot be read
    stays a path, which the preflight refuses.
positional: base
options:
  _input:
    description: The variable C(gpulab_proxy).
    type: raw
    required: true
  base:
    description: Folder that a relative path starts at, the inventory's.
    type: path
    required: true
author:
  - gpulab.fleet contributors
"""

EXAMPLES = r"""
proxy: "{{ gpulab_proxy | gpulab.fleet.proxy_settings(inventory_dir) }}"
"""

RETURN = r"""
_value:
  description: The same settings.
  type: dict
"""


def proxy_settings(proxy: Any, base: str | None = None) -> Any:
    """gpulab_proxy with the text of its ca."""
    ca = proxy.get("ca") if isinstance(proxy, Mapping) else None
    if not isinstance(ca, str) or not ca or "\n" in ca:
        return proxy
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return {**proxy, "ca": (Path(base or ".") / Path(ca).expanduser()).read_text(encoding="utf-8")}
    return proxy


class FilterModule:
    """What Ansible asks for."""

    def filters(self) -> dict[str, Any]:
        return {"proxy_settings": proxy_settings}
