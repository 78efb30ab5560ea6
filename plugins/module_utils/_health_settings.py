# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The check of the inventory's variables against the host."""

from __future__ import annotations

from ansible_collections.gpulab.fleet.plugins.module_utils._health import Check, Seen
from ansible_collections.gpulab.fleet.plugins.module_utils._health_view import HostView, Unreadable
from ansible_collections.gpulab.fleet.plugins.module_utils._settings import problems


def settings(host: HostView) -> Seen:
    """The inventory says what its author meant, and fits this host."""
    unread: list[Unreadable] = []

    def exists(name: str) -> bool | None:
        try:
            return host.account(name) is not None
        except Unreadable as error:
            unread.append(error)
            return None

    yield from problems(host.settings, exists, host.variable_names)
    yield from unread


CHECKS = (
    Check(
        "settings",
        settings,
        (
            "SETTING_INVALID",
            "SETTING_UNKNOWN",
            "SETTING_MISSPELLED",
            "USERS_NONE",
            "USER_MISSING",
            "USER_IS_ROOT",
            "STACK_USER_UNKNOWN",
            "STACK_GPU_NOT_GIVEN",
            "STACK_PORT_CLASH",
            "GPUS_MORE_THAN_EXPECTED",
            "ENGINE_TOO_OLD",
            "TOOLKIT_VERSION_REFUSED",
            "DAEMON_JSON_TYPO",
            "DAEMON_KEY_OWNED",
        ),
        preflight=True,
    ),
)
