"""Which distribution a host says it is.

Ubuntu's archive is not needed for that: what tools ask are three files, and the Debian release next of kin
(bookworm for 22.04, forky for 24.04) is underneath.
"""

from dataclasses import dataclass
from pathlib import Path

from .settings import LabError


@dataclass(frozen=True)
class Identity:
    suite: str
    # All empty: the host is what it is.
    version: str = ""
    codename: str = ""
    label: str = ""
    debian_version: str = ""


IDENTITIES = {
    "native": Identity("bookworm"),
    "debian-12": Identity("bookworm"),
    "debian-13": Identity("trixie"),
    "ubuntu-22.04": Identity("bookworm", "22.04", "jammy", "22.04.5 LTS (Jammy Jellyfish)", "bookworm/sid"),
    "ubuntu-24.04": Identity("forky", "24.04", "noble", "24.04.3 LTS (Noble Numbat)", "trixie/sid"),
}
DEFAULT = "ubuntu-22.04"


def resolve(name: str | None, suite: str | None) -> tuple[str, str]:
    """Identity and suite from what was asked for; a suite alone means that suite as it is."""
    if name is None:
        name = DEFAULT if suite is None else "native"
    if name not in IDENTITIES:
        raise LabError(f"no identity {name}: one of {', '.join(IDENTITIES)}")
    return name, suite or IDENTITIES[name].suite


def files(identity: Identity) -> dict[str, str]:
    release = identity.label.split(" (", 1)[0]
    return {
        "usr/lib/os-release": f'PRETTY_NAME="Ubuntu {release}"\n'
        'NAME="Ubuntu"\n'
        f'VERSION_ID="{identity.version}"\n'
        f'VERSION="{identity.label}"\n'
        f"VERSION_CODENAME={identity.codename}\n"
        "ID=ubuntu\n"
        "ID_LIKE=debian\n"
        f"UBUNTU_CODENAME={identity.codename}\n",
        "etc/lsb-release": f"DISTRIB_ID=Ubuntu\nDISTRIB_RELEASE={identity.version}\n"
        f'DISTRIB_CODENAME={identity.codename}\nDISTRIB_DESCRIPTION="Ubuntu {release}"\n',
        "etc/debian_version": f"{identity.debian_version}\n",
    }


def pose(root: Path, name: str) -> None:
    identity = IDENTITIES[name]
    if not identity.version:
        return
    for relative, content in files(identity).items():
        (root / relative).write_text(content)
    link = root / "etc/os-release"
    link.unlink(missing_ok=True)
    link.symlink_to("../usr/lib/os-release")
