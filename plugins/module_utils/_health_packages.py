# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Checks of apt and dpkg: what makes every later package task fail, or break a driver at night."""

from __future__ import annotations

import re
from typing import NamedTuple

from ansible_collections.gpulab.fleet.plugins.module_utils import _health_facts as facts
from ansible_collections.gpulab.fleet.plugins.module_utils._apt_takeover import Entry, Wanted, entries
from ansible_collections.gpulab.fleet.plugins.module_utils._findings import finding
from ansible_collections.gpulab.fleet.plugins.module_utils._guarded import DRIVER, ENGINE_NAMES, TOOLKIT_NAMES
from ansible_collections.gpulab.fleet.plugins.module_utils._health import Check, Seen
from ansible_collections.gpulab.fleet.plugins.module_utils._health_view import HostView

OWN_SOURCES = tuple(f"/etc/apt/sources.list.d/{name}.sources" for name in ("docker", "nvidia-container-toolkit"))
# The vendors' own addresses, and the old ones that led to the same packages.
DOCKER = "https://download.docker.com/linux"
TOOLKIT = (
    "https://nvidia.github.io/libnvidia-container",
    "https://nvidia.github.io/nvidia-container-runtime",
    "https://nvidia.github.io/nvidia-docker",
)
LOCKS = ("/var/lib/dpkg/lock-frontend", "/var/lib/dpkg/lock", "/var/lib/apt/lists/lock")
BROKEN_STATES = ("half-installed", "unpacked", "half-configured")
# What the next run installs again by itself.
OURS = re.compile("|".join((*ENGINE_NAMES, *TOOLKIT_NAMES)))


class Source(NamedTuple):
    """One repository that apt reads, and the file that names it."""

    path: str
    entry: Entry


def sources(host: HostView) -> list[Source]:
    """Everything apt reads."""

    def read() -> list[Source]:
        folder = "/etc/apt/sources.list.d"
        files = ["/etc/apt/sources.list", *(f"{folder}/{name}" for name in host.names(folder))]
        found = []
        for path in files:
            if path.endswith((".list", ".sources")):
                found += [Source(path, entry) for entry in entries(path, host.read(path) or "")]
        return found

    return host.remember("apt sources", read)


def kept(host: HostView) -> list[Wanted]:
    """The repositories that this collection keeps a source for on this host, with what each takes the place of."""
    found = []
    release = facts.os_release(host)
    if host.settings.get("rootless_docker_source", "vendor") == "vendor":
        url = str(host.settings.get("rootless_docker_repository_url") or f"{DOCKER}/{release.get('ID', '')}")
        found.append(Wanted((url,), (release.get("VERSION_CODENAME", ""),), ("stable",), (DOCKER,)))
    if facts.gpu_present(host):
        url = str(host.settings.get("nvidia_container_toolkit_repository_url") or f"{TOOLKIT[0]}/stable/deb")
        found.append(Wanted((f"{url}/$(ARCH)",), ("/",), (), TOOLKIT))
    return found


def taken_over(host: HostView) -> Seen:
    """Sources that the next run switches off, because its own take their place."""
    told: set[str] = set()
    for source in sources(host):
        if source.path not in (*OWN_SOURCES, *told) and any(wanted.is_same(source.entry) for wanted in kept(host)):
            told.add(source.path)
            seen = f"{source.path} names {source.entry.uri} {source.entry.suite}"
            yield finding("APT_SOURCE_TAKEN_OVER", seen, path=source.path)


def source_conflicts(host: HostView) -> Seen:
    """No two sources give one repository different keys: apt would refuse every command."""
    first: dict[tuple[str, str], Source] = {}
    told = set()
    for source in sources(host):
        entry = source.entry
        if not entry.signed_by:
            continue
        if source.path not in OWN_SOURCES and any(wanted.is_same(entry) for wanted in kept(host)):
            continue  # switched off before apt is asked for anything
        before = first.setdefault((entry.uri.rstrip("/"), entry.suite.rstrip("/")), source)
        if before.entry.signed_by == entry.signed_by or (before.path, source.path) in told:
            continue
        told.add((before.path, source.path))
        keys = " and ".join(f"{each.path} says {_key(each.entry)}" for each in (before, source))
        other, own = (source, before) if before.path in OWN_SOURCES else (before, source)
        yield finding("APT_SOURCE_CONFLICT", f"{entry.uri} {entry.suite}: {keys}", path=other.path, own=own.path)


def _key(entry: Entry) -> str:
    named = entry.signed_by.strip()
    return "a key written into it" if "\n" in named else named


def dead_sources(host: HostView) -> Seen:
    """Repositories that are gone, where nothing takes their place."""
    for source in sources(host):
        dead = "nvidia.github.io/nvidia-docker" in source.entry.uri
        if dead and not any(wanted.is_same(source.entry) for wanted in kept(host)):
            seen = f"{source.path} names {source.entry.uri} {source.entry.suite}"
            yield finding("APT_SOURCE_DEAD", seen, path=source.path)


def lock_holder(host: HostView) -> tuple[str, str] | None:
    """Which lock of apt's is held, and by whom, from the kernel's table of locks (readable by all)."""
    nodes = {node.inode: name for name in LOCKS if (node := host.node(name))}
    for line in (host.read("/proc/locks") or "").splitlines():
        entry = re.match(r"\d+: POSIX\s+\S+\s+WRITE (-?\d+) ([0-9a-f]+):([0-9a-f]+):(\d+) ", line)
        if not entry:
            continue
        inode = (int(entry.group(2), 16), int(entry.group(3), 16), int(entry.group(4)))
        if inode in nodes:
            pid = entry.group(1)
            return nodes[inode], f"process {pid} ({host.word(f'/proc/{pid}/comm') or 'name unknown'})"
    return None


def lock(host: HostView) -> Seen:
    """Nobody holds the package manager's lock right now."""
    held = lock_holder(host)
    if held:
        yield finding("APT_BUSY", f"{held[0]} is held by {held[1]}")


def interrupted(host: HostView) -> Seen:
    """dpkg was not stopped half-way."""
    if lock_holder(host):
        return  # it is at work: half-way is how it should look
    journal = [name for name in host.names("/var/lib/dpkg/updates") if name.isdigit()]
    again = [name for name, package in facts.packages(host).items() if package.flag == "reinstreq"]
    halfway = [name for name, package in facts.packages(host).items() if package.state in BROKEN_STATES]
    foreign = sorted(name for name in again if not OURS.match(name))
    if foreign:
        yield finding("DPKG_REINSTALL", f"must be installed again: {', '.join(foreign)}", packages=" ".join(foreign))
    rest = sorted({*again, *halfway} - set(foreign))
    if journal or rest:
        parts = [f"/var/lib/dpkg/updates holds {len(journal)} unfinished steps"] if journal else []
        parts += [f"half-way: {', '.join(rest[:5])}"] if rest else []
        yield finding("DPKG_INTERRUPTED", "; ".join(parts))


def driver_upgrades(host: HostView) -> Seen:
    """Automatic upgrades leave the driver alone: upgraded under a loaded module, every GPU is gone until a reboot."""
    driver = {name: package for name, package in facts.packages(host).items() if DRIVER.match(name)}
    if not driver or "unattended-upgrades" not in facts.packages(host):
        return
    answer = host.run(["apt-config", "dump"])
    settings = answer.out if answer else ""
    enabled = re.search(r'^APT::Periodic::Unattended-Upgrade "(.*)";', settings, re.MULTILINE)
    if not enabled or enabled.group(1) in ("", "0"):
        return
    barred = re.findall(r'^Unattended-Upgrade::Package-Blacklist:: "(.*)";', settings, re.MULTILINE)
    free = [name for name, package in driver.items() if package.want != "hold" and not _barred(name, barred)]
    if free:
        yield finding("DRIVER_UPGRADES_UNATTENDED", f"unattended-upgrades may upgrade {', '.join(sorted(free)[:5])}")


def _barred(name: str, patterns: list[str]) -> bool:
    for pattern in patterns:
        try:
            if re.match(pattern, name):
                return True
        except re.error:
            continue
    return False


CHECKS = (
    Check("source_conflicts", source_conflicts, ("APT_SOURCE_CONFLICT",), preflight=True),
    Check("taken_over", taken_over, ("APT_SOURCE_TAKEN_OVER",), preflight=True),
    Check("dead_sources", dead_sources, ("APT_SOURCE_DEAD",), preflight=True),
    Check("lock", lock, ("APT_BUSY",), preflight=True),
    Check("interrupted", interrupted, ("DPKG_INTERRUPTED", "DPKG_REINSTALL"), preflight=True),
    Check("driver_upgrades", driver_upgrades, ("DRIVER_UPGRADES_UNATTENDED",)),
)
