#!/usr/bin/python
# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a host needs once, before anybody's rootless engine: no root engine, delegated cgroups, user namespaces."""

from __future__ import annotations

DOCUMENTATION = r"""
module: rootless_docker_host
short_description: Prepare a host for rootless Docker engines
version_added: 0.1.0
description:
  - Refuses a host whose root-owned engine is in use, before anything is changed, or leaves that engine alone.
  - Otherwise masks C(docker.service), C(docker.socket) and an unused C(containerd.service), so that installing the
    packages never starts a root-owned engine.
  - Delegates the cgroup controllers to the users' service managers, without which limits on containers are ignored.
  - Where AppArmor restricts user namespaces (Ubuntu 24.04) and no profile covers rootlesskit, adds one.
  - Installs the researcher's command, C(/usr/local/bin/gpulab).
extends_documentation_fragment: [gpulab.fleet.proxy, gpulab.fleet.platform.systemd]
options:
  rootful:
    description:
      - What to do when a root-owned engine is in use.
      - V(remove) stops it and its containers in their own time, and keeps it from starting again. Its images, containers
        and volumes stay where they are, and so do its packages.
    type: str
    choices: [refuse, keep, remove]
    default: refuse
  guard:
    description: >-
      Whether unattended-upgrades is told to leave driver, toolkit and engine alone, by a file of its own in
      C(/etc/apt/apt.conf.d). V(false) takes that file away.
    type: bool
    default: true
  users:
    description: Users that must exist, or it is an error before anything is changed.
    type: list
    elements: str
    default: []
  may_create:
    description: Users that may be missing because a later task makes them.
    type: list
    elements: str
    default: []
  docker_host:
    description:
      - Whether C(DOCKER_HOST) points to their own engine in everything that PAM starts for O(users) and O(may_create),
        such as logins, commands over SSH, cron jobs and services. Without it only C(docker) finds the engine, by its context.
    type: bool
    default: false
  command:
    description:
      - The researcher's command C(gpulab), as the controller has made it. The action plugin sets this; a task does not.
    type: dict
    suboptions:
      sha256:
        description: Its checksum.
        type: str
        required: true
      file:
        description: Where it was put on the host, when the module has said that it needs it.
        type: path
attributes:
  check_mode:
    description: Predicts without changing.
    support: full
  diff_mode:
    description: Shows files and the state of units.
    support: full
author:
  - gpulab.fleet contributors
"""

EXAMPLES = r"""
- name: Prepare the host
  gpulab.fleet.rootless_docker_host:
    rootful: refuse
    users: [trainer]
"""

RETURN = r"""
rootful:
  description: Whether a root-owned engine is in use and was kept.
  type: bool
  returned: success
missing_users:
  description: Those of O(may_create) that do not exist.
  type: list
  elements: str
  returned: success
actions:
  description: What was done, or would be.
  type: list
  elements: str
  returned: success
  sample: ["masked docker.service"]
was_rootful:
  description: What the root-owned engine had, where this call ended it; else empty.
  type: str
  returned: success
  sample: "docker.service is active; containers: db, web; data root /var/lib/docker"
needs:
  description: What the action plugin has to send before anything can be done; never seen in a task's result.
  type: list
  elements: str
  returned: when something has to be sent
finding:
  description: >-
    Code, cause and remedy of a failure. Codes are ROOTFUL_ENGINE, KUBERNETES_NODE, USER_MISSING, USER_IS_ROOT, CA_TOOL_MISSING
    and COMMAND_ARRIVED_BROKEN.
  type: dict
  returned: failure
"""

import contextlib
import json
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpulab.fleet.plugins.module_utils import _command_host, _docker_host_env
from ansible_collections.gpulab.fleet.plugins.module_utils._daemon_json import redact
from ansible_collections.gpulab.fleet.plugins.module_utils._docker_api import container_names, get
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._findings import finding, from_error, message
from ansible_collections.gpulab.fleet.plugins.module_utils._guarded import UNATTENDED, UNATTENDED_TEXT
from ansible_collections.gpulab.fleet.plugins.module_utils._journal import FILE, UNIT, Journal
from ansible_collections.gpulab.fleet.plugins.module_utils._proxy import OPTION, keep_secret, proxy_from
from ansible_collections.gpulab.fleet.plugins.module_utils._proxy_host import (
    AUTHORITIES,
    UPDATE,
    mode_of,
    present_files,
    trusted,
    wanted_files,
)
from ansible_collections.gpulab.fleet.plugins.module_utils._userenv import account

DOCKER_UNITS = ("docker.service", "docker.socket")
UNITS = (*DOCKER_UNITS, "containerd.service", "kubelet.service")
SOCKET = "/run/docker.sock"

DELEGATION = """\
# Kept by gpulab.fleet: without these, memory and CPU limits of rootless containers are silently ignored.
[Service]
Delegate=cpu cpuset io memory pids
"""

APPARMOR_PROFILE = """\
# Kept by gpulab.fleet: lets rootlesskit make user namespaces where AppArmor restricts them.
abi <abi/4.0>,
include <tunables/global>

profile gpulab-rootlesskit /usr/bin/rootlesskit flags=(unconfined) {
  userns,
}
"""


def parse_show(text: str) -> dict[str, dict[str, str]]:
    """The units of `systemctl show`, by their Id."""
    units = [dict(line.split("=", 1) for line in block.splitlines() if "=" in line) for block in text.split("\n\n")]
    return {unit["Id"]: unit for unit in units if "Id" in unit}


def in_use(unit: dict[str, str]) -> bool:
    """Whether a unit runs now or would run after the next boot."""
    return unit.get("ActiveState") in ("active", "activating", "reloading") or unit.get("UnitFileState") == "enabled"


def to_mask(units: dict[str, dict[str, str]]) -> list[str]:
    """The units of a root-owned engine that could still be started; containerd only when nobody uses it."""
    candidates = [*DOCKER_UNITS, "containerd.service"]
    return [name for name in candidates if units[name].get("LoadState") != "masked" and not in_use(units[name])]


def maskable(unit: dict[str, str]) -> bool:
    """A unit that somebody wrote into /etc cannot be masked there; switched off it stays off as well."""
    return not unit.get("FragmentPath", "").startswith("/etc/systemd/system/")


class Host:
    """Reads the host, refuses what must not be touched, changes what differs."""

    def __init__(self, module: AnsibleModule, root: Path = Path("/")) -> None:
        self.module = module
        self.root = root
        self.journal = Journal(module.check_mode)
        self.actions: list[str] = []
        self.diff: list[dict[str, str]] = []

    def systemctl(self, *arguments: str) -> str:
        return str(self.module.run_command(["systemctl", *arguments], check_rc=True)[1])

    def converge(self) -> dict[str, Any]:
        missing = self.missing_users()
        units = parse_show(
            self.systemctl("show", "--property=Id,LoadState,ActiveState,UnitFileState,FragmentPath", *UNITS)
        )
        rootful = any(in_use(units[name]) for name in DOCKER_UNITS)
        remove = rootful and self.module.params["rootful"] == "remove"
        was_rootful = ""
        if rootful and self.module.params["rootful"] != "keep":
            was_rootful, data_root = self.holdings(units)
            if not remove:
                found = from_error(FleetError("ROOTFUL_ENGINE", was_rootful), data_root=data_root)
                self.module.fail_json(msg=message(found), finding=found)
            rootful = False
        if not rootful and units["kubelet.service"].get("ActiveState") == "active":
            raise FleetError("KUBERNETES_NODE", "kubelet.service is active")
        command = self.module.params["command"]
        if command and _command_host.is_needed(self, command):
            return {"changed": False, "needs": ["command"], "was_rootful": ""}
        # An engine that is kept needs its containerd as well: leave all three.
        masks = [] if rootful else self.end(units) if remove else to_mask(units)
        reload = self.put("etc/systemd/system/user@.service.d/gpulab-delegate.conf", DELEGATION)
        self.guard()
        self.proxy()
        if command:
            _command_host.settle(self, command)
        profile = "etc/apparmor.d/gpulab-rootlesskit"
        if self.needs_profile() and self.put(profile, APPARMOR_PROFILE):
            self.act("loaded the AppArmor profile", ["apparmor_parser", "-r", str(self.root / profile)])
        masks = [name for name in masks if maskable(units[name])]
        if masks:
            for name in masks:
                self.journal.add(UNIT, name, units[name].get("UnitFileState", ""))
            self.act(f"masked {', '.join(masks)}", ["systemctl", "mask", *masks])
            states = {name: units[name].get("UnitFileState") or "absent" for name in masks}
            self.diff.append(
                {
                    "before_header": "units",
                    "after_header": "units",
                    "before": "".join(f"{name} {state}\n" for name, state in states.items()),
                    "after": "".join(f"{name} masked\n" for name in masks),
                }
            )
        params = self.module.params
        _docker_host_env.settle(self, [*params["users"], *params["may_create"]] if params["docker_host"] else [])
        if reload:
            self.act("reloaded systemd", ["systemctl", "daemon-reload"])
        return {
            "changed": bool(self.actions),
            "actions": self.actions,
            "diff": self.diff,
            "rootful": rootful,
            "was_rootful": was_rootful,
            "missing_users": missing,
        }

    def missing_users(self) -> list[str]:
        """Users that are to be made; one that is missing and is not to be made is an error."""
        missing = []
        for user in [*self.module.params["users"], *self.module.params["may_create"]]:
            try:
                account(user)
            except FleetError as error:
                if error.code != "USER_MISSING" or user not in self.module.params["may_create"]:
                    raise
                missing.append(user)
        return missing

    def end(self, units: dict[str, dict[str, str]]) -> list[str]:
        """Stop a root-owned engine, the socket that would start it again first; the units that are then masked."""
        stop = [name for name in ("docker.socket", "docker.service") if in_use(units[name])]
        for name in stop:
            self.journal.add(UNIT, name, units[name].get("UnitFileState", ""))
        self.act(f"stopped {', '.join(stop)}", ["systemctl", "disable", "--now", *stop])
        if not self.module.check_mode:
            # An engine that did not end within its unit's time would count as failed from now on.
            self.module.run_command(["systemctl", "reset-failed", *stop], check_rc=False)
        masks = [name for name in DOCKER_UNITS if units[name].get("LoadState") != "masked"]
        containerd = units["containerd.service"]
        if in_use(containerd) and not self.others_in_containerd():
            self.journal.add(UNIT, "containerd.service", containerd.get("UnitFileState", ""))
            self.act("stopped containerd.service", ["systemctl", "disable", "--now", "containerd.service"])
            masks.append("containerd.service")
        elif containerd.get("LoadState") != "masked" and not in_use(containerd):
            masks.append("containerd.service")
        return masks

    def others_in_containerd(self) -> list[str]:
        """Namespaces of containerd in which somebody else than Docker runs containers (nerdctl, ctr)."""
        tasks = self.root / "run/containerd/io.containerd.runtime.v2.task"
        with contextlib.suppress(OSError):
            return sorted(space.name for space in tasks.iterdir() if space.name != "moby" and any(space.iterdir()))
        return []

    def holdings(self, units: dict[str, dict[str, str]]) -> tuple[str, str]:
        """What a root-owned engine holds, in words (its containers and where the data lies), and its data root."""
        using = [f"{name} is {units[name].get('ActiveState')}" for name in DOCKER_UNITS if in_use(units[name])]
        data_root = self.configured_data_root()
        containers = "it is not running"
        if units["docker.service"].get("ActiveState") == "active":
            containers = "it does not answer"
            with contextlib.suppress(OSError, ValueError, KeyError):
                data_root = get(str(self.root / SOCKET.lstrip("/")), "/info")["DockerRootDir"]
                names = container_names(str(self.root / SOCKET.lstrip("/")), everything=True)
                containers = f"containers: {', '.join(names) or 'none'}"
        return f"{'; '.join(using)}; {containers}; data root {data_root}", data_root

    def configured_data_root(self) -> str:
        with contextlib.suppress(OSError, ValueError):
            settings = json.loads((self.root / "etc/docker/daemon.json").read_text(encoding="utf-8"))
            return str(settings.get("data-root", "/var/lib/docker"))
        return "/var/lib/docker"

    def needs_profile(self) -> bool:
        """Whether AppArmor restricts user namespaces and no profile but ours lets rootlesskit have them."""
        with contextlib.suppress(OSError):
            switch = self.root / "proc/sys/kernel/apparmor_restrict_unprivileged_userns"
            if switch.read_text(encoding="ascii").strip() == "0":
                return False
            profiles = [p for p in (self.root / "etc/apparmor.d").iterdir() if p.is_file()]
            return not any(
                "/usr/bin/rootlesskit" in p.read_text(encoding="utf-8", errors="replace")
                for p in profiles
                if p.name != "gpulab-rootlesskit"
            )
        return False

    def guard(self) -> None:
        """What unattended-upgrades may not touch, there or not there as asked for."""
        if self.module.params["guard"]:
            self.put(UNATTENDED, UNATTENDED_TEXT)
        else:
            self.take_away(UNATTENDED)

    def put(self, name: str, text: str) -> bool:
        """Write a file when it differs; says whether it did."""
        path = self.root / name
        before = path.read_text(encoding="utf-8") if path.is_file() else ""
        if before == text:
            return False
        self.journal.write(path, text.encode(), 0o644)
        self.actions.append(f"wrote {path}")
        self.diff.append({"before_header": str(path), "after_header": str(path), "before": before, "after": text})
        return True

    def proxy(self) -> None:
        """apt's way out and the authorities that the host trusts: as they are to be, or gone."""
        proxy = proxy_from(self.module.params["proxy"])
        wanted, present = wanted_files(proxy), present_files(self.root)
        changed = [name for name in sorted({*wanted, *present}) if wanted.get(name) != present.get(name)]
        for name in changed:
            path, before, after = self.root / name, present.get(name, ""), wanted.get(name, "")
            if after:
                self.journal.write(path, after.encode(), mode_of(after))
            elif not self.module.check_mode:
                path.unlink()
            self.actions.append(f"{'wrote' if after else 'removed'} {path}")
            shown = {"before": redact(before), "after": redact(after)}
            self.diff.append({"before_header": str(path), "after_header": str(path), **shown})
        # Asked of the store itself: a run that was killed may have left it behind its files.
        if any(name.startswith(AUTHORITIES) for name in changed) or not trusted(self.root, wanted):
            self.trust()

    def trust(self) -> None:
        """Have the trust store made anew; the same tool makes it what it was when our certificates are gone."""
        if not Path(UPDATE).exists():
            raise FleetError("CA_TOOL_MISSING", f"{UPDATE} is not there")
        # Without --fresh the links of certificates that are gone stay.
        self.act("made the trust store anew", [UPDATE, "--fresh"])

    def take_away(self, name: str) -> None:
        """Remove a file of ours."""
        path = self.root / name
        if not path.exists():
            return
        self.actions.append(f"removed {path}")
        before = path.read_text(encoding="utf-8")
        self.diff.append({"before_header": str(path), "after_header": str(path), "before": before, "after": ""})
        if not self.module.check_mode:
            path.unlink()
            self.journal.drop(FILE, str(path))

    def act(self, action: str, command: list[str]) -> None:
        if not self.module.check_mode:
            self.module.run_command(command, check_rc=True)
        self.actions.append(action)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "rootful": {"type": "str", "choices": ["refuse", "keep", "remove"], "default": "refuse"},
            "guard": {"type": "bool", "default": True},
            "proxy": OPTION,
            "users": {"type": "list", "elements": "str", "default": []},
            "may_create": {"type": "list", "elements": "str", "default": []},
            "docker_host": {"type": "bool", "default": False},
            "command": {
                "type": "dict",
                "options": {"sha256": {"type": "str", "required": True}, "file": {"type": "path"}},
            },
        },
        supports_check_mode=True,
    )
    keep_secret(module)
    try:
        result = Host(module).converge()
        if result["was_rootful"]:
            found = finding("ROOTFUL_ENGINE_ENDED", result["was_rootful"])
            module.warn(message(found))
    except FleetError as error:
        found = from_error(error, user=error.detail)
        module.fail_json(msg=message(found), finding=found)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
