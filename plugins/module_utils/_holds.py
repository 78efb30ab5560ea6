# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Packages on hold: which holds are ours, which somebody else's, and what has to be set or lifted.

A hold keeps unattended-upgrades and a person's `apt upgrade` away from a package. Ours are in the journal; a hold
that was there before is somebody's wish and is neither lifted nor counted as ours.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ansible_collections.gpulab.fleet.plugins.module_utils._apt import Installed
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError


class HoldSteps(NamedTuple):
    """What `apt-mark` has to do."""

    hold: list[str]
    unhold: list[str]


def hold_steps(
    held: Iterable[str], released: Iterable[str], installed: Mapping[str, Installed], ours: Iterable[str]
) -> HoldSteps:
    """The marks to set on packages that are there, and those of ours to take away."""
    mine = set(ours)
    return HoldSteps(
        [name for name in held if name in installed and not installed[name].held],
        [name for name in released if name in mine],
    )


def marked(installed: Mapping[str, Installed], steps: HoldSteps) -> set[str]:
    """The packages that are on hold after these steps."""
    return ({name for name, each in installed.items() if each.held} | set(steps.hold)) - set(steps.unhold)


def apt_mark(module: Any, verb: str, names: Iterable[str], timeout: float = 120) -> None:
    """Set or lift holds. apt-mark does not wait for the package manager's lock, whatever apt's settings say."""
    argv = ["apt-mark", verb, *names]
    deadline = time.monotonic() + timeout
    while True:
        rc, _out, err = module.run_command(argv, environ_update={"LC_ALL": "C"})
        if rc == 0:
            return
        if "lock" not in err:
            raise FleetError("PACKAGE_INSTALL_FAILED", f"{' '.join(argv)}: {' '.join(err.split())}")
        if time.monotonic() > deadline:
            raise FleetError("APT_LOCKED", err.strip().partition("\n")[0])
        time.sleep(2)
