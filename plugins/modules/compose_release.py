#!/usr/bin/python
# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: compose_release
short_description: Releases of a Compose stack on one user's rootless engine
version_added: "0.1.0"
description:
  - A stack is a folder on the controller with a C(compose.yml), and a C(stack.yml) that says what can be set. This
    module checks the settings, ships the folder, hands out GPUs, builds or fetches images, and keeps all of it on
    the host as a numbered release. Then it brings the release up in place of what runs and waits until every service
    is healthy.
  - A deployment is a transaction. When a service does not become healthy, a check fails, or the run is killed,
    the release that ran before is brought up again, and the failed one is kept with its logs. After a reboot in the
    middle the host settles it by itself.
  - C(ROOT/stacks/NAME/current) of the user's home is the release that runs. C(docker compose) in that folder acts on
    what this module deployed. Its images are named by content and its GPUs by UUID.
  - Compose is not asked to act when nothing differs, which is answered from checksums of the inputs, the
    configuration's hash that Compose puts on each container, the image that each runs, and digests of the secrets.
  - >-
    GPUs are given in the form C(deploy.resources.reservations.devices) with C(driver: cdi), which works
    with every version of Compose, and only to a user whose GPUs are proven in this boot (M(gpulab.fleet.gpu_proof)).
  - Ports for which the stack names no address are published on 127.0.0.1.
  - What is done on the host is done by the program that is behind the command C(gpulab) there. Where the host has none,
    or not this collection's, it is sent for this one task.
author:
  - gpulab.fleet contributors
attributes:
  check_mode:
    support: full
    description: >-
      The release is composed and compared with the one that runs; nothing is built, fetched or kept. On a host without
      an engine the whole deployment is predicted.
  diff_mode:
    support: full
    description: Shows the resolved C(compose.yml) of the running and of the wanted release; secrets not at all.
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
  profiles:
    description: Profiles of C(compose.yml) to run, instead of those that C(stack.yml) names.
    type: list
    elements: str
  snapshot:
    description: Whether data folders are copied before a new release replaces one that runs, instead of what C(stack.yml) says.
    type: bool
  publish:
    description: Ports of services on the host's network whose file does not name them, a list by service.
    type: dict
  checks:
    description: What has to succeed after every service is healthy, each C(service) and C(command), or C(url) and C(expect).
    type: list
    elements: dict
  runs:
    description: Services that run once when asked, by name what a run of each does; or a list of them.
    type: raw
  no_health:
    description: Services that knowingly have no health check.
    type: list
    elements: str
  graphics:
    description: Services that render on their GPU; refused where the driver's graphics part is missing.
    type: list
    elements: str
  mounts:
    description:
      - Files and folders of the host in the stack's containers, by name, each a text C(SOURCE[:TARGET][:ro|rw]) or a mapping with
        C(source), C(target) (otherwise C(/mounts/NAME)), C(services) (otherwise those that C(stack.yml) names), C(write) and
        C(enabled).
      - What is not there, and a target that something else has, is refused before anything is stopped.
    type: dict
  gpu_sharing:
    description:
      - V(exclusive) gives the stack GPUs that no other stack of the host holds, whoever's it is, and keeps others from
        them. V(shared) gives it such that others share as well.
      - The default is what C(stack.yml) says, else V(exclusive).
    type: str
    choices: [exclusive, shared]
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
    description:
      - Values for what C(stack.yml) lists under C(secrets).
      - One that has C(generate) there, and no value here, is made on the host once and kept there.
    type: dict
    default: {}
  state:
    description:
      - V(absent) stops the stack and removes its releases. Data folders and volumes stay.
      - V(rolled_back) brings O(release) up again, or the release before the current one, without building or
        fetching anything.
      - V(restored) puts the data back as O(copy) has them; the services are stopped for it, and started again.
    type: str
    choices: [present, absent, rolled_back, restored]
    default: present
  release:
    description: The release to go back to with O(state=rolled_back), such as V("0003").
    type: str
  copy:
    description: The copy of the data to put back with O(state=restored); C(gpulab snapshot --list STACK) names them.
    type: str
  purge:
    description:
      - With O(state=absent), deletes the stack's data, volumes and snapshots for good. It has to be the stack's name once
        more; with anything else the error lists what would go, and how large it is.
    type: str
  keep:
    description: How many releases are kept for going back, the current one included.
    type: int
    default: 3
  why:
    description: A word on why, for the stack's history.
    type: str
    default: ""
  who:
    description: Whose deed it is, for the stack's history. The controller's user by default.
    type: str
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
  program:
    description: Which form of the host's program, C(gpulab), this collection has. Set by this module's own part there.
    type: dict
notes:
  - Runs as root or as the user; everything is done as the user.
  - The last lines of a failed service's log are part of the error. Values of secrets are masked in it.
seealso:
  - module: gpulab.fleet.gpu_proof
"""

EXAMPLES = r"""
- name: A simulator and a trainer with one GPU
  gpulab.fleet.compose_release:
    name: quickstart
    user: trainer
    settings:
      GENERATIONS: 100
    secrets:
      WANDB_API_KEY: "{{ vault_wandb_key }}"

- name: A site's own stack, on a base image that is brought along
  gpulab.fleet.compose_release:
    name: planner
    source: "{{ inventory_dir }}/stacks/planner"
    user: mara
    gpus:
      worker: all
    images:
      - name: registry.example.org/cuda:12
        archive: /srv/images/cuda-12.tar.zst

- name: Back to the release before
  gpulab.fleet.compose_release:
    name: planner
    user: mara
    state: rolled_back
    why: the new policy drops things

- name: Stop it; its data stays
  gpulab.fleet.compose_release:
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
release:
  description: The release that runs now.
  type: str
  returned: success
  sample: "0004"
folder:
  description: The folder of the release that runs, in which C(docker compose) works.
  type: str
  returned: success
notes:
  description: What was adapted for a rootless engine, and what was understood in the stack's favour.
  type: list
  elements: str
  returned: success
data:
  description: The data folders by setting.
  type: dict
  returned: success
gpus:
  description: UUIDs of the GPUs by service.
  type: dict
  returned: success
secret_files:
  description: Where each secret lies that was generated on the host, by name; of files of mode 0600 the paths only.
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
  description: How long import, pull, build and up took, those that were needed.
  type: dict
  returned: success
finding:
  description: What is wrong, as code, layer, severity, title, evidence, cause and remedy.
  type: dict
  returned: failure
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpulab.fleet.plugins.module_utils import _host_program

SPEC = {
    "name": {"type": "str", "required": True},
    "source": {"type": "str"},
    "user": {"type": "str", "required": True},
    "settings": {"type": "dict", "default": {}},
    "gpus": {"type": "dict", "default": {}},
    "profiles": {"type": "list", "elements": "str"},
    "snapshot": {"type": "bool"},
    "publish": {"type": "dict"},
    "checks": {"type": "list", "elements": "dict"},
    "runs": {"type": "raw"},
    "no_health": {"type": "list", "elements": "str"},
    "graphics": {"type": "list", "elements": "str"},
    "mounts": {"type": "dict"},
    "gpu_sharing": {"type": "str", "choices": ["exclusive", "shared"]},
    "images": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {"name": {"type": "str", "required": True}, "archive": {"type": "path", "required": True}},
    },
    "secrets": {"type": "dict", "default": {}, "no_log": True},
    "state": {"type": "str", "choices": ["present", "absent", "rolled_back", "restored"], "default": "present"},
    "release": {"type": "str"},
    "copy": {"type": "str"},
    "purge": {"type": "str"},
    "keep": {"type": "int", "default": 3},
    "why": {"type": "str", "default": ""},
    "who": {"type": "str"},
    "root": {"type": "str", "default": "~/gpulab"},
    "wait_timeout": {"type": "int", "default": 120},
    "plan": {"type": "dict"},
    "program": {"type": "dict"},
}


def program(wanted: dict[str, str]) -> str:
    """The program on this host that is this collection's, or "" where it has to be sent."""
    installed = Path("/", _host_program.PROGRAM)
    if _host_program.stands_for(installed) == wanted["sha256"]:
        return str(installed)
    sent = wanted.get("file", "")
    return sent if sent and _host_program.is_as_sent(Path(sent), wanted["sha256"]) else ""


def main() -> None:
    module = AnsibleModule(argument_spec=SPEC, supports_check_mode=True)
    params = module.params
    wanted = params["program"]
    if not wanted or (params["state"] == "present" and not params["plan"]):
        module.fail_json(msg="this module works as a task of a play only: a part of it runs on the controller")
    if params["state"] == "restored" and not params["copy"]:
        module.fail_json(msg="state=restored needs copy: gpulab snapshot --list STACK names them")
    path = program(wanted)
    if not path and wanted.get("file"):
        module.fail_json(msg=f"{wanted['file']} did not arrive whole: run the play again")
    if not path:
        module.exit_json(changed=False, needs={"program": True})
    answer = _host_program.part(path, "_release_verbs").answer(params, module.check_mode)
    if "msg" in answer:
        module.fail_json(**answer)
    module.exit_json(**answer)


if __name__ == "__main__":
    main()
