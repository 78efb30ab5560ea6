"""What a host is, as data that two moments can be compared by: files, packages, units, users, kernel settings, sources.

Run on the host as root: python3 manifest.py > before.json, later python3 manifest.py before.json after.json. What may
differ after a reset is in ALLOWED, with reasons.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

# Not part of what a host is: the kernel's own, what lives until the next boot, and other machines' file systems.
SKIPPED = ("/proc", "/sys", "/dev", "/run", "/tmp", "/var/tmp", "/mnt", "/media")

# What may differ between before site.yml and after reset.yml. Patterns of fnmatch, each with its reason.
ALLOWED = {
    "file:/var/log/*": "logs",
    "file:/var/cache/apt/*": "apt's caches",
    "file:/var/lib/apt/*": "apt's lists and notes",
    "file:/var/cache/debconf/*": "dpkg's notes",
    "file:/var/lib/dpkg/*": "dpkg's notes; what is installed is compared by itself",
    "file:/var/cache/ldconfig/aux-cache": "a cache",
    "file:/etc/ld.so.cache": "a cache",
    "file:/var/lib/systemd/random-seed": "renewed at every boot",
    "file:/var/lib/systemd/timers/*": "when a timer ran last",
    "file:/root/.ansible*": "Ansible's own folder for its temporary files",
    "group:docker": "a group that a package made; packages never take theirs back",
    "file:/etc/group": "the same group; groups are compared one by one",
    "file:/etc/gshadow": "the same group",
    "file:/etc/*-": "the account tools' own backups: passwd-, group-, shadow-, gshadow-, subuid-, subgid-",
}


def files(root: str = "/") -> dict[str, str]:
    """Every file, folder and link: type, mode, owner, and what is in it. Folders' times do not count."""
    found = {}
    device = Path(root).stat().st_dev
    for where, folders, names in os.walk(root):
        above = Path(where)
        folders[:] = [
            name for name in folders if str(above / name) not in SKIPPED and (above / name).lstat().st_dev == device
        ]
        for name in [*folders, *names]:
            path = above / name
            try:
                found[str(path)] = describe(path)
            except FileNotFoundError:
                continue  # gone while we looked
    return found


def describe(path: Path) -> str:
    status = path.lstat()
    head = f"{stat.filemode(status.st_mode)} {status.st_uid}:{status.st_gid}"
    if stat.S_ISLNK(status.st_mode):
        return f"{head} -> {path.readlink()}"
    if stat.S_ISREG(status.st_mode):
        return f"{head} {hashlib.sha256(path.read_bytes()).hexdigest()}"
    return head


def lines(*argv: str) -> list[str]:
    return subprocess.run(argv, capture_output=True, text=True, check=False).stdout.splitlines()


def packages() -> dict[str, str]:
    query = ["dpkg-query", "-W", "-f", "${binary:Package}\\t${db:Status-Abbrev} ${Version}\\n"]
    return dict(line.split("\t", 1) for line in lines(*query))


def units() -> dict[str, str]:
    """Enablement of every unit file, and which services run."""
    found = {}
    for line in lines("systemctl", "list-unit-files", "--no-legend", "--no-pager", "--plain"):
        name, state = line.split()[:2]
        if state != "transient":  # a login's, or a program's that runs just now
            found[name] = state
    return found


def services() -> dict[str, str]:
    shown = lines("systemctl", "list-units", "--type=service,socket,path,timer", "--no-legend", "--no-pager", "--plain")
    rows = [line.split(None, 4) for line in shown]
    # A login's own units come and go with it.
    return {
        row[0]: row[2] for row in rows if row[2] != "inactive" and not row[0].startswith(("user@", "user-runtime-dir@"))
    }


def database(path: str) -> dict[str, str]:
    text = Path(path).read_text(encoding="utf-8")
    return {line.split(":")[0]: line for line in text.splitlines() if line}


def sysctls() -> dict[str, str]:
    """The settings that an engine or a tuning would touch; counters of the kernel are no settings."""
    wanted = (
        "net.ipv4.ip_",
        "net.ipv4.ping_group",
        "net.ipv4.conf.all",
        "user.max_",
        "kernel.unpriv",
        "fs.inotify.max",
        "vm.",
    )
    rows = (line.split(" = ", 1) for line in lines("sysctl", "-a"))
    return {row[0]: row[1] for row in rows if len(row) == 2 and row[0].startswith(wanted)}


def holds() -> dict[str, str]:
    return dict.fromkeys(lines("apt-mark", "showhold"), "held")


def mounts() -> dict[str, str]:
    return {
        line.split()[1]: line.split()[2]
        for line in lines("cat", "/proc/mounts")
        if not line.split()[1].startswith("/run/user")
    }


def take() -> dict[str, dict[str, str]]:
    """The whole manifest. Sections: name -> what it is."""
    return {
        "package": packages(),
        "hold": holds(),
        "unit": units(),
        "service": services(),
        "user": database("/etc/passwd"),
        "group": database("/etc/group"),
        "subuid": database("/etc/subuid"),
        "subgid": database("/etc/subgid"),
        "sysctl": sysctls(),
        "mount": mounts(),
        "file": files(),
    }


def difference(before: dict[str, Any], after: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What differs: "section:name" -> (before, after), None where it is not there."""
    found = {}
    for section in before:
        for name in sorted(before[section].keys() | after[section].keys()):
            pair = before[section].get(name), after[section].get(name)
            if pair[0] != pair[1]:
                found[f"{section}:{name}"] = pair
    return found


def split(found: dict[str, Any], allowed: dict[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
    """The differences that nothing explains, and the others with their reasons."""
    explained = {}
    for name in found:
        reason = next((why for pattern, why in allowed.items() if fnmatch.fnmatchcase(name, pattern)), None)
        if reason:
            explained[name] = reason
    return {name: pair for name, pair in found.items() if name not in explained}, explained


def compare(before: dict[str, Any], after: dict[str, Any]) -> bool:
    """Print what differs and why it may, then what nothing explains; whether there is none of the latter."""
    found, explained = split(difference(before, after), ALLOWED)
    reasons = list(explained.values())
    for reason in dict.fromkeys(reasons):
        print(f"differs and may: {reasons.count(reason):4} {reason}")
    for name, pair in found.items():
        print(f"UNEXPLAINED {name}: {pair[0]} -> {pair[1]}")
    return not found


if __name__ == "__main__":
    if len(sys.argv) > 1:
        one, two = (json.loads(Path(name).read_text(encoding="utf-8")) for name in sys.argv[1:3])
        sys.exit(0 if compare(one, two) else 1)
    json.dump(take(), sys.stdout)
