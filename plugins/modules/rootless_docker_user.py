#!/usr/bin/python
# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One user's rootless Docker engine."""

from __future__ import annotations

DOCUMENTATION = r"""
module: rootless_docker_user
short_description: A user's rootless Docker engine, running and enabled
version_added: 0.1.0
description:
  - Sees to one user's lingering service manager, C(daemon.json), systemd user unit and CLI context, and to a running
    engine. Reads everything first and acts on what differs.
  - C(daemon.json) is merged. Keys that somebody else put there stay; keys that an earlier run put there and that are no
    longer asked for are taken out again. The result is judged by C(dockerd --validate) before it lands.
  - An engine is not restarted while it has running containers, unless O(when_busy) allows it; RV(restart_pending) is
    true then. Containers that a restart, or an interrupted earlier run, has stopped are started again.
  - A unit that somebody else wrote is replaced; the old text stays beside it as C(docker.service.before-gpulab).
  - Runs as root and does whatever concerns the home as the user.
extends_documentation_fragment: [gpulab.fleet.proxy, gpulab.fleet.platform.systemd]
options:
  name:
    description: The user.
    type: str
    required: true
  daemon:
    description: Options for C(daemon.json) in Docker's own spelling. Objects are merged, lists replace.
    type: dict
    default: {}
  cdi_spec_dir:
    description: Folder with the CDI specs of this user, which need not exist yet. Turns the engine's CDI feature on.
    type: path
  nvidia_runtime:
    description:
      - Gives the engine the runtime C(nvidia), for O(cdi_spec_dir)'s GPUs alone. C(docker run --runtime=nvidia -e
        NVIDIA_VISIBLE_DEVICES=...) and Compose's C(runtime) then work. A runtime of that name in O(daemon) wins.
      - NVIDIA's program, which may be installed later, reads a C(config.toml) of root's under
        C(/var/lib/gpulab/runtime/NAME). It stays when this is switched off, because without it an engine that has not
        been restarted yet would hand out all GPUs of the host.
    type: bool
    default: false
  registries:
    description:
      - Logins for registries, put into the C(~/.docker/config.json) of the user, which then has mode 0600. Other logins
        there stay; one that an earlier run put there and that is no longer asked for goes.
    type: list
    elements: dict
    default: []
    suboptions:
      host:
        description: The registry, such as V(registry.example.org:5000) or V(docker.io).
        type: str
        required: true
      login:
        description: The account there.
        type: dict
        required: true
        suboptions:
          username:
            description: Its name.
            type: str
            required: true
          password:
            description: Its password or token.
            type: str
            required: true
  limits:
    description:
      - C(cpus) (a number) and C(memory) (a size such as V(64G)) for everything that the user runs, containers included.
        A limit that the host cannot enforce is refused.
    type: dict
    default: {}
  create_home:
    description: Whether the home of an account that has none yet is made, as a first login would.
    type: bool
    default: false
  upgraded:
    description:
      - Whether an earlier task replaces the engine's programs. Needed in check mode only, where they are not replaced
        yet; otherwise the running engine tells.
    type: bool
    default: false
  when_busy:
    description:
      - What to do when the engine has to be restarted and containers are running.
      - V(skip) leaves it for another time, V(wait) waits up to O(busy_timeout) for the containers to end and then does
        the same, V(proceed) stops them with their own grace period, restarts the engine and starts them again.
    type: str
    choices: [skip, wait, proceed]
    default: skip
  busy_timeout:
    description: Seconds to wait for running containers to end.
    type: int
    default: 3600
  resume:
    description: Start the containers that were stopped for a change; V(false) where a later task does so.
    type: bool
    default: true
  resume_timeout:
    description: Seconds that containers with a health check may take until they are healthy again.
    type: int
    default: 120
  accept_versions:
    description: Versions of the engine below the oldest that works which are accepted nevertheless, each by name.
    type: list
    elements: str
    default: []
  state:
    description:
      - V(present) sets the engine up and has it running.
      - V(absent) brings the user's stacks down, stops the engine and brings the home back to what it was; lingering and
        settings that root made for the user go as well. An engine that this module did not set up is left alone.
    type: str
    choices: [present, absent]
    default: present
  data:
    description:
      - With O(state=absent), what becomes of images, volumes, containers and data folders of stacks. A folder of a
        stack's data that was there before the stack came is never deleted.
      - With V(keep) the user's subordinate ids stay reserved. With V(remove) those that this collection gave go, and so
        does the account, with its home, if this collection made it.
    type: str
    choices: [keep, remove]
    default: keep
  stacks_root:
    description: Where the user's stacks lie, in case they were not deployed by this version.
    type: str
    default: ~/gpulab
attributes:
  check_mode:
    description: Predicts without changing, also for a user who does not exist yet and without packages.
    support: full
  diff_mode:
    description: Shows C(daemon.json) and the unit; never the CLI's configuration, which may hold credentials.
    support: full
author:
  - gpulab.fleet contributors
"""

EXAMPLES = r"""
- name: Give trainer an engine
  gpulab.fleet.rootless_docker_user:
    name: trainer
    daemon:
      data-root: /scratch/trainer/docker
    cdi_spec_dir: /var/lib/gpulab/cdi/trainer
    nvidia_runtime: true

- name: Take guest's engine away, and what it has stored
  gpulab.fleet.rootless_docker_user:
    name: guest
    state: absent
    data: remove
"""

RETURN = r"""
actions:
  description: What was done, or would be.
  type: list
  elements: str
  returned: success
  sample: ["wrote /home/trainer/.config/docker/daemon.json", "restarted docker.service"]
engine:
  description: What the engine says of itself; empty where check mode finds none.
  type: dict
  returned: success
  sample:
    version: 28.5.2
    api_version: "1.51"
    socket: /run/user/1000/docker.sock
    data_root: /home/trainer/.local/share/docker
    cgroup_driver: systemd
    storage_driver: overlay2
restart_pending:
  description: The engine runs with older settings or programs than are installed, and containers are running.
  type: bool
  returned: success
running:
  description: The running containers that keep the engine from being restarted, in words.
  type: list
  elements: str
  returned: success
data:
  description: With O(state=absent), what stays of the user's data, as path and bytes.
  type: list
  elements: dict
  returned: success
pending:
  description: With O(state=absent), whether the engine is still there because somebody works with it.
  type: bool
  returned: success
findings:
  description: Warnings and information (ENGINE_RESTART_PENDING, ENGINE_BELOW_RECOMMENDED, ENGINE_IN_USE, DATA_KEPT).
  type: list
  elements: dict
  returned: success
finding:
  description: >-
    Code, cause and remedy of a failure. Codes are USER_MISSING, USER_IS_ROOT, HOME_UNUSABLE, USER_MANAGER_DOWN,
    SUBID_MISSING, ENGINE_MISSING, ENGINE_TOO_OLD, ENGINE_START_FAILED, ENGINE_UNRESPONSIVE, DAEMON_JSON_INVALID,
    DAEMON_JSON_REJECTED, DAEMON_JSON_TYPO, DATA_ROOT_NETWORK_FS, DATA_ROOT_NOT_OWNED, LIMIT_UNENFORCEABLE,
    REGISTRY_LOGIN_ELSEWHERE, WORK_NOT_BACK, CLI_CONFIG_INVALID, ENGINE_STOP_FAILED, DATA_NOT_DELETED and
    ACCOUNT_NOT_REMOVED.
  type: dict
  returned: failure
"""

import json
import os
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpulab.fleet.plugins.module_utils import _data_root, _user_limits
from ansible_collections.gpulab.fleet.plugins.module_utils._apt import below
from ansible_collections.gpulab.fleet.plugins.module_utils._daemon_json import FLAG_SPELLINGS, overlay
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._files import read_text
from ansible_collections.gpulab.fleet.plugins.module_utils._findings import finding, from_error, message
from ansible_collections.gpulab.fleet.plugins.module_utils._floors import ENGINE_FLOOR, accepted, dotted
from ansible_collections.gpulab.fleet.plugins.module_utils._journal import ENGINE, FILE, LINGER, TREE, Journal
from ansible_collections.gpulab.fleet.plugins.module_utils._leaving import Leaving
from ansible_collections.gpulab.fleet.plugins.module_utils._proxy import (
    OPTION,
    client_settings,
    daemon_settings,
    keep_secret,
    proxy_from,
)
from ansible_collections.gpulab.fleet.plugins.module_utils._rootless_engine import Busy, Engine, parse_properties
from ansible_collections.gpulab.fleet.plugins.module_utils._subid import COUNT, of_user, parse
from ansible_collections.gpulab.fleet.plugins.module_utils._userenv import Account, account, as_user
from ansible_collections.gpulab.fleet.plugins.module_utils._work import record_path

RECOMMENDED = "28.2"
CONTROLLERS = Path(_user_limits.CONTROLLERS)
RUNTIMES = Path("/var/lib/gpulab/runtime")
START_SCRIPTS = ("/usr/bin/dockerd-rootless.sh", "/usr/share/docker.io/contrib/dockerd-rootless.sh")


def runtime_config(cdi_spec_dir: str) -> str:
    """Settings of NVIDIA's runtime; its own default describes every GPU of the host when a container starts."""
    return f"""\
# Written by gpulab.fleet (rootless_docker_user).
[nvidia-container-runtime]
mode = "cdi"

[nvidia-container-runtime.modes.cdi]
default-kind = "nvidia.com/gpu"
spec-dirs = [{json.dumps(cdi_spec_dir)}]
"""


class RootlessUser:
    """The root part: what the user cannot do; the rest is Engine's, as the user."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.name = module.params["name"]
        self.journal = Journal(module.check_mode)
        self.actions: list[str] = []
        self.diff: list[dict[str, str]] = []

    def converge(self) -> dict[str, Any]:
        params = self.module.params
        if params["state"] == "absent":
            leaving = Leaving(self.module, self.name, params["data"] == "remove", params["stacks_root"])
            return leaving.go(params["when_busy"], params["busy_timeout"])
        check = self.module.check_mode
        try:
            user = account(self.name)
        except FleetError as error:
            if error.code != "USER_MISSING" or not check:
                raise
            self.refuse_limits()
            self.runtime()
            return self.engine(Account(self.name, -1, -1, Path("/home") / self.name)).converge()
        self.refuse_limits()
        self.home(user)
        if not check:
            self.refuse_unusable(user)
        if self.name not in self.journal.entries(ENGINE):
            self.journal.add(ENGINE, self.name)
        self.runtime()
        self.data_root(user)
        self.limits(user)
        self.linger(user)
        return as_user(user, self.engine(user).converge)

    def engine(self, user: Account) -> Engine:
        params = self.module.params
        check = self.module.check_mode
        runtime = str(RUNTIMES / self.name) if params["nvidia_runtime"] else ""
        spec_dir = params["cdi_spec_dir"] or ""
        proxy = proxy_from(params["proxy"])
        daemon = overlay(daemon_settings(proxy), params["daemon"])
        engine = Engine(user, daemon, spec_dir, check, params["upgraded"], runtime)
        engine.client = client_settings(proxy)
        engine.busy = Busy(params["when_busy"], params["busy_timeout"], params["resume"], params["resume_timeout"])
        engine.registries = params["registries"]
        return engine

    def runtime(self) -> None:
        """The settings of NVIDIA's runtime, there before an engine can start it."""
        if not self.module.params["nvidia_runtime"]:
            return
        path = RUNTIMES / self.name / "nvidia-container-runtime" / "config.toml"
        before, after = read_text(path), runtime_config(self.module.params["cdi_spec_dir"])
        if before == after and path.stat().st_mode & 0o777 == 0o644:
            return
        self.actions.append(f"wrote {path}")
        self.diff.append({"before_header": str(path), "after_header": str(path), "before": before, "after": after})
        self.journal.add(TREE, str(RUNTIMES / self.name))
        self.journal.write(path, after.encode(), 0o644)

    def home(self, user: Account) -> None:
        """A home as the first login makes it, for accounts of a directory service who have not logged in yet."""
        if not self.module.params["create_home"] or user.home.exists():
            return
        self.actions.append(f"made {user.home}")
        self.root("mkhomedir_helper", user.name)

    def data_root(self, user: Account) -> None:
        root = str(self.module.params["daemon"].get("data-root") or "")
        if _data_root.settle(root, user, self.journal):
            self.actions.append(f"made {root}")

    def refuse_limits(self) -> None:
        for seen in _user_limits.unenforceable(self.name, self.module.params["limits"], read_text(CONTROLLERS)):
            raise FleetError("LIMIT_UNENFORCEABLE", seen)

    def limits(self, user: Account) -> None:
        """The limits of the user's slice; systemd applies them to what runs as soon as it has read them."""
        path = _user_limits.path(user.uid)
        before, after = read_text(path), _user_limits.drop_in(self.module.params["limits"])
        if before == after:
            return
        self.actions.append(f"{'wrote' if after else 'removed'} {path}")
        self.diff.append({"before_header": str(path), "after_header": str(path), "before": before, "after": after})
        if after:
            self.journal.write(path, after.encode(), 0o644)
        elif not self.module.check_mode:
            path.unlink()
            self.journal.drop(FILE, str(path))
        self.root("systemctl", "daemon-reload")

    def refuse_unusable(self, user: Account) -> None:
        if not user.home.is_dir() or user.home.stat().st_uid != user.uid:
            raise FleetError("HOME_UNUSABLE", f"{user.home}")
        for path in (Path("/etc/subuid"), Path("/etc/subgid")):
            text = path.read_text(encoding="utf-8") if path.exists() else ""
            ids = sum(r.count for r in of_user(parse(text, str(path)), user.name, user.uid))
            if ids < COUNT:
                raise FleetError("SUBID_MISSING", f"{path} gives {user.name} {ids} ids")
        if not any(os.access(script, os.X_OK) for script in START_SCRIPTS):
            raise FleetError("ENGINE_MISSING", f"none of {', '.join(START_SCRIPTS)} is there")

    def linger(self, user: Account) -> None:
        """A service manager that runs without a login and from boot on."""
        unit = f"user@{user.uid}.service"
        if not Path(f"/var/lib/systemd/linger/{user.name}").exists():
            self.actions.append("enabled lingering")
            self.journal.add(LINGER, user.name)
            self.root("loginctl", "enable-linger", user.name)
        state = self.state(unit)
        if state.get("NeedDaemonReload") == "yes":
            # A drop-in of user@.service (cgroup delegation) that systemd has not read yet.
            self.actions.append("reloaded systemd")
            self.root("systemctl", "daemon-reload")
        if self.module.check_mode:
            return
        deadline = time.monotonic() + 15
        while state.get("ActiveState") != "active":
            if time.monotonic() > deadline:
                raise FleetError("USER_MANAGER_DOWN", f"{unit} is {state.get('ActiveState')}")
            self.root("systemctl", "start", unit)
            state = self.state(unit)

    def state(self, unit: str) -> dict[str, str]:
        argv = ["systemctl", "show", "--property=ActiveState,NeedDaemonReload", unit]
        return parse_properties(self.module.run_command(argv)[1])

    def root(self, *argv: str) -> None:
        if not self.module.check_mode:
            self.module.run_command(list(argv), check_rc=True)

    def last_words(self) -> str:
        """The last words of an engine that did not start."""
        try:
            uid = account(self.name).uid
        except FleetError:
            return ""
        argv = ["journalctl", "--no-pager", "-o", "cat", "-n", "15", f"_UID={uid}", "_SYSTEMD_USER_UNIT=docker.service"]
        return str(self.module.run_command(argv)[1]).strip()


def judge(result: dict[str, Any], user: str, accept_versions: list[str]) -> list[dict[str, Any]]:
    """Findings about an engine that runs; too old a one is an error."""
    version = result["engine"].get("version", "")
    if version and below(version, dotted(ENGINE_FLOOR)) and not accepted(version, accept_versions):
        raise FleetError("ENGINE_TOO_OLD", f"{user}'s engine is {version}")
    findings = []
    if version and below(version, RECOMMENDED):
        evidence = f"{user}'s engine is {version}; {RECOMMENDED} or newer is recommended"
        findings.append(finding("ENGINE_BELOW_RECOMMENDED", evidence))
    if result["restart_pending"]:
        evidence = f"{'; '.join(result['stale'])}; running: {'; '.join(result['running'])}"
        findings.append(finding("ENGINE_RESTART_PENDING", evidence, user=user))
    return findings


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "daemon": {"type": "dict", "default": {}},
            "cdi_spec_dir": {"type": "path"},
            "nvidia_runtime": {"type": "bool", "default": False},
            "registries": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "host": {"type": "str", "required": True},
                    "login": {
                        "type": "dict",
                        "required": True,
                        "options": {
                            "username": {"type": "str", "required": True},
                            "password": {"type": "str", "required": True, "no_log": True},
                        },
                    },
                },
            },
            "proxy": OPTION,
            "limits": {"type": "dict", "default": {}},
            "create_home": {"type": "bool", "default": False},
            "upgraded": {"type": "bool", "default": False},
            "when_busy": {"type": "str", "choices": ["skip", "wait", "proceed"], "default": "skip"},
            "busy_timeout": {"type": "int", "default": 3600},
            "resume": {"type": "bool", "default": True},
            "resume_timeout": {"type": "int", "default": 120},
            "accept_versions": {"type": "list", "elements": "str", "default": []},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "data": {"type": "str", "choices": ["keep", "remove"], "default": "keep"},
            "stacks_root": {"type": "str", "default": "~/gpulab"},
        },
        required_if=[("nvidia_runtime", True, ["cdi_spec_dir"])],
        supports_check_mode=True,
    )
    keep_secret(module)
    name = module.params["name"]
    user = RootlessUser(module)
    try:
        result = user.converge()
        findings = [*result.pop("findings", []), *judge(result, name, module.params["accept_versions"])]
    except FleetError as error:
        detail = error.detail
        if error.code == "ENGINE_START_FAILED":
            detail += f"\n{user.last_words()}"
        wrong = detail.partition(":")[0]
        data = {"wrong": wrong, "right": FLAG_SPELLINGS.get(wrong, ""), "home": detail, "path": detail.split(" ")[0]}
        data["record"] = str(record_path(Path("~")))
        found = from_error(FleetError(error.code, detail), user=name, **data)
        module.fail_json(msg=message(found), finding=found)
    for found in findings:
        if found["severity"] == "warning":
            module.warn(message(found))
    actions = [*user.actions, *result.pop("actions")]
    diff = [*user.diff, *result.pop("diff")]
    module.exit_json(changed=bool(actions), actions=actions, diff=diff, findings=findings, **result)


if __name__ == "__main__":
    main()
