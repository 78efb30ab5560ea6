"""A user leaves: what is kept, what goes, what is left alone."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.gpulab.fleet.plugins.module_utils import _journal as kinds
from ansible_collections.gpulab.fleet.plugins.module_utils import _leaving
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._journal import Journal
from ansible_collections.gpulab.fleet.plugins.module_utils._leaving import Leaving
from ansible_collections.gpulab.fleet.plugins.module_utils._userenv import Account

RUNTIME = "/var/lib/gpulab/runtime/ann"
SUBIDS = "bob:100000:65536\nann:165536:65536\n"


class Host:
    """A host with ann, whose engine is ours, and bob, whom nothing concerns."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.etc = tmp_path / "etc"
        self.home = tmp_path / "home" / "ann"
        for folder in (self.etc, self.home, tmp_path / "linger"):
            folder.mkdir(parents=True)
        for kind in ("subuid", "subgid"):
            (self.etc / kind).write_text(SUBIDS)
        (tmp_path / "linger" / "ann").touch()
        self.root = self.home / "docker"
        (self.root / "overlay2").mkdir(parents=True)
        (self.root / "engine-id").touch()
        self.user: Account | None = Account("ann", 4242, 4242, self.home)
        self.seen = {
            "ours": True,
            "roots": [str(self.root)],
            "data": [],
            "folders": [],
            "stacks": [],
            "busy": [],
        }
        self.calls: list[str] = []
        monkeypatch.setattr(_leaving, "ETC", self.etc)
        monkeypatch.setattr(_leaving, "LINGERING", tmp_path / "linger")
        monkeypatch.setattr(_leaving, "look", lambda *_: (self.user, copy.deepcopy(self.seen)))
        monkeypatch.setattr(_leaving, "account", self.account)
        monkeypatch.setattr(_leaving, "as_user", self.as_user)
        monkeypatch.setattr(_leaving, "size", lambda *_: 1024)
        monkeypatch.setattr(_leaving, "delete", self.delete)
        monkeypatch.setattr(_leaving, "_processes", list)
        journal = Journal()
        journal.add(kinds.ENGINE, "ann")
        journal.add(kinds.LINGER, "ann")
        journal.add(kinds.SUBID, "ann", {"subuid": ["165536:65536"], "subgid": ["165536:65536"]})

    def account(self, name: str) -> Account:
        if self.user is None:
            raise FleetError("USER_MISSING", name)
        return self.user

    def as_user(self, _user: Account, _work: Any) -> dict[str, Any]:
        self.calls.append("as the user")
        return {"actions": ["stopped docker.service"], "diff": [], "gone": []}

    def delete(self, _user: Account, paths: list[Path]) -> None:
        self.calls += [f"delete {path.name}" for path in paths]
        for path in paths:
            path.rmdir() if path.is_dir() else path.unlink()

    def run(self, argv: list[str], check_rc: bool = False) -> tuple[int, str, str]:
        self.calls.append(" ".join(argv[:2]))
        return 0, "", ""

    def go(self, remove: bool = False, busy: str = "skip", check: bool = False) -> dict[str, Any]:
        module: Any = SimpleNamespace(check_mode=check, run_command=self.run)
        return Leaving(module, "ann", remove, "~/gpulab").go(busy, 0)

    def subids(self) -> str:
        return (self.etc / "subuid").read_text()


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(tmp_path, monkeypatch)


def test_data_that_are_kept_keep_their_ids(host: Host) -> None:
    result = host.go()
    assert result["data"] == [{"path": str(host.root), "bytes": 2048}]
    assert [found["code"] for found in result["findings"]] == ["DATA_KEPT"]
    assert host.subids() == SUBIDS
    journal = Journal()
    assert list(journal.entries(kinds.SUBID)) == list(journal.entries(kinds.DATA)) == ["ann"]
    assert journal.entries(kinds.ENGINE) == journal.entries(kinds.LINGER) == {}
    assert "loginctl disable-linger" in host.calls


def test_data_that_go_give_their_ids_back(host: Host) -> None:
    Journal().add(kinds.TREE, RUNTIME)
    Journal().add(kinds.FOLDERS, f"{RUNTIME}/nvidia-container-runtime")
    result = host.go(remove=True)
    assert host.calls.index("delete overlay2") < host.calls.index("delete engine-id")
    assert result["data"] == []
    assert host.subids() == "bob:100000:65536\n" == (host.etc / "subgid").read_text()
    assert not any(Journal().entries(kind) for kind in kinds.KINDS)
    assert "userdel --remove" not in host.calls


def test_kept_data_can_go_later(host: Host) -> None:
    host.go()
    host.seen = {**host.seen, "ours": False}
    assert host.go()["actions"] == []
    host.go(remove=True)
    assert host.subids() == "bob:100000:65536\n"


@pytest.mark.parametrize(("remove", "removed"), [(False, False), (True, True)])
def test_an_account_of_ours_goes_with_its_data_only(host: Host, remove: bool, removed: bool) -> None:
    Journal().add(kinds.ACCOUNT, "ann")
    host.go(remove=remove)
    assert ("userdel --remove" in host.calls) is removed


def test_somebody_at_work_is_left_alone(host: Host) -> None:
    host.seen["busy"] = ["training"]
    before = Journal().path.read_text()
    for choice in ("skip", "wait"):
        result = host.go(remove=True, busy=choice)
        assert result["pending"] and result["actions"] == [] and host.calls == []
        assert [found["code"] for found in result["findings"]] == ["ENGINE_IN_USE"]
        assert "training" in result["findings"][0]["evidence"]
    assert Journal().path.read_text() == before
    assert not host.go(busy="proceed")["pending"]


def test_an_engine_that_is_not_ours_is_left_alone(host: Host) -> None:
    Journal().drop(kinds.ENGINE, "ann")
    host.seen["ours"] = False
    assert host.go(remove=True)["actions"] == [] and host.calls == []
    assert host.root.is_dir()


def test_a_data_root_without_an_engines_mark_is_not_deleted(host: Host) -> None:
    (host.root / "engine-id").unlink()
    host.go(remove=True)
    assert (host.root / "overlay2").is_dir()


def test_data_of_an_account_that_is_gone_keep_their_ids(host: Host) -> None:
    host.user = None
    host.seen = _leaving.NOTHING
    Journal().put(kinds.DATA, "ann", {"roots": [str(host.root)], "data": [], "folders": []})
    assert [each["path"] for each in host.go(remove=True)["data"]] == [str(host.root)]
    assert host.subids() == SUBIDS


def test_check_mode_foretells_and_does_nothing(host: Host, tmp_path: Path) -> None:
    before = Journal().path.read_text()
    predicted = host.go(remove=True, check=True)["actions"]
    assert Journal().path.read_text() == before and host.subids() == SUBIDS and host.root.is_dir()
    assert [call for call in host.calls if call != "as the user"] == []
    assert set(predicted) == set(host.go(remove=True)["actions"])
