"""stack.yml's parts that say how a stack is deployed: what they become, and what is said of wrong ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.gpulab.fleet.plugins.module_utils import _stack, _stack_gpus, _stack_schema
from ansible_collections.gpulab.fleet.plugins.module_utils._compose_network import spelled
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError

STACKS = sorted((Path(__file__).parents[4] / "stacks").glob("*/stack.yml"))
COMPOSE = {"services": {"server": {}, "train": {"profiles": ["jobs"]}, "board": {"profiles": ["board"]}, "odd": {}}}


def defined(**parts: Any) -> dict[str, Any]:
    return _stack_schema.definition("s", parts)


def test_everything_is_there_when_nothing_is_said() -> None:
    nothing: tuple[Any, ...] = (None, {})
    for empty in nothing:
        found = _stack_schema.definition("s", empty)
        assert found == {
            **_stack.definition("s", {}),
            "checks": [], "runs": {}, "profiles": [], "no_health": [], "graphics": [],
            "snapshot": False, "gpu_sharing": "exclusive", "publish": {},
                "mounts": {}, "mount_into": [],
        }  # fmt: skip


def test_what_the_parts_become() -> None:
    found = defined(
        description="x",
        settings={"PORT": {"type": "port", "default": 8000}},
        checks=[
            {"service": "server", "command": "curl -f localhost"},
            {"service": "server", "command": ["python3", "ask.py", 3], "timeout": 5},
            {"url": "http://127.0.0.1:${PORT}/healthz", "expect": "OK"},
            {"url": "https://localhost/"},
        ],
        runs={"train": "Trains once"},
        profiles=["board", "board"],
        no_health=["odd"],
        snapshot=True,
        gpu_sharing="shared",
        publish={"server": [8000, "9000:8001", "0.0.0.0:53:53/udp", "[::1]:1:2"], "train": []},
        wait_timeout=600,
    )
    assert found["checks"] == [
        {"service": "server", "command": ["sh", "-c", "curl -f localhost"], "timeout": 30},
        {"service": "server", "command": ["python3", "ask.py", "3"], "timeout": 5},
        {"url": "http://127.0.0.1:${PORT}/healthz", "expect": "OK", "timeout": 30},
        {"url": "https://localhost/", "expect": 200, "timeout": 30},
    ]
    assert found["runs"] == {"train": "Trains once"}
    assert found["profiles"] == ["board"]
    assert (found["snapshot"], found["gpu_sharing"], found["wait_timeout"]) == (True, "shared", 600)
    assert found["settings"]["PORT"]["default"] == 8000
    ports = [spelled(port) for port in found["publish"]["server"]]
    assert [(p["host_ip"], p["published"], p["target"], p["protocol"]) for p in ports] == [
        ("127.0.0.1", "8000", 8000, "tcp"),
        ("127.0.0.1", "9000", 8001, "tcp"),
        ("0.0.0.0", "53", 53, "udp"),
        ("::1", "1", 2, "tcp"),
    ]
    _stack_schema.check_names("s", found, COMPOSE)
    assert _stack_schema.fill(found["checks"][2]["url"], {"PORT": "7"}) == "http://127.0.0.1:7/healthz"
    assert _stack_schema.fill("http://x/${NONE}", {}) == "http://x/${NONE}"


@pytest.mark.parametrize(
    ("read", "said"),
    [
        ([], "stack.yml is [], not a mapping: write"),
        ({"chekcs": []}, "does not know chekcs: take it out, or correct its name; there are checks, data"),
        ({"settings": ["A"]}, "settings is ['A'], not a mapping: write"),
        ({"wait_timeout": "long"}, "wait_timeout is 'long', not a whole number of seconds: write 600"),
        ({"wait_timeout": True}, "wait_timeout is True"),
        ({"checks": {}}, "checks is {}: write a list"),
        ({"checks": "curl"}, "checks is 'curl': write a list"),
        ({"checks": [{}]}, "checks[0] is {}: write {service"),
        ({"checks": [{"service": "a", "command": []}]}, "checks[0].command is []: write a command"),
        ({"checks": [{"service": "a"}]}, "checks[0].command is None"),
        ({"checks": [{"service": 3, "command": "x"}]}, "checks[0].service is 3"),
        (
            {"checks": [{"service": "a", "command": "x", "url": "y"}]},
            "checks[0].url is 'y': a check has command, service",
        ),
        ({"checks": [{"url": "localhost"}]}, "checks[0].url is 'localhost': write http://"),
        ({"checks": [{"url": "http://x", "expect": 7}]}, "checks[0].expect is 7: write a status"),
        ({"checks": [{"url": "http://x", "timeout": 0}]}, "checks[0].timeout is 0: write a whole number"),
        ({"checks": [{"url": "http://x"}, {"url": "http://x", "timeout": True}]}, "checks[1].timeout is True"),
        ({"runs": "train"}, "runs is 'train': write a list"),
        ({"runs": {"train": 3}}, "runs.train is 3: write what a run"),
        ({"profiles": [1]}, "profiles[0] is 1: write a name"),
        ({"no_health": "all"}, "no_health is 'all': write a list"),
        ({"snapshot": "yes"}, "snapshot is 'yes': write true or false"),
        ({"gpu_sharing": "both"}, "gpu_sharing is 'both': write exclusive or shared"),
        ({"gpu_sharing": ["shared"]}, "gpu_sharing is ['shared']"),
        ({"publish": [8000]}, "publish is [8000]: write SERVICE"),
        ({"mounts": {"lib": "lib"}}, "mounts.lib.source is 'lib': write an absolute path"),
        ({"publish": {"a": 8000}}, "publish.a is 8000: write a list of ports"),
        ({"publish": {"a": [70000]}}, "publish.a[0] is 70000"),
        ({"publish": {"a": [8000, "8000:x"]}}, "publish.a[1] is '8000:x': write 8000"),
        ({"publish": {"a": [True]}}, "publish.a[0] is True"),
    ],
)
def test_what_is_wrong_is_named_with_its_value_and_what_to_write(read: Any, said: str) -> None:
    with pytest.raises(FleetError) as error:
        _stack_schema.definition("s", read)
    assert error.value.code == "STACK_INVALID"
    assert error.value.detail.startswith("s: ")
    assert said in error.value.detail


def test_a_site_says_the_same_parts_for_its_hosts() -> None:
    base = defined(profiles=["board"], snapshot=True)
    entry: dict[str, Any] = {"user": "mara", "settings": {}, "profiles": [], "gpu_sharing": "shared", "snapshot": None}
    found = _stack_schema.with_site("s", base, entry)
    assert (found["profiles"], found["gpu_sharing"], found["snapshot"]) == ([], "shared", True)
    assert "user" not in found
    with pytest.raises(FleetError, match=r"gpulab_stacks\.s\.gpu_sharing is 'x'") as error:
        _stack_schema.with_site("s", base, {"gpu_sharing": "x"})
    assert error.value.code == "STACK_SETTING_INVALID"


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"checks": [{"service": "srv", "command": "x"}]}, r"checks\[0\].service names the service srv; compose.yml has board"),
        ({"runs": ["tain"]}, "runs names the service tain"),
        ({"no_health": ["x"]}, "no_health names the service x"),
        ({"publish": {"x": []}}, "publish names the service x"),
        ({"mount_into": ["x"]}, "mount_into names the service x"),
        ({"mounts": {"lib": {"source": "/a", "services": ["x"]}}}, "mounts.lib.services names the service x"),
        ({"gpus": {"x": 1}}, "stack.yml: gpus names the service x"),
        ({"profiles": ["jbos"]}, "profiles names the profile jbos; compose.yml has board, jobs"),
    ],
)  # fmt: skip
def test_names_that_compose_does_not_have(parts: dict[str, Any], said: str) -> None:
    with pytest.raises(FleetError, match=said):
        _stack_schema.check_names("s", defined(**parts), COMPOSE)


def test_a_name_of_the_inventory_is_corrected_there() -> None:
    site = {"profiles": ["jbos"], "runs": None}
    with pytest.raises(FleetError, match=r"gpulab_stacks\.s\.profiles names the profile jbos") as error:
        _stack_schema.check_names("s", {**defined(), "profiles": ["jbos"]}, COMPOSE, site)
    assert error.value.code == "STACK_SETTING_INVALID"


@pytest.mark.parametrize(
    ("compose", "said"),
    [
        (None, "the file is None"),
        (["web"], r"the file is \['web'\]"),
        ({}, "services is None"),
        ({"services": ["web"]}, r"services is \['web'\], not a mapping"),
        ({"services": {"web": "image"}}, "services.web is 'image', not a mapping"),
        ({"services": {"web": None}}, "services.web is None"),
    ],
)
def test_a_compose_file_without_services(compose: Any, said: str) -> None:
    with pytest.raises(FleetError, match=said) as error:
        _stack_schema.check_shape("s", compose)
    assert error.value.code == "STACK_COMPOSE_INVALID"


def test_profiles_of_whatever_form() -> None:
    services = {"a": {"profiles": ["x", 1]}, "b": {"profiles": "y"}, "c": {}}
    assert _stack_schema.profiles_of(services) == {"x", "1"}


@pytest.mark.parametrize("path", STACKS, ids=lambda path: path.parent.name)
def test_the_shipped_stacks(path: Path) -> None:
    read = yaml.safe_load(path.read_text(encoding="utf-8"))
    found = _stack_schema.definition(path.parent.name, read)
    compose = yaml.safe_load((path.parent / "compose.yml").read_text(encoding="utf-8"))
    _stack_schema.check_names(path.parent.name, found, compose)
    assert set(_stack_schema.variables(compose)) >= set(read["settings"]) - {"COMPOSE_PROFILES"}


def test_a_folder_without_a_stack_yml_can_be_given_what_its_file_takes_from_outside() -> None:
    compose = {
        "services": {
            "server": {
                "image": "${REGISTRY:-docker.io}/${IMAGE?say which}:$TAG",
                "environment": ["SERVER_ARGS", "A=b", "TOKEN=${TOKEN:?}"],
                "volumes": ["$PWD:/app", "${DATA:-${HOME}/data}:/d"],
                "command": ["sh", "-c", "echo $$NOT_ONE ${lower}"],
            },
            "other": {"environment": {"DISPLAY": None, "X": "1"}},
        }
    }
    assert _stack_schema.variables(compose) == {
        "REGISTRY": False, "IMAGE": True, "TAG": False, "SERVER_ARGS": False, "TOKEN": True, "DATA": False,
        "DISPLAY": False,
    }  # fmt: skip
    found = _stack_schema.definition("s", _stack_schema.derived(compose))
    given = _stack.settings("s", found, {"SERVER_ARGS": "--env SIM", "IMAGE": "pi", "TOKEN": "x"})
    assert given == {"SERVER_ARGS": "--env SIM", "IMAGE": "pi", "TOKEN": "x"}
    with pytest.raises(FleetError, match="no setting SERVER_ARG"):
        _stack.settings("s", found, {"SERVER_ARG": "x"})


def test_an_empty_list_is_nothing_to_compose_and_no_mistake() -> None:
    found = defined(no_health=None, checks=None, publish={"server": None}, gpus={"server": None})
    assert (found["no_health"], found["checks"], found["publish"]) == ([], [], {"server": []})
    assert not _stack_gpus.wanted(found["gpus"]["server"])
