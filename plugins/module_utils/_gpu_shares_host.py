# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What lies on a host whose GPU shares are enforced, besides the access lists themselves."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from ansible_collections.gpulab.fleet.plugins.module_utils._gpu_shares import PROGRAM, SETTINGS
from ansible_collections.gpulab.fleet.plugins.module_utils._subid import Range, of_user

# Debian calls the module nvidia-current; an option for a module that is not there does nothing.
MODPROBE = """\
# Written by gpulab.fleet: the driver leaves its device nodes alone, so that they stay closed.
# It counts from the next start of the driver on.
options nvidia NVreg_ModifyDeviceFiles=0
options nvidia-current NVreg_ModifyDeviceFiles=0
"""

# Before: nodes that are missing, and those that are known. After: what the new specs say. A start that fails must
# not keep the specs from being made.
DROP_IN = f"""\
# Written by gpulab.fleet (role nvidia_container_toolkit).
[Service]
ExecStartPre=-/usr/bin/python3 {PROGRAM} settle
ExecStartPost=-/usr/bin/python3 {PROGRAM} settle
"""

DROP_INS = {
    f"/etc/systemd/system/{unit}.service.d/gpulab-shares.conf": DROP_IN for unit in ("gpulab-cdi", "gpulab-cdi-poll")
}


def settings(openers: Mapping[str, Sequence[int]]) -> str:
    return json.dumps({"openers": {user: sorted(uids) for user, uids in sorted(openers.items())}}, indent=2) + "\n"


def files(openers: Mapping[str, Sequence[int]], program: str) -> dict[str, str]:
    """Every file by path; program is the text of the program."""
    return {SETTINGS: settings(openers), PROGRAM: program, "/etc/modprobe.d/gpulab-nvidia.conf": MODPROBE, **DROP_INS}


def on_the_host(container_id: int, ranges: Sequence[Range], user: str, uid: int) -> int | None:
    """The host's uid of a user in containers: root is the user, the others follow in the order of the ranges."""
    if container_id == 0:
        return uid
    left = container_id - 1
    for each in of_user(ranges, user, uid):
        if left < each.count:
            return each.start + left
        left -= each.count
    return None
