"""Debian packages from the archive that this machine is configured with, whatever suite it runs itself.

apt does the work in a folder of its own: the machine's settings (proxy, certificates, credentials) apply, its package
lists and its cache stay untouched.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from ..settings import LabError

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
ARCHIVE_VARIABLE = "GPULAB_LAB_ARCHIVE"
Progress = Callable[[str], None]


class MirrorError(LabError):
    """The mirror cannot be built or served; the text says what a person can do about it."""


@dataclass(frozen=True)
class Package:
    """One downloaded Debian package."""

    name: str
    version: str
    sha256: str
    path: Path

    @property
    def upstream(self) -> str:
        """The upstream part of the version: 28.5.2 of 28.5.2+dfsg4-5."""
        without_epoch = self.version.split(":", 1)[-1]
        return without_epoch.split("-")[0].split("+")[0].split("~")[0]


def run(argv: list[str], **options: object) -> str:
    """Run a command; its own words are the error."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
    if done.returncode:
        raise MirrorError(f"{' '.join(argv[:2])} failed ({done.returncode}): {(done.stderr or done.stdout).strip()}")
    return str(done.stdout)


def archive_uri() -> str:
    """The Debian archive that apt on this machine uses."""
    if named := os.environ.get(ARCHIVE_VARIABLE):
        return named
    release = dict(
        line.split("=", 1) for line in Path("/etc/os-release").read_text(encoding="utf-8").splitlines() if "=" in line
    )
    if release.get("ID", "").strip('"') == "debian":
        own_suite = release.get("VERSION_CODENAME", "").strip('"')
        wanted = "$(RELEASE) $(COMPONENT) $(SITE)"
        targets = run(["apt-get", "indextargets", "--format", wanted, "Created-By: Packages"])
        for line in targets.splitlines():
            suite, component, site = line.split(" ", 2)
            if (suite, component) == (own_suite, "main"):
                return site
    raise MirrorError(
        f"apt on this machine names no Debian archive: set {ARCHIVE_VARIABLE} to one, such as your Debian mirror's URL"
    )


def fetch(suite: str, names: Iterable[str], folder: Path, progress: Progress, refresh: bool = False) -> list[Package]:
    """The suite's packages by name, downloaded once: a second call reads the folder and asks no network."""
    names = sorted(names)
    kept = folder / "packages.json"
    if not refresh and kept.exists():
        packages = [Package(**{**p, "path": folder / p["path"]}) for p in json.loads(kept.read_text(encoding="utf-8"))]
        if [p.name for p in packages] == names and all(p.path.exists() for p in packages):
            return packages
    progress(f"downloading {len(names)} packages of Debian {suite}")
    shutil.rmtree(folder, ignore_errors=True)
    apt = folder / "apt"
    environment = _apt_folder(apt, suite)
    run(["apt-get", "update", "-q"], env=environment)
    run(["apt-get", "download", "-q", *names], cwd=folder, env=environment)
    shutil.rmtree(apt)
    packages = sorted((_describe(path) for path in folder.glob("*.deb")), key=lambda p: p.name)
    if [p.name for p in packages] != names:
        raise MirrorError(f"asked Debian {suite} for {' '.join(names)}, got {' '.join(p.name for p in packages)}")
    written = [{**asdict(p), "path": p.path.name} for p in packages]
    kept.write_text(json.dumps(written, indent=1), encoding="utf-8")
    return packages


def _apt_folder(apt: Path, suite: str) -> dict[str, str]:
    """An apt set-up that knows this suite only; returns the environment that makes apt use it."""
    for part in ("lists/partial", "cache/archives/partial", "sources", "conf", "none"):
        (apt / part).mkdir(parents=True)
    (apt / "status").touch()
    (apt / "sources" / "debian.sources").write_text(
        f"Types: deb\nURIs: {archive_uri()}\nSuites: {suite}\nComponents: main\nSigned-By: {KEYRING}\n",
        encoding="utf-8",
    )
    for setting in Path("/etc/apt/apt.conf.d").glob("*"):
        if setting.is_file():
            shutil.copy(setting, apt / "conf" / setting.name)
    # Last in order: hooks of the machine (cache cleaning, desktop notices) have no business here, and root needs no
    # unprivileged downloader in a folder that only root may write.
    (apt / "conf" / "zz-lab").write_text(
        "#clear APT::Update::Post-Invoke;\n#clear APT::Update::Post-Invoke-Success;\n"
        'APT::Sandbox::User "root";\nAcquire::Languages "none";\n',
        encoding="utf-8",
    )
    (apt / "apt.conf").write_text(
        f'Dir::Etc::Parts "{apt}/conf";\n'
        f'Dir::Etc::SourceList "{apt}/none/list";\nDir::Etc::SourceParts "{apt}/sources";\n'
        f'Dir::Etc::Preferences "{apt}/none/preferences";\nDir::Etc::PreferencesParts "{apt}/none";\n'
        f'Dir::State "{apt}";\nDir::State::status "{apt}/status";\nDir::Cache "{apt}/cache";\n',
        encoding="utf-8",
    )
    return {**os.environ, "APT_CONFIG": str(apt / "apt.conf"), "LC_ALL": "C"}


def _describe(path: Path) -> Package:
    name, version = run(["dpkg-deb", "--show", "--showformat", "${Package} ${Version}", str(path)]).split()
    return Package(name, version, hashlib.sha256(path.read_bytes()).hexdigest(), path)
