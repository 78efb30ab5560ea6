#!/usr/bin/python
# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What stops a GPU host from becoming, or staying, a host of proven GPU containers."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_health_info
short_description: Find what is wrong with a GPU host
version_added: 0.1.0
description:
  - Looks at a host for the known ways in which GPU hosts break, and names for each what was seen, why it happens and
    what to do about it. All that it can find is listed in C(docs/findings.md).
  - Reads only, and needs nothing but Python on the host, so that it can be run on hosts this collection never touched.
    Without root it sees less; what it could not look at is listed as unknown and never taken for healthy.
options:
  scope:
    description:
      - With V(preflight) only what would stop an installation.
      - With V(full) everything.
    type: str
    choices: [preflight, full]
    default: full
  settings:
    description:
      - The collection's public variables as the inventory has them for this host. They are checked for spelling, types
        and how they fit together, with each other and with the host. Left empty, only the host is looked at.
      - Pass them through the P(gpulab.fleet.without_secrets#filter) filter, so that no secret reaches a log.
    type: dict
    default: {}
  names:
    description:
      - Names of variables of the inventory that look as if they were meant for this collection. One that differs by a
        slip of the pen from a name that it knows is told.
    type: list
    elements: str
    default: []
  found:
    description:
      - What the controller has found wrong already, from P(gpulab.fleet.stack_findings#filter).
    type: list
    elements: dict
    default: []
    suboptions:
      code:
        description: Name of the condition.
        type: str
        required: true
      evidence:
        description: What was seen.
        type: str
        required: true
      data:
        description: Values that cause and remedy name.
        type: dict
        default: {}
  users:
    description:
      - Users whose engines are looked at, besides those of O(settings).
      - Where neither names one, everybody who has a rootless engine is looked at.
    type: list
    elements: str
    default: []
  controller_time:
    description: The controller's clock, in seconds since 1970, which the host's clock is compared with.
    type: float
attributes:
  check_mode:
    description: Reads only.
    support: full
  diff_mode:
    description: Changes nothing, so there is nothing to show.
    support: none
  platform:
    description: Any Linux; complete on Debian and Ubuntu.
    support: full
    platforms: posix
seealso:
  - plugin: gpulab.fleet.findings_table
    plugin_type: filter
author:
  - gpulab.fleet contributors
"""

EXAMPLES = r"""
- name: Look at a host
  gpulab.fleet.host_health_info:
  register: health

- name: Look at what would stop an installation for one user
  gpulab.fleet.host_health_info:
    scope: preflight
    settings:
      gpulab_users:
        alice:
          gpus: all
      gpulab_gpus_expected: 2
    controller_time: "{{ now().timestamp() }}"
  register: health
"""

RETURN = r"""
findings:
  description: What is wrong, errors first.
  type: list
  elements: dict
  returned: always
  contains:
    code:
      description: Stable name of the condition.
      type: str
      sample: NVML_LIBRARY_MISMATCH
    layer:
      description: One of inventory, host, packages, engine, users, driver, toolkit, proof, stacks.
      type: str
      sample: driver
    severity:
      description: One of error, warning, info.
      type: str
      sample: error
    title:
      description: The condition in one line.
      type: str
    evidence:
      description: What was seen on this host.
      type: str
      sample: module 550.163.01, library 560.35.03
    cause:
      description: Why it happens.
      type: str
    remedy:
      description: What to do.
      type: str
messages:
  description: The errors among them as text, one item each.
  type: list
  elements: str
  returned: always
unknown:
  description: What could not be looked at.
  type: list
  elements: dict
  returned: always
  contains:
    reason:
      description: What could not be read, and why.
      type: str
      sample: "kernel log (Xid errors): Operation not permitted"
    checks:
      description: Names of the checks that wanted it.
      type: list
      elements: str
      sample: [kernel_log]
verdict:
  description: V(fail) with any error; V(unknown) when something could not be looked at; else V(pass).
  type: str
  returned: always
  sample: pass
checks:
  description: Names of the checks that were made; a check without a meaning on this host is left out.
  type: list
  elements: str
  returned: always
host:
  description: What the host is. Facts that could not be read are null.
  type: dict
  returned: always
  contains:
    distribution:
      description: Name of the distribution.
      type: str
      sample: Ubuntu
    version:
      description: Its release.
      type: str
      sample: "22.04"
    codename:
      description: The release's name.
      type: str
      sample: jammy
    arch:
      description: Machine type of the kernel.
      type: str
      sample: x86_64
    kernel:
      description: Release of the kernel.
      type: str
      sample: 5.15.0-91-generic
    systemd:
      description: Version of systemd.
      type: int
      sample: 249
    gpu_present:
      description: Whether there is an NVIDIA GPU, its driver loaded or not.
      type: bool
    gpus:
      description: GPUs as nvidia-smi lists them (index, uuid, name, memory_mib, driver, pci_bus_id).
      type: list
      elements: dict
    driver:
      description: Version of the loaded kernel module.
      type: str
      sample: 550.163.01
    driver_origin:
      description: Where the driver comes from, in words; null where there is none.
      type: str
      sample: packages (nvidia-driver-550 550.163.01-0ubuntu1)
    engine:
      description: The installed engine (package, version).
      type: dict
    rootful_engine:
      description: The engine of root's, when it runs (version, containers).
      type: dict
    toolkit:
      description: Version of the NVIDIA container toolkit.
      type: str
      sample: 1.20.0-1
    users:
      description: Rootless engines (name, uid, data_root, answers, version, storage_driver, containers_running).
      type: list
      elements: dict
    lacks:
      description: What the roles of this collection would bring.
      type: list
      elements: str
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpulab.fleet.plugins.module_utils import (
    _health_driver,
    _health_engine,
    _health_host,
    _health_packages,
    _health_repositories,
    _health_settings,
    _health_toolkit,
    _health_users,
)
from ansible_collections.gpulab.fleet.plugins.module_utils._findings import finding, message
from ansible_collections.gpulab.fleet.plugins.module_utils._health import Check, Seen, examine
from ansible_collections.gpulab.fleet.plugins.module_utils._health_summary import summary
from ansible_collections.gpulab.fleet.plugins.module_utils._health_view import HostView
from ansible_collections.gpulab.fleet.plugins.module_utils._settings import uid_problems


def uids(host: HostView) -> Seen:
    """The uids of the inventory are those of the host's accounts, or free."""

    def uid_of(name: str) -> int | None:
        account = host.account(name)
        return account.uid if account else None

    def owner_of(uid: int) -> str | None:
        for account in host.accounts().values():
            if account.uid == uid:
                return account.name
        answer = host.run(["getent", "passwd", str(uid)])
        return answer.out.partition(":")[0] or None if answer and answer.rc == 0 else None

    yield from uid_problems(host.settings, uid_of, owner_of)


CHECKS: tuple[Check, ...] = (
    *_health_settings.CHECKS,
    Check("uids", uids, ("UID_TAKEN", "UID_DIFFERS"), preflight=True),
    *_health_host.CHECKS,
    *_health_packages.CHECKS,
    *_health_repositories.CHECKS,
    *_health_engine.CHECKS,
    *_health_users.CHECKS,
    *_health_driver.CHECKS,
    *_health_toolkit.CHECKS,
)


def told(found: list[dict[str, Any]]) -> Check:
    """The check whose looking was done on the controller."""

    def look(_host: HostView) -> Seen:
        for each in found:
            yield finding(each["code"], each["evidence"], **each["data"])

    return Check("stacks", look, tuple({each["code"] for each in found}), preflight=True)


def warning(found: dict[str, Any]) -> str:
    """A finding in one line."""
    return f"{found['code']}: {found['title']} ({found['evidence']}). {found['remedy']}"


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "scope": {"type": "str", "choices": ["preflight", "full"], "default": "full"},
            "settings": {"type": "dict", "default": {}},
            "names": {"type": "list", "elements": "str", "default": []},
            "found": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "code": {"type": "str", "required": True},
                    "evidence": {"type": "str", "required": True},
                    "data": {"type": "dict", "default": {}},
                },
            },
            "users": {"type": "list", "elements": "str", "default": []},
            "controller_time": {"type": "float"},
        },
        supports_check_mode=True,
    )
    params = module.params
    host = HostView("/", params["users"], params["settings"], params["controller_time"], params["names"])
    result = examine(host, (*CHECKS, told(params["found"])), params["scope"])
    if params["scope"] == "preflight":
        for found in result["findings"]:
            if found["severity"] == "warning":
                module.warn(warning(found))
    errors = [message(found) for found in result["findings"] if found["severity"] == "error"]
    module.exit_json(changed=False, host=summary(host), messages=errors, **result)


if __name__ == "__main__":
    main()
