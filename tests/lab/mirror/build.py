"""Build the repositories in the cache, or find them there.

<cache>/mirror/archive/SUITE/    Debian's packages as downloaded
<cache>/mirror/gnupg/            the signing keys
<cache>/mirror/engine-HASH/      Docker's repositories     (built anew only when what they are made of changes)
<cache>/mirror/toolkit-HASH/     NVIDIA's repository
<cache>/mirror/site/             links to the two: what is served
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from . import archive, deb, engine, repository
from .archive import MirrorError, Package, Progress
from .keys import Keys, opened

HERE = Path(__file__).parent
TOOLS = {
    "apt-get": "apt",
    "dpkg-deb": "dpkg",
    "gpg": "gpg",
    "gpg-agent": "gpg-agent",
    "gpgconf": "gpgconf",
    str(archive.KEYRING): "debian-archive-keyring",
}


@dataclass(frozen=True)
class Suite:
    """A suite of a vendor repository and how its package versions end."""

    distribution: str
    release: str
    codename: str

    @property
    def ending(self) -> str:
        return f"-1~{self.distribution}.{self.release}~{self.codename}"


SUITES = (
    Suite("ubuntu", "22.04", "jammy"),
    Suite("ubuntu", "24.04", "noble"),
    Suite("debian", "12", "bookworm"),
    Suite("debian", "13", "trixie"),
)


def missing_tools() -> list[str]:
    """What this machine lacks, as Debian package names."""
    return [package for tool, package in TOOLS.items() if not shutil.which(tool) and not Path(tool).exists()]


def build(cache: Path, progress: Progress = lambda line: None, refresh: bool = False) -> Path:
    """The root of what is served; built when it is not there, or with `refresh` from newly downloaded packages."""
    if missing := missing_tools():
        raise MirrorError(f"the mirror needs: apt-get install --no-install-recommends {' '.join(missing)}")
    base = cache / "mirror"
    base.mkdir(parents=True, exist_ok=True)
    with _locked(base / "lock"), opened(base / "gnupg") as keys:
        engines = _engine_sources(base, progress, refresh)
        code = _code_hash() + keys.good
        engine_key = _hash(code, *(p.sha256 for packages in engines.values() for p in packages))
        docker = _once(base / f"engine-{engine_key}", lambda at: _build_engines(at, engines, keys, progress))
        toolkit_debs = toolkit_packages(cache)
        toolkit_key = _hash(code, *(_hash(p.name, p.read_bytes()) for p in toolkit_debs))
        nvidia = _once(base / f"toolkit-{toolkit_key}", lambda at: _build_toolkit(at, toolkit_debs, keys, progress))
        site = base / "site"
        site.mkdir(exist_ok=True)
        _link(site / "docker", docker / "docker")
        _link(site / "desktop", docker / "desktop")
        _link(site / "versions.json", docker / "versions.json")
        _link(site / "libnvidia-container", nvidia / "libnvidia-container")
        for stale in [*base.glob("engine-*"), *base.glob("toolkit-*")]:
            if stale not in (docker, nvidia):
                shutil.rmtree(stale)
        return site


def toolkit_packages(cache: Path) -> list[Path]:
    """The packages of the stand-in toolkit, which has a builder of its own."""
    try:
        toolkit = import_module("..toolkit.packages", __package__)
    except ModuleNotFoundError:
        return []
    packages: list[Path] = toolkit.build(cache)
    return packages


def fingerprint(cache: Path) -> str:
    """The fingerprint of the key that signs."""
    with opened(cache / "mirror" / "gnupg") as keys:
        return keys.good


def _engine_sources(base: Path, progress: Progress, refresh: bool) -> dict[str, list[Package]]:
    wanted = dict.fromkeys(engine.ENGINE_SUITES, engine.SOURCES) | {engine.COMMON_SUITE: engine.COMMON_SOURCES}
    return {
        suite: archive.fetch(suite, names, base / "archive" / suite, progress, refresh)
        for suite, names in wanted.items()
    }


def _build_engines(root: Path, sources: dict[str, list[Package]], keys: Keys, progress: Progress) -> None:
    """Docker's repositories: every suite offers every engine."""
    common = _unpack(sources[engine.COMMON_SUITE], root / "unpacked" / "common")
    offers: dict[Suite, list[repository.Offer]] = {suite: [] for suite in SUITES}
    versions = {}
    for debian_suite in engine.ENGINE_SUITES:
        packages = {p.name: p for p in sources[debian_suite]}
        number = packages["docker.io"].upstream
        progress(f"packing Docker {number} from Debian {debian_suite}")
        unpacked = _unpack(sources[debian_suite], root / "unpacked" / debian_suite)
        _check_binary(unpacked / "usr/sbin/dockerd", number)
        recipes = engine.recipes(int(number.split(".")[0]))
        versions[number] = {name: packages[source].upstream for name, source in engine.VERSION_OF.items()}
        payloads = _compress_all(recipes, [unpacked, common], root / "trees" / debian_suite)
        for suite in SUITES:
            for name, recipe in recipes.items():
                epoch = "5:" if engine.VERSION_OF[name] == "docker.io" else ""
                version = versions[number][name] + suite.ending
                path = _suite_folder(root, suite) / "pool/stable" / _architecture() / _file_name(name, version)
                offers[suite].append(_offer(path, name, epoch + version, recipe, payloads[name]))
        shutil.rmtree(root / "trees")
    desktop = root / "desktop" / f"docker-desktop-{_architecture()}.deb"
    payload = _compress_all({"docker-desktop": engine.DESKTOP}, [], root / "trees")["docker-desktop"]
    _offer(desktop, "docker-desktop", engine.DESKTOP_VERSION, engine.DESKTOP, payload)
    shutil.rmtree(root / "trees")
    shutil.rmtree(root / "unpacked")
    progress(f"signing {len(SUITES)} suites")
    for suite, offered in offers.items():
        folder = _suite_folder(root, suite)
        top = folder.parent.parent
        repository.write_indexes(folder, folder / "stable" / f"binary-{_architecture()}", top, offered)
        fields = {"Origin": "Docker", "Label": "Docker CE", "Suite": suite.codename, "Codename": suite.codename}
        repository.sign(folder, {**fields, "Architectures": _architecture(), "Components": "stable"}, keys)
        repository.publish_key(top / "gpg", keys)
    (root / "versions.json").write_text(json.dumps(versions, indent=1), encoding="utf-8")


def _build_toolkit(root: Path, packages: list[Path], keys: Keys, progress: Progress) -> None:
    """NVIDIA's repository: flat, one folder an architecture."""
    progress(f"signing the toolkit repository ({len(packages)} packages)")
    folder = root / "libnvidia-container/stable/deb" / _architecture()
    folder.mkdir(parents=True)
    copies = [Path(shutil.copy(package, folder / package.name)) for package in packages]
    repository.write_indexes(folder, folder, folder, [repository.Offer.of(copy) for copy in copies])
    fields = {"Origin": "nvidia.github.io/libnvidia-container", "Label": "NVIDIA CORPORATION"}
    repository.sign(folder, {**fields, "Architectures": _architecture()}, keys)
    repository.publish_key(root / "libnvidia-container/gpgkey", keys)


def _offer(path: Path, name: str, version: str, recipe: engine.Recipe, payload: deb.Payload) -> repository.Offer:
    path.parent.mkdir(parents=True, exist_ok=True)
    fields = {
        "Package": name,
        "Version": version,
        "Architecture": _architecture(),
        "Maintainer": "gpulab.fleet lab <lab@lab.example>",
        "Section": "admin",
        "Priority": "optional",
        **recipe.fields,
        "Description": f"{recipe.summary}\n Made of Debian's binaries for the tests of gpulab.fleet.",
    }
    deb.write(path, fields, engine.scripts(recipe), list(recipe.conffiles), payload)
    return repository.Offer.of(path)


def _compress_all(recipes: dict[str, engine.Recipe], unpacked: list[Path], trees: Path) -> dict[str, deb.Payload]:
    def one(name: str) -> deb.Payload:
        (trees / name).mkdir(parents=True)
        engine.lay_out(recipes[name], unpacked, trees / name)
        return deb.compress(trees / name)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip(recipes, pool.map(one, recipes), strict=True))


def _unpack(packages: list[Package], into: Path) -> Path:
    into.mkdir(parents=True)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda p: archive.run(["dpkg-deb", "--extract", str(p.path), str(into)]), packages))
    return into


def _check_binary(dockerd: Path, number: str) -> None:
    """The version in the package's name must be the one that the binary has."""
    said = archive.run([str(dockerd), "--version"])
    if not said.startswith(f"Docker version {number}"):
        raise MirrorError(f"the package says Docker {number}, its dockerd says {said.strip()!r}")


def _suite_folder(root: Path, suite: Suite) -> Path:
    return root / "docker/linux" / suite.distribution / "dists" / suite.codename


def _file_name(name: str, version: str) -> str:
    return f"{name}_{version}_{_architecture()}.deb"


def _architecture() -> str:
    return archive.run(["dpkg", "--print-architecture"]).strip()


def _once(folder: Path, make: Callable[[Path], None]) -> Path:
    """A folder that is either complete or not there."""
    if not folder.exists():
        scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix="building-"))
        try:
            scratch.chmod(0o755)
            make(scratch)
            scratch.rename(folder)
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise
    return folder


def _link(link: Path, target: Path) -> None:
    fresh = link.with_name(f".{link.name}")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(os.path.relpath(target, link.parent))
    fresh.rename(link)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _code_hash() -> str:
    """The modules that decide what the repositories hold."""
    return _hash(*((HERE / f"{name}.py").read_bytes() for name in ("build", "deb", "engine", "repository")))


def _hash(*parts: str | bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        raw = part.encode() if isinstance(part, str) else part
        digest.update(len(raw).to_bytes(8, "big") + raw)
    return digest.hexdigest()[:12]
