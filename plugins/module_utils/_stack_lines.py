# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A stack as a person reads it: what runs, where it listens, which GPUs it has; in check mode what would be done."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.gpulab.fleet.plugins.module_utils._lines import wrapped


def lines(name: str, user: str, result: Mapping[str, Any], check: bool = False) -> list[str]:
    """The result of a deploy or a removal."""
    head = f"{name} ({user}): "
    if check and result["actions"]:
        return [f"{head}would", *(line for action in result["actions"] for line in wrapped("  ", action))]
    if not result["services"]:
        return [f"{head}not there"]
    release = f"release {result['release']}, " if result.get("release") else ""
    text = wrapped("", f"{head}{release}in {result['folder']}")
    width = max(len(each["service"]) for each in result["services"])
    for each in result["services"]:
        state = each["status"] if each["health"] in (None, "none") else each["health"]  # without a health check
        facts = [*(where["address"] for where in each["addresses"]), *result["gpus"].get(each["service"], [])]
        text += wrapped(f"  {each['service']:{width}}  {state:7}  ", ", ".join(facts))
    for name, path in result.get("secret_files", {}).items():
        text += wrapped(f"  {name} is in ", path)
    return [line.rstrip() for line in text]
