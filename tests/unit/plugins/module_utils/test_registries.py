"""Registry logins in config.json: ours come and go, the user's stay."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._registries import HUB, merge, wanted

SITE = "registry.example.org:5000"


def ours(password: str = "one", host: str = SITE) -> dict[str, Any]:
    return wanted([{"host": host, "login": {"username": "lab", "password": password}}])


def auth(pair: str) -> dict[str, str]:
    return {"auth": base64.b64encode(pair.encode()).decode()}


@pytest.mark.parametrize("host", ["docker.io", "index.docker.io", HUB])
def test_docker_hub_has_one_address(host: str) -> None:
    assert list(ours(host=host)) == [HUB]


def test_a_login_comes_changes_and_goes() -> None:
    config, record = merge({"currentContext": "rootless"}, ours(), {}, "config.json")
    assert config == {"currentContext": "rootless", "auths": {SITE: auth("lab:one")}}
    again, same = merge(config, ours(), record, "config.json")
    assert (again, same) == (config, record)
    config, record = merge(config, ours("two"), record, "config.json")
    assert config["auths"] == {SITE: auth("lab:two")}
    config, record = merge(config, {}, record, "config.json")
    assert (config, record) == ({"currentContext": "rootless"}, {})


def test_the_users_own_logins_stay_and_come_back() -> None:
    mine = {"auths": {SITE: auth("me:secret"), "ghcr.io": auth("me:x")}}
    config, record = merge(mine, ours(), {}, "config.json")
    assert config["auths"] == {SITE: auth("lab:one"), "ghcr.io": auth("me:x")}
    assert merge(config, {}, record, "config.json")[0] == mine


def test_a_login_renewed_by_the_user_is_not_taken_away() -> None:
    config, record = merge({}, ours(), {}, "config.json")
    config["auths"][SITE] = auth("me:new")
    assert merge(config, {}, record, "config.json") == (config, {})


def test_nothing_asked_for_changes_nothing() -> None:
    configs: list[dict[str, Any]] = [{}, {"auths": {}}, {"credsStore": "pass", "auths": {SITE: {}}}]
    for config in configs:
        assert merge(config, {}, {}, "config.json") == (config, {})


@pytest.mark.parametrize(
    ("config", "code"),
    [
        ({"auths": []}, "CLI_CONFIG_INVALID"),
        ({"credsStore": "pass"}, "REGISTRY_LOGIN_ELSEWHERE"),
        ({"credHelpers": {SITE: "ecr-login"}}, "REGISTRY_LOGIN_ELSEWHERE"),
    ],
)
def test_what_would_not_work_is_refused(config: dict[str, Any], code: str) -> None:
    with pytest.raises(FleetError) as error:
        merge(config, ours(), {}, "config.json")
    assert error.value.code == code


def test_no_digest_gives_the_password_away() -> None:
    _, record = merge({}, ours("hunter2"), {}, "config.json")
    assert "hunter2" not in str(record) and ours("hunter2")[SITE]["auth"] not in str(record)
