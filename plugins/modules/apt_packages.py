#!/usr/bin/python
# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Packages in the versions that the inventory names, and a reason when that cannot be."""

from __future__ import annotations

DOCUMENTATION = r"""
module: apt_packages
short_description: Install packages in wanted versions with one apt call
version_added: 0.1.0
description:
  - Asks dpkg first. When everything is there in the wanted version, apt is not started at all.
  - Otherwise refreshes the index, judges by what is then offered (C(apt-get update) exits 0 when a mirror cannot be
    reached), and installs, upgrades and removes in one C(apt-get) call without recommended packages.
  - A package on hold is respected, a downgrade happens only when allowed.
  - A dpkg run that was interrupted before is completed first.
options:
  packages:
    description: The packages, in any order.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the package.
        type: str
        required: true
      version:
        description: >-
          The publisher's version (C(28.5.2)) or a full Debian version. Empty takes the installed one, else apt's
          candidate.
        type: str
        default: ""
      minimum:
        description: Oldest publisher's version that is accepted, whatever is installed or offered.
        type: str
        default: ""
  conflicts:
    description: Packages that must not be installed beside them.
    type: list
    elements: str
    default: []
  on_conflict:
    description: Remove such packages in the same call (their data stays), or refuse.
    type: str
    choices: [remove, refuse]
    default: remove
  keep_installed:
    description: Leave packages that are installed at their version, and only add missing ones.
    type: bool
    default: false
  allow_downgrade:
    description: Whether an older version than the installed one may be put in its place.
    type: bool
    default: false
  lock_timeout:
    description: Seconds to wait for another program that holds the package manager's lock.
    type: int
    default: 120
attributes:
  check_mode:
    description: >-
      Predicts from the index as it is. A version that this index does not offer is predicted as well, with a warning,
      because a source that is not there yet may bring it.
    support: full
  diff_mode:
    description: Shows versions before and after.
    support: full
  platform:
    description: Debian and Ubuntu.
    support: full
    platforms: debian
author:
  - gpulab.fleet contributors
"""

EXAMPLES = r"""
- name: Install the engine
  gpulab.fleet.apt_packages:
    packages:
      - {name: docker-ce, version: "28.5.2", minimum: "26.1"}
      - {name: uidmap}
    conflicts: [docker.io]
"""

RETURN = r"""
versions:
  description: Versions of the packages after the call (as predicted, in check mode).
  type: dict
  returned: success
  sample: {docker-ce: "5:28.5.2-1~ubuntu.22.04~jammy"}
upgraded:
  description: Packages whose version changes, new ones not counted.
  type: list
  elements: str
  returned: success
removed:
  description: Conflicting packages that were removed.
  type: list
  elements: str
  returned: success
finding:
  description: >-
    Code, cause and remedy of a failure. Codes are PACKAGE_UNAVAILABLE, PACKAGE_TOO_OLD, PACKAGE_HELD,
    PACKAGE_DOWNGRADE, PACKAGE_CONFLICT, PACKAGE_INSTALL_FAILED and APT_LOCKED.
  type: dict
  returned: failure
"""

import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpulab.fleet.plugins.module_utils._apt import (
    QUERY_FORMAT,
    Installed,
    Wanted,
    below,
    choose,
    complaints,
    new_packages,
    outstanding,
    parse_dpkg,
    parse_policy,
    too_old,
    wanted_from,
)
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._findings import from_error, message
from ansible_collections.gpulab.fleet.plugins.module_utils._journal import PACKAGE, REMOVED, UPGRADED, Journal

ENVIRONMENT = {
    "DEBIAN_FRONTEND": "noninteractive",
    "LC_ALL": "C",
    "NEEDRESTART_SUSPEND": "1",  # restarts of services are for the roles to decide
}


class Packages:
    """Reads dpkg, compares, and calls apt when something differs."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.p: dict[str, Any] = module.params
        self.wanted = wanted_from(self.p["packages"])
        self.names = [w.name for w in self.wanted]
        self.update_output = ""
        self.journal = Journal(module.check_mode)

    def converge(self) -> dict[str, Any]:
        for package in self.wanted:
            if package.version and below(package.version, package.minimum):
                raise too_old(package, f"{package.version} is asked for")
        installed = self.installed()
        todo = outstanding(self.wanted, installed, self.p["keep_installed"])
        remove = [name for name in self.p["conflicts"] if name in installed]
        if remove and self.p["on_conflict"] == "refuse":
            raise FleetError("PACKAGE_CONFLICT", f"installed: {', '.join(remove)}")
        before = {n: i.version for n, i in installed.items()}
        after = dict(before)
        if todo or remove:
            targets = self.targets(todo, installed)
            if self.module.check_mode:
                after.update(targets)
                after = {n: v for n, v in after.items() if n not in remove}
            else:
                self.install(targets, remove, installed)
                after = {n: i.version for n, i in self.installed().items()}
        return {
            # A package that was only repaired has the same version before and after.
            "changed": bool(todo or remove),
            "versions": {n: after[n] for n in self.names if n in after},
            "upgraded": [n for n in self.names if n in before and n in after and before[n] != after[n]],
            "removed": remove,
            "diff": {"before": listing(before), "after": listing(after)},
        }

    def installed(self) -> dict[str, Installed]:
        names = [*self.names, *self.p["conflicts"]]
        # Exits 1 when a name is unknown, and still prints the others.
        return parse_dpkg(self.module.run_command(["dpkg-query", "-W", "-f", QUERY_FORMAT, *names])[1])

    def targets(self, todo: list[Wanted], installed: dict[str, Installed]) -> dict[str, str]:
        """The full version to install for each package."""
        if todo and not self.module.check_mode:
            self.update()
        rc, out, err = self.module.run_command(
            ["apt-cache", "policy", *[w.name for w in todo]], environ_update=ENVIRONMENT
        )
        if rc != 0:
            raise FleetError("PACKAGE_INSTALL_FAILED", "; ".join(complaints(err)) or err)
        offers = parse_policy(out)
        targets = {}
        unseen = []
        for package in todo:
            offer = offers.get(package.name)
            version = choose(package, offer) if offer else ""
            if not version:
                if not self.module.check_mode:
                    self.unavailable(package, offer.versions if offer else [], offer.sources if offer else [])
                targets[package.name] = package.version or "candidate"
                unseen.append(f"{package.name} {package.version}".strip())
                continue
            present = installed.get(package.name)
            if present and not self.p["allow_downgrade"] and self.older(version, present.version):
                raise FleetError("PACKAGE_DOWNGRADE", f"{package.name} {present.version} installed, {version} wanted")
            targets[package.name] = version
        if unseen:
            self.module.warn(f"not offered by the sources as they are now: {', '.join(unseen)}")
        return targets

    def older(self, version: str, than: str) -> bool:
        return self.module.run_command(["dpkg", "--compare-versions", version, "lt", than])[0] == 0

    def unavailable(self, package: Wanted, versions: list[str], sources: list[str]) -> None:
        evidence = (
            f"{package.name}: wanted {package.version or 'any version'}; offered: {', '.join(versions) or 'none'}"
            f" from {', '.join(dict.fromkeys(sources)) or 'no source'}"
        )
        trouble = complaints(self.update_output)
        if trouble:
            evidence += f"; apt-get update said: {' '.join(trouble)}"
        found = from_error(FleetError("PACKAGE_UNAVAILABLE", evidence), package=package.name)
        self.module.fail_json(msg=message(found), finding=found)

    def update(self) -> None:
        # The lock on the index is not covered by apt's own waiting, so wait here.
        deadline = time.monotonic() + self.p["lock_timeout"]
        while True:
            _rc, out, err = self.apt("update")
            self.update_output = out + err
            if "Could not get lock" not in err or time.monotonic() > deadline:
                return
            time.sleep(2)

    def install(self, targets: dict[str, str], remove: list[str], installed: dict[str, Installed]) -> None:
        options = ["--allow-downgrades"] if self.p["allow_downgrade"] else []
        # A package that dpkg wants to see again is not reinstalled by naming its version alone.
        if any(n in installed and not installed[n].whole for n in targets):
            options.append("--reinstall")
        arguments = [*options, *[f"{n}={v}" for n, v in targets.items()], *[f"{n}-" for n in remove]]
        self.record(self.refuse_removals(arguments, remove), targets, remove, installed)
        rc, out, err = self.apt("install", *arguments)
        if rc != 0 and "dpkg was interrupted" in err:
            self.module.run_command(["dpkg", "--configure", "-a", "--force-confdef"], environ_update=ENVIRONMENT)
            rc, out, err = self.apt("install", *arguments)
        if rc != 0:
            code = "APT_LOCKED" if "Unable to acquire the dpkg frontend lock" in err else "PACKAGE_INSTALL_FAILED"
            raise FleetError(code, "; ".join(complaints(err) or [err.strip()[-500:] or out.strip()[-500:]]))

    def refuse_removals(self, arguments: list[str], remove: list[str]) -> str:
        """apt removes whatever conflicts with what it installs; only what was named may go. What it would do."""
        out = self.apt("install", "--simulate", *arguments)[1]
        others = sorted({line.split()[1] for line in out.splitlines() if line.startswith("Remv ")} - set(remove))
        if others:
            raise FleetError("PACKAGE_CONFLICT", f"apt would also remove {', '.join(others)}")
        return out

    def record(
        self, simulated: str, targets: dict[str, str], remove: list[str], installed: dict[str, Installed]
    ) -> None:
        """Write down what is about to change: what comes, with all that it pulls in, and what goes."""
        new = new_packages(simulated)
        query = self.module.run_command(["dpkg-query", "-W", "-f", QUERY_FORMAT, *new])[1] if new else ""
        left = {line.split("\t")[0] for line in query.splitlines() if line.split("\t")[1][1:2] == "c"}
        for name in new:
            self.journal.add(PACKAGE, name, "config" if name in left else None)
        ours = self.journal.entries(PACKAGE)
        for name in targets:
            if name in installed and name not in ours and installed[name].version != targets[name]:
                self.journal.add(UPGRADED, name, installed[name].version)
        for name in remove:
            if name not in ours:
                self.journal.add(REMOVED, name, installed[name].version)

    def apt(self, command: str, *arguments: str) -> tuple[int, str, str]:
        settings = [f"DPkg::Lock::Timeout={self.p['lock_timeout']}", "APT::Install-Recommends=false"]
        settings += ["Dpkg::Options::=--force-confdef", "Dpkg::Options::=--force-confold"]
        argv = ["apt-get", "-q", "-y", *[part for s in settings for part in ("-o", s)], command, *arguments]
        result: tuple[int, str, str] = self.module.run_command(argv, environ_update=ENVIRONMENT)
        return result


def listing(versions: dict[str, str]) -> str:
    return "".join(f"{name} {version}\n" for name, version in sorted(versions.items()))


def main() -> None:
    package = {
        "name": {"type": "str", "required": True},
        "version": {"type": "str", "default": ""},
        "minimum": {"type": "str", "default": ""},
    }
    module = AnsibleModule(
        argument_spec={
            "packages": {"type": "list", "elements": "dict", "required": True, "options": package},
            "conflicts": {"type": "list", "elements": "str", "default": []},
            "on_conflict": {"type": "str", "choices": ["remove", "refuse"], "default": "remove"},
            "keep_installed": {"type": "bool", "default": False},
            "allow_downgrade": {"type": "bool", "default": False},
            "lock_timeout": {"type": "int", "default": 120},
        },
        supports_check_mode=True,
    )
    try:
        result = Packages(module).converge()
    except FleetError as error:
        found = from_error(error, package=error.detail.split()[0].rstrip(":"))
        module.fail_json(msg=message(found), finding=found)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
