# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The researcher's command on a host: `gpulab`, and the folder in which all users say what their stacks hold."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from ansible_collections.gpulab.fleet.plugins.module_utils import _gpu_holders
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._files import make_folders
from ansible_collections.gpulab.fleet.plugins.module_utils._host_program import PROGRAM, is_as_sent, stands_for
from ansible_collections.gpulab.fleet.plugins.module_utils._journal import TREE, Journal

LAUNCHER = "usr/local/bin/gpulab"
# -I: nothing in the environment or the home of whoever calls it takes the place of Python's own parts.
LAUNCHER_TEXT = f"""\
#!/bin/sh
# Kept by gpulab.fleet.
exec /usr/bin/python3 -I /{PROGRAM} "$@"
"""


class Host(Protocol):
    """What is needed of whoever changes the host."""

    module: Any
    root: Path
    journal: Journal
    actions: list[str]
    diff: list[dict[str, str]]


def is_needed(host: Host, command: Mapping[str, str]) -> bool:
    """Whether the program has to be sent before this can go on."""
    wanted = not command.get("file") and not host.module.check_mode
    return wanted and stands_for(host.root / PROGRAM) != command["sha256"]


def settle(host: Host, command: Mapping[str, str]) -> None:
    """The program, the way to start it, and the folder, as they should be."""
    program = host.root / PROGRAM
    before = stands_for(program)
    if before != command["sha256"]:
        note(host, program, before and f"sha256 {before}\n", f"sha256 {command['sha256']}\n")
        if not host.module.check_mode:
            if not is_as_sent(sent := Path(command["file"]), command["sha256"]):
                raise FleetError("COMMAND_ARRIVED_BROKEN", command["file"])
            # Rarely needed, and slow to load.
            from ansible_collections.gpulab.fleet.plugins.module_utils._compiled_archive import compiled

            host.journal.write(program, compiled(sent.read_bytes()), 0o644)
    launcher = host.root / LAUNCHER
    text = launcher.read_text(encoding="utf-8", errors="replace") if launcher.is_file() else ""
    if text != LAUNCHER_TEXT or launcher.stat().st_mode & 0o777 != 0o755:
        note(host, launcher, text, LAUNCHER_TEXT)
        host.journal.write(launcher, LAUNCHER_TEXT.encode(), 0o755)
    holders(host)


def holders(host: Host) -> None:
    """Everybody may put a file of their own there, and nobody can take away another's."""
    folder = host.root / _gpu_holders.FOLDER.relative_to("/")
    if folder.is_dir():
        status = folder.stat()
        if status.st_mode & 0o7777 == _gpu_holders.FOLDER_MODE:
            return
    host.actions.append(f"made {folder} for everybody")
    if not host.module.check_mode:
        host.journal.add(TREE, str(folder))
        make_folders(folder)
        folder.chmod(_gpu_holders.FOLDER_MODE)


def note(host: Host, path: Path, before: str, after: str) -> None:
    host.actions.append(f"wrote {path}")
    host.diff.append({"before_header": str(path), "after_header": str(path), "before": before, "after": after})
