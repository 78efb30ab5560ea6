"""The packages: names, versions, dependencies and contents of the vendor's."""

import subprocess
from pathlib import Path

import pytest

from .. import packages


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = packages.build(tmp_path_factory.mktemp("cache"))
    return {path.name.removesuffix("_amd64.deb"): path for path in made}


def deb(*arguments: str) -> str:
    return subprocess.run(["dpkg-deb", *arguments], capture_output=True, text=True, check=True).stdout


def test_four_packages_of_each_release(built: dict[str, Path]) -> None:
    names = (
        "nvidia-container-toolkit-base",
        "nvidia-container-toolkit",
        "libnvidia-container-tools",
        "libnvidia-container1",
    )
    assert set(built) == {f"{name}_{version}-1" for name in names for version in ("1.18.2", "1.19.1", "1.20.0")}


def test_dependencies(built: dict[str, Path]) -> None:
    path = built["nvidia-container-toolkit_1.20.0-1"]
    assert deb("--field", str(path), "Depends").strip() == (
        "nvidia-container-toolkit-base (= 1.20.0-1), libnvidia-container-tools (= 1.20.0-1), "
        "libnvidia-container-tools (<< 2.0.0)"
    )
    assert deb("--field", str(built["nvidia-container-toolkit-base_1.20.0-1"]), "Depends").strip() == ""


def test_base_has_the_vendors_files(built: dict[str, Path]) -> None:
    listing = deb("--contents", str(built["nvidia-container-toolkit-base_1.20.0-1"]))
    for name in (
        "usr/bin/nvidia-ctk",
        "usr/bin/nvidia-cdi-hook",
        "usr/bin/nvidia-container-runtime",
        "lib/systemd/system/nvidia-cdi-refresh.service",
        "lib/systemd/system/nvidia-cdi-refresh.path",
        "etc/nvidia-container-toolkit/nvidia-cdi-refresh.env",
    ):
        assert f" ./{name}\n" in listing
    assert "nvidia-container-runtime-hook" not in listing
    assert all("root/root" in line for line in listing.splitlines())


def test_every_description_says_that_it_is_a_stand_in(built: dict[str, Path]) -> None:
    for path in built.values():
        assert "stand-in for tests" in deb("--field", str(path), "Description")


@pytest.mark.parametrize(
    ("version", "present", "absent"),
    [
        ("1.18.2", [r"grep -qE '/nvidia\.ko[:]'"], ["Restart=", "After=multi-user.target"]),
        ("1.19.1", ['"/(nvidia|nvidia-current)[.]ko"', "Restart=on-failure", "After=multi-user.target"], []),
        ("1.20.0", ["CapabilityBoundingSet=CAP_SYS_MODULE CAP_SYS_ADMIN CAP_MKNOD", "StartLimitBurst=5"], []),
    ],
)
def test_refresh_unit(version: str, present: list[str], absent: list[str]) -> None:
    files = packages.packages(version)[0].files
    text = files["lib/systemd/system/nvidia-cdi-refresh.service"][0]
    assert all(part in text for part in present)
    assert not any(part in text for part in absent)


def test_the_same_sources_give_the_same_bytes(built: dict[str, Path], tmp_path: Path) -> None:
    for path in packages.build(tmp_path):
        assert path.read_bytes() == built[path.name.removesuffix("_amd64.deb")].read_bytes()


def test_built_once(tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in packages.build(tmp_path)}
    assert {path: path.stat().st_mtime_ns for path in packages.build(tmp_path)} == before
