"""Debian packages from the archive that this machine is configured with, whatever suite it runs itself."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from .. import carry
from ..settings import LabError
from ..system import read_json, remove_tree, run, write_json

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
ARCHIVE_VARIABLE = "GPULAB_LAB_ARCHIVE"
Progress = Callable[[str], None]


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


def archive_uri() -> str:
    """The Debian archive that apt on this machine uses, or the one that was named."""
    found = os.environ.get(ARCHIVE_VARIABLE) or carry.mirror()
    if not found:
        raise LabError(f"apt on this machine knows no Debian archive: set {ARCHIVE_VARIABLE} to the URL of one")
    return found


def fetch(suite: str, names: Iterable[str], folder: Path, progress: Progress, refresh: bool = False) -> list[Package]:
    """The suite's packages by name, downloaded once: a second call reads the folder and asks no network."""
    names = sorted(names)
    kept = read_json(folder / "packages.json")
    if kept and not refresh:
        packages = [Package(name, version, sha256, folder / file) for name, version, sha256, file in kept]
        if [p.name for p in packages] == names and all(p.path.exists() for p in packages):
            return packages
    progress(f"downloading {len(names)} packages of Debian {suite}")
    remove_tree(folder)
    folder.mkdir(parents=True)
    settings = _apt_settings(folder / "apt", suite)
    apt = ["env", f"--chdir={folder}", "LC_ALL=C", "apt-get", f"--config-file={settings}", "--quiet"]
    run([*apt, "update"])
    run([*apt, "download", *names])
    remove_tree(folder / "apt")
    packages = sorted((_describe(path) for path in folder.glob("*.deb")), key=lambda p: p.name)
    if [p.name for p in packages] != names:
        raise LabError(f"asked Debian {suite} for {' '.join(names)}, got {' '.join(p.name for p in packages)}")
    write_json(folder / "packages.json", [(p.name, p.version, p.sha256, p.path.name) for p in packages])
    return packages


def _apt_settings(apt: Path, suite: str) -> Path:
    """An apt that knows this suite only, and works in a folder of its own.

    The file is read after the machine's own settings: proxy, certificates and credentials apply, its lists, its cache
    and its hooks are out of play.
    """
    for part in ("lists/partial", "cache/archives/partial", "sources", "none"):
        (apt / part).mkdir(parents=True)
    (apt / "status").touch()
    (apt / "sources/debian.sources").write_text(
        f"Types: deb\nURIs: {archive_uri()}\nSuites: {suite}\nComponents: main\nSigned-By: {KEYRING}\n",
        encoding="utf-8",
    )
    settings = apt / "apt.conf"
    settings.write_text(
        f'Dir::Etc::SourceList "{apt}/none/list";\nDir::Etc::SourceParts "{apt}/sources";\n'
        f'Dir::Etc::Preferences "{apt}/none/preferences";\nDir::Etc::PreferencesParts "{apt}/none";\n'
        f'Dir::State "{apt}";\nDir::State::status "{apt}/status";\nDir::Cache "{apt}/cache";\n'
        "#clear APT::Update::Post-Invoke;\n#clear APT::Update::Post-Invoke-Success;\n"
        'APT::Sandbox::User "root";\nAcquire::Languages "none";\n',
        encoding="utf-8",
    )
    return settings


def _describe(path: Path) -> Package:
    name, version = run(["dpkg-deb", "--show", "--showformat", "${Package} ${Version}", path]).stdout.split()
    return Package(name, version, hashlib.sha256(path.read_bytes()).hexdigest(), path)
