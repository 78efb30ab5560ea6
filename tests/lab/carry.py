"""What a host takes over from the machine it runs on: where its packages come from and how they are reached."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from .system import run

CA_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
CA_FOLDER = Path("/usr/local/share/ca-certificates")
PIP_CONF = Path("/etc/pip.conf")
APT = Path("/etc/apt")
RESOLVERS = (Path("/run/systemd/resolve/resolv.conf"), Path("/etc/resolv.conf"))
# Settings that say how to reach an archive; the rest of the machine's apt settings are its own business.
APT_SETTINGS = (
    "Acquire::http",
    "Acquire::https",
    "Acquire::ftp",
    "Acquire::Check-",
    "Acquire::Languages",
    "Acquire::Retries",
    "Acquire::ForceIPv4",
    "Acquire::ForceIPv6",
)


@dataclass(frozen=True)
class Source:
    uri: str
    release: str
    component: str
    origin: str
    label: str


def parse_targets(text: str) -> list[Source]:
    """Lines of apt-get indextargets in the format below."""
    return [Source(*fields) for line in text.splitlines() if len(fields := line.split("|")) == 5]


def choose_mirror(sources: list[Source]) -> str | None:
    """The machine's own mirror of the Debian archive; not the one for security updates, which lacks the rest."""
    debian = [source for source in sources if source.origin == "Debian" and source.label == "Debian"]
    if not debian:  # lists never fetched: apt does not know the origins yet
        debian = [
            source
            for source in sources
            if source.component == "main" and source.uri.rstrip("/").endswith("/debian") and "/" not in source.release
        ]
    return debian[0].uri.rstrip("/") if debian else None


def mirror() -> str | None:
    """None on a machine whose apt knows no Debian archive (Ubuntu): mmdebstrap then takes its own default."""
    layout = "$(REPO_URI)|$(RELEASE)|$(COMPONENT)|$(ORIGIN)|$(LABEL)"
    found = run(["apt-get", "indextargets", "Created-By: Packages", "--format", layout], check=False)
    return choose_mirror(parse_targets(found.stdout))


def choose_settings(dump: str) -> list[str]:
    """Lines of apt-config dump that a host needs; empty ones are only headings."""
    return [line for line in dump.splitlines() if line.startswith(APT_SETTINGS) and not line.endswith('"";')]


def apt_settings() -> list[str]:
    return choose_settings(run(["apt-config", "dump"]).stdout)


def local_certificates() -> list[Path]:
    return sorted(CA_FOLDER.glob("**/*.crt")) if CA_FOLDER.is_dir() else []


def resolver() -> str:
    """The machine's name servers; a stub on a loopback address is of no use in another network namespace."""
    for path in RESOLVERS:
        if path.exists():
            lines = path.read_text().splitlines()
            servers = [line.split()[1] for line in lines if line.startswith("nameserver") and len(line.split()) > 1]
            if any(not server.startswith("127.") for server in servers):
                kept = [line for line in lines if not line.startswith("nameserver 127.")]
                return "\n".join(kept) + "\n"
    return ""


def digest(apt: Path = APT) -> str:
    """Changes when anything that is carried over may have changed; asking apt for it would take most of a second."""
    folders = (apt / "sources.list.d", apt / "apt.conf.d")
    files = [apt / "sources.list", apt / "apt.conf", *(path for folder in folders for path in sorted(folder.glob("*")))]
    sums = hashlib.sha256()
    for path in [*files, *local_certificates(), PIP_CONF]:
        if path.is_file():
            sums.update(f"{path}\0".encode() + path.read_bytes() + b"\0")
    return sums.hexdigest()
