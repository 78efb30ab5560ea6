"""Ids of a user namespace, seen from the host."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ansible_collections.gpulab.fleet.plugins.module_utils import _all_ids
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._userenv import Account, in_child

MAP = "         0       1000          1\n         1     100000      65536\n     65537     300000         10\n"


@pytest.mark.parametrize(
    ("inside", "host"), [(0, 1000), (1, 100000), (1000, 100999), (65536, 165535), (65537, 300000), (65547, None)]
)
def test_an_id_is_found_on_the_host(inside: int, host: int | None) -> None:
    assert _all_ids.outside(MAP, inside) == host


def test_a_number_that_a_killed_engine_left_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process of that number is now another one: this one, whose namespace holds all ids or one of its own."""
    monkeypatch.setattr(Account, "runtime_dir", tmp_path)
    (tmp_path / "dockerd-rootless").mkdir()
    (tmp_path / "dockerd-rootless" / "child_pid").write_text(f"{os.getpid()}\n")
    assert _all_ids._of_engine(Account("u", 12345, 12345, tmp_path)) is None


def test_without_rootlesskit_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Account, "runtime_dir", tmp_path)
    monkeypatch.setattr(Account, "environment", lambda _self: {"PATH": str(tmp_path)})
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FleetError) as caught:
        _all_ids.as_all_ids(Account("u", 12345, 12345, tmp_path), dict)
    assert caught.value.code == "USER_NAMESPACE_REFUSED"


def test_what_a_child_finds_wrong_comes_back() -> None:
    def refuse() -> None:
        raise FleetError("USER_NAMESPACE_REFUSED", "setns: no")

    with pytest.raises(FleetError, match="setns: no"):
        in_child(refuse, dict)
    assert in_child(lambda: None, lambda: {"pid": os.getpid()})["pid"] != os.getpid()
