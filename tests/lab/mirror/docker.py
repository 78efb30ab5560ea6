"""Docker's repositories: every suite offers every engine, under the version strings of that suite."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ..settings import LabError
from ..system import remove_tree, run, write_json
from . import deb, recipes, repository
from .archive import Package, Progress
from .keys import Keys
from .recipes import Recipe

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Suite:
    """A suite of the repository, and how its package versions end."""

    distribution: str
    release: str
    codename: str

    @property
    def ending(self) -> str:
        return f"-1~{self.distribution}.{self.release}~{self.codename}"

    @property
    def folder(self) -> str:
        return f"docker/linux/{self.distribution}/dists/{self.codename}"


SUITES = (
    Suite("ubuntu", "22.04", "jammy"),
    Suite("ubuntu", "24.04", "noble"),
    Suite("debian", "12", "bookworm"),
    Suite("debian", "13", "trixie"),
)


def build(root: Path, sources: dict[str, list[Package]], keys: Keys, progress: Progress) -> None:
    """Make the repositories in an empty folder out of Debian's packages, given by suite."""
    architecture = deb.architecture()
    work = root / "work"
    common = _unpack(sources[recipes.COMMON_SUITE], work / recipes.COMMON_SUITE)
    offers: dict[Suite, list[repository.Offer]] = {suite: [] for suite in SUITES}
    versions = {}
    for debian_suite in recipes.ENGINE_SUITES:
        packages = {p.name: p for p in sources[debian_suite]}
        engine = packages["docker.io"].upstream
        progress(f"packing Docker {engine} out of Debian {debian_suite}")
        unpacked = _unpack(sources[debian_suite], work / debian_suite)
        _check_binary(unpacked / "usr/sbin/dockerd", engine)
        versions[engine] = {name: packages[source].upstream for name, source in recipes.VERSION_OF.items()}
        chosen = recipes.recipes(int(engine.split(".")[0]))
        for name, payload in _compress(chosen, [unpacked, common], work / "trees").items():
            epoch = "5:" if versions[engine][name] == engine else ""
            for suite in SUITES:
                version = versions[engine][name] + suite.ending
                path = root / suite.folder / "pool/stable" / architecture / f"{name}_{version}_{architecture}.deb"
                offers[suite].append(_package(path, name, epoch + version, chosen[name], payload))
    desktop = _compress({"docker-desktop": recipes.DESKTOP}, [], work / "trees")["docker-desktop"]
    desktop_path = root / "desktop" / f"docker-desktop-{architecture}.deb"
    _package(desktop_path, "docker-desktop", recipes.DESKTOP_VERSION, recipes.DESKTOP, desktop)
    remove_tree(work)
    progress(f"signing {len(SUITES)} suites of Docker's repositories")
    for suite, offered in offers.items():
        _publish(root / suite.folder, suite, offered, keys)
    write_json(root / "about.json", {"fingerprint": keys.good, "versions": versions})


def _publish(folder: Path, suite: Suite, offers: list[repository.Offer], keys: Keys) -> None:
    top = folder.parent.parent
    repository.write_index(folder / "stable" / f"binary-{deb.architecture()}", top, offers)
    names = {"Origin": "Docker", "Label": "Docker CE", "Suite": suite.codename, "Codename": suite.codename}
    repository.sign(folder, {**names, "Architectures": deb.architecture(), "Components": "stable"}, keys)
    repository.publish_key(top / "gpg", keys)


def _package(path: Path, name: str, version: str, recipe: Recipe, payload: deb.Payload) -> repository.Offer:
    path.parent.mkdir(parents=True, exist_ok=True)
    fields = {
        "Package": name,
        "Version": version,
        "Architecture": deb.architecture(),
        "Maintainer": "gpulab.fleet lab <lab@lab.example>",
        "Section": "admin",
        "Priority": "optional",
        **recipe.fields,
        "Description": f"{recipe.summary}\n Made of Debian's binaries for the tests of gpulab.fleet.",
    }
    deb.write(path, fields, recipes.scripts(recipe), recipe.conffiles, payload)
    return repository.Offer.of(path)


def _compress(chosen: dict[str, Recipe], unpacked: list[Path], trees: Path) -> dict[str, deb.Payload]:
    def one(name: str) -> deb.Payload:
        tree = trees / name
        tree.mkdir(parents=True)
        recipes.lay_out(chosen[name], unpacked, tree)
        payload = deb.compress(tree)
        remove_tree(tree)
        return payload

    return dict(zip(chosen, _at_once(one, chosen), strict=True))


def _unpack(packages: list[Package], into: Path) -> Path:
    into.mkdir(parents=True)
    _at_once(lambda package: run(["dpkg-deb", "--extract", package.path, into]), packages)
    return into


def _at_once(work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(work, items))


def _check_binary(dockerd: Path, engine: str) -> None:
    """The version in the package's name must be the one that the binary has."""
    said = run([dockerd, "--version"]).stdout.strip()
    if not said.startswith(f"Docker version {engine}"):
        raise LabError(f"the package says Docker {engine}, its dockerd says {said!r}")
