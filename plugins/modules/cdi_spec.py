#!/usr/bin/python
# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""CDI specs for the rootless engines of a host, now and after every change of driver and toolkit."""

from __future__ import annotations

DOCUMENTATION = r"""
module: cdi_spec
short_description: One CDI spec a user, kept true at boot and on driver, toolkit and MIG changes
version_added: 0.1.0
description:
  - Writes C(/var/lib/gpulab/cdi/USER/nvidia.json) for each user from what C(nvidia-ctk) says, in a way that a running
    engine always notices. The folder is what C(cdi-spec-dirs) in the user's C(daemon.json) has to name; it is for this
    spec alone.
  - Installs a program and system units that do the same at boot (before the users' engines start), when the driver or
    the toolkit is replaced, and within about a minute when MIG instances change or the driver is loaded late. They
    also start containers again that an engine gave up on because their GPU could not be resolved at that moment.
  - A user with a list of GPUs gets these and no other. Indices keep the meaning they have on the host (in
    C(nvidia-smi)), they are not counted anew; V(all) means all of that user's GPUs. Indices in O(users) are turned into
    UUIDs when they are written down, so that a reboot that changes the order does not change who has what.
  - Sockets of the driver's services (C(nvidia-persistenced), C(nvidia-fabricmanager)) are left out of the specs. A
    container that has one no longer starts when the service is stopped, and no CUDA program needs them.
  - A spec with holes is not installed; the one before stays, and the finding says what is missing.
options:
  users:
    description: >-
      Users and their GPUs. V(all), V(none), or a list of UUIDs, indices and names of MIG instances. A user who is not
      named, or has none, gets no spec, and a spec from before is removed.
    type: dict
    default: {}
  vendor_refresh:
    description: >-
      The toolkit's own C(nvidia-cdi-refresh) units, which only serve a rootful engine. V(masked) keeps them from
      running and removes the spec that they wrote to C(/run/cdi), V(kept) undoes that.
    type: str
    choices: [masked, kept]
    default: masked
  shares:
    description:
      - V(enforced) closes the GPUs' device nodes to everybody but root, the driver's own services and the users whose
        spec names the node, now, at boot and whenever the specs are made anew, and tells the driver to leave the nodes
        alone (C(NVreg_ModifyDeviceFiles=0), from its next start on). V(cooperative) undoes that.
    type: str
    choices: [cooperative, enforced]
    default: cooperative
  container_ids:
    description:
      - With O(shares=enforced), ids of users in containers who may open the GPUs of the user by whose name they stand.
        The containers' root always may.
    type: dict
    default: {}
  persistence:
    description: >-
      Whether C(nvidia-persistenced) is enabled where it is installed and disabled, so that GPUs stay initialised. V(false)
      disables it again where this module had enabled it.
    type: bool
    default: true
  state:
    description: V(absent) removes all that this module makes, and unmasks the toolkit's own units.
    type: str
    choices: [present, absent]
    default: present
extends_documentation_fragment: [gpulab.fleet.platform.systemd]
attributes:
  check_mode:
    description: >-
      Predicts without writing. Before the toolkit is installed the content of the specs is not known; that they would
      be written is predicted.
    support: full
  diff_mode:
    description: Shows settings and units; of a spec what it gives a container, of the program its checksum.
    support: full
notes:
  - Must run as root.
  - On a host without a GPU nothing is done. A GPU that is added later is served by the next run.
author:
  - gpulab.fleet contributors
"""

EXAMPLES = r"""
- name: Describe the GPUs to the users' engines
  gpulab.fleet.cdi_spec:
    users:
      mara: all
      guest: [GPU-12345678-1234-1234-1234-123456780001]

- name: Take it all away again
  gpulab.fleet.cdi_spec:
    state: absent
"""

RETURN = r"""
specs:
  description: The spec of each user, and the device names that it defines for C(nvidia.com/gpu).
  type: dict
  returned: success
  sample:
    mara:
      path: /var/lib/gpulab/cdi/mara/nvidia.json
      devices: ["0", "1", GPU-12345678-1234-1234-1234-123456780000, GPU-12345678-1234-1234-1234-123456780001, all]
actions:
  description: What was done, or in check mode would be, one sentence each.
  type: list
  elements: str
  returned: always
  sample: [write /etc/gpulab/cdi.json, enable gpulab-cdi.path]
gpu_present:
  description: Whether this host has a GPU; without one nothing is done.
  type: bool
  returned: success
findings:
  description: What is wrong with driver, toolkit or settings, errors first.
  type: list
  elements: dict
  returned: always
finding:
  description: >-
    The first error, with cause and remedy. Codes are TOOLKIT_MISSING, TOOLKIT_DAMAGED, DRIVER_NOT_LOADED,
    NVML_LIBRARY_MISMATCH, NVML_LIBRARY_NOT_FOUND, GPU_NODES_MISSING, UVM_MISSING, GPU_UNKNOWN, CDI_SPEC_INCOMPLETE,
    CDI_SPEC_CONFLICT, CDI_GENERATION_FAILED and CDI_SETTINGS_INVALID.
  type: dict
  returned: failure
"""

import hashlib
import inspect
import json
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpulab.fleet.plugins.module_utils import _cdi, _gpu_shares, _gpu_shares_host
from ansible_collections.gpulab.fleet.plugins.module_utils._apt import QUERY_FORMAT, parse_dpkg
from ansible_collections.gpulab.fleet.plugins.module_utils._cdi_units import (
    ENABLED,
    RUNNING,
    SYSTEM_UNITS,
    USER_UNITS,
    VENDOR_REFRESH,
)
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._findings import finding, message, sort_findings
from ansible_collections.gpulab.fleet.plugins.module_utils._gpu_presence import gpu_presence
from ansible_collections.gpulab.fleet.plugins.module_utils._journal import PACKAGE as JOURNAL_PACKAGE
from ansible_collections.gpulab.fleet.plugins.module_utils._journal import TREE, UNIT, Journal
from ansible_collections.gpulab.fleet.plugins.module_utils._persistence import DAEMON, persistence_steps
from ansible_collections.gpulab.fleet.plugins.module_utils._subid import parse as parse_ranges
from ansible_collections.gpulab.fleet.plugins.module_utils._userenv import account

Units = dict[str, dict[str, str]]

PACKAGE = "nvidia-container-toolkit-base"
VENDOR_SPEC = Path("/run/cdi/nvidia.yaml")  # what the toolkit's own units write
OUR_UNITS = (*ENABLED, "gpulab-cdi-poll.service")


def settings_text(users: Mapping[str, _cdi.Gpus]) -> str:
    return json.dumps({"users": dict(sorted(users.items()))}, indent=2) + "\n"


def with_uuids(users: Mapping[str, _cdi.Gpus], known: Mapping[str, str]) -> dict[str, _cdi.Gpus]:
    """The users' lists by UUID; raises for the first GPU that is not there, before anything is written."""
    settled: dict[str, _cdi.Gpus] = {}
    for user, gpus in users.items():
        uuids, missing = _cdi.resolve(user, gpus, known)
        if missing:
            raise _cdi.Trouble(missing[0].code, missing[0].evidence, **missing[0].data)
        settled[user] = uuids or "all"
    return settled


def parse_show(text: str) -> Units:
    """What `systemctl show` prints for several units: blocks of KEY=VALUE, by Id."""
    units = {}
    for block in text.strip().split("\n\n"):
        unit = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        if "Id" in unit:
            units[unit["Id"]] = unit
    return units


def unit_steps(units: Units, vendor_refresh: str) -> list[list[str]]:
    """The systemctl calls that bring these units to where they should be."""

    def state(name: str, key: str) -> str:
        return units.get(name, {}).get(key, "")

    steps = []
    vendor_masked = [name for name in VENDOR_REFRESH if state(name, "UnitFileState") == "masked"]
    if vendor_refresh == "masked" and len(vendor_masked) < len(VENDOR_REFRESH):
        steps.append(["mask", "--now", *(name for name in VENDOR_REFRESH if name not in vendor_masked)])
    if vendor_refresh == "kept" and vendor_masked:
        steps += [["unmask", *vendor_masked], ["enable", "--now", *vendor_masked]]
    disabled = [name for name in ENABLED if state(name, "UnitFileState") != "enabled"]
    if disabled:
        steps.append(["enable", *disabled])
    stopped = [name for name in RUNNING if state(name, "ActiveState") != "active"]
    if stopped:
        steps.append(["start", *stopped])
    return steps


class CdiSpec:
    """Reads files, units and GPUs, compares, and acts on what differs."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.check: bool = module.check_mode
        self.journal = Journal(self.check)
        self.actions: list[str] = []
        self.diff: list[dict[str, str]] = []
        self.findings: list[_cdi.Finding] = []
        self.specs: dict[str, dict[str, Any]] = {}

    # --- present ---------------------------------------------------------------------------------

    def present(self) -> None:
        root = Path("/")
        users = _cdi.parse_users(self.module.params["users"])
        enforced = self.module.params["shares"] == "enforced"
        generator = _cdi.Generator(root, check=self.check, closed=enforced)
        installed = generator.tools.has("nvidia-ctk")
        if not installed:
            self.without_toolkit()
        if installed and users:
            users = self.settle(users, generator)
        openers = self.openers(users) if enforced else {}
        files = {
            _cdi.PROGRAM: inspect.getsource(_cdi),
            _cdi.SETTINGS: settings_text(users),
            **SYSTEM_UNITS,
            **USER_UNITS,
            **(_gpu_shares_host.files(openers, inspect.getsource(_gpu_shares)) if enforced else {}),
        }
        if not enforced:
            self.open_nodes()
        written = [path for path, text in files.items() if self.write(path, text)]
        self.reload(written, users)
        if written:
            for folder in (_cdi.SPECS, _cdi.STATE):
                self.journal.add(TREE, folder)
            for name in OUR_UNITS:
                self.journal.add(UNIT, name, "")
        units = self.units()
        self.persistence(units)
        for step in unit_steps(units, self.module.params["vendor_refresh"]):
            if step[0] == "mask":
                for name in step[2:]:
                    # Units that came with the package that we brought were not there before.
                    ours = PACKAGE in self.journal.entries(JOURNAL_PACKAGE)
                    self.journal.add(UNIT, name, "" if ours else units.get(name, {}).get("UnitFileState", ""))
            self.systemctl(*step)
            if step[0] == "mask" and VENDOR_SPEC.exists():
                self.remove(VENDOR_SPEC)  # nothing keeps it true from now on
        if installed:
            self.take(self.generate(generator, users), sorted(users))
        else:
            self.foretell(users)
        if enforced:
            self.close_nodes(openers)

    def persistence(self, units: Units) -> None:
        unit = units.get(DAEMON, {})
        ours = DAEMON in self.journal.entries(UNIT)
        for step in persistence_steps(unit, self.module.params["persistence"], ours):
            if step[0] == "enable":
                self.journal.add(UNIT, DAEMON, unit.get("UnitFileState", ""))
            self.systemctl(*step)
            if step[0] == "disable":
                self.journal.drop(UNIT, DAEMON)

    def without_toolkit(self) -> None:
        """Raise, unless this is a prediction and the package is still to come."""
        # Exits 1 when dpkg does not know the name.
        known = parse_dpkg(self.module.run_command(["dpkg-query", "-W", "-f", QUERY_FORMAT, PACKAGE])[1]).get(PACKAGE)
        if known and known.whole:
            evidence = f"{PACKAGE} {known.version} is installed, but no nvidia-ctk on {_cdi.TOOL_PATH}"
            raise _cdi.Trouble("TOOLKIT_DAMAGED", evidence)
        if not self.check:
            raise _cdi.Trouble("TOOLKIT_MISSING", f"no nvidia-ctk on {_cdi.TOOL_PATH}")

    def settle(self, users: dict[str, _cdi.Gpus], generator: _cdi.Generator) -> dict[str, _cdi.Gpus]:
        """The users by UUID where the GPUs can be asked; a driver that is down is reported by generate."""
        generator.prepare()
        try:
            known = _cdi.known_gpus(generator.spec())
        except _cdi.Trouble:
            return users
        return with_uuids(users, known)

    def generate(self, generator: _cdi.Generator, users: Mapping[str, _cdi.Gpus]) -> _cdi.Report:
        if self.check:
            return generator.generate(users)
        with _cdi.only_one(generator.root):
            return _cdi.refresh(generator, users)

    def take(self, report: _cdi.Report, users: list[str]) -> None:
        self.actions += [f"write {path}" for path in report.written]
        self.actions += [f"remove {path}" for path in report.removed]
        for change in report.diffs:
            self.show(change["path"], change["before"], change["after"])
        self.specs = report.specs
        self.findings += report.findings
        if report.changed and not self.check:
            self.actions += _cdi.revive_all(users, _cdi.REVIVE_SECONDS)

    def foretell(self, users: Mapping[str, _cdi.Gpus]) -> None:
        """What the first run will write, as far as it can be known without the toolkit."""
        for user in users:
            path = f"{_cdi.SPECS}/{user}/{_cdi.SPEC_NAME}"
            self.specs[user] = {"path": path, "devices": []}
            if not Path(path).exists():
                self.actions.append(f"write {path}")
                self.show(path, "", "(what nvidia-ctk will say)\n")

    # --- shares ----------------------------------------------------------------------------------

    def close_nodes(self, openers: Mapping[str, list[int]]) -> None:
        """Each node for those whose spec names it; after the specs, which say who that is."""
        root = Path("/")
        self.actions += [f"close {node}" for node in _gpu_shares.differing(_gpu_shares.plan(root, openers))]
        if not self.check:
            _gpu_shares.settle(root)
        if not _gpu_shares.left_alone(root):
            seen = "ModifyDeviceFiles: 1 in /proc/driver/nvidia/params"
            self.findings.append(_cdi.Finding("GPU_SHARES_PENDING", seen))

    def open_nodes(self) -> None:
        files = [path for path in _gpu_shares_host.files({}, "") if Path(path).exists()]
        if not files:
            return
        for path in files:
            self.remove(Path(path))
            folder = Path(path).parent
            if not self.check and folder.name in DROP_IN_FOLDERS and not any(folder.iterdir()):
                folder.rmdir()
        self.systemctl("daemon-reload")
        self.actions += [f"open {node}" for node in _gpu_shares.differing(_gpu_shares.open_again(Path("/")))]
        if not self.check:
            _gpu_shares.release(Path("/"))

    def openers(self, users: Mapping[str, _cdi.Gpus]) -> dict[str, list[int]]:
        """The host's uids that act for each user: their own, and those of the container ids that are named."""
        ranges = parse_ranges(_cdi.read_or_empty(Path("/etc/subuid")), "/etc/subuid")
        openers = {}
        for name in users:
            try:
                uid = account(name).uid
            except FleetError:
                continue  # an account that is still to come
            wanted = [0, *(self.module.params["container_ids"].get(name) or [])]
            ids = [_gpu_shares_host.on_the_host(int(one), ranges, name, uid) for one in wanted]
            openers[name] = [one for one in ids if one is not None]
        return openers

    # --- absent ----------------------------------------------------------------------------------

    def absent(self) -> None:
        self.open_nodes()
        units = self.units()
        ours = [name for name in OUR_UNITS if units.get(name, {}).get("LoadState") == "loaded"]
        if ours:
            self.systemctl("disable", "--now", *ours)
        named = self.named_users()
        files = [path for path in (*SYSTEM_UNITS, *USER_UNITS, _cdi.PROGRAM, _cdi.SETTINGS) if Path(path).exists()]
        for path in files:
            self.remove(Path(path))
        self.reload(files, named)
        masked = [name for name in VENDOR_REFRESH if units.get(name, {}).get("UnitFileState") == "masked"]
        if masked:
            self.systemctl("unmask", *masked)
        specs = Path(_cdi.SPECS)
        if specs.exists():
            self.actions.append(f"remove {specs}")
            if not self.check:
                shutil.rmtree(specs)
        if not self.check:
            shutil.rmtree(_cdi.STATE, ignore_errors=True)
            for folder in (*(Path(path).parent for path in files), specs.parent):
                if folder.is_dir() and not any(folder.iterdir()) and folder.name in ("gpulab", *DROP_IN_FOLDERS):
                    folder.rmdir()

    def named_users(self) -> list[str]:
        try:
            return sorted(_cdi.load_settings(Path("/")))
        except _cdi.Trouble:
            return []

    # --- both ------------------------------------------------------------------------------------

    def write(self, path: str, text: str) -> bool:
        file, mode = Path(path), 0o755 if path == _cdi.PROGRAM else 0o644
        before = _cdi.read_or_empty(file)
        if before == text and file.stat().st_mode & 0o7777 == mode:
            return False
        self.actions.append(f"write {path}")
        self.show(path, before, text)
        self.journal.write(file, text.encode(), mode)
        return True

    def remove(self, path: Path) -> None:
        self.actions.append(f"remove {path}")
        self.show(str(path), _cdi.read_or_empty(path), "")
        if not self.check:
            path.unlink()

    def show(self, path: str, before: str, after: str) -> None:
        if path in (_cdi.PROGRAM, _gpu_shares.PROGRAM):  # a program's text is no help to a reader of a diff
            before, after = checksum(before), checksum(after)
        if path.endswith(f"/{_cdi.SPEC_NAME}"):
            before, after = outline(before), outline(after)
        self.diff.append({"before_header": path, "after_header": path, "before": before, "after": after})

    def reload(self, files: Iterable[str], users: Iterable[str]) -> None:
        """Have systemd, and the users' managers that are up, read units that were written or removed."""
        if any(path in SYSTEM_UNITS or path in _gpu_shares_host.DROP_INS for path in files):
            self.systemctl("daemon-reload")
        if any(path in USER_UNITS for path in files):
            for user in users:
                self.reload_user(user)

    def reload_user(self, name: str) -> None:
        try:
            user = account(name)
        except FleetError:
            return  # named for later: an account that is still to come
        if self.check or not (user.runtime_dir / "bus").exists():
            return
        done = subprocess.run(
            ["systemctl", "--user", "daemon-reload"],
            user=user.uid,
            group=user.gid,
            extra_groups=[],
            env=user.environment(),
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode != 0:
            self.module.warn(f"the service manager of {name} did not reload: {done.stderr.strip()}")

    def units(self) -> Units:
        names = [*OUR_UNITS, *VENDOR_REFRESH, DAEMON]
        properties = "Id,LoadState,UnitFileState,ActiveState"
        rc, out, err = self.module.run_command(["systemctl", "show", "-p", properties, *names])
        if rc != 0:
            self.module.fail_json(msg=f"systemctl show: {err.strip()}", actions=self.actions)
        return parse_show(out)

    def systemctl(self, *arguments: str) -> None:
        if arguments[0] != "daemon-reload":
            self.actions.append(" ".join(arguments))
        if self.check:
            return
        rc, out, err = self.module.run_command(["systemctl", *arguments])
        if rc != 0:
            self.module.fail_json(msg=f"systemctl {' '.join(arguments)}: {(err or out).strip()}", actions=self.actions)

    def result(self) -> dict[str, Any]:
        found = [finding(each.code, each.evidence, **each.data) for each in self.findings]
        return {
            "changed": bool(self.actions),
            "actions": self.actions,
            "specs": self.specs,
            "findings": sort_findings(found),
            "diff": self.diff,
        }


DROP_IN_FOLDERS = ("user@.service.d", "docker.service.d", "gpulab-cdi.service.d", "gpulab-cdi-poll.service.d")


def outline(text: str) -> str:
    """What a spec gives a container, a line each: the file itself is hundreds of lines. No spec is shown as it is."""
    try:
        spec = json.loads(text)
        shared = spec.get("containerEdits", {})
        lines = [
            f"device {device['name']}: "
            + " ".join(node["path"] for node in device["containerEdits"].get("deviceNodes", []))
            for device in spec["devices"]
        ]
        lines += [f"node {node['path']}" for node in shared.get("deviceNodes", [])]
        lines += [f"mount {mount['containerPath']}" for mount in shared.get("mounts", [])]
        lines += [f"hook {' '.join(hook.get('args', [])[1:2])}" for hook in shared.get("hooks", [])]
    except (ValueError, KeyError, TypeError, AttributeError):
        return text
    return "".join(f"{line}\n" for line in lines) + checksum(text)


def checksum(text: str) -> str:
    return f"sha256 {hashlib.sha256(text.encode()).hexdigest()}\n" if text else ""


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "users": {"type": "dict", "default": {}},
            "vendor_refresh": {"type": "str", "choices": ["masked", "kept"], "default": "masked"},
            "shares": {"type": "str", "choices": ["cooperative", "enforced"], "default": "cooperative"},
            "container_ids": {"type": "dict", "default": {}},
            "persistence": {"type": "bool", "default": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        supports_check_mode=True,
    )
    present = module.params["state"] == "present"
    gpu = gpu_presence()["present"]
    if present and not gpu:
        module.exit_json(changed=False, gpu_present=False, specs={}, actions=[], findings=[], msg="no GPU on this host")
    spec = CdiSpec(module)
    try:
        if present:
            spec.present()
        else:
            spec.absent()
    except _cdi.Trouble as trouble:
        spec.findings.append(trouble.finding)
    result = spec.result()
    errors = [found for found in result["findings"] if found["severity"] == "error"]
    if errors:
        module.fail_json(msg=message(errors[0]), finding=errors[0], **result)
    for found in result["findings"]:
        if found["code"] == "GPU_SHARES_PENDING":
            module.warn(message(found))
    module.exit_json(gpu_present=gpu, **result)


if __name__ == "__main__":
    main()
