# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""`gpulab logs`, `shell`, `run` and `history`: plain Compose on the release that is current, by the stack's name.

Compose takes this process's place, so that its output, signals and exit status are its own.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from typing import NoReturn

from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._gpulab_stacks import Place, check_service

# The best shell that the image has.
SHELL = ["sh", "-c", "command -v bash >/dev/null && exec bash; exec sh"]
KEPT = ("TERM", "LANG", "COLUMNS", "LINES", "NO_COLOR", "SSH_TTY")


def environment(place: Place) -> dict[str, str]:
    """The user's own, without what would lead Compose to other files, another project or another engine."""
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    return {**kept, **place.project().env}


def become(place: Place, argv: Sequence[str]) -> NoReturn:
    sys.stdout.flush()
    os.chdir(place.current)
    os.execvpe("docker", ["docker", "compose", "--project-name", place.name, *argv], environment(place))


def here() -> bool:
    """Whether a person sits in front of it."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def deployed(place: Place) -> None:
    if not place.deployed:
        raise FleetError("STACK_NOT_DEPLOYED", f"{place.folder} has no current release")


def logs(place: Place, service: str | None, follow: bool, tail: str | None, since: str | None) -> NoReturn:
    deployed(place)
    if service:
        check_service(place, service)
    argv = ["logs"] + ["--follow"] * follow + (["--tail", tail] if tail else []) + (["--since", since] if since else [])
    become(place, [*argv, *([service] if service else [])])


def release_logs(place: Place, release: str, service: str | None) -> list[str]:
    """What the services of a failed release said, kept with it."""
    if release not in place.releases():
        raise FleetError("RELEASE_UNKNOWN", f"{release}; {place.name} has: {', '.join(place.releases()) or 'none'}")
    folder = place.folder / "releases" / release / "logs"
    # Named after containers.
    found = {re.sub(rf"^{re.escape(place.name)}-(.+)-\d+$", r"\1", path.stem): path for path in folder.glob("*.log")}
    if service and service not in found:
        there = ", ".join(sorted(found)) or "none: only a release that failed has logs of its own"
        raise FleetError("STACK_SERVICE_UNKNOWN", f"{service}; logs of release {release}: {there}")
    text: list[str] = []
    for name, path in sorted(found.items()):
        if service in (None, name):
            text += [f"{name} | {line}" for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
    return text


def shell(place: Place, service: str, command: Sequence[str], root: bool) -> NoReturn:
    deployed(place)
    check_service(place, service)
    options = ["--user", "0"] * root + ([] if here() else ["-T"])
    become(place, ["exec", *options, service, *(command or SHELL)])


def run(place: Place, service: str, arguments: Sequence[str], detach: bool) -> NoReturn:
    """A container of its own, with the service's image, GPUs and data; its exit status is the command's."""
    deployed(place)
    check_service(place, service)
    # One that nobody waits for stays when it has ended: its log and its exit status are still to be read.
    options = ["--detach"] if detach else ["--rm", *([] if here() else ["-T"])]
    become(place, ["run", *options, service, *arguments])


def history(place: Place) -> list[str]:
    try:
        return (place.folder / "history").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
