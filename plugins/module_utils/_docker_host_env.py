# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""DOCKER_HOST for the users who have an engine, in whatever PAM starts for them: logins, ssh commands, cron, services.

The CLI finds the engine by its context; what is not the CLI (the SDKs, editors) knows the variable only. PAM is the one
place that all ways in have in common. A list of names keeps everybody else's sessions as they are, and every step is
such that a session comes about without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ansible_collections.gpulab.fleet.plugins.module_utils._findings import finding, message

NAMES = "etc/gpulab/docker-users"
SETTINGS = "etc/gpulab/docker-host.conf"
PROFILE = "usr/share/pam-configs/gpulab"
SOCKET = ".docker/run/docker.sock"  # a link in the home: PAM knows a user's home, not their uid

# What pam-auth-update makes of all profiles. It is asked to take ours out again: these files brought back to what they were
# once would drop whatever others have added since.
STACKS = ("etc/pam.d/common-session", "etc/pam.d/common-session-noninteractive")

SETTINGS_TEXT = f"""\
# Written by gpulab.fleet (rootless_docker_host).
DOCKER_HOST DEFAULT=unix://@{{HOME}}/{SOCKET}
"""

PROFILE_TEXT = f"""\
Name: DOCKER_HOST for the users of rootless engines (gpulab.fleet)
Default: yes
Priority: 64
Session-Type: Additional
Session:
\t[success=ignore default=1]\tpam_listfile.so item=user sense=allow file=/{NAMES} onerr=fail quiet
\toptional\t\t\tpam_env.so readenv=0 conffile=/{SETTINGS}
"""


def settle(host: Any, users: Sequence[str]) -> None:
    """Write what differs; without users take all of it away. `host` is rootless_docker_host's Host."""
    if users:
        host.put(NAMES, "".join(f"{name}\n" for name in sorted(users)))
        # The settings last: where they are, pam-auth-update has run.
        if host.put(PROFILE, PROFILE_TEXT) or read(host, SETTINGS) != SETTINGS_TEXT:
            host.act("set DOCKER_HOST for the engines' users (PAM)", update())
        elif not in_force(host):
            seen = f"/{SETTINGS} is not named in {' and '.join(f'/{stack}' for stack in STACKS)}"
            host.module.warn(message(finding("DOCKER_HOST_NOT_SET", seen)))
        host.put(SETTINGS, SETTINGS_TEXT)
    elif (host.root / PROFILE).exists():
        host.act("no DOCKER_HOST any more (PAM)", update("--remove", "gpulab"))
        for name in (PROFILE, SETTINGS, NAMES):
            host.take_away(name)


def update(*arguments: str) -> list[str]:
    # Without a terminal; stacks that an administrator has edited by hand are left as they are.
    return ["env", "DEBIAN_FRONTEND=noninteractive", "pam-auth-update", "--package", *arguments]


def read(host: Any, name: str) -> str:
    path = host.root / name
    return str(path.read_text(encoding="utf-8")) if path.is_file() else ""


def in_force(host: Any) -> bool:
    """Whether the stacks have it: pam-auth-update leaves those alone that an administrator has edited."""
    return all(f"conffile=/{SETTINGS}" in read(host, stack) for stack in STACKS)
