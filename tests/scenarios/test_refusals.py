"""What is wrong is named, with its remedy, before anything has changed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from .conftest import ONE_USER
from .site import Site, lab

GOOD: dict[str, Any] = ONE_USER


def mirror_url() -> str:
    return str(json.loads(lab("mirror", "status", "--json"))["url"])


def state(site: Site) -> str:
    """What an installation would touch: packages, sources, units, users' files."""
    return site.ssh(
        "dpkg-query -Wf '${Package} ${Version}\\n' | sha256sum; "
        "find /etc/apt /etc/systemd /etc/subuid /etc/gpulab /var/lib/gpulab /home/trainer/.config "
        "-type f -exec sha256sum {} + 2>/dev/null | sort | sha256sum"
    )


@pytest.mark.parametrize(
    ("change", "code", "names"),
    [
        ({"gpulab_users": {}}, "", ["gpulab_users"]),
        ({"gpulab_users": {"trainer": {"gpu": "all"}}}, "", ["gpulab_users", "gpu"]),
        ({"gpulab_users": {"nobody-here": {"gpus": "all"}}}, "", ["nobody-here"]),
        ({"nvidia_container_toolkit_version": "1.18.2"}, "TOOLKIT_VERSION_REFUSED", ["1.18.2", "1.19.1"]),
        ({"rootless_docker_engine_version": "25.0.5"}, "", ["25.0.5", "26.1"]),
        ({"gpulab_stacks": {"quickstart": {"user": "stranger"}}}, "", ["stranger"]),
    ],
    ids=["no users", "unknown key", "unknown user", "toolkit below floor", "engine below floor", "stack of a stranger"],
)
def test_bad_settings(fresh: Site, change: dict[str, Any], code: str, names: list[str]) -> None:
    before = state(fresh)
    fresh.set({**GOOD, **change})
    result = fresh.run()
    assert result.rc != 0
    for part in [code, *names]:
        assert part in result.failures
    assert "remedy" in result.failures
    assert state(fresh) == before


@pytest.mark.parametrize(
    ("mode", "code"),
    [
        ("bad-key", "KEY_FINGERPRINT_MISMATCH"),
        ("missing-package", "PACKAGE"),
        ("bad-signature", "PACKAGE"),
    ],
)
def test_a_broken_mirror(fresh: Site, mode: str, code: str) -> None:
    broken = f"{mirror_url()}/broken/{mode}/docker/linux/ubuntu"
    fresh.set({**GOOD, "rootless_docker_repository_url": broken})
    result = fresh.run()
    assert result.rc != 0
    assert code in result.failures, result.failures
    assert "remedy" in result.failures
    fresh.set(GOOD)
    fresh.run().ok()


def test_an_unreachable_mirror(fresh: Site) -> None:
    nowhere = "http://10.77.0.1:9/docker/linux/ubuntu"
    fresh.set({**GOOD, "rootless_docker_repository_url": nowhere})
    result = fresh.run()
    assert result.rc != 0
    assert "KEY_UNREACHABLE" in result.failures
    assert nowhere in result.failures


def test_a_running_rootful_engine_is_refused_with_what_it_holds(fresh: Site) -> None:
    fresh.ssh("apt-get -qq update; DEBIAN_FRONTEND=noninteractive apt-get -qq install -y docker.io >/dev/null")
    fresh.ssh("systemctl is-active docker")
    before = state(fresh)
    result = fresh.run()
    assert result.rc != 0
    assert "/var/lib/docker" in result.failures
    assert "rootless_docker_rootful" in result.failures
    assert state(fresh) == before
    fresh.ssh("systemctl is-active docker")


def test_a_host_with_a_missing_gpu(fresh: Site) -> None:
    fresh.set({**GOOD, "gpulab_gpus_expected": 3})
    result = fresh.run()
    assert result.rc != 0
    assert "gpulab_gpus_expected" in result.failures
    assert "3" in result.failures
    assert "2" in result.failures
