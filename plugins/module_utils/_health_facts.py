# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Facts of a host that more than one check needs, each read once."""

from __future__ import annotations

import csv
import json
import re
from typing import Any, NamedTuple

from ansible_collections.gpulab.fleet.plugins.module_utils._cdi import SETTINGS, SPECS
from ansible_collections.gpulab.fleet.plugins.module_utils._gpu_presence import gpu_presence
from ansible_collections.gpulab.fleet.plugins.module_utils._health_view import Account, HostView, Unreadable

ENGINE_PACKAGES = ("docker-ce", "docker.io")
TOOLKIT_PACKAGES = (
    "nvidia-container-toolkit",
    "nvidia-container-toolkit-base",
    "libnvidia-container-tools",
    "libnvidia-container1",
)


class Package(NamedTuple):
    """A package dpkg knows: its version, what is wanted of it and what state it is in."""

    version: str
    want: str
    flag: str
    state: str


class Smi(NamedTuple):
    """What nvidia-smi answers: its exit code is NVML's return code."""

    rc: int
    text: str
    gpus: list[dict[str, Any]]


class Engine(NamedTuple):
    """One user's rootless engine as it lies on disk."""

    account: Account
    unit: bool
    daemon: dict[str, Any] | None  # None: the file is broken, which a check of its own tells
    data_root: str

    @property
    def socket(self) -> str:
        return f"/run/user/{self.account.uid}/docker.sock"


# --- the system ---------------------------------------------------------------------------------
def os_release(host: HostView) -> dict[str, str]:
    """The fields of /etc/os-release, without quotes."""

    def read() -> dict[str, str]:
        text = host.read("/etc/os-release") or host.read("/usr/lib/os-release") or ""
        pairs = (line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("#"))
        return {key.strip(): value.strip().strip("\"'") for key, value in pairs}

    return host.remember("os-release", read)


def version(text: str) -> tuple[int, ...]:
    """The numbers of a version, without a package's epoch and revision: 5:28.5.2-1~x is (28, 5, 2)."""
    found = re.match(r"\d+(\.\d+)*", re.sub(r"^\d+:", "", text.strip()))
    return tuple(int(part) for part in found.group().split(".")) if found else ()


def packages(host: HostView) -> dict[str, Package]:
    """dpkg's packages that are installed or half so."""

    def read() -> dict[str, Package]:
        known = {}
        for entry in (host.read("/var/lib/dpkg/status") or "").split("\n\n"):
            fields = dict(re.findall(r"^(Package|Status|Version): (.*)$", entry, re.MULTILINE))
            words = fields.get("Status", "").split()
            if len(words) == 3 and words[2] not in ("not-installed", "config-files"):
                known[fields["Package"]] = Package(fields.get("Version", ""), *words)
        return known

    return host.remember("packages", read)


class Mount(NamedTuple):
    """Where a path lies."""

    point: str
    kind: str
    source: str


def mount_of(host: HostView, path: str) -> Mount | None:
    """The mount that holds a path, by its longest mount point."""
    best: Mount | None = None
    for line in (host.read("/proc/self/mountinfo") or "").splitlines():
        left, _, right = line.partition(" - ")
        point = left.split(" ")[4].replace("\\040", " ")
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and (best is None or len(point) >= len(best.point)):
            kind, source = [*right.split(" "), "", ""][:2]
            best = Mount(point, kind, source)
    return best


def unit(host: HostView, name: str, account: Account | None = None) -> dict[str, str] | None:
    """systemd's properties of a unit (of a user's manager with account); None without systemd."""
    wanted = "LoadState,ActiveState,SubState,Result,UnitFileState,MainPID"
    scope = ["--user"] if account else []

    def read() -> dict[str, str] | None:
        if not host.exists("/run/systemd/system"):
            return None
        answer = host.run(["systemctl", *scope, "show", name, "-p", wanted], account=account)
        if answer is None:
            return None
        if answer.rc != 0:
            raise Unreadable(f"state of {name}", (answer.err or answer.out).strip() or f"exit {answer.rc}")
        return dict(line.split("=", 1) for line in answer.out.splitlines() if "=" in line)

    return host.remember(f"unit {account.name if account else ''} {name}", read)


def systemd_version(host: HostView) -> int | None:
    """systemd's number; None when it does not say."""

    def read() -> int | None:
        answer = host.run(["systemctl", "--version"])
        found = re.match(r"systemd (\d+)", answer.out) if answer else None
        return int(found.group(1)) if found else None

    return host.remember("systemd version", read)


# --- engines ------------------------------------------------------------------------------------
def json_file(host: HostView, path: str) -> dict[str, Any] | None:
    """A JSON object; empty when the file is absent, None when it is broken."""
    try:
        data = json.loads(host.read(path) or "{}")
    except ValueError:
        return None
    return data if isinstance(data, dict) else None


def daemon_path(account: Account) -> str:
    return f"{account.home}/.config/docker/daemon.json"


def engine(host: HostView, account: Account) -> Engine:
    """What is configured of one user's rootless engine."""

    def read() -> Engine:
        daemon = json_file(host, daemon_path(account))
        return Engine(
            account,
            host.exists(f"{account.home}/.config/systemd/user/docker.service"),
            daemon,
            str((daemon or {}).get("data-root") or f"{account.home}/.local/share/docker"),
        )

    return host.remember(f"engine {account.name}", read)


def wanted_data_root(host: HostView, user: str) -> str:
    """Where the inventory wants a user's engine to keep its data; empty where it does not say."""
    own = dict_of(dict_of(dict_of(host.settings.get("gpulab_users")).get(user)).get("daemon"))
    return str(own.get("data-root") or dict_of(host.settings.get("rootless_docker_daemon")).get("data-root") or "")


def cli_context(host: HostView, account: Account) -> str:
    """The Docker context that a user's commands use unless told otherwise; empty when none is set."""
    config = json_file(host, f"{account.home}/.docker/config.json") or {}
    return str(config.get("currentContext") or "")


def interesting_accounts(host: HostView) -> tuple[list[Account], list[str]]:
    """Accounts whose engines matter, and names whose home may not be looked into.

    Those asked for and those of the inventory; where neither names one, whoever has a rootless engine.
    """

    def read() -> tuple[list[Account], list[str]]:
        named = list(dict.fromkeys([*host.users, *dict_of(host.settings.get("gpulab_users"))]))
        found = {name: account for name in named if (account := host.account(name))}
        closed = []
        if not named:
            for account in host.accounts().values():
                if not 1000 <= account.uid < 60000:
                    continue
                try:
                    if engine(host, account).unit:
                        found[account.name] = account
                except Unreadable:
                    closed.append(account.name)
        return list(found.values()), closed

    return host.remember("interesting accounts", read)


def engines(host: HostView) -> list[Engine | Unreadable]:
    """The rootless engines of the accounts that matter, with a unit of their own."""
    accounts, closed = interesting_accounts(host)
    seen: list[Engine | Unreadable] = []
    if closed:
        seen.append(Unreadable(f"homes of {', '.join(closed)}", "Permission denied (run as root to look)"))
    for account in accounts:
        try:
            found = engine(host, account)
            if found.unit:
                seen.append(found)
        except Unreadable as error:
            seen.append(error)
    return seen


def engine_info(host: HostView, socket: str) -> dict[str, Any] | None:
    """The engine's own account of itself (GET /info); None when nobody answers."""
    return host.remember(f"info {socket}", lambda: host.api(socket, "/info"))


def installed_engine(host: HostView) -> tuple[str, Package] | None:
    """The engine package that is installed, the vendor's before the distribution's."""
    known = packages(host)
    return next(((name, known[name]) for name in ENGINE_PACKAGES if name in known), None)


# --- GPUs ---------------------------------------------------------------------------------------
def cards(host: HostView) -> dict[str, Any]:
    """What speaks for a GPU in this host without its driver's help."""
    return host.remember("cards", lambda: gpu_presence(host.root))


def driver_version(host: HostView) -> str | None:
    """The version of the loaded NVIDIA kernel module; None when none is loaded."""
    text = host.read("/proc/driver/nvidia/version")
    found = re.search(r"Kernel Module(?: for \S+)?\s+(\d+(?:\.\d+)+)", text or "")
    return found.group(1) if found else None


def gpu_present(host: HostView) -> bool:
    """Whether the host has an NVIDIA GPU or its driver: else everything about GPUs is beside the point."""
    return bool(cards(host)["present"]) or driver_version(host) is not None


SMI_FIELDS = ("index", "uuid", "name", "memory.total", "driver_version", "pci.bus_id")


def smi(host: HostView) -> Smi | None:
    """nvidia-smi's list of GPUs; None when it is not installed."""

    def read() -> Smi | None:
        query = ["nvidia-smi", f"--query-gpu={','.join(SMI_FIELDS)}", "--format=csv,noheader,nounits"]
        answer = host.run(query, timeout=30)
        if answer is None:
            return None
        rows = csv.reader(answer.out.splitlines(), skipinitialspace=True)
        gpus = [
            dict(zip(("index", "uuid", "name", "memory_mib", "driver", "pci_bus_id"), row, strict=True))
            for row in rows
            if len(row) == len(SMI_FIELDS) and row[0].isdigit()
        ]
        return Smi(answer.rc, (answer.out + answer.err).strip(), gpus)

    return host.remember("nvidia-smi", read)


# --- CDI ----------------------------------------------------------------------------------------
def cdi_folder(user: str) -> str:
    """Where the spec of a user lies."""
    return f"{SPECS}/{user}"


def users_with_specs(host: HostView) -> list[str]:
    """Users that the host's own settings, or else the inventory, promise GPUs."""

    def read() -> list[str]:
        try:
            settings = json.loads(host.read(SETTINGS) or "null")
            users = dict_of(dict_of(settings).get("users"))
        except ValueError:
            users = {}
        return list(dict.fromkeys([*users, *(users_with_gpus(host) if users else [])]))

    return host.remember("users with specs", read)


# --- the inventory ------------------------------------------------------------------------------
def dict_of(value: Any) -> dict[str, Any]:
    """value when it is a dict, else an empty one: a wrong type is reported by the settings' check."""
    return value if isinstance(value, dict) else {}


def accepted_versions(host: HostView) -> list[str]:
    """Versions below a floor that the inventory accepts by name."""
    names = host.settings.get("gpulab_accept_versions")
    return [str(name) for name in names] if isinstance(names, list) else []


def users_with_gpus(host: HostView) -> list[str]:
    """The users that the inventory gives GPUs."""
    users = dict_of(host.settings.get("gpulab_users"))
    return [
        name
        for name, user in users.items()
        if dict_of(user).get("gpus", "none") not in ("none", []) and dict_of(user).get("state") != "absent"
    ]


def wants_gpu(host: HostView) -> bool:
    """Whether the inventory demands that the GPUs of this host work."""
    expected = host.settings.get("gpulab_gpus_expected")
    if expected is not None:
        return str(expected) != "0"
    return bool(users_with_gpus(host)) and gpu_present(host)
