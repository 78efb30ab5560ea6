#!/usr/bin/python
# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What has to be known before the NVIDIA container toolkit is installed."""

from __future__ import annotations

DOCUMENTATION = r"""
module: nvidia_toolkit_info
short_description: Whether a host has a GPU, and which toolkit packages belong on it
version_added: 0.1.0
description:
  - Looks for NVIDIA GPUs without the driver and without privileges (PCI bus, device nodes, C(/proc)).
  - Refuses toolkit versions with known ways out of a container, before anything is changed.
  - Names the packages to install. That is C(nvidia-container-toolkit-base) alone, without the legacy hook; toolkit
    packages that are on the host already are named as well, because all of them must carry the same version.
options:
  version:
    description: The wanted version of the toolkit, as NVIDIA writes it.
    type: str
    required: true
attributes:
  check_mode:
    description: Reads only.
    support: full
  diff_mode:
    description: Changes nothing.
    support: none
  platform:
    description: Debian and Ubuntu.
    support: full
    platforms: debian
author:
  - gpulab.fleet contributors
"""

EXAMPLES = r"""
- name: Look at the host
  gpulab.fleet.nvidia_toolkit_info:
    version: "1.20.0"
  register: toolkit
"""

RETURN = r"""
gpu:
  description: What speaks for a GPU; C(present) sums it up.
  type: dict
  returned: success
  sample: {present: true, pci: ["0000:07:00.0"], driver: ["0000:07:00.0"], nodes: [/dev/nvidia0]}
packages:
  description: Packages to install, each with its version.
  type: list
  elements: dict
  returned: success
  sample: [{name: nvidia-container-toolkit-base, version: 1.20.0}]
finding:
  description: Code, cause and remedy of a refusal. The code is TOOLKIT_VERSION_REFUSED.
  type: dict
  returned: failure
"""

import re
from collections.abc import Iterable

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpulab.fleet.plugins.module_utils._apt import QUERY_FORMAT, parse_dpkg
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._findings import from_error, message
from ansible_collections.gpulab.fleet.plugins.module_utils._floors import TOOLKIT_FLOOR, dotted
from ansible_collections.gpulab.fleet.plugins.module_utils._gpu_presence import gpu_presence

FLOOR = dotted(TOOLKIT_FLOOR)
BASE = "nvidia-container-toolkit-base"
LEGACY = ("nvidia-container-toolkit", "libnvidia-container-tools", "libnvidia-container1")


def refuse_unsafe(version: str) -> None:
    """Raise unless this is a plain release, not older than the floor."""
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        raise FleetError("TOOLKIT_VERSION_REFUSED", f"{version!r} is not a release like {FLOOR}")
    if parts(version) < parts(FLOOR):
        raise FleetError("TOOLKIT_VERSION_REFUSED", f"{version} is older than {FLOOR}")


def parts(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def packages(version: str, installed: Iterable[str]) -> list[dict[str, str]]:
    """The base package, and those of the others that are there: their dependencies tie all to one version."""
    return [{"name": name, "version": version} for name in (BASE, *(n for n in LEGACY if n in installed))]


def main() -> None:
    module = AnsibleModule(
        argument_spec={"version": {"type": "str", "required": True}},
        supports_check_mode=True,
    )
    version = module.params["version"]
    try:
        refuse_unsafe(version)
    except FleetError as error:
        found = from_error(error, floor=FLOOR)
        module.fail_json(msg=message(found), finding=found)
    # Exits 1 when a name is unknown, and still prints the others.
    installed = parse_dpkg(module.run_command(["dpkg-query", "-W", "-f", QUERY_FORMAT, *LEGACY])[1])
    module.exit_json(changed=False, gpu=gpu_presence(), packages=packages(version, installed))


if __name__ == "__main__":
    main()
