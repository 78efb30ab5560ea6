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
    description: The wanted version of the toolkit, as NVIDIA writes it, or V(latest).
    type: str
    required: true
  accept_versions:
    description: Versions with known holes that are accepted nevertheless, each by name.
    type: list
    elements: str
    default: []
extends_documentation_fragment: [gpulab.fleet.platform]
attributes:
  check_mode:
    description: Reads only.
    support: full
  diff_mode:
    description: Changes nothing.
    support: none
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
  description: What speaks for a GPU; C(present) sums it up, C(usable) says that a driver is installed as well.
  type: dict
  returned: success
  sample: {present: true, usable: true, pci: ["0000:07:00.0"], driver: ["0000:07:00.0"], nodes: [/dev/nvidia0]}
packages:
  description: Packages to install, each with its version.
  type: list
  elements: dict
  returned: success
  sample:
    - name: nvidia-container-toolkit-base
      version: 1.20.0
      minimum: 1.19.1
      settings: [/etc/nvidia-container-runtime/config.toml]
holdable:
  description: RV(packages) by name, and the packages of the NVIDIA driver that are installed.
  type: list
  elements: str
  returned: success
  sample: [nvidia-container-toolkit-base, libnvidia-compute-580, nvidia-utils-580]
finding:
  description: Code, cause and remedy of a refusal. The code is TOOLKIT_VERSION_REFUSED.
  type: dict
  returned: failure
"""

import re
from collections.abc import Iterable
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpulab.fleet.plugins.module_utils._apt import LATEST, QUERY_FORMAT, parse_dpkg
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._findings import from_error, message
from ansible_collections.gpulab.fleet.plugins.module_utils._floors import TOOLKIT_FLOOR, accepted, dotted
from ansible_collections.gpulab.fleet.plugins.module_utils._gpu_presence import driver_there, gpu_presence
from ansible_collections.gpulab.fleet.plugins.module_utils._guarded import driver_packages

FLOOR = dotted(TOOLKIT_FLOOR)
BASE = "nvidia-container-toolkit-base"
SETTINGS = "/etc/nvidia-container-runtime/config.toml"
LEGACY = ("nvidia-container-toolkit", "libnvidia-container-tools", "libnvidia-container1")


def refuse_unsafe(version: str, accept_versions: Iterable[str] = ()) -> None:
    """Raise unless this is a plain release, not older than the floor or accepted by name; or the latest."""
    if version == LATEST or accepted(version, accept_versions):
        return
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        raise FleetError("TOOLKIT_VERSION_REFUSED", f"{version!r} is not a release like {FLOOR}")
    if parts(version) < parts(FLOOR):
        raise FleetError("TOOLKIT_VERSION_REFUSED", f"{version} is older than {FLOOR}")


def parts(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def packages(version: str, installed: Iterable[str]) -> list[dict[str, Any]]:
    """The base package, and those of the others that are there: their dependencies tie all to one version."""
    tied = {"version": version, "minimum": FLOOR}
    return [{"name": BASE, **tied, "settings": [SETTINGS]}, *({"name": n, **tied} for n in LEGACY if n in installed)]


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "version": {"type": "str", "required": True},
            "accept_versions": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    version = module.params["version"]
    try:
        refuse_unsafe(version, module.params["accept_versions"])
    except FleetError as error:
        found = from_error(error, floor=FLOOR)
        module.fail_json(msg=message(found), finding=found)
    installed = parse_dpkg(module.run_command(["dpkg-query", "-W", "-f", QUERY_FORMAT])[1])
    wanted = packages(version, [name for name in LEGACY if name in installed])
    holdable = [package["name"] for package in wanted] + driver_packages(installed)
    gpu = gpu_presence()
    # A GPU without any driver: engines and stacks work without it, and there is nothing to describe to them yet.
    gpu["usable"] = gpu["present"] and driver_there()
    module.exit_json(changed=False, gpu=gpu, packages=wanted, holdable=holdable)


if __name__ == "__main__":
    main()
