"""What the lab needs of the machine it runs on, and what of it is missing."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from .settings import CACHE, STATE, NotPossible

# command -> Debian package that brings it
COMMANDS = {
    "systemd-nspawn": "systemd-container",
    "mmdebstrap": "mmdebstrap",
    "ip": "iproute2",
    "iptables": "iptables",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "gcc": "gcc",
    "tar": "tar",
}
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
SPACE_GIB = 4.0


@dataclass(frozen=True)
class Lack:
    what: str
    remedy: str
    package: str = ""


def cgroup_mount(mounts: str | None = None) -> Path | None:
    """The control group v2 hierarchy: at /sys/fs/cgroup, or beside the old ones on a hybrid machine."""
    text = Path("/proc/mounts").read_text() if mounts is None else mounts
    for line in text.splitlines():
        fields = line.split()
        if len(fields) > 2 and fields[2] == "cgroup2":
            return Path(fields[1].replace("\\040", " "))
    return None


def free_gib(path: Path) -> float:
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free / 2**30


def lacks(space: bool = True) -> list[Lack]:
    """Everything that is missing, at once: a person mends a list better than a series of surprises."""
    found = []
    if os.geteuid() != 0:
        found.append(Lack("not root: namespaces, links and device nodes need it", "run it again with sudo"))
    # A user's PATH may lack the sbin folders where ip and iptables live.
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin:/usr/bin:/bin"
    for command, package in COMMANDS.items():
        if shutil.which(command, path=path) is None:
            found.append(Lack(f"no {command}", f"apt-get install {package}", package))
    if not KEYRING.exists():
        found.append(
            Lack("no keys of the Debian archive", "apt-get install debian-archive-keyring", "debian-archive-keyring")
        )
    if cgroup_mount() is None:
        found.append(Lack("no control group v2 mount in /proc/mounts", "mount -t cgroup2 none /sys/fs/cgroup"))
    for folder, variable in ((STATE, "GPULAB_LAB_DIR"), (CACHE, "GPULAB_LAB_CACHE")):
        free = free_gib(folder)
        if space and free < SPACE_GIB:
            found.append(
                Lack(
                    f"{free:.1f} GiB free for {folder}, {SPACE_GIB:.0f} wanted",
                    f"free some, or point {variable} at another disk",
                )
            )
    if not Path("/dev/fuse").exists() and not Path("/sys/module/fuse").exists():
        found.append(Lack("the kernel has no fuse", "modprobe fuse"))
    return found


def describe(found: list[Lack]) -> str:
    lines = [f"{lack.what} ({lack.remedy})" for lack in found]
    packages = sorted({lack.package for lack in found if lack.package})
    if packages:
        lines.append(f"to mend: apt-get install -y {' '.join(packages)}")
    return "\n".join(lines)


def require(space: bool = False) -> None:
    """Raise unless this machine can run the lab; whoever will fill the disk asks for space as well."""
    found = lacks(space)
    if found:
        raise NotPossible("this machine cannot run the lab:\n" + describe(found))
    # Commands are looked up by name from here on.
    os.environ["PATH"] = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
