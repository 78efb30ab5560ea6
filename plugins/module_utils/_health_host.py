# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Checks of the host itself: distribution, systemd, cgroups, user namespaces, room, clock."""

from __future__ import annotations

import contextlib
import time

from ansible_collections.gpulab.fleet.plugins.module_utils import _health_facts as facts
from ansible_collections.gpulab.fleet.plugins.module_utils import _journal
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._findings import finding, from_error
from ansible_collections.gpulab.fleet.plugins.module_utils._health import Check, Seen
from ansible_collections.gpulab.fleet.plugins.module_utils._health_view import Account, HostView, Unreadable

# Tested releases; a newer one of the same distributions is let through with a warning.
SUPPORTED = {"ubuntu": ("22.04", "24.04"), "debian": ("12", "13")}
TESTED_MACHINES = ("x86_64",)
UNTESTED_MACHINES = ("aarch64",)
OLDEST_SYSTEMD = 249
FEW_NAMESPACES = 512
NETWORK_FILE_SYSTEMS = ("nfs", "nfs4", "cifs", "smb3", "afs", "lustre", "beegfs", "ceph", "gpfs", "fuse.sshfs")
MIB = 1024 * 1024
FULL_BELOW = 512 * MIB
LOW_BELOW = 5 * 1024 * MIB
CLOCK_TOLERANCE = 300


def platform(host: HostView) -> Seen:
    """Distribution, release and machine type are ones this collection was made for."""
    release = facts.os_release(host)
    name, version = release.get("ID", ""), release.get("VERSION_ID", "")
    seen = f"{release.get('PRETTY_NAME') or name or 'no /etc/os-release'} (ID={name} VERSION_ID={version})"
    known: tuple[str, ...] = SUPPORTED.get(name, ())
    supported = ", ".join(f"{each.capitalize()} {'/'.join(SUPPORTED[each])}" for each in sorted(SUPPORTED))
    if version not in known:
        newer = bool(known) and facts.version(version) > facts.version(known[-1])
        yield finding("PLATFORM_UNTESTED" if newer else "OS_UNSUPPORTED", seen, supported=supported)
    machine = host.kernel()[1]
    if machine in UNTESTED_MACHINES:
        yield finding("PLATFORM_UNTESTED", machine, supported=f"{', '.join(TESTED_MACHINES)}")
    elif machine not in TESTED_MACHINES:
        yield finding("ARCH_UNSUPPORTED", machine)


def systemd(host: HostView) -> Seen:
    """systemd runs the host and is new enough for delegation to users."""
    if not host.exists("/run/systemd/system"):
        yield finding("SYSTEMD_MISSING", f"/run/systemd/system is absent; PID 1 is {host.word('/proc/1/comm')}")
        return
    number = facts.systemd_version(host)
    if number is None:
        yield Unreadable("version of systemd", "systemctl --version does not say")
    elif number < OLDEST_SYSTEMD:
        yield finding("SYSTEMD_TOO_OLD", f"systemd {number}", oldest=OLDEST_SYSTEMD)


def cgroups(host: HostView) -> Seen:
    """One cgroup v2 tree: without it a user's engine can neither limit nor count."""
    mount = facts.mount_of(host, "/sys/fs/cgroup")
    if mount is None or mount.kind != "cgroup2":
        yield finding("CGROUP_V1", f"/sys/fs/cgroup is {mount.kind if mount else 'not mounted'}")


def cgroup_controllers(host: HostView) -> Seen:
    """The controllers that limits need exist, and reach the users' managers."""
    mount = facts.mount_of(host, "/sys/fs/cgroup")
    if mount is None or mount.kind != "cgroup2":
        return
    wanted = {"cpu", "memory", "pids"}
    offered = set((host.word("/sys/fs/cgroup/cgroup.controllers") or "").split())
    if wanted - offered:
        yield finding("CGROUP_CONTROLLERS_MISSING", f"absent: {', '.join(sorted(wanted - offered))}")
    for each in facts.engines(host):
        if isinstance(each, Unreadable):
            yield each
            continue
        uid = each.account.uid
        given = host.word(f"/sys/fs/cgroup/user.slice/user-{uid}.slice/user@{uid}.service/cgroup.controllers")
        missing = wanted & offered - set((given or "").split())
        if given is not None and missing:
            yield finding(
                "CGROUP_NOT_DELEGATED",
                f"user@{uid}.service of {each.account.name} lacks {', '.join(sorted(missing))}",
            )


def user_namespaces(host: HostView) -> Seen:
    """Ordinary users may make user namespaces: all of a rootless engine lives in one."""
    if host.word("/proc/sys/kernel/unprivileged_userns_clone") == "0":
        name = "kernel.unprivileged_userns_clone"
        yield finding("USERNS_DISABLED", f"{name} = 0", sysctl=f"{name}=1")
    limit = host.word("/proc/sys/user/max_user_namespaces")
    if limit is not None and limit.isdigit():
        if int(limit) == 0:
            yield finding("USERNS_DISABLED", "user.max_user_namespaces = 0", sysctl="user.max_user_namespaces=28633")
        elif int(limit) < FEW_NAMESPACES:
            yield finding("USERNS_FEW", f"user.max_user_namespaces = {limit}")


def apparmor(host: HostView) -> Seen:
    """Where AppArmor restricts user namespaces, rootlesskit has a profile that allows them."""
    restricted = host.word("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1"
    if not restricted or not facts.engines(host):
        return
    for name in host.names("/etc/apparmor.d"):
        if "rootlesskit" in name and "userns" in (host.read(f"/etc/apparmor.d/{name}") or ""):
            return
    yield finding(
        "USERNS_APPARMOR_RESTRICTED",
        "kernel.apparmor_restrict_unprivileged_userns = 1 and no file of /etc/apparmor.d names rootlesskit",
    )


def uidmap(host: HostView) -> Seen:
    """newuidmap and newgidmap, where present, may do what they are for."""
    for program in ("newuidmap", "newgidmap"):
        node = host.node(f"/usr/bin/{program}")
        if node is None or (node.mode & 0o4000 and node.uid == 0):
            continue
        answer = host.run(["getcap", f"/usr/bin/{program}"])
        if answer is None:
            yield Unreadable(f"capabilities of /usr/bin/{program}", "not setuid, and getcap is not installed")
        elif "cap_setuid" not in answer.out and "cap_setgid" not in answer.out:
            yield finding("UIDMAP_NOT_PRIVILEGED", f"/usr/bin/{program} has mode {node.mode:04o} and no capabilities")


def data_roots(host: HostView) -> Seen:
    """Where images and containers will lie: a local file system of the user's own."""
    for account in facts.interesting_accounts(host)[0]:
        try:
            yield from _data_root(host, account, _root_to_be(host, account))
        except Unreadable as error:
            yield error


def _root_to_be(host: HostView, account: Account) -> str:
    """Where the inventory wants the data; where it does not say, where they are."""
    return facts.wanted_data_root(host, account.name) or facts.engine(host, account).data_root


def _data_root(host: HostView, account: Account, root: str) -> Seen:
    mount = facts.mount_of(host, root)
    owner = host.node(root)
    if mount and mount.kind in NETWORK_FILE_SYSTEMS:
        yield finding(
            "DATA_ROOT_NETWORK_FS",
            f"{root} of {account.name} lies on {mount.point}, {mount.kind} from {mount.source}",
            user=account.name,
        )
    if owner and owner.uid != account.uid:
        yield finding(
            "DATA_ROOT_NOT_OWNED",
            f"{root} belongs to uid {owner.uid}, not {account.name}",
            user=account.name,
            path=root,
        )


def room(host: HostView) -> Seen:
    """Room where packages, images and containers go."""
    paths = ["/", "/var"]
    for account in facts.interesting_accounts(host)[0]:
        try:
            paths.append(_root_to_be(host, account))
        except Unreadable as error:
            yield error
    told = set()
    for path in paths:
        mount = facts.mount_of(host, path)
        if mount is None or mount.point in told:
            continue
        told.add(mount.point)
        space = host.space(path)
        seen = f"{mount.point} has {space.free // MIB} MiB free of {space.total // MIB}"
        if space.free < FULL_BELOW:
            yield finding("DISK_FULL", seen)
        elif space.free < LOW_BELOW:
            yield finding("DISK_LOW", seen)
        if space.inodes_total and space.inodes_free * 100 < space.inodes_total:
            yield finding("DISK_FULL", f"{mount.point} has {space.inodes_free} inodes free of {space.inodes_total}")


def clock(host: HostView) -> Seen:
    """The clock agrees with the controller's: signatures and certificates have dates."""
    if host.controller_time is None:
        return
    ahead = time.time() - host.controller_time
    if abs(ahead) > CLOCK_TOLERANCE:
        way = "ahead of" if ahead > 0 else "behind"
        yield finding("CLOCK_OFF", f"{abs(ahead):.0f} s {way} the controller's clock")


def reboot(host: HostView) -> Seen:
    """No package waits for a reboot."""
    if host.exists("/run/reboot-required"):
        packages = sorted(set((host.read("/run/reboot-required.pkgs") or "").split()))
        yield finding(
            "REBOOT_NEEDED", f"/run/reboot-required, by {', '.join(packages) or 'a package that is not named'}"
        )


def journal(host: HostView) -> Seen:
    """What was changed here before can be taken back. Root's to know: whoever may not read it changes nothing either."""
    path = "/var/lib/gpulab/journal/journal.json"
    with contextlib.suppress(Unreadable):
        text = host.read(path)
        try:
            _journal.parse('{"schema": 1}' if text is None else text, path)
        except FleetError as error:
            yield from_error(error)


CHECKS = (
    Check("journal", journal, ("JOURNAL_INVALID",), preflight=True),
    Check("reboot", reboot, ("REBOOT_NEEDED",), preflight=True),
    Check("platform", platform, ("OS_UNSUPPORTED", "ARCH_UNSUPPORTED", "PLATFORM_UNTESTED"), preflight=True),
    Check("systemd", systemd, ("SYSTEMD_MISSING", "SYSTEMD_TOO_OLD"), preflight=True),
    Check("cgroups", cgroups, ("CGROUP_V1",), preflight=True),
    Check("cgroup_controllers", cgroup_controllers, ("CGROUP_CONTROLLERS_MISSING", "CGROUP_NOT_DELEGATED")),
    Check("user_namespaces", user_namespaces, ("USERNS_DISABLED", "USERNS_FEW"), preflight=True),
    Check("apparmor", apparmor, ("USERNS_APPARMOR_RESTRICTED",)),
    Check("uidmap", uidmap, ("UIDMAP_NOT_PRIVILEGED",), preflight=True),
    Check("data_roots", data_roots, ("DATA_ROOT_NETWORK_FS", "DATA_ROOT_NOT_OWNED"), preflight=True),
    Check("room", room, ("DISK_FULL", "DISK_LOW"), preflight=True),
    Check("clock", clock, ("CLOCK_OFF",), preflight=True),
)
