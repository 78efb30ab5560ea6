"""Holds are set and lifted also while another program has the package manager's lock."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.gpulab.fleet.plugins.module_utils import _holds
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError

LOCKED = "dpkg: error: dpkg frontend lock was locked by another process with pid 824\nE: Executing dpkg failed.\n"
UNKNOWN = "E: Unable to locate package docker-ce\n"


def module(said: list[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """A host on which apt-mark fails with these words, one after the other, and then succeeds."""
    seconds = iter(range(1000))
    monkeypatch.setattr("time.sleep", lambda _seconds: None)
    monkeypatch.setattr("time.monotonic", lambda: next(seconds))

    def run_command(_argv: list[str], environ_update: dict[str, str]) -> tuple[int, str, str]:
        assert environ_update["LC_ALL"] == "C"
        return (100, "", said.pop(0)) if said else (0, "", "")

    return SimpleNamespace(run_command=run_command)


def test_a_lock_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    said = [LOCKED, LOCKED]
    _holds.apt_mark(module(said, monkeypatch), "unhold", ["docker-ce"], 120)
    assert said == []


@pytest.mark.parametrize(
    ("said", "code", "words"),
    [
        ([LOCKED] * 9, "APT_LOCKED", "with pid 824"),
        ([UNKNOWN], "PACKAGE_INSTALL_FAILED", "apt-mark hold docker-ce: E: Unable to locate"),
    ],
)
def test_what_does_not_end_is_named(said: list[str], code: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FleetError, match=words) as caught:
        _holds.apt_mark(module(said, monkeypatch), "hold", ["docker-ce"], 3)
    assert caught.value.code == code
