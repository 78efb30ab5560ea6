"""The inventory's variables held against themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.gpulab.fleet.plugins.module_utils._settings import VARIABLES, problems, uid_problems

ROLES = Path(__file__).parents[4] / "roles"
FIRST, SECOND = (f"GPU-12345678-1234-1234-1234-12345678000{i}" for i in range(2))
MIG = "MIG-12345678-1234-1234-1234-123456780000"
ALICE = {"alice": {"gpus": "all"}}


def stack(**changes: Any) -> dict[str, Any]:
    return {"gpulab_users": ALICE, "gpulab_stacks": {"train": {"user": "alice", **changes}}}


def given(has: Any, wants: Any) -> dict[str, Any]:
    return {
        "gpulab_users": {"alice": {"gpus": has}},
        "gpulab_stacks": {"train": {"user": "alice", "gpus": {"trainer": wants}}},
    }


def two_ports(one: Any, other: Any, **changes: Any) -> dict[str, Any]:
    stacks = {
        "a": {"user": "alice", "settings": {"PORT": one}},
        "b": {"user": "alice", "settings": {"HTTP_PORT": other}, **changes},
    }
    return {"gpulab_users": ALICE, "gpulab_stacks": stacks}


GOOD: dict[str, dict[str, Any]] = {
    "nothing said": {},
    "a user without keys": {"gpulab_users": {"alice": None}},
    "all keys of a user": {
        "gpulab_users": {
            "alice": {"gpus": [0, "1", FIRST, MIG, "0:1"], "create": True, "uid": 1500, "home": "/srv/a", "daemon": {}}
        }
    },
    "a user's surroundings": {
        "gpulab_users": {
            "alice": {
                "system": True,
                "registries": {"registry.example.org:5000": {"username": "lab", "password": "(secret)"}},
                "limits": {"cpus": 2.5, "memory": "64G"},
                "container_ids": [1000],
                "daemon": {"data-root": "/scratch/alice"},
            },
            "bob": {"daemon": {"data-root": "/scratch/bob"}},
        },
        "gpulab_gpu_shares": "enforced",
    },
    "a missing user to be made": {"gpulab_users": {"ghost": {"create": True}}},
    "numbers as text": {"gpulab_users": ALICE, "gpulab_gpus_expected": "2"},
    "all keys of a stack": stack(
        source="./mine",
        settings={"PORT": 1, "NAME": "x", "ON": True},
        gpus={"a": "all", "b": 1, "c": [0]},
        images=[{"name": "a:1", "archive": "a.tar"}],
        secrets={"TOKEN": "x"},
        state="present",
    ),
    "fewer GPUs than given": given([0, 1], 1),
    "one of the given": given([FIRST, SECOND], [SECOND]),
    "an index of a UUID's owner": given([FIRST], [0]),
    "all of the user's": given([0], "all"),
    "no GPU for a service": given("none", 0),
    "all of none": {"gpulab_users": ALICE, "gpulab_gpus_expected": 0},
    "two ports": two_ports(8000, 8001),
    "the port of an absent stack": two_ports(8000, 8000, state="absent"),
    "version forms": {
        "rootless_docker_engine_version": "5:28.5.2-1~ubuntu.22.04~jammy",
        "rootless_docker_compose_version": "",
        "nvidia_container_toolkit_version": "1.19.1",
    },
    "an old engine of the distribution": {
        "rootless_docker_source": "distribution",
        "rootless_docker_engine_version": "24.0.7",
    },
    "a proxy": {"gpulab_proxy": {"http": "http://u:***@p:3128", "no_proxy": [".lan", "10.0.0.0/8"], "ca": ""}},
    "data roots of their own": {
        "gpulab_users": {"alice": {}, "bob": {"daemon": {"data-root": "/srv/bob"}}},
        "rootless_docker_daemon": {"data-root": "/srv/d"},
    },
    "a variable of the site's": {"gpulab_site_name": "north", "gpulab_hosts": "all"},
    "a fingerprint in groups": {
        "rootless_docker_repository_key_fingerprint": "9DC8 5822 9FC7 DD38 854A E2D8 8D81 803C 0EBF CD88"
    },
}

BAD: dict[str, tuple[dict[str, Any], str, str]] = {
    "users as a list": ({"gpulab_users": ["alice"]}, "SETTING_INVALID", "gpulab_users = ['alice']"),
    "no users": ({"gpulab_users": {}}, "USERS_NONE", "gpulab_users is empty"),
    "a user as text": ({"gpulab_users": {"alice": "all"}}, "SETTING_INVALID", "gpulab_users.alice = all"),
    "an unknown key": ({"gpulab_users": {"alice": {"gpu": "all"}}}, "SETTING_UNKNOWN", "gpulab_users.alice.gpu"),
    "GPUs as a number": ({"gpulab_users": {"alice": {"gpus": 2}}}, "SETTING_INVALID", "gpulab_users.alice.gpus = 2"),
    "a cut-off UUID": ({"gpulab_users": {"alice": {"gpus": ["GPU-12"]}}}, "SETTING_INVALID", "gpulab_users.alice.gpus"),
    "a negative index": ({"gpulab_users": {"alice": {"gpus": [-1]}}}, "SETTING_INVALID", "[-1]"),
    "true as an index": ({"gpulab_users": {"alice": {"gpus": [True]}}}, "SETTING_INVALID", "[True]"),
    "create as text": ({"gpulab_users": {"alice": {"create": "maybe"}}}, "SETTING_INVALID", "alice.create = maybe"),
    "a relative home": ({"gpulab_users": {"alice": {"home": "a"}}}, "SETTING_INVALID", "alice.home = a"),
    "the same uid twice": (
        {"gpulab_users": {"alice": {"uid": 1500}, "bob": {"uid": 1500}}},
        "SETTING_INVALID",
        "gpulab_users.bob.uid = 1500",
    ),
    "root": ({"gpulab_users": {"root": {}}}, "USER_IS_ROOT", "gpulab_users.root"),
    "no user name": ({"gpulab_users": {"A B": {}}}, "SETTING_INVALID", "'A B'"),
    "no such account": ({"gpulab_users": {"ghost": {}}}, "USER_MISSING", "gpulab_users.ghost"),
    "a login without a password": (
        {"gpulab_users": {"alice": {"registries": {"ghcr.io": {"username": "lab"}}}}},
        "SETTING_INVALID",
        "gpulab_users.alice.registries = (secret)",
    ),
    "an address for a registry": (
        {"gpulab_users": {"alice": {"registries": {"https://ghcr.io": {"username": "a", "password": "b"}}}}},
        "SETTING_INVALID",
        "gpulab_users.alice.registries = (secret)",
    ),
    "an unknown limit": (
        {"gpulab_users": {"alice": {"limits": {"ram": "1G"}}}},
        "SETTING_INVALID",
        "gpulab_users.alice.limits = {'ram': '1G'}",
    ),
    "a size with a unit of its own": (
        {"gpulab_users": {"alice": {"limits": {"memory": "64GiB"}}}},
        "SETTING_INVALID",
        "gpulab_users.alice.limits",
    ),
    "no processor at all": ({"gpulab_users": {"alice": {"limits": {"cpus": 0}}}}, "SETTING_INVALID", "limits"),
    "the host's root in a container": (
        {"gpulab_users": {"alice": {"container_ids": [0]}}},
        "SETTING_INVALID",
        "gpulab_users.alice.container_ids = [0]",
    ),
    "shares of another kind": ({"gpulab_gpu_shares": "strict"}, "SETTING_INVALID", "gpulab_gpu_shares = strict"),
    "one data root for everybody": (
        {"gpulab_users": {"alice": {}, "bob": {}}, "rootless_docker_daemon": {"data-root": "/scratch"}},
        "DATA_ROOT_SHARED",
        "gpulab_users.bob.daemon.data-root = /scratch",
    ),
    "a data root in another": (
        {"gpulab_users": {"a": {"daemon": {"data-root": "/s/"}}, "b": {"daemon": {"data-root": "/s/x/../b"}}}},
        "DATA_ROOT_SHARED",
        "gpulab_users.b.daemon.data-root = /s/b",
    ),
    "a typo for dockerd": (
        {"gpulab_users": {"alice": {"daemon": {"cdi-spec-dir": []}}}},
        "DAEMON_JSON_TYPO",
        "gpulab_users.alice.daemon",
    ),
    "a typo for all dockerds": (
        {"rootless_docker_daemon": {"cdi-spec-dir": []}},
        "DAEMON_JSON_TYPO",
        "rootless_docker_daemon",
    ),
    "expected as text": ({"gpulab_gpus_expected": "two"}, "SETTING_INVALID", "gpulab_gpus_expected = two"),
    "an unknown source": ({"rootless_docker_source": "snap"}, "SETTING_INVALID", "rootless_docker_source = snap"),
    "rootful: stop": ({"rootless_docker_rootful": "stop"}, "SETTING_INVALID", "rootless_docker_rootful = stop"),
    "a version as a number": ({"rootless_docker_engine_version": 28.5}, "SETTING_INVALID", "engine_version = 28.5"),
    "an old engine": ({"rootless_docker_engine_version": "25.0.5"}, "ENGINE_TOO_OLD", "rootless_docker_engine_version"),
    "an old engine with epoch": ({"rootless_docker_engine_version": "5:24.0-1"}, "ENGINE_TOO_OLD", "5:24.0-1"),
    "a refused toolkit": ({"nvidia_container_toolkit_version": "1.18.2"}, "TOOLKIT_VERSION_REFUSED", "1.18.2"),
    "a short fingerprint": (
        {"rootless_docker_repository_key_fingerprint": "0EBFCD88"},
        "SETTING_INVALID",
        "0EBFCD88",
    ),
    "no address": ({"rootless_docker_repository_url": "download.docker.com"}, "SETTING_INVALID", "repository_url"),
    "a ratio above one": ({"gpu_verify_bandwidth_ratio_min": 50}, "SETTING_INVALID", "ratio_min = 50"),
    "a key that is the role's": (
        {"gpulab_users": {"alice": {"daemon": {"cdi-spec-dirs": ["/etc/cdi"]}}}},
        "DAEMON_KEY_OWNED",
        "gpulab_users.alice.daemon.cdi-spec-dirs = ['/etc/cdi']",
    ),
    "another socket": (
        {"rootless_docker_daemon": {"hosts": ["tcp://:2375"]}},
        "DAEMON_KEY_OWNED",
        "rootless_docker_daemon.hosts",
    ),
    "CDI off": (
        {"rootless_docker_daemon": {"features": {"cdi": False}}},
        "DAEMON_KEY_OWNED",
        "rootless_docker_daemon.features.cdi = False",
    ),
    "a flag's spelling": (
        {"rootless_docker_daemon": {"registry-mirror": "https://m"}},
        "DAEMON_JSON_TYPO",
        "registry-mirror",
    ),
    "a GPU as text": ({"gpulab_users": {"alice": {"gpus": "0"}}}, "SETTING_INVALID", "gpulab_users.alice.gpus = 0"),
    "a proxy without http": ({"gpulab_proxy": {"http": "p:3128"}}, "SETTING_INVALID", "gpulab_proxy.http = p:3128"),
    "an unknown part of the proxy": ({"gpulab_proxy": {"ftp": "http://p"}}, "SETTING_UNKNOWN", "gpulab_proxy.ftp"),
    "an authority that is no certificate": ({"gpulab_proxy": {"ca": "x.pem"}}, "SETTING_INVALID", "gpulab_proxy.ca"),
    "a misspelled prefix": ({"rootles_docker_source": "vendor"}, "SETTING_MISSPELLED", "rootles_docker_source"),
    "a misspelled variable": (
        {"rootless_docker_engine_verison": "28.5.2"},
        "SETTING_MISSPELLED",
        "rootless_docker_engine_verison",
    ),
    "an unknown key of a stack": (stack(port=1), "SETTING_UNKNOWN", "gpulab_stacks.train.port"),
    "an unknown state": (stack(state="stopped"), "SETTING_INVALID", "gpulab_stacks.train.state = stopped"),
    "images without archive": (stack(images=[{"name": "a"}]), "SETTING_INVALID", "gpulab_stacks.train.images"),
    "GPUs of no service": (stack(gpus="all"), "SETTING_INVALID", "gpulab_stacks.train.gpus = all"),
    "settings as a list": (stack(settings=["A=1"]), "SETTING_INVALID", "gpulab_stacks.train.settings"),
    "no stack name": (
        {"gpulab_users": ALICE, "gpulab_stacks": {"My Stack": {"user": "alice"}}},
        "SETTING_INVALID",
        "'My Stack'",
    ),
    "another's stack": (stack(user="bob"), "STACK_USER_UNKNOWN", "gpulab_stacks.train.user = bob"),
    "nobody's stack": (
        {"gpulab_users": ALICE, "gpulab_stacks": {"train": {}}},
        "STACK_USER_UNKNOWN",
        "gpulab_stacks.train names no user",
    ),
    "a GPU for who has none": (given("none", 1), "STACK_GPU_NOT_GIVEN", "the user has no GPU"),
    "all for who has none": (given("none", "all"), "STACK_GPU_NOT_GIVEN", "the user has no GPU"),
    "two of one": (given([0], 2), "STACK_GPU_NOT_GIVEN", "the user has 1"),
    "the other index": (given([0], [1]), "STACK_GPU_NOT_GIVEN", "not the user's: 1"),
    "the other UUID": (given([FIRST], [SECOND]), "STACK_GPU_NOT_GIVEN", f"not the user's: {SECOND}"),
    "one port twice": (two_ports(8000, "8000"), "STACK_PORT_CLASH", "are both 8000"),
    "a GPU where none is expected": (
        {"gpulab_users": {"alice": {"gpus": [FIRST]}}, "gpulab_gpus_expected": 0},
        "GPUS_MORE_THAN_EXPECTED",
        "gpulab_gpus_expected = 0",
    ),
    "an index beyond": (
        {"gpulab_users": {"alice": {"gpus": [2]}}, "gpulab_gpus_expected": 2},
        "GPUS_MORE_THAN_EXPECTED",
        "gpulab_users.alice.gpus",
    ),
    "all of none for a stack": (
        {**stack(gpus={"a": "all"}), "gpulab_gpus_expected": 0},
        "GPUS_MORE_THAN_EXPECTED",
        "gpulab_stacks.train.gpus.a",
    ),
}


def exists(name: str) -> bool:
    return name != "ghost"


@pytest.mark.parametrize("name", GOOD)
def test_good_settings_give_nothing(name: str) -> None:
    assert problems(GOOD[name], exists) == []


@pytest.mark.parametrize("name", BAD)
def test_a_problem_names_variable_and_value(name: str) -> None:
    settings, code, evidence = BAD[name]
    found = problems(settings, exists)
    assert [each["code"] for each in found] == [code]
    assert evidence in found[0]["evidence"]


def test_everything_is_reported_at_once() -> None:
    settings = {
        "gpulab_users": {"alice": {"gpus": 2, "gpu": 1}, "ghost": {}},
        "gpulab_stacks": {"a": {"user": "bob"}},
        "rootless_docker_engine_version": "20.10",
    }
    assert sorted(each["code"] for each in problems(settings, exists)) == [
        "ENGINE_TOO_OLD",
        "SETTING_INVALID",
        "SETTING_UNKNOWN",
        "STACK_USER_UNKNOWN",
        "USER_MISSING",
    ]


def test_no_placeholder_is_left_open() -> None:
    for settings, _, _ in BAD.values():
        for found in problems(settings, exists):
            for text in ("title", "cause", "remedy"):
                assert "{setting" not in found[text]
                assert "{user" not in found[text]
                assert "{stack" not in found[text]


def test_a_secret_is_never_evidence() -> None:
    for secrets in ("hunter2", ["hunter2"], {"TOKEN": ["hunter2"]}):
        found = problems(stack(secrets=secrets), exists)
        assert [each["code"] for each in found] == ["SETTING_INVALID"]
        assert "hunter2" not in str(found)


@pytest.mark.parametrize("name", ["gpulab_stakcs", "gpulab_Stacks"])
def test_a_misspelled_variable_is_told_by_name_only(name: str) -> None:
    found = problems({name: {"quickstart": {"secrets": {"HF_TOKEN": "hunter2"}}}}, exists)
    assert [(each["code"], each["evidence"]) for each in found] == [("SETTING_MISSPELLED", name)]
    assert "hunter2" not in str(found)


def test_a_name_without_a_value_may_be_misspelled_too() -> None:
    names = [
        "rootlessdocker_source",
        "docker_data_root",
        "gpulab_users",
        "compose_stacks_result",
        "nvidia_driver_branch",
    ]
    found = problems({}, exists, names)
    assert [(each["code"], each["evidence"]) for each in found] == [("SETTING_MISSPELLED", "rootlessdocker_source")]


def test_an_account_that_cannot_be_looked_up_is_no_error() -> None:
    assert problems({"gpulab_users": {"ghost": {}}}, lambda name: None) == []


ACCOUNTS = {"alice": 1000, "carol": 1500}
OWNERS = {uid: name for name, uid in ACCOUNTS.items()}


@pytest.mark.parametrize(
    ("user", "uid", "code", "parts"),
    [
        ("bob", 1000, "UID_TAKEN", ["gpulab_users.bob.uid", "1000", "alice"]),
        ("bob", "1500", "UID_TAKEN", ["gpulab_users.bob.uid", "1500", "carol"]),
        ("alice", 1500, "UID_DIFFERS", ["gpulab_users.alice.uid", "1500", "1000"]),
        ("alice", 1600, "UID_DIFFERS", ["gpulab_users.alice.uid", "1600", "1000"]),
        ("alice", 1000, None, []),
        ("bob", 1600, None, []),
        ("bob", None, None, []),
        ("bob", "many", None, []),
    ],
)
def test_uids_are_held_against_the_accounts(user: str, uid: Any, code: str | None, parts: list[str]) -> None:
    settings = {"gpulab_users": {user: {"create": True, "uid": uid}}}
    found = list(uid_problems(settings, ACCOUNTS.get, OWNERS.get))
    assert [each["code"] for each in found] == ([code] if code else [])
    for each in found:
        assert all(part in each["evidence"] for part in parts)
        assert "{" not in each["cause"] + each["remedy"]


def test_variables_are_those_of_the_roles() -> None:
    documented: set[str] = set()
    for specs in ROLES.glob("*/meta/argument_specs.yml"):
        documented |= set(yaml.safe_load(specs.read_text(encoding="utf-8"))["argument_specs"]["main"]["options"])
    assert set(VARIABLES) == documented
