# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The host's part of a reset: packages, sources, files, units and ids as the journal says they were.

Every step can be done again: an entry is forgotten when it has been taken back, so that a reset that is killed goes on
where it was. The order is: what runs, packages, files, then the states of units that others own.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpulab.fleet.plugins.module_utils import _docker_host_env, _gpu_shares, _proxy_host, _undo
from ansible_collections.gpulab.fleet.plugins.module_utils._apt import QUERY_FORMAT, complaints
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._holds import apt_mark
from ansible_collections.gpulab.fleet.plugins.module_utils._journal import (
    ACCOUNT,
    DATA,
    ENGINE,
    FILE,
    FOLDERS,
    HOLD,
    PACKAGE,
    REMOVED,
    SUBID,
    SYSCTL,
    TREE,
    UNIT,
    UPGRADED,
    Journal,
)
from ansible_collections.gpulab.fleet.plugins.module_utils._leaving import Leaving

# When Debian's docker.io is purged, its script deletes all of this, whichever engine wrote it.
ROOTFUL_DATA = Path("/var/lib/docker")
ROOTFUL_SCRIPT = "nuke-graph-directory.sh"
APPARMOR = "/etc/apparmor.d/"
APT = ["apt-get", "-q", "-y", "-o", "DPkg::Lock::Timeout=120"]
ENVIRONMENT = {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C", "NEEDRESTART_SUSPEND": "1"}
RUNNING = ("active", "activating", "reloading")


def present(text: str) -> dict[str, str]:
    """What dpkg still has of packages, from dpkg-query's output: "installed", or "config" for settings alone."""
    found = {}
    for line in text.splitlines():
        name, status, _version = line.split("\t")
        if status[1:2] != "n":
            found[name] = "config" if status[1:2] == "c" else "installed"
    return found


def removals(simulated: str) -> set[str]:
    """The packages that `apt-get --simulate` would take away."""
    return set(re.findall(r"^(?:Remv|Purg) (\S+)", simulated, re.MULTILINE))


def rootful_data() -> bool:
    """Whether an engine of root's, now or once, has left something."""
    return ROOTFUL_DATA.is_dir() and any(each.name != ROOTFUL_SCRIPT for each in ROOTFUL_DATA.iterdir())


class HostUndo:
    """Reads the journal, takes back what is in it."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.check: bool = module.check_mode
        self.journal = Journal(self.check)
        self.actions: list[str] = []
        self.diff: _undo.Diff = []
        self.left: list[str] = []  # what stays, in words

    def go(self, purge: list[str]) -> dict[str, Any]:
        engines = self.journal.entries(ENGINE)
        if engines and not self.check:
            raise FleetError("RESET_ENGINES_LEFT", ", ".join(engines))
        self.units_off()
        self.holds()
        self.packages()
        self.open_nodes()
        self.docker_host()
        self.files()
        self.units_back()
        self.sysctls()
        self.people(purge)
        self.tell()
        self.end()
        return {"changed": bool(self.actions), "actions": self.actions, "diff": self.diff, "left": self.left}

    def docker_host(self) -> None:
        """The sessions of users without DOCKER_HOST, while the profile that says so is still there."""
        if f"/{_docker_host_env.PROFILE}" in self.journal.entries(FILE):
            self.act("no DOCKER_HOST any more (PAM)", *_docker_host_env.update("--remove", "gpulab"))

    # --- units --------------------------------------------------------------------------------------------

    def unit(self, name: str) -> dict[str, str]:
        argv = ["systemctl", "show", "--property=LoadState,UnitFileState,ActiveState", name]
        out = str(self.module.run_command(argv, check_rc=True)[1])
        return dict(line.split("=", 1) for line in out.splitlines() if "=" in line)

    def units_off(self) -> None:
        """Stop what did not exist before and is not masked; its file goes later."""
        for name, before in self.journal.entries(UNIT).items():
            now = self.unit(name)
            on = now["ActiveState"] in RUNNING or now["UnitFileState"] in ("enabled", "enabled-runtime")
            if before == "" and now["LoadState"] == "loaded" and on:
                self.act(f"disabled {name}", "systemctl", "disable", "--now", name)

    def units_back(self) -> None:
        """Units of others, or of packages that stay, as they were."""
        entries = self.journal.entries(UNIT)
        if entries:
            self.root("systemctl", "daemon-reload")
        # All of them first: a socket cannot be started while its service is masked.
        masked = [
            n for n, before in entries.items() if before != "masked" and self.unit(n)["UnitFileState"] == "masked"
        ]
        for name in masked:
            self.act(f"unmasked {name}", "systemctl", "unmask", name)
        for name, before in entries.items():
            now = self.unit(name)
            if self.check and name in masked:
                now = {**now, "LoadState": "loaded" if before else "not-found"}
            if now["LoadState"] == "loaded":
                self.bring(name, before, now)
            elif before == "enabled":
                self.left.append(f"{name} was enabled before; its package is not installed any more")
            self.journal.drop(UNIT, name)

    def bring(self, name: str, before: str, now: dict[str, str]) -> None:
        is_on = now["UnitFileState"] == "enabled"
        if before == "enabled" and (not is_on or now["ActiveState"] not in RUNNING):
            self.act(f"enabled {name}", "systemctl", "enable", "--now", name)
        elif before == "disabled" and is_on:
            self.act(f"disabled {name}", "systemctl", "disable", "--now", name)
        elif before == "masked" and now["UnitFileState"] != "masked":
            self.act(f"masked {name}", "systemctl", "mask", "--now", name)

    # --- packages -----------------------------------------------------------------------------------------

    def dpkg(self, names: list[str]) -> dict[str, str]:
        # Exits 1 when a name is unknown, and still prints the others.
        query = ["dpkg-query", "-W", "-f", QUERY_FORMAT, *names]
        return present(self.module.run_command(query)[1]) if names else {}

    def holds(self) -> None:
        held = list(self.journal.entries(HOLD))
        there = [name for name, state in self.dpkg(held).items() if state == "installed"]
        if there:
            self.actions.append(f"unheld {', '.join(there)}")
            if not self.check:
                apt_mark(self.module, "unhold", there)
        for name in held:
            self.journal.drop(HOLD, name)

    def packages(self) -> None:
        entries = self.journal.entries(PACKAGE)
        there = self.dpkg(list(entries))
        wanted = [name for name, before in entries.items() if name in there and there[name] != before]
        purge, kept = self.removable(wanted)
        for name in kept:
            self.left.append(f"{name} stays: a package that was installed later needs it")
        plain = [name for name in purge if entries[name] == "config"]
        if "docker.io" in purge and rootful_data():
            plain = list(dict.fromkeys([*plain, "docker.io"]))
            self.left.append(f"the settings of docker.io: purging it would delete {ROOTFUL_DATA}, which holds data")
        purge = [name for name in purge if name not in plain]
        for verb, names in (("remove", plain), ("purge", purge)):
            if names:
                self.apt(verb, names)
        for name in entries:
            self.journal.drop(PACKAGE, name)

    def removable(self, wanted: list[str]) -> tuple[list[str], list[str]]:
        """The packages that can go without taking along one that we did not bring, and those that cannot."""
        if not wanted or not self.foreign(wanted):
            return wanted, []
        go: list[str] = []
        for name in wanted:
            if not self.foreign([*go, name], wanted):
                go.append(name)
        return go, [name for name in wanted if name not in go]

    def foreign(self, names: list[str], ours: list[str] | None = None) -> set[str]:
        # Our holds are lifted before packages go, which a prediction has not done.
        argv = [*APT, "--simulate", "--allow-change-held-packages", "purge", *names]
        rc, out, err = self.module.run_command(argv, environ_update=ENVIRONMENT)
        if rc != 0:
            raise FleetError("PACKAGE_REMOVAL_FAILED", "; ".join(complaints(err)) or err.strip()[-500:])
        return removals(out) - set(ours or names)

    def apt(self, verb: str, names: list[str]) -> None:
        self.actions.append(f"{verb}d {', '.join(names)}")
        shown = "".join(f"{name}\n" for name in names)
        self.diff.append({"before_header": "packages", "after_header": "packages", "before": shown, "after": ""})
        if self.check:
            return
        rc, out, err = self.module.run_command([*APT, verb, *names], environ_update=ENVIRONMENT)
        if rc != 0 and "dpkg was interrupted" in err:
            self.module.run_command(["dpkg", "--configure", "-a", "--force-confdef"], environ_update=ENVIRONMENT)
            rc, out, err = self.module.run_command([*APT, verb, *names], environ_update=ENVIRONMENT)
        if rc != 0:
            said = "; ".join(complaints(err) or [err.strip()[-500:] or out.strip()[-500:]])
            raise FleetError("PACKAGE_REMOVAL_FAILED", said)

    # --- files --------------------------------------------------------------------------------------------

    def files(self) -> None:
        files, trees, folders = (list(self.journal.entries(kind)) for kind in (FILE, TREE, FOLDERS))
        authorities = any(name.startswith(f"/{_proxy_host.AUTHORITIES}/") for name in files)
        for name in files:
            if name.startswith(APPARMOR) and Path(name).exists() and self.journal.entries(FILE)[name] is None:
                self.act("unloaded the AppArmor profile", "apparmor_parser", "-R", name)
            self.note(_undo.file(self.journal, name, self.diff))
        for name in trees:
            self.note(_undo.tree(self.journal, name))
        going = set(files) | set(trees)
        for name in sorted(folders, key=len, reverse=True):
            self.note(_undo.folder(self.journal, name, going))
            going.add(name)
        # Not put back from a copy: the store may have been renewed since.
        if (authorities or not _proxy_host.trusted(Path("/"), {})) and Path(_proxy_host.UPDATE).exists():
            self.act("made the trust store anew", _proxy_host.UPDATE, "--fresh")

    def open_nodes(self) -> None:
        """GPUs that were closed to others (enforced shares) are open as the driver makes them."""
        if _gpu_shares.SETTINGS not in self.journal.entries(FILE) or not Path(_gpu_shares.SETTINGS).exists():
            return
        self.actions += [f"opened {node}" for node in _gpu_shares.differing(_gpu_shares.open_again(Path("/")))]
        if not self.check:
            _gpu_shares.release(Path("/"))

    def sysctls(self) -> None:
        for name, before in self.journal.entries(SYSCTL).items():
            path = Path("/proc/sys") / name.replace(".", "/")
            if path.exists() and path.read_text(encoding="ascii").split() != str(before).split():
                self.actions.append(f"set {name} back to {before}")
                if not self.check:
                    path.write_text(f"{before}\n", encoding="ascii")
            self.journal.drop(SYSCTL, name)

    # --- people -------------------------------------------------------------------------------------------

    def people(self, purge: list[str]) -> None:
        """Ids and accounts whose owner has no data here; the others keep both."""
        kept = self.journal.entries(DATA)
        for name in dict.fromkeys([*self.journal.entries(SUBID), *self.journal.entries(ACCOUNT)]):
            if name in kept:
                continue
            leaving = Leaving(self.module, name, name in purge or "all" in purge, "~/gpulab")
            leaving.ranges()
            if leaving.remove_data:
                leaving.remove_account()
            self.actions += leaving.actions
            self.diff += leaving.diff

    def tell(self) -> None:
        for name, version in self.journal.entries(REMOVED).items():
            self.left.append(f"{name} {version} had been removed for the engine; install it again if it is wanted")
        for name, version in self.journal.entries(UPGRADED).items():
            self.left.append(f"{name} stays at its present version; it was {version} before")
        for name, where in self.journal.entries(DATA).items():
            places = ", ".join([*where["roots"], *where["data"]])
            self.left.append(f"{name} keeps the data in {places}, and the subordinate ids that own them")
        for name in self.journal.entries(ACCOUNT):
            self.left.append(f"the account {name}, which was made for an engine, stays with its home")

    def end(self) -> None:
        """Nothing is left to take back: the journal goes as well. It stays while data do."""
        for kind in (REMOVED, UPGRADED):
            for name in self.journal.entries(kind):
                self.journal.drop(kind, name)
        gone = self.journal.forget()
        if gone:
            self.actions.append(f"removed {gone}")

    # --- acting -------------------------------------------------------------------------------------------

    def note(self, action: str) -> None:
        if action:
            self.actions.append(action)

    def act(self, action: str, *argv: str) -> None:
        self.actions.append(action)
        self.root(*argv)

    def root(self, *argv: str) -> None:
        if not self.check:
            self.module.run_command(list(argv), check_rc=True)
