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
