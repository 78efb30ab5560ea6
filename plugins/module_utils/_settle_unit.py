# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A unit of the user's that settles, at boot and without Ansible, what a deployment that was cut off has left.

Everything here runs as the user.
"""

from __future__ import annotations

from pathlib import Path

from ansible_collections.gpulab.fleet.plugins.module_utils._files import make_folders, read_text, write_atomic
from ansible_collections.gpulab.fleet.plugins.module_utils._home_record import remember_files
from ansible_collections.gpulab.fleet.plugins.module_utils._userenv import Account, run

NAME = "gpulab-settle.service"
# After the engine: systemd counts it as started when it answers. GPUs are described before any manager of a user's
# starts. One stack that cannot be settled does not keep the command from the next.
TEXT = """\
# Kept by gpulab.fleet: after a power cut or a killed run, stacks run as they did before, or as they were to.
[Unit]
Description=Settle deployments of stacks that were cut off
After=docker.service
Wants=docker.service
ConditionPathExists=/usr/local/bin/gpulab

[Service]
Type=oneshot
ExecStart=/usr/local/bin/gpulab settle

[Install]
WantedBy=default.target
"""


def paths(user: Account) -> tuple[Path, Path]:
    """The unit, and the link that has it started at boot."""
    folder = user.home / ".config" / "systemd" / "user"
    return folder / NAME, folder / "default.target.wants" / NAME


def ensure_unit(user: Account, check: bool = False) -> list[str]:
    """The unit is there and enabled; says what was done for that, or would be."""
    unit, link = paths(user)
    actions = []
    if read_text(unit) != TEXT:
        actions.append(f"wrote {unit}")
    if not link.is_symlink() or link.resolve() != unit.resolve():
        actions.append(f"enabled {NAME}")
    if not actions or check:
        return actions
    remember_files(user.home, [unit, link])
    write_atomic(unit, TEXT.encode(), 0o644)
    make_folders(link.parent, 0o700)
    link.unlink(missing_ok=True)
    link.symlink_to(unit)
    if (user.runtime_dir / "systemd" / "private").exists():
        run(["systemctl", "--user", "daemon-reload"])
    return actions
