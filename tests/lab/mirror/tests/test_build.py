"""What was built is what the vendors' repositories look like, and it is signed and consistent."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from ... import settings
from .. import build, deb, docker, recipes

ARCHITECTURE = deb.architecture()
ENGINES = {"26.1.5": "1.7.24 2.26.1 0.13.1", "28.5.2": "2.1.9 2.40.3 0.29.1"}
FLAT = f"libnvidia-container/stable/deb/{ARCHITECTURE}"
RELEASES = [(suite.folder, f"docker/linux/{suite.distribution}/gpg") for suite in docker.SUITES]
RELEASES.append((FLAT, "libnvidia-container/gpgkey"))
PATHS = {
    "docker-ce": [
        "usr/bin/dockerd",
        "usr/bin/docker-proxy",
        "usr/libexec/docker/docker-init",
        "lib/systemd/system/docker.service",
        "lib/systemd/system/docker.socket",
    ],
    "docker-ce-cli": ["usr/bin/docker"],
    "docker-ce-rootless-extras": [
        "usr/bin/dockerd-rootless.sh",
        "usr/bin/dockerd-rootless-setuptool.sh",
        "usr/bin/rootlesskit",
    ],
    "containerd.io": [
        "usr/bin/containerd",
        "usr/bin/containerd-shim-runc-v2",
        "usr/bin/runc",
        "lib/systemd/system/containerd.service",
        "etc/containerd/config.toml",
    ],
    "docker-compose-plugin": ["usr/libexec/docker/cli-plugins/docker-compose"],
    "docker-buildx-plugin": ["usr/libexec/docker/cli-plugins/docker-buildx"],
}


def output(*argv: str | Path) -> str:
    return subprocess.run([str(word) for word in argv], capture_output=True, text=True, check=True).stdout


def stanzas(index: Path) -> list[dict[str, str]]:
    text = index.read_text(encoding="utf-8")
    return [dict(re.findall(r"^([\w-]+): (.*)$", part, re.M)) for part in text.split("\n\n") if part.strip()]


def package(site: Path, suite: docker.Suite, name: str, version: str) -> Path:
    return site / suite.folder / "pool/stable" / ARCHITECTURE / f"{name}_{version}{suite.ending}_{ARCHITECTURE}.deb"


def versions_of(engine: str) -> dict[str, str]:
    containerd, compose, buildx = ENGINES[engine].split()
    parts = {"containerd.io": containerd, "docker-compose-plugin": compose, "docker-buildx-plugin": buildx}
    return {name: parts.get(name, engine) for name in recipes.VERSION_OF}


def test_the_endings_are_the_vendors() -> None:
    assert [suite.ending for suite in docker.SUITES] == [
        "-1~ubuntu.22.04~jammy",
        "-1~ubuntu.24.04~noble",
        "-1~debian.12~bookworm",
        "-1~debian.13~trixie",
    ]


@pytest.mark.parametrize("suite", docker.SUITES, ids=lambda suite: suite.codename)
def test_the_index_offers_every_engine(site: Path, suite: docker.Suite) -> None:
    index = stanzas(site / suite.folder / f"stable/binary-{ARCHITECTURE}/Packages")
    offered = sorted((entry["Package"], entry["Version"]) for entry in index)
    expected = sorted(
        (name, ("5:" if version == engine else "") + version + suite.ending)
        for engine in ENGINES
        for name, version in versions_of(engine).items()
    )
    assert offered == expected


def test_the_toolkit_is_offered_below_at_and_above_the_floor(site: Path) -> None:
    names = [
        "libnvidia-container-tools",
        "libnvidia-container1",
        "nvidia-container-toolkit",
        "nvidia-container-toolkit-base",
    ]
    offered = sorted((entry["Package"], entry["Version"]) for entry in stanzas(site / FLAT / "Packages"))
    assert offered == [(name, f"{version}-1") for name in names for version in ("1.18.2", "1.19.1", "1.20.0")]


@pytest.mark.parametrize(("folder", "key"), RELEASES, ids=lambda text: str(text))
def test_signatures_hold_and_cover_what_is_there(site: Path, tmp_path: Path, folder: str, key: str) -> None:
    keyring = tmp_path / "key.gpg"
    output("gpg", "--homedir", tmp_path, "--batch", "--dearmor", "--output", keyring, site / key)
    release = site / folder / "Release"
    output("gpgv", "--keyring", keyring, site / folder / "Release.gpg", release)
    output("gpgv", "--keyring", keyring, "--output", tmp_path / "inside", site / folder / "InRelease")
    assert (tmp_path / "inside").read_bytes() == release.read_bytes()
    listed = re.findall(r"^ ([0-9a-f]{64}) (\d+) (\S+)$", release.read_text(encoding="utf-8"), re.M)
    assert {Path(name).name for _, _, name in listed} == {"Packages", "Packages.gz"}
    for digest, size, name in listed:
        content = (site / folder / name).read_bytes()
        assert (hashlib.sha256(content).hexdigest(), len(content)) == (digest, int(size))


@pytest.mark.parametrize("broken", ["bad-signature", "other-signer"])
def test_gpgv_refuses_the_broken_editions(site: Path, tmp_path: Path, broken: str) -> None:
    folder, key = RELEASES[0]
    keyring = tmp_path / "key.gpg"
    output("gpg", "--homedir", tmp_path, "--batch", "--dearmor", "--output", keyring, site / key)
    signed = site / folder / f"InRelease.{broken}"
    assert signed.stat().st_size > 500
    refused = subprocess.run(["gpgv", "--keyring", str(keyring), str(signed)], capture_output=True, check=False)
    assert refused.returncode != 0


@pytest.mark.parametrize(("folder", "key"), RELEASES, ids=lambda text: str(text))
def test_the_index_describes_the_files(site: Path, folder: str, key: str) -> None:
    release = site / folder
    flat = folder == FLAT
    index = release / "Packages" if flat else release / f"stable/binary-{ARCHITECTURE}/Packages"
    top = release if flat else release.parent.parent
    entries = stanzas(index)
    on_disk = sorted(path.name for path in release.rglob("*.deb"))
    assert sorted(Path(entry["Filename"]).name for entry in entries) == on_disk
    for entry in entries:
        content = (top / entry["Filename"]).read_bytes()
        assert len(content) == int(entry["Size"])
        assert hashlib.sha256(content).hexdigest() == entry["SHA256"]
        assert output("dpkg-deb", "--field", top / entry["Filename"], "Version").strip() == entry["Version"]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", PATHS)
def test_packages_hold_the_vendors_paths_and_their_checksums_are_right(
    site: Path, tmp_path: Path, engine: str, name: str
) -> None:
    path = package(site, docker.SUITES[0], name, versions_of(engine)[name])
    output("dpkg-deb", "--raw-extract", path, tmp_path / "x")
    listing = output("dpkg-deb", "--contents", path)
    for expected in PATHS[name]:
        line = next(line for line in listing.splitlines() if line.endswith(f" ./{expected}"))
        mode = "-rwxr-xr-x" if re.search(r"bin/|libexec/", expected) else "-rw-r--r--"
        assert line.split()[:2] == [mode, "root/root"]
    subprocess.run(["md5sum", "--check", "--quiet", "DEBIAN/md5sums"], cwd=tmp_path / "x", check=True)


@pytest.mark.parametrize("engine", ENGINES)
def test_binaries_are_of_the_version_that_the_package_says(site: Path, tmp_path: Path, engine: str) -> None:
    versions = versions_of(engine)
    for name in ("docker-ce", "docker-ce-cli", "containerd.io"):
        output("dpkg-deb", "--extract", package(site, docker.SUITES[0], name, versions[name]), tmp_path)
    assert output(tmp_path / "usr/bin/dockerd", "--version").startswith(f"Docker version {engine}")
    assert output(tmp_path / "usr/bin/docker", "--version").startswith(f"Docker version {engine}")
    assert versions["containerd.io"] in output(tmp_path / "usr/bin/containerd", "--version")


@pytest.mark.parametrize("engine", ENGINES)
def test_relations_are_the_vendors(site: Path, engine: str) -> None:
    def field(name: str, key: str) -> str:
        path = package(site, docker.SUITES[0], name, versions_of(engine)[name])
        return output("dpkg-deb", "--field", path, key).strip()

    assert "docker.io" in field("docker-ce", "Conflicts")
    assert field("containerd.io", "Conflicts") == field("containerd.io", "Provides") == "containerd, runc"
    assert field("docker-ce-rootless-extras", "Depends").startswith("dbus-user-session")
    assert "uidmap" not in field("docker-ce-rootless-extras", "Depends")
    assert "docker-ce-rootless-extras" in field("docker-ce", "Recommends")
    assert "docker-ce-rootless-extras" not in field("docker-ce", "Depends")


@pytest.mark.parametrize("name", ["docker-ce", "containerd.io"])
def test_units_and_scripts(site: Path, tmp_path: Path, name: str) -> None:
    output("dpkg-deb", "--raw-extract", package(site, docker.SUITES[0], name, versions_of("28.5.2")[name]), tmp_path)
    for script in ("postinst", "prerm", "postrm"):
        output("sh", "-n", tmp_path / "DEBIAN" / script)
        assert (tmp_path / "DEBIAN" / script).stat().st_mode & 0o111
    units = list((tmp_path / "lib/systemd/system").iterdir())
    postinst = (tmp_path / "DEBIAN/postinst").read_text(encoding="utf-8")
    assert units
    for unit in units:
        assert unit.name in postinst
        text = unit.read_text(encoding="utf-8")
        assert "/usr/sbin/dockerd" not in text
        assert "DOCKER_OPTS" not in text


def test_docker_desktop_is_a_file_of_its_own(site: Path) -> None:
    path = site / "desktop" / f"docker-desktop-{ARCHITECTURE}.deb"
    assert output("dpkg-deb", "--field", path, "Package").strip() == "docker-desktop"
    assert "./usr/lib/systemd/user/docker-desktop.service" in output("dpkg-deb", "--contents", path)


def test_a_second_build_finds_the_first(site: Path) -> None:
    before = (site / "docker").resolve(), (site / "libnvidia-container").resolve()
    lines: list[str] = []
    started = time.monotonic()
    assert build.build(settings.CACHE, lines.append) == site
    assert time.monotonic() - started < 1
    assert ((site / "docker").resolve(), (site / "libnvidia-container").resolve()) == before
    assert lines == []


def test_a_build_leaves_no_work_behind(site: Path) -> None:
    assert sorted(path.name.split("-")[0] for path in site.parent.glob("*-*")) == ["docker", "nvidia"]
    assert not (site / "docker").resolve().parent.joinpath("work").exists()


def test_an_interrupted_build_is_not_taken_for_a_whole_one(tmp_path: Path) -> None:
    def fail(root: Path) -> None:
        (root / "half").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build._once(tmp_path / "docker-1", fail)
    assert list(tmp_path.iterdir()) == []


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    which = shutil.which
    monkeypatch.setattr(shutil, "which", lambda tool: None if tool == "gpg-agent" else which(tool))
    with pytest.raises(settings.LabError, match=r"apt-get install --no-install-recommends gpg-agent$"):
        build.build(tmp_path)
    assert list(tmp_path.iterdir()) == []
