"""No secret leaves the controller for a log."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.gpulab.fleet.plugins.filter.without_secrets import without_secrets

HIDDEN = "(secret)"


@pytest.mark.parametrize(
    ("secrets", "shown"),
    [
        ({"TOKEN": "hunter2"}, {"TOKEN": HIDDEN}),
        ({"TOKEN": ["hunter2"]}, {"TOKEN": HIDDEN}),
        ("hunter2", HIDDEN),
        (["hunter2"], HIDDEN),
        (None, HIDDEN),
        ({}, {}),
    ],
)
def test_secrets_of_stacks(secrets: Any, shown: Any) -> None:
    variables = {"gpulab_stacks": {"a": {"user": "x", "secrets": secrets}}}
    assert without_secrets(variables) == {"gpulab_stacks": {"a": {"user": "x", "secrets": shown}}}
    assert variables["gpulab_stacks"]["a"]["secrets"] == secrets


@pytest.mark.parametrize("name", ["gpulab_stack", "gpulab_Stacks", "gpulab_stacks", "gpulab_site"])
@pytest.mark.parametrize("key", ["secrets", "Secrets", "secret", "sercets", "hf_token", "PASSWORD"])
def test_secrets_of_any_variable(name: str, key: str) -> None:
    for value in ({"HF_KEY": "hunter2"}, "hunter2", ["hunter2"], {"a": {"b": ["hunter2"]}}):
        shown = without_secrets({name: {"a": {"user": "x", key: value}}})
        assert "hunter2" not in str(shown)
        assert shown[name]["a"]["user"] == "x"


@pytest.mark.parametrize("value", ["hunter2", 12345, {"a": "hunter2"}])
def test_variables_and_settings_named_like_a_secret(value: Any) -> None:
    shown = str(without_secrets({"gpulab_hf_token": value, "gpulab_list": [{"DB_PASSWORD": value}]}))
    assert "hunter2" not in shown
    assert "12345" not in shown


def test_names_of_users_stacks_and_services_hide_nothing() -> None:
    variables = {
        "gpulab_users": {"tokenbot": {"gpus": "all"}},
        "gpulab_stacks": {"tokenizer": {"user": "tokenbot", "gpus": {"tokenizer": [0]}}},
    }
    assert without_secrets(variables) == variables


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://me:hunter2@mirror/deb", "https://me:***@mirror/deb"),
        ("https://:hunter2@mirror/deb", "https://:***@mirror/deb"),
        ("https://mirror:8443/deb", "https://mirror:8443/deb"),
        ("no address", "no address"),
    ],
)
def test_passwords_in_addresses(address: str, shown: str) -> None:
    assert without_secrets({"a": {"b": [address]}}) == {"a": {"b": [shown]}}


@pytest.mark.parametrize("stacks", [None, [], "x", {"a": None}, {"a": "x"}])
def test_what_has_another_form_stays(stacks: Any) -> None:
    assert without_secrets({"gpulab_stacks": stacks, "n": 1}) == {"gpulab_stacks": stacks, "n": 1}


def test_something_else_is_refused() -> None:
    with pytest.raises(AnsibleFilterError):
        without_secrets("text")
