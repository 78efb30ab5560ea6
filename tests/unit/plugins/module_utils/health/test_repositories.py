"""Repositories: asked only for what a host lacks, and refused with the variable that is wrong."""

from __future__ import annotations

import gzip
import io
import lzma
import urllib.error
from email.message import Message
from typing import Any

import pytest
from ansible_collections.gpulab.fleet.plugins.module_utils._health import examine
from ansible_collections.gpulab.fleet.plugins.module_utils._health_repositories import CHECKS, parse_index

from ..openpgp_keys import ONE, ONE_FINGERPRINT, TWO_FINGERPRINT

DOCKER = "https://mirror.example.org/docker"
SUITE = f"{DOCKER}/dists/jammy"
TOOLKIT = "https://mirror.example.org/nvidia"
SETTINGS: dict[str, Any] = {
    "rootless_docker_source": "vendor",
    "rootless_docker_engine_version": "28.5.2",
    "rootless_docker_compose_version": "",
    "rootless_docker_repository_url": DOCKER,
    "rootless_docker_repository_key_url": f"{DOCKER}/gpg",
    "rootless_docker_repository_key_fingerprint": ONE_FINGERPRINT,
    "nvidia_container_toolkit_version": "1.20.0",
    "nvidia_container_toolkit_repository_url": TOOLKIT,
    "nvidia_container_toolkit_repository_key_url": f"{TOOLKIT}/gpgkey",
    "nvidia_container_toolkit_repository_key_fingerprint": ONE_FINGERPRINT,
}
NAMES = ("docker-ce", "docker-ce-cli", "docker-ce-rootless-extras")
INDEX = "".join(
    f"Package: {name}\nArchitecture: amd64\nVersion: 5:28.5.2-1~x\nSize: 1\n\n" for name in NAMES
) + "".join(
    f"Package: {name}\nVersion: 1.0-1\n\n"
    for name in ("containerd.io", "docker-compose-plugin", "docker-buildx-plugin")
)
TOOLKIT_INDEX = "Package: nvidia-container-toolkit-base\nVersion: 1.20.0-1\n"
SERVED: dict[str, Any] = {
    f"{DOCKER}/gpg": ONE.encode(),
    f"{SUITE}/stable/binary-amd64/Packages.gz": gzip.compress(INDEX.encode()),
    f"{TOOLKIT}/gpgkey": ONE.encode(),
    f"{TOOLKIT}/amd64/Packages.xz": lzma.compress(TOOLKIT_INDEX.encode()),
}
BARE = {"docker-ce": None, "nvidia-container-toolkit-base": None}


def ask(make_host: Any, served: dict[str, Any], settings: dict[str, Any], packages: Any = BARE, **more: Any) -> Any:
    host = make_host(settings={**SETTINGS, **settings}, packages=packages, **more)
    host.asked = []

    def fetch(url: str, timeout: float = 10) -> bytes:
        host.asked.append(url)
        answer = {**SERVED, **served}.get(url, 404)
        if isinstance(answer, int):
            raise urllib.error.HTTPError(url, answer, "Not Found", Message(), io.BytesIO())
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, bytes)
        return answer

    host.fetch = fetch
    return examine(host, CHECKS, "preflight"), host.asked


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str, list[str]]] = {
    "key unreachable": (
        {f"{DOCKER}/gpg": urllib.error.URLError("Connection refused")},
        {},
        "KEY_UNREACHABLE",
        ["rootless_docker_repository_key_url", f"{DOCKER}/gpg", "Connection refused"],
    ),
    "no key": ({f"{DOCKER}/gpg": 404}, {}, "KEY_UNREACHABLE", ["rootless_docker_repository_key_url", "404"]),
    "a page": ({f"{DOCKER}/gpg": b"<html>"}, {}, "KEY_INVALID", ["rootless_docker_repository_key_url"]),
    "another key": (
        {},
        {"nvidia_container_toolkit_repository_key_fingerprint": TWO_FINGERPRINT},
        "KEY_FINGERPRINT_MISMATCH",
        ["nvidia_container_toolkit_repository_key_fingerprint", TWO_FINGERPRINT, ONE_FINGERPRINT],
    ),
    "no such engine": (
        {},
        {"rootless_docker_engine_version": "29.9.0"},
        "PACKAGE_UNAVAILABLE",
        ["rootless_docker_engine_version = 29.9.0", "5:28.5.2-1~x"],
    ),
    "no such toolkit": (
        {},
        {"nvidia_container_toolkit_version": "1.21.0"},
        "PACKAGE_UNAVAILABLE",
        ["nvidia_container_toolkit_version = 1.21.0", "1.20.0-1"],
    ),
    "no such release": (
        {f"{SUITE}/stable/binary-amd64/Packages.gz": 404},
        {},
        "PACKAGE_UNAVAILABLE",
        ["rootless_docker_repository_url", SUITE, "not found"],
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_wrong_is_named(make_host: Any, name: str) -> None:
    served, settings, code, parts = REFUSED[name]
    result, _ = ask(make_host, served, settings)
    assert [found["code"] for found in result["findings"]] == [code]
    for part in parts:
        assert part in result["findings"][0]["evidence"]
    assert result["unknown"] == []


def test_good_repositories_give_nothing(make_host: Any) -> None:
    result, asked = ask(make_host, {}, {})
    assert result["findings"] == result["unknown"] == []
    assert len(asked) == 5  # two keys, one index, and the other in its second form


def test_a_host_that_has_everything_is_not_asked_about(make_host: Any) -> None:
    installed = dict.fromkeys(NAMES, "5:28.5.2-1~x") | dict.fromkeys(
        ("containerd.io", "docker-compose-plugin", "docker-buildx-plugin"), "1"
    )
    assert ask(make_host, {}, {}, installed)[1] == []


def test_an_engine_that_is_kept_keeps_its_version(make_host: Any) -> None:
    settings = {"rootless_docker_rootful": "keep", "nvidia_container_toolkit_version": "1.20.0"}
    assert ask(make_host, {}, settings, {"docker-ce": "5:27.0.1-1"})[1] == []


def test_a_right_key_on_the_host_is_not_fetched_again(make_host: Any) -> None:
    result, asked = ask(make_host, {f"{DOCKER}/gpg": 404}, {}, files={"/etc/apt/keyrings/docker.asc": ONE})
    assert result["findings"] == []
    assert f"{DOCKER}/gpg" not in asked


@pytest.mark.parametrize(
    ("served", "settings"),
    [
        ({f"{SUITE}/stable/binary-amd64/Packages.gz": urllib.error.URLError("timed out")}, {}),
        ({f"{SUITE}/stable/binary-amd64/Packages.gz": 503}, {}),
        ({f"{SUITE}/stable/binary-amd64/Packages.gz": b"no gzip"}, {}),
        ({f"{SUITE}/stable/binary-amd64/Packages.gz": 404, f"{SUITE}/InRelease": b"x"}, {}),
        ({}, {"rootless_docker_repository_key_url": "https://me:***@mirror/gpg"}),
    ],
    ids=["no answer", "busy", "damaged", "another form", "a password"],
)
def test_what_cannot_be_judged_is_unknown(make_host: Any, served: dict[str, Any], settings: dict[str, Any]) -> None:
    result, _ = ask(make_host, served, settings)
    assert result["findings"] == []
    assert result["verdict"] == "unknown"


def test_the_distributions_packages_are_apts_to_judge(make_host: Any) -> None:
    settings = {"rootless_docker_source": "distribution"}
    assert ask(make_host, {}, settings, {**BARE, "nvidia-container-toolkit-base": "1.20.0-1"})[1] == []


def test_an_index_with_fields_in_any_order() -> None:
    assert parse_index("Version: 2\nDescription: x\nPackage: a\n\nPackage: a\nVersion: 1\n\n") == {"a": ["2", "1"]}
