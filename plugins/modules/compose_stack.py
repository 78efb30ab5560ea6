#!/usr/bin/python
# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: compose_stack
short_description: One Compose stack of one user's rootless engine
version_added: "0.1.0"
description:
  - A stack is a folder on the controller with a C(compose.yml), and a C(stack.yml) that says what can be set. This
    module checks the settings, ships the folder, hands out GPUs, builds or fetches images, starts what differs
    and waits until every service is healthy.
  - What is shipped lies in C(ROOT/stacks/NAME) of the user's home with two files written there, C(.env) and
    C(compose.gpulab.yml), so that C(docker compose) in that folder does just what this module does.
  - Compose is not asked to act when nothing differs, which is answered from checksums of the files, the
    configuration's hash that Compose puts on each container, the image that each runs, and a digest of the secrets.
  - >-
    GPUs are given by UUID in the form C(deploy.resources.reservations.devices) with C(driver: cdi), which works
    with every version of Compose, and only to a user whose GPUs are proven in this boot (M(gpulab.fleet.gpu_proof)).
  - Ports for which the stack names no address are published on 127.0.0.1.
author:
  - gpulab.fleet contributors
attributes:
  check_mode:
    support: full
    description: >-
      Files are compared and the configuration is judged by Compose; nothing is built. On a host without an engine the
      whole deployment is predicted.
  diff_mode:
    support: full
    description: Shows C(.env) and C(compose.gpulab.yml) line by line, shipped files by checksum, secrets not at all.
options:
  name:
    description: Name of the stack on the host, and of its Compose project.
    type: str
    required: true
  source:
    description:
      - A stack of this collection's catalogue by name, or a folder on the controller (with a slash in it). A
        relative folder starts at the inventory's.
      - The default is O(name).
    type: str
  user:
    description: Whose engine runs it.
    type: str
    required: true
  settings:
    description: Values for what the stack's C(stack.yml) lists under C(settings) and C(data).
    type: dict
    default: {}
  gpus:
    description:
      - GPUs by service, each V(all), a number, or a list of UUIDs and indices. V(0) gives none.
      - A service that is not named gets what C(stack.yml) says.
    type: dict
    default: {}
  images:
    description: Images that come as archives from the controller.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: What to call the image.
        type: str
        required: true
      archive:
        description: >-
          File on the controller, made by C(docker save) (with an image of that name in it), or a file system
          as a tar archive.
        type: path
        required: true
  secrets:
    description: Values for what C(stack.yml) lists under C(secrets).
    type: dict
    default: {}
  state:
    description: V(absent) stops the stack and removes its folder. Data folders and images stay.
    type: str
    choices: [present, absent]
    default: present
  root:
    description: Folder that holds C(stacks/) and C(data/). C(~) is the user's home.
    type: str
    default: ~/gpulab
  wait_timeout:
    description: Seconds that the services may take to become healthy; a stack may ask for more in C(stack.yml).
    type: int
    default: 120
  plan:
    description: What the controller made of the stack's folder. Set by this module's own part there.
    type: dict
notes:
  - Runs as root or as the user; everything is done as the user.
  - The last lines of a failed service's log are part of the error. Values of O(secrets) are masked in it.
seealso:
  - module: gpulab.fleet.gpu_proof
"""

EXAMPLES = r"""
- name: A simulator and a trainer with one GPU
  gpulab.fleet.compose_stack:
    name: quickstart
    user: trainer
    settings:
      GENERATIONS: 100
    secrets:
      WANDB_API_KEY: "{{ vault_wandb_key }}"

- name: A site's own stack, on a base image that is brought along
  gpulab.fleet.compose_stack:
    name: planner
    source: "{{ inventory_dir }}/stacks/planner"
    user: mara
    gpus:
      worker: all
    images:
      - name: registry.example.org/cuda:12
        archive: /srv/images/cuda-12.tar.zst

- name: Stop it; its data stays
  gpulab.fleet.compose_stack:
    name: planner
    user: mara
    state: absent
"""

RETURN = r"""
actions:
  description: What was done, or would be.
  type: list
  elements: str
  returned: success
lines:
  description: What runs, where it listens and which GPUs it has, for people; in check mode what would be done.
  type: list
  elements: str
  returned: success
folder:
  description: The stack's folder on the host.
  type: str
  returned: success
data:
  description: The data folders by setting.
  type: dict
  returned: success
gpus:
  description: UUIDs of the GPUs by service.
  type: dict
  returned: success
services:
  description: The containers.
  type: list
  elements: dict
  returned: success
  contains:
    name: {description: Name of the container., type: str, returned: always}
    service: {description: Its service., type: str, returned: always}
    image: {description: Its image., type: str, returned: always}
    status: {description: The state of the container., type: str, returned: always}
    health: {description: What its health check says; none without one., type: str, returned: always}
    addresses:
      description: Where its ports are published, as address and container_port.
      type: list
      elements: dict
      returned: always
seconds:
  description: How long import, build and up took, those that were needed.
  type: dict
  returned: success
finding:
  description: What is wrong, as code, layer, severity, title, evidence, cause and remedy.
  type: dict
  returned: failure
"""

import os
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._findings import from_error, message
from ansible_collections.gpulab.fleet.plugins.module_utils._stack_deploy import Handed, Plan, Stack
from ansible_collections.gpulab.fleet.plugins.module_utils._stack_lines import lines
from ansible_collections.gpulab.fleet.plugins.module_utils._userenv import account, as_user

SPEC = {
    "name": {"type": "str", "required": True},
    "source": {"type": "str"},
    "user": {"type": "str", "required": True},
    "settings": {"type": "dict", "default": {}},
    "gpus": {"type": "dict", "default": {}},
    "images": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {"name": {"type": "str", "required": True}, "archive": {"type": "path", "required": True}},
    },
    "secrets": {"type": "dict", "default": {}, "no_log": True},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "root": {"type": "str", "default": "~/gpulab"},
    "wait_timeout": {"type": "int", "default": 120},
    "plan": {"type": "dict"},
}


def plan_of(params: dict[str, Any]) -> Plan:
    """The plan, from what the controller's part sent; for a stack that goes, its name and root are enough."""
    made: dict[str, Any] = params["plan"] or {}
    return Plan(
        name=params["name"],
        root=params["root"],
        settings=made.get("settings", {}),
        data=made.get("data", {}),
        gpus=made.get("gpus", {}),
        secrets=params["secrets"],
        secret_modes=made.get("secret_modes", {}),
        files=made.get("files", {}),
        forms=[(service, form) for service, form in made.get("forms", [])],
        archives=made.get("archives", []),
        wait_timeout=max(params["wait_timeout"], made.get("wait_timeout", 0)),
    )


def handed_over(params: dict[str, Any]) -> Handed:
    """Opens what was sent while this process may still read it: the user may not."""
    made = (params["plan"] or {}).get("sent", {})
    archives = {name: os.open(path, os.O_RDONLY) for name, path in made.get("archives", {}).items()}
    return Handed(os.open(made["bundle"], os.O_RDONLY) if "bundle" in made else None, archives)


def main() -> None:
    module = AnsibleModule(argument_spec=SPEC, supports_check_mode=True)
    params = module.params
    present = params["state"] == "present"
    if present and not params["plan"]:
        module.fail_json(msg="this module works as a task of a play only: a part of it runs on the controller")
    try:
        user = account(params["user"])
        handed = handed_over(params)

        def work() -> dict[str, Any]:
            stack = Stack(plan_of(params), user, module.check_mode, handed)
            return stack.deploy() if present else stack.remove()

        result = work() if os.geteuid() == user.uid else as_user(user, work)
    except FleetError as error:
        if module.check_mode and error.code == "USER_MISSING":
            actions = [f"deploy (there is no {params['user']} yet)"] if present else []
            shown = lines(params["name"], params["user"], {"actions": actions, "services": []}, check=True)
            module.exit_json(changed=present, actions=actions, lines=shown)
        found = from_error(error, user=params["user"], stack=params["name"])
        module.fail_json(msg=message(found), finding=found)
    if "needs" not in result:
        result["lines"] = lines(params["name"], params["user"], result, module.check_mode)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
