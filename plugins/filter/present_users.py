# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The filter present_users; present_users.yml documents it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


def present_users(users: Mapping[str, Any] | None) -> dict[str, Any]:
    """The users who are not to go; one without settings is an empty dict."""
    return {name: entry or {} for name, entry in (users or {}).items() if (entry or {}).get("state") != "absent"}


class FilterModule:
    """present_users"""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"present_users": present_users}
