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
  - A package that somebody put on hold is respected, a downgrade happens only when allowed.
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
          candidate. V(latest) takes apt's candidate each time, which means asking the sources each time; it never
          goes back to an older version than the installed one.
        type: str
        default: ""
      minimum:
        description: Oldest publisher's version that is accepted, whatever is installed or offered.
        type: str
        default: ""
      settings:
        description: >-
          Files of the package that may be there before it is: written by hand, or left by another package that has the
          same. They are kept in the host's journal, because purging the package takes them along.
        type: list
        elements: path
        default: []
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
  held:
    description:
      - Packages to have on hold (C(apt-mark hold)) where they are installed, so that unattended-upgrades and C(apt
        upgrade) leave them alone. They need not be in O(packages).
      - A hold that this module set is lifted for its own changes and set again; one that somebody else set is
        respected.
    type: list
    elements: str
    default: []
  released:
    description: Packages from which a hold that this module set is taken away.
    type: list
    elements: str
    default: []
  accept_versions:
    description: Versions below C(minimum) that are accepted nevertheless, each by name.
    type: list
    elements: str
    default: []
  programs:
    description: >-
      Packages whose programs a running engine holds. Replaced under it, no container can be started until it is
      restarted, so O(when_busy) decides about them.
    type: list
    elements: str
    default: []
  users:
    description: Users whose containers count as work.
    type: list
    elements: str
    default: []
  when_busy:
    description:
      - What to do when one of O(programs) would be replaced while containers of O(users) are running.
      - V(skip) fetches the packages and installs none of them (RV(pending)), V(wait) waits up to O(busy_timeout) for the
        containers to end and then does the same, V(proceed) installs them.
    type: str
    choices: [skip, wait, proceed]
    default: proceed
  busy_timeout:
    description: Seconds to wait for running containers to end.
    type: int
    default: 3600
  stage_only:
    description: Refresh the index, fetch what would be installed, and change nothing. RV(pending) says what it is.
    type: bool
    default: false
  lock_timeout:
    description: Seconds to wait for another program that holds the package manager's lock.
    type: int
    default: 120
extends_documentation_fragment: [gpulab.fleet.platform]
attributes:
  check_mode:
    description: >-
      Predicts from the index as it is. A version that this index does not offer is predicted as well, with a warning,
      because a source that is not there yet may bring it.
    support: full
  diff_mode:
    description: Shows versions before and after.
    support: full
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
held:
  description: Packages that were put on hold.
  type: list
  elements: str
  returned: success
released:
  description: Packages whose hold was taken away.
  type: list
  elements: str
  returned: success
pending:
  description: Packages that were fetched and not installed, with the version that is installed and the one to come.
  type: dict
  returned: success
  sample: {docker-ce: {from: "5:26.1.5-1~ubuntu.22.04~jammy", to: "5:28.5.2-1~ubuntu.22.04~jammy"}}
previous:
  description: What O(packages) has to say to have the versions back that are there before RV(pending) is installed.
  type: list
  elements: dict
  returned: success
  sample: [{name: docker-ce, version: "5:26.1.5-1~ubuntu.22.04~jammy"}]
steps:
  description: RV(pending) in words.
  type: list
  elements: str
  returned: success
findings:
  description: Warnings (ENGINE_UPGRADE_PENDING, APT_INDEX_OLD, PACKAGE_NO_WAY_BACK).
  type: list
  elements: dict
  returned: success
finding:
  description: >-
    Code, cause and remedy of a failure. Codes are PACKAGE_UNAVAILABLE, PACKAGE_TOO_OLD, PACKAGE_HELD,
    PACKAGE_DOWNGRADE, PACKAGE_CONFLICT, PACKAGE_INSTALL_FAILED and APT_LOCKED.
  type: dict
  returned: failure
"""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpulab.fleet.plugins.module_utils._apt import (
    LATEST,
    QUERY_FORMAT,
    Installed,
    Offer,
    Wanted,
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
from ansible_collections.gpulab.fleet.plugins.module_utils._findings import finding, from_error, message
from ansible_collections.gpulab.fleet.plugins.module_utils._holds import HoldSteps, apt_mark, hold_steps, marked
from ansible_collections.gpulab.fleet.plugins.module_utils._journal import (
    ENGINE,
    HOLD,
    PACKAGE,
    REMOVED,
    UPGRADED,
    Journal,
)
from ansible_collections.gpulab.fleet.plugins.module_utils._userenv import account
from ansible_collections.gpulab.fleet.plugins.module_utils._work import may_go_on, running, told

UPDATES = Path("/var/lib/dpkg/updates")  # dpkg's notes of steps that are not in its status file yet
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
        self.wanted = wanted_from(self.p["packages"], self.p["accept_versions"])
        self.names = [w.name for w in self.wanted]
        self.update_output: str | None = None  # what apt-get update said, once it was asked
        self.findings: list[dict[str, Any]] = []
        self.journal = Journal(module.check_mode)

    def converge(self) -> dict[str, Any]:
        for package in self.wanted:
            if package.version not in ("", LATEST) and package.refuses(package.version):
                raise too_old(package, f"{package.version} is asked for")
        repaired = self.complete()
        installed = self.installed()
        self.settle_latest(installed)
        ours = set(self.journal.entries(HOLD))
        todo = outstanding(self.wanted, installed, self.p["keep_installed"], ours)
        remove = [name for name in self.p["conflicts"] if name in installed]
        if remove and self.p["on_conflict"] == "refuse":
            raise FleetError("PACKAGE_CONFLICT", f"installed: {', '.join(remove)}")
        for name in remove:
            if installed[name].held and name not in ours:
                raise FleetError("PACKAGE_HELD", f"{name} {installed[name].version} is held; it has to go")
        now = installed
        pending = {}
        if todo or remove:
            targets = self.targets(todo, installed)
            if self.is_staged(targets, remove, installed):
                self.fetch(targets, remove, installed)
                pending = {
                    n: {"from": installed[n].version if n in installed else "", "to": targets[n]} for n in targets
                }
                pending |= {n: {"from": installed[n].version, "to": ""} for n in remove}
            elif self.module.check_mode:
                now = {n: i for n, i in installed.items() if n not in remove}
                now |= {n: Installed(v, held=n in now and now[n].held) for n, v in targets.items()}
            else:
                with self.lifted([n for n in (*targets, *remove) if n in installed and installed[n].held]):
                    self.install(targets, remove, installed)
                now = self.installed()
        steps = HoldSteps([], []) if self.p["stage_only"] else hold_steps(self.p["held"], self.p["released"], now, ours)
        self.mark(steps)
        before = {n: i.version for n, i in installed.items()}
        after = {n: i.version for n, i in now.items()}
        return {
            # A package that was only repaired has the same version before and after.
            "changed": bool(((todo or remove) and not pending) or any(steps) or repaired),
            "versions": {n: after[n] for n in self.names if n in after},
            "upgraded": [n for n in self.names if n in before and n in after and before[n] != after[n]],
            "removed": [] if pending else remove,
            "held": steps.hold,
            "released": steps.unhold,
            "pending": pending,
            "previous": [{"name": n, "version": step["from"]} for n, step in pending.items() if step["from"]],
            "steps": [f"{n} {step['from'] or '(new)'} to {step['to'] or '(away)'}" for n, step in pending.items()],
            "findings": self.findings,
            "diff": {
                "before_header": "packages",
                "after_header": "packages",
                "before": listing(before, {n for n, i in installed.items() if i.held}),
                "after": listing(after, marked(now, steps)),
            },
        }

    def installed(self) -> dict[str, Installed]:
        names = dict.fromkeys([*self.names, *self.p["conflicts"], *self.p["held"], *self.p["released"]])
        # Exits 1 when a name is unknown, and still prints the others.
        return parse_dpkg(self.module.run_command(["dpkg-query", "-W", "-f", QUERY_FORMAT, *names])[1])

    def complete(self) -> bool:
        """Complete a run of dpkg that was stopped half-way; whether there was one."""
        if self.p["stage_only"] or not UPDATES.is_dir() or not any(each.name.isdigit() for each in UPDATES.iterdir()):
            return False
        # Another dpkg that is at work has the lock, and leaves the same traces until it is done.
        return True if self.module.check_mode else self.configure()

    def configure(self) -> bool:
        argv = ["dpkg", "--configure", "-a", "--force-confdef", "--force-confold"]
        return bool(self.module.run_command(argv, environ_update=ENVIRONMENT)[0] == 0)

    # --- the newest ----------------------------------------------------------------------------

    def settle_latest(self, installed: dict[str, Installed]) -> None:
        """Put the version that is offered in the place of `latest`; what is installed stays where none is newer."""
        names = [package.name for package in self.wanted if package.version == LATEST]
        if not names:
            return
        if not self.module.check_mode:
            self.update()
        trouble = [
            line for line in complaints(self.update_output or "") if "Failed to fetch" in line or line[:2] == "E:"
        ]
        if trouble:
            self.findings.append(finding("APT_INDEX_OLD", "; ".join(trouble)))
        offers = self.offers(names)
        for index, package in enumerate(self.wanted):
            if package.version != LATEST:
                continue
            newest = offers[package.name].candidate if package.name in offers else ""
            present = installed.get(package.name)
            if present and (not newest or self.older(newest, present.version)):
                newest = present.version
            self.wanted[index] = replace(package, version=newest)

    # --- work that is in the way ---------------------------------------------------------------

    def is_staged(self, targets: dict[str, str], remove: list[str], installed: dict[str, Installed]) -> bool:
        """Whether the packages are only fetched: because that is all that is asked for, or not to disturb work."""
        if self.p["stage_only"]:
            self.look_back(targets, installed)
            return True
        replaced = [n for n in targets if n in installed and installed[n].whole and installed[n].version != targets[n]]
        if not {*replaced, *remove} & set(self.p["programs"]):
            return False
        if may_go_on(self.p["when_busy"], self.busy, self.p["busy_timeout"], self.module.check_mode):
            return False
        changes = [f"{n} {installed[n].version} to {targets[n]}" for n in replaced] + [f"{n} away" for n in remove]
        self.findings.append(
            finding("ENGINE_UPGRADE_PENDING", f"{', '.join(changes)}; running: {'; '.join(self.busy())}")
        )
        return True

    def look_back(self, targets: dict[str, str], installed: dict[str, Installed]) -> None:
        """Say which of the versions that are there now could not be had again."""
        leaving = [n for n in targets if n in installed and installed[n].version != targets[n]]
        offers = self.offers(leaving) if leaving else {}
        lost = [n for n in leaving if n not in offers or installed[n].version not in offers[n].versions]
        if lost:
            seen = ", ".join(f"{n} {installed[n].version}" for n in lost)
            self.findings.append(finding("PACKAGE_NO_WAY_BACK", seen))

    def busy(self) -> list[str]:
        """The users' running containers, in words; also of those who have an engine and are in the inventory no more."""
        found = []
        for name in dict.fromkeys([*self.p["users"], *self.journal.entries(ENGINE)]):
            try:
                found += [f"{name}: {told(each)}" for each in running(str(account(name).socket))]
            except FleetError:
                continue  # an account that is still to be made
            except ConnectionRefusedError:
                continue  # a socket that an engine left behind
            except OSError as error:
                found.append(f"{name}: the engine does not say what runs ({error})")
        return found

    def fetch(self, targets: dict[str, str], remove: list[str], installed: dict[str, Installed]) -> None:
        """Bring the packages without installing them: that the mirror has them is known before anything stops."""
        if self.module.check_mode:
            return
        # Nothing is installed, so no hold is broken by this.
        arguments = ["--download-only", "--allow-change-held-packages", *self.arguments(targets, remove, installed)]
        rc, out, err = self.apt("install", *arguments)
        if rc != 0:
            raise failed(out, err)

    # --- holds ---------------------------------------------------------------------------------

    @contextlib.contextmanager
    def lifted(self, names: list[str]) -> Iterator[None]:
        """Without our holds on these packages; what is still there afterwards has them again, whatever happened."""
        if names:
            self.apt_mark("unhold", names)
        try:
            yield
        finally:
            still = self.installed() if names else {}
            if again := [n for n in names if n in still]:
                self.apt_mark("hold", again)
            for name in set(names) - set(again):
                self.journal.drop(HOLD, name)

    def mark(self, steps: HoldSteps) -> None:
        if self.module.check_mode:
            return
        for name in steps.hold:
            self.journal.add(HOLD, name)
        if steps.hold:
            self.apt_mark("hold", steps.hold)
        if steps.unhold:
            self.apt_mark("unhold", steps.unhold)
        for name in steps.unhold:
            self.journal.drop(HOLD, name)

    def apt_mark(self, verb: str, names: list[str]) -> None:
        apt_mark(self.module, verb, names, self.p["lock_timeout"])

    # --- apt -----------------------------------------------------------------------------------

    def targets(self, todo: list[Wanted], installed: dict[str, Installed]) -> dict[str, str]:
        """The full version to install for each package."""
        if todo and not self.module.check_mode:
            self.update()
        offers = self.offers([w.name for w in todo])
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
            self.module.warn(
                f"not predictable in check mode, as the sources do not offer it yet: {', '.join(unseen)}. "
                "The run itself sets up the source first, and stops if it is not there either."
            )
        return targets

    def offers(self, names: list[str]) -> dict[str, Offer]:
        rc, out, err = self.module.run_command(["apt-cache", "policy", *names], environ_update=ENVIRONMENT)
        if rc != 0 and not self.module.check_mode:
            raise FleetError("PACKAGE_INSTALL_FAILED", "; ".join(complaints(err)) or err)
        if rc != 0:
            # Sources that the run would have put right before this: apt cannot be asked what it then offers.
            self.module.warn(f"apt cannot be asked in check mode: {'; '.join(complaints(err)) or err}")
        return parse_policy(out)

    def older(self, version: str, than: str) -> bool:
        return self.module.run_command(["dpkg", "--compare-versions", version, "lt", than])[0] == 0

    def unavailable(self, package: Wanted, versions: list[str], sources: list[str]) -> None:
        evidence = (
            f"{package.name}: wanted {package.version or 'any version'}; offered: {', '.join(versions) or 'none'}"
            f" from {', '.join(dict.fromkeys(sources)) or 'no source'}"
        )
        trouble = complaints(self.update_output or "")
        if trouble:
            evidence += f"; apt-get update said: {' '.join(trouble)}"
        found = from_error(FleetError("PACKAGE_UNAVAILABLE", evidence), package=package.name)
        self.module.fail_json(msg=message(found), finding=found)

    def update(self) -> None:
        if self.update_output is not None:
            return
        # The lock on the index is not covered by apt's own waiting, so wait here.
        deadline = time.monotonic() + self.p["lock_timeout"]
        while True:
            _rc, out, err = self.apt("update")
            self.update_output = out + err
            if "Could not get lock" not in err or time.monotonic() > deadline:
                return
            time.sleep(2)

    def arguments(self, targets: dict[str, str], remove: list[str], installed: dict[str, Installed]) -> list[str]:
        options = ["--allow-downgrades"] if self.p["allow_downgrade"] else []
        # A package that dpkg wants to see again is not reinstalled by naming its version alone.
        if any(n in installed and not installed[n].whole for n in targets):
            options.append("--reinstall")
        return [*options, *[f"{n}={v}" for n, v in targets.items()], *[f"{n}-" for n in remove]]

    def install(self, targets: dict[str, str], remove: list[str], installed: dict[str, Installed]) -> None:
        arguments = self.arguments(targets, remove, installed)
        self.record(self.refuse_removals(arguments, remove), targets, remove, installed)
        rc, out, err = self.apt("install", *arguments)
        if rc != 0 and "dpkg was interrupted" in err:
            self.configure()
            rc, out, err = self.apt("install", *arguments)
        if rc != 0:
            raise failed(out, err)

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
        for path in [Path(path) for package in self.wanted if package.name in new for path in package.settings]:
            if path.exists():
                self.journal.keep_file(path)
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


def failed(out: str, err: str) -> FleetError:
    """apt's own words about why it did not do it."""
    code = "APT_LOCKED" if "Unable to acquire the dpkg frontend lock" in err else "PACKAGE_INSTALL_FAILED"
    return FleetError(code, "; ".join(complaints(err) or [err.strip()[-500:] or out.strip()[-500:]]))


def listing(versions: dict[str, str], held: set[str]) -> str:
    return "".join(f"{name} {version}{' hold' * (name in held)}\n" for name, version in sorted(versions.items()))


def main() -> None:
    package = {
        "name": {"type": "str", "required": True},
        "version": {"type": "str", "default": ""},
        "minimum": {"type": "str", "default": ""},
        "settings": {"type": "list", "elements": "path", "default": []},
    }
    module = AnsibleModule(
        argument_spec={
            "packages": {"type": "list", "elements": "dict", "required": True, "options": package},
            "conflicts": {"type": "list", "elements": "str", "default": []},
            "on_conflict": {"type": "str", "choices": ["remove", "refuse"], "default": "remove"},
            "keep_installed": {"type": "bool", "default": False},
            "allow_downgrade": {"type": "bool", "default": False},
            "held": {"type": "list", "elements": "str", "default": []},
            "released": {"type": "list", "elements": "str", "default": []},
            "accept_versions": {"type": "list", "elements": "str", "default": []},
            "programs": {"type": "list", "elements": "str", "default": []},
            "users": {"type": "list", "elements": "str", "default": []},
            "when_busy": {"type": "str", "choices": ["skip", "wait", "proceed"], "default": "proceed"},
            "busy_timeout": {"type": "int", "default": 3600},
            "stage_only": {"type": "bool", "default": False},
            "lock_timeout": {"type": "int", "default": 120},
        },
        supports_check_mode=True,
    )
    try:
        result = Packages(module).converge()
    except FleetError as error:
        found = from_error(error, package=error.detail.split()[0].rstrip(":"))
        module.fail_json(msg=message(found), finding=found)
    for found in result["findings"]:
        module.warn(message(found))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
