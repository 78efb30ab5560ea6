"""Build the repositories in the cache, or find them there.

<cache>/mirror/archive/SUITE/    Debian's packages as downloaded
<cache>/mirror/gnupg/            the signing keys
<cache>/mirror/docker-HASH/      Docker's repositories   (built anew only when what they are made of changes)
<cache>/mirror/nvidia-HASH/      NVIDIA's repository
<cache>/mirror/site/             links to the two: what is served
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from ..settings import LabError
from ..system import lock, remove_tree
from ..toolkit import packages
from . import archive, deb, docker, recipes, repository
from .archive import Package, Progress
from .keys import Keys, opened

# What is needed of this machine -> the Debian package that brings it.
NEEDS = {
    "apt-get": "apt",
    "dpkg-deb": "dpkg",
    "gpg": "gpg",
    "gpg-agent": "gpg-agent",
    "gpgconf": "gpgconf",
    str(archive.KEYRING): "debian-archive-keyring",
}


def missing() -> list[str]:
    """What this machine lacks, as Debian package names."""
    return [package for what, package in NEEDS.items() if not shutil.which(what) and not Path(what).exists()]


def build(cache: Path, progress: Progress = lambda line: None, refresh: bool = False) -> Path:
    """The root of what is served; built when it is not there, or with `refresh` from newly downloaded packages."""
    if lacking := missing():
        raise LabError(f"the mirror needs: apt-get install --no-install-recommends {' '.join(lacking)}")
    base = cache / "mirror"
    with lock(base / "lock"), opened(base / "gnupg") as keys:
        sources = _sources(base / "archive", progress, refresh)
        ingredients = _hash(keys.good, _code(), *(p.sha256 for found in sources.values() for p in found))
        docker_root = _once(base / f"docker-{ingredients}", lambda root: docker.build(root, sources, keys, progress))
        toolkit = packages.build(cache)
        ingredients = _hash(keys.good, _code(), *(part for p in toolkit for part in (p.name, p.read_bytes())))
        nvidia_root = _once(base / f"nvidia-{ingredients}", lambda root: _build_nvidia(root, toolkit, keys, progress))
        site = base / "site"
        site.mkdir(exist_ok=True)
        for name in ("docker", "desktop", "about.json"):
            _link(site / name, docker_root / name)
        _link(site / "libnvidia-container", nvidia_root / "libnvidia-container")
        for stale in base.glob("*-*"):
            if stale not in (docker_root, nvidia_root):
                remove_tree(stale)
        return site


def _sources(folder: Path, progress: Progress, refresh: bool) -> dict[str, list[Package]]:
    wanted = dict.fromkeys(recipes.ENGINE_SUITES, recipes.SOURCES) | {recipes.COMMON_SUITE: recipes.COMMON_SOURCES}
    return {suite: archive.fetch(suite, names, folder / suite, progress, refresh) for suite, names in wanted.items()}


def _build_nvidia(root: Path, debs: list[Path], keys: Keys, progress: Progress) -> None:
    """NVIDIA's repository: flat, one folder an architecture."""
    progress(f"signing NVIDIA's repository ({len(debs)} packages)")
    folder = root / "libnvidia-container/stable/deb" / deb.architecture()
    folder.mkdir(parents=True)
    copies = [Path(shutil.copy(package, folder / package.name)) for package in debs]
    repository.write_index(folder, folder, [repository.Offer.of(copy) for copy in copies])
    names = {"Origin": "nvidia.github.io/libnvidia-container", "Label": "NVIDIA CORPORATION"}
    repository.sign(folder, {**names, "Architectures": deb.architecture()}, keys)
    repository.publish_key(root / "libnvidia-container/gpgkey", keys)


def _once(folder: Path, make: Callable[[Path], None]) -> Path:
    """A folder that is either complete or not there."""
    if not folder.exists():
        scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix="building-"))
        scratch.chmod(0o755)
        try:
            make(scratch)
            scratch.rename(folder)
        except BaseException:
            remove_tree(scratch)
            raise
    return folder


def _link(link: Path, target: Path) -> None:
    """Point a link elsewhere; a request finds the old target or the new one."""
    fresh = link.with_name(f".{link.name}")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(os.path.relpath(target, link.parent))
    fresh.rename(link)


def _code() -> bytes:
    """The modules that decide what the repositories hold."""
    names = ("build", "deb", "docker", "keys", "recipes", "repository")
    return b"".join(Path(__file__).with_name(f"{name}.py").read_bytes() for name in names)


def _hash(*parts: str | bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        raw = part.encode() if isinstance(part, str) else part
        digest.update(len(raw).to_bytes(8, "big") + raw)
    return digest.hexdigest()[:12]
