"""Purging: named, sized and confirmed; and nothing else goes."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.gpulab.fleet.plugins.module_utils import _stack_places, _stack_purge
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._userenv import Account


class Engine:
    """Stands in for a project that has a volume of its own and one that lies on a file server."""

    def __init__(self, root: Path, name: str) -> None:
        self.user, self.name = Account("u", 0, 0, root), name
        self.running: list[Any] = []
        self.place = root / "volume"
        (self.place).mkdir()
        (self.place / "file").write_bytes(b"x" * 9000)

    def api(self, question: str) -> Any:
        assert self.name in question
        server = {"Name": "nfs", "Driver": "local", "Mountpoint": "/nowhere", "Options": {"type": "nfs"}}
        own = {"Name": f"{self.name}_db", "Driver": "local", "Mountpoint": str(self.place), "Options": None}
        return {"Volumes": [server, own] if self.place.exists() else []}

    def containers(self) -> list[Any]:
        return self.running

    def docker(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        assert arguments == ("volume", "rm", f"{self.name}_db")
        (self.place / "file").unlink()
        self.place.rmdir()
        return subprocess.CompletedProcess(arguments, 0, "", "")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    def as_all_ids(_user: Account, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        return work()

    for module in (_stack_purge, _stack_places):
        monkeypatch.setattr(module, "as_all_ids", as_all_ids)
    for name in ("a/checkpoints", "a/.hidden", "a-b/checkpoints"):
        folder = tmp_path / "data" / name
        folder.mkdir(parents=True)
        (folder / "file").write_bytes(b"x" * 5000)
    (tmp_path / "snapshots" / "a" / "one").mkdir(parents=True)
    return Engine(tmp_path, "a")


def everything(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


@pytest.mark.parametrize("typed", ["", "yes", "A", "a-b"])
def test_without_the_name_nothing_goes_and_all_is_named(project: Any, tmp_path: Path, typed: str) -> None:
    before = everything(tmp_path)
    with pytest.raises(FleetError) as caught:
        _stack_purge.purge(project, tmp_path, typed)
    assert caught.value.code == "STACK_PURGE_UNCONFIRMED"
    for text in ("folder checkpoints: ", "folder .hidden: ", "volume a_db: ", "snapshots a: ", "KiB", "together"):
        assert text in caught.value.detail
    assert everything(tmp_path) == before


def test_what_runs_is_not_purged(project: Any, tmp_path: Path) -> None:
    project.running = [SimpleNamespace(name="a-web-1")]
    before = everything(tmp_path)
    with pytest.raises(FleetError, match="a-web-1"):
        _stack_purge.purge(project, tmp_path, "a")
    assert everything(tmp_path) == before


def test_with_the_name_just_this_stack_goes(project: Any, tmp_path: Path) -> None:
    before = everything(tmp_path)
    foreseen = _stack_purge.purge(project, tmp_path, "a", check=True)
    assert everything(tmp_path) == before
    done = _stack_purge.purge(project, tmp_path, "a")
    assert done["actions"] == foreseen["actions"]
    assert len(done["actions"]) == 4
    assert everything(tmp_path) == {
        "data",
        "data/a-b",
        "data/a-b/checkpoints",
        "data/a-b/checkpoints/file",
        "snapshots",
    }
    assert _stack_purge.purge(project, tmp_path, "a") == {"changed": False, "actions": [], "going": []}
