"""Wrong inventories: each is refused before any change, with the variable, its value and a remedy.

One run for all of them: a host of the lab under many names, each with a mistake of its own.
"""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml

from .conftest import ONE_USER, Hosts
from .site import Result, lab
from .test_refusals import mirror_url, state

NOWHERE = "http://10.77.0.1:9/docker/linux/ubuntu"
STACK = {"user": "trainer"}


def users(**entries: Any) -> dict[str, Any]:
    return {"gpulab_users": entries}


def stack(**changes: Any) -> dict[str, Any]:
    return {"gpulab_stacks": {"quickstart": {**STACK, **changes}}}


def broken(mode: str) -> dict[str, Any]:
    return {"rootless_docker_repository_url": f"{mirror_url()}/broken/{mode}/docker/linux/ubuntu"}


# What is wrong -> the settings, the finding's code, and what its text must name.
MISTAKES: dict[str, tuple[dict[str, Any], str, list[str]]] = {
    "users as a list": ({"gpulab_users": ["trainer"]}, "SETTING_INVALID", ["gpulab_users", "['trainer']", "a mapping"]),
    "users as text": ({"gpulab_users": "trainer"}, "SETTING_INVALID", ["gpulab_users", "trainer", "a mapping"]),
    "nobody": ({"gpulab_users": {}}, "USERS_NONE", ["gpulab_users"]),
    "an unknown user": (users(mallory={}), "USER_MISSING", ["gpulab_users.mallory", "create: true"]),
    "root": (users(root={}), "USER_IS_ROOT", ["gpulab_users.root"]),
    "no user name": (users(**{"A B": {}}), "SETTING_INVALID", ["gpulab_users", "'A B'"]),
    "an unknown key": (users(trainer={"gpu": "all"}), "SETTING_UNKNOWN", ["gpulab_users.trainer.gpu", "gpus"]),
    "a GPU as text": (users(trainer={"gpus": "0"}), "SETTING_INVALID", ["gpulab_users.trainer.gpus = 0", "a list"]),
    "a GPU that is not there": (users(trainer={"gpus": [7]}), "GPUS_MORE_THAN_EXPECTED", ["gpulab_users.trainer.gpus"]),
    "a GPU of another host": (
        users(trainer={"gpus": ["GPU-99999999-1234-1234-1234-123456780000"]}),
        "GPU_UNKNOWN",
        ["gpulab_users.trainer.gpus", "GPU-99999999-1234-1234-1234-123456780000"],
    ),
    "another's uid": (
        users(trainer={}, new={"create": True, "uid": 1001}),
        "UID_TAKEN",
        ["gpulab_users.new.uid", "1001", "guest"],
    ),
    "another uid than the account's": (users(trainer={"uid": 1500}), "UID_DIFFERS", ["trainer.uid", "1500", "1000"]),
    "one data root for two": (
        {**users(trainer={}, guest={}), "rootless_docker_daemon": {"data-root": "/srv/docker"}},
        "DATA_ROOT_SHARED",
        ["gpulab_users.guest.daemon.data-root", "/srv/docker"],
    ),
    "a key that the role sets": (
        users(trainer={"daemon": {"cdi-spec-dirs": ["/etc/cdi"]}}),
        "DAEMON_KEY_OWNED",
        ["gpulab_users.trainer.daemon.cdi-spec-dirs", "/etc/cdi"],
    ),
    "a key that dockerd ignores": (
        {"rootless_docker_daemon": {"insecure-registry": ["r:5000"]}},
        "DAEMON_JSON_TYPO",
        ["rootless_docker_daemon", "insecure-registries"],
    ),
    "too many GPUs expected": ({"gpulab_gpus_expected": 3}, "PROOF_GPU_COUNT", ["3", "2"]),
    "GPUs expected as a word": ({"gpulab_gpus_expected": "two"}, "SETTING_INVALID", ["gpulab_gpus_expected = two"]),
    "GPUs where none is expected": (
        {"gpulab_gpus_expected": 0, **users(trainer={"gpus": [0]})},
        "GPUS_MORE_THAN_EXPECTED",
        ["gpulab_users.trainer.gpus", "gpulab_gpus_expected"],
    ),
    "a misspelled variable": (
        {"rootless_docker_engine_verison": "28.5.2"},
        "SETTING_MISSPELLED",
        ["rootless_docker_engine_verison", "rootless_docker_engine_version"],
    ),
    "a misspelled prefix": (
        {"rootles_docker_engine_version": "26.1.5"},
        "SETTING_MISSPELLED",
        ["rootles_docker_engine_version", "rootless_docker_engine_version"],
    ),
    "an unknown source": ({"rootless_docker_source": "snap"}, "SETTING_INVALID", ["rootless_docker_source = snap"]),
    "a version as a number": (
        {"rootless_docker_engine_version": 28.5},
        "SETTING_INVALID",
        ["rootless_docker_engine_version = 28.5"],
    ),
    "an engine below the floor": (
        {"rootless_docker_engine_version": "25.0.5"},
        "ENGINE_TOO_OLD",
        ["rootless_docker_engine_version = 25.0.5"],
    ),
    "an engine that is not offered": (
        {"rootless_docker_engine_version": "99.0.0"},
        "PACKAGE_UNAVAILABLE",
        ["rootless_docker_engine_version = 99.0.0", "28.5.2"],
    ),
    "a toolkit with a known escape": (
        {"nvidia_container_toolkit_version": "1.18.2"},
        "TOOLKIT_VERSION_REFUSED",
        ["nvidia_container_toolkit_version = 1.18.2", "1.19.1"],
    ),
    "a toolkit that is not offered": (
        {"nvidia_container_toolkit_version": "1.99.0"},
        "PACKAGE_UNAVAILABLE",
        ["nvidia_container_toolkit_version = 1.99.0", "1.20.0"],
    ),
    "an unreachable mirror": (
        {"rootless_docker_repository_url": NOWHERE},
        "KEY_UNREACHABLE",
        ["rootless_docker_repository_key_url", NOWHERE],
    ),
    "a mirror without the release": (broken("no-suite"), "PACKAGE_UNAVAILABLE", ["rootless_docker_repository_url"]),
    "another key": (broken("bad-key"), "KEY_FINGERPRINT_MISMATCH", ["rootless_docker_repository_key_fingerprint"]),
    "a web page for a key": (broken("not-a-key"), "KEY_INVALID", ["rootless_docker_repository_key_url"]),
    "a fingerprint cut off": (
        {"nvidia_container_toolkit_repository_key_fingerprint": "DDCAE044F796ECB0"},
        "SETTING_INVALID",
        ["nvidia_container_toolkit_repository_key_fingerprint = DDCAE044F796ECB0"],
    ),
    "a proxy without http://": (
        {"gpulab_proxy": {"http": "proxy:3128"}},
        "SETTING_INVALID",
        ["gpulab_proxy.http = proxy:3128"],
    ),
    "an authority that is no file": (
        {"gpulab_proxy": {"ca": "no/such.pem"}},
        "SETTING_INVALID",
        ["gpulab_proxy.ca = no/such.pem"],
    ),
    "a stack of a stranger": (stack(user="mallory"), "STACK_USER_UNKNOWN", ["gpulab_stacks.quickstart.user = mallory"]),
    "a stack that is not there": (
        stack(source="quickstrat"),
        "STACK_UNKNOWN",
        ["gpulab_stacks.quickstart", "quickstrat"],
    ),
    "a port that is none": (
        stack(settings={"SIMULATOR_PORT": "http"}),
        "STACK_SETTING_INVALID",
        ["gpulab_stacks.quickstart", "SIMULATOR_PORT", "'http'"],
    ),
    "a setting of another stack": (
        stack(settings={"POLICY_PORT": 8000}),
        "STACK_SETTING_INVALID",
        ["gpulab_stacks.quickstart", "POLICY_PORT"],
    ),
    "a secret that is not known": (
        stack(secrets={"HF_TOKNE": "hunter2"}),
        "STACK_SECRET_INVALID",
        ["gpulab_stacks.quickstart", "HF_TOKNE"],
    ),
    "GPUs of no service": (
        stack(gpus={"trainer": 1}),
        "STACK_SETTING_INVALID",
        ["gpulab_stacks.quickstart", "trainer"],
    ),
    "more GPUs than the user's": (
        {**users(trainer={"gpus": [0]}), **stack(gpus={"training": 2})},
        "STACK_GPU_NOT_GIVEN",
        ["gpulab_stacks.quickstart.gpus.training = 2", "gpulab_users.trainer.gpus"],
    ),
    "an image archive that is not there": (
        stack(images=[{"name": "a:1", "archive": "/no/such.tar"}]),
        "STACK_ARCHIVE_INVALID",
        ["gpulab_stacks.quickstart", "/no/such.tar"],
    ),
}


@pytest.fixture(scope="module")
def refused(hosts: Hosts) -> tuple[dict[str, str], Result, str, str]:
    """What each host's run said, the run, and the host's state before and after."""
    site = hosts.site("states-bad")
    inventory = yaml.safe_load(lab("inventory", *site.hosts))
    (found,) = inventory["all"]["children"]["gpu_hosts"]["hosts"].values()
    inventory["all"]["children"]["gpu_hosts"] = {
        "vars": ONE_USER,
        "hosts": {f"mistake-{number}": {**found, **MISTAKES[name][0]} for number, name in enumerate(MISTAKES)},
    }
    site.set({})
    site.inventory.write_text(json.dumps(inventory), encoding="utf-8")
    before = state(site)
    result = site.run("site.yml", "--forks", "12")
    said = {
        name: "\n".join(t["msg"] for t in result.tasks if t["failed"] and t["host"] == f"mistake-{number}")
        for number, name in enumerate(MISTAKES)
    }
    return said, result, before, state(site)


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_named_with_its_remedy(refused: Any, name: str) -> None:
    said = refused[0][name]
    _, code, parts = MISTAKES[name]
    assert f"{code}:" in said, said
    assert "Nothing has been changed." in said
    assert "remedy:" in said
    for part in parts:
        assert part in said
    assert not re.search(r"\{[a-z_]+\}", said), "a placeholder was left open"


def test_nothing_was_changed_and_no_secret_told(refused: Any) -> None:
    _, result, before, after = refused
    assert before == after
    assert len(result.stats) == len(MISTAKES)
    assert all(not stats["changed"] and not stats["ok"] > 10 for stats in result.stats.values()), result.stats
    assert "hunter2" not in result.raw + result.stderr
