"""A stack's definition, a site's settings, and the GPU forms that people paste."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.gpulab.fleet.plugins.module_utils import _stack, _stack_schema
from ansible_collections.gpulab.fleet.plugins.module_utils._compose_gpus import requests
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError

STACKS = sorted(path.parent for path in (Path(__file__).parents[4] / "stacks").glob("*/stack.yml"))

DEFINED = {
    "settings": {
        "NAME": {"type": "str", "default": "x"},
        "COUNT": {"type": "int", "default": 3},
        "RATE": {"type": "float", "default": 0.5},
        "ON": {"type": "bool", "default": True},
        "PORT": {"type": "port", "default": 8000},
        "FORM": {"type": "str", "default": "small", "choices": ["small", "large"]},
        "FOLDER": {"type": "path"},
        "MUST": {"type": "str", "required": True},
    },
    "data": {"LOGS": {"folder": "logs"}},
    "secrets": {"TOKEN": {"required": True}, "KEY": {}},
}


def defined() -> dict[str, Any]:
    return _stack.definition("s", DEFINED)


def test_settings_are_complete_and_text() -> None:
    found = _stack.settings("s", defined(), {"MUST": "a b", "COUNT": "7", "ON": False, "LOGS": "/srv/logs"})
    assert found == {
        "NAME": "x",
        "COUNT": "7",
        "RATE": "0.5",
        "ON": "false",
        "PORT": "8000",
        "FORM": "small",
        "MUST": "a b",
        "LOGS": "/srv/logs",
    }


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"MUST": "a", "COUN": 1}, "no setting COUN; there are: COUNT"),
        ({"MUST": "a", "COUNT": "many"}, "COUNT is 'many', not a whole number"),
        ({"MUST": "a", "COUNT": True}, "not a whole number"),
        ({"MUST": "a", "COUNT": 1.5}, "not a whole number"),
        ({"MUST": "a", "PORT": 0}, "not a port"),
        ({"MUST": "a", "PORT": 65536}, "not a port"),
        ({"MUST": "a", "RATE": "fast"}, "not a number"),
        ({"MUST": "a", "ON": "yes"}, "not true or false"),
        ({"MUST": "a", "NAME": ["a"]}, "not text"),
        ({"MUST": "a", "NAME": True}, "not text"),
        ({"MUST": "a", "FORM": "middling"}, "not one of small, large"),
        ({"MUST": "a", "LOGS": "../logs"}, "LOGS is '../logs', not a data folder"),
        ({"MUST": "a", "LOGS": "/srv/../etc"}, "LOGS is '/srv/../etc', not a data folder"),
        ({"MUST": "a", "LOGS": "~root/logs"}, "LOGS is '~root/logs'"),
        ({}, "MUST has no default"),
    ],
)
def test_a_wrong_setting_says_what_is_right(given: dict[str, Any], said: str) -> None:
    with pytest.raises(FleetError, match=said) as caught:
        _stack.settings("s", defined(), given)
    assert caught.value.code == "STACK_SETTING_INVALID"


@pytest.mark.parametrize(
    ("read", "said"),
    [
        ([], "does not know|is not a mapping"),
        ({"setting": {}}, "does not know setting"),
        ({"settings": {"lower": {}}}, "settings.lower"),
        ({"settings": {"PATH": {}}}, "settings.PATH"),
        ({"settings": {"COMPOSE_FILE": {}}}, "settings.COMPOSE_FILE"),
        ({"settings": {"A": "text"}}, "settings.A is 'text', not a mapping"),
        ({"settings": {"A": {"typ": "int"}}}, "settings.A does not know typ: there are choices, default"),
        ({"settings": {"A": {"type": "list"}}}, "settings.A.type is 'list', not one of str, int"),
        ({"settings": {"A": {"choices": "ab"}}}, "settings.A.choices is 'ab', not a list"),
        ({"settings": {"A": {"required": "yes"}}}, "settings.A.required is 'yes', not true or false"),
        ({"data": {"A": {}}}, "data.A.folder is None"),
        ({"data": {"A": {"folder": "../x"}}}, "data.A.folder is '../x'"),
        ({"data": {"A": {"folder": "/etc"}}}, "data.A.folder is '/etc'"),
        ({"data": {"A": {"folder": "a/../../b"}}}, "data.A.folder"),
        ({"data": {"A": {"folder": "a;b"}}}, "data.A.folder is 'a;b'"),
        ({"data": {"A": {"folder": 7}}}, "data.A.folder is 7"),
        ({"secrets": {"A": {"mode": 420}}}, "secrets.A.mode is 420: write it in quotes"),
        ({"secrets": {"A": {"mode": "rw"}}}, "secrets.A.mode is 'rw'"),
        ({"secrets": {"A": {"path": "x"}}}, "secrets.A does not know path"),
    ],
)
def test_a_wrong_definition_is_refused(read: Any, said: str) -> None:
    if read == []:
        assert _stack.definition("s", read)["settings"] == {}
        return
    with pytest.raises(FleetError, match=said) as caught:
        _stack.definition("s", read)
    assert caught.value.code == "STACK_INVALID"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "TOKEN must be given"),
        ({"TOKEN": ""}, "TOKEN is not text, or empty"),
        ({"TOKEN": "a", "OTHER": "b"}, "no secret OTHER; there are: KEY, TOKEN"),
    ],
)
def test_secrets_are_those_of_the_stack(given: dict[str, Any], said: str) -> None:
    with pytest.raises(FleetError, match=said):
        _stack.check_secrets("s", defined(), given)


def test_optional_secrets_may_be_left_out() -> None:
    _stack.check_secrets("s", defined(), {"TOKEN": "a"})


@pytest.mark.parametrize("folder", STACKS, ids=lambda path: path.name)
def test_the_catalogue_can_be_deployed_with_defaults(folder: Path) -> None:
    """And with what it insists on: a licence is accepted by the site, never by a default."""
    read = yaml.safe_load((folder / "stack.yml").read_text(encoding="utf-8"))
    compose = yaml.safe_load((folder / "compose.yml").read_text(encoding="utf-8"))
    whole = _stack_schema.definition(folder.name, read)
    _stack_schema.check_names(folder.name, whole, compose)
    insisted = {name: entry["choices"][0] for name, entry in whole["settings"].items() if entry.get("required")}
    assert set(insisted) <= {"ACCEPT_EULA"}
    _stack.settings(folder.name, whole, insisted)
    _stack.check_secrets(folder.name, whole, {})
    assert requests(compose) == {}, "GPUs are given by the inventory"
    for part in ("settings", "data", "secrets"):
        assert all(entry.get("description") for entry in whole[part].values())


@pytest.mark.parametrize("folder", STACKS, ids=lambda path: path.name)
def test_what_stack_yml_says_is_what_compose_yml_does(folder: Path) -> None:
    """Every setting is used, and by hand it has the same default, or is insisted on as well."""
    read = yaml.safe_load((folder / "stack.yml").read_text(encoding="utf-8"))
    text = "".join(
        path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.yml")) if path.name != "stack.yml"
    )
    for name, entry in read["settings"].items():
        if entry.get("required"):
            assert text.count(f"${{{name}") == text.count(f"${{{name}:?") > 0, name
        elif not name.startswith("COMPOSE_"):
            default = str(entry["default"]).lower() if entry["type"] == "bool" else entry["default"]
            assert re.search(rf"\$\{{{name}:-{re.escape(str(default))}\}}", text), name
    for name, entry in read["data"].items():
        assert f"${{{name}:-./data/{entry['folder']}}}" in text, name
    for name in read.get("secrets", {}):
        assert f"${{{name}_FILE:-/dev/null}}" in text, name


@pytest.mark.parametrize("name", ["../x", "a/b", "A", "a b", "a;b", "$(id)", "-a", "_a", "", "a" * 64, "a\nb"])
def test_what_no_stack_is_called(name: str) -> None:
    with pytest.raises(FleetError, match="a stack's name has") as caught:
        _stack.check_name(name)
    assert repr(name) in str(caught.value)


def test_names_of_stacks() -> None:
    for name in ("a", "gym_desktop", "7-of-9", "a" * 63):
        _stack.check_name(name)
