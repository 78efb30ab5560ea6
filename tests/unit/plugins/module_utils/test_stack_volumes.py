"""New named volumes: who mounts them, and what is done to one that is missing, empty, or in use."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpulab.fleet.plugins.module_utils import _container_user, _posix_acl, _stack_volumes
from ansible_collections.gpulab.fleet.plugins.module_utils._compose import PROJECT, Project
from ansible_collections.gpulab.fleet.plugins.module_utils._userenv import Account

USER = Account("trainer", 0, 0, Path("/nowhere"))
CONFIG = {
    "services": {
        "db": {"user": "70", "volumes": [{"type": "volume", "source": "db", "target": "/db"}]},
        "web": {"volumes": [{"type": "volume", "source": key, "target": f"/{key}"} for key in ("db", "own", "nfs")]},
        "root": {"user": "0", "volumes": [{"type": "volume", "source": "plain", "target": "/plain"}]},
        "reader": {
            "user": "7",
            "volumes": [{"type": "volume", "source": "db", "target": "/db", "read_only": True}, {"type": "tmpfs"}],
        },
    },
    "volumes": {
        "db": {"name": "s_db", "labels": {"keep": "yes"}},
        "own": {"name": "s_own"},
        "plain": {"name": "s_plain"},
        "nfs": {"name": "s_nfs", "driver_opts": {"type": "nfs"}},
    },
}
LABELS = {PROJECT: "s", _stack_volumes.VOLUME: "db"}


class Engine(Project):
    def __init__(self, folder: Path) -> None:
        super().__init__(USER, "s", Path("/"))
        self.volumes: dict[str, Path] = {}
        self.made: list[list[str]] = []
        self.root = folder

    def api(self, question: str) -> Any:
        rows = [{"Name": name, "Mountpoint": str(path)} for name, path in self.volumes.items()]
        return {"Volumes": rows} if question == "/volumes" else next(r for r in rows if question.endswith(r["Name"]))

    def docker(self, *arguments: str, stdin: int | None = None) -> subprocess.CompletedProcess[str]:
        self.made.append(list(arguments[2:-1]))
        self.add(arguments[-1])
        return subprocess.CompletedProcess(arguments, 0, "", "")

    def add(self, name: str) -> Path:
        self.volumes[name] = self.root / name
        self.volumes[name].mkdir()
        return self.volumes[name]


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    def as_all_ids(_user: Account, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        return work()

    monkeypatch.setattr(_stack_volumes, "as_all_ids", as_all_ids)
    monkeypatch.setattr(_container_user, "image_config", lambda _project, image: {"User": image})
    return Engine(tmp_path)


def test_only_what_users_of_their_own_write_in_is_prepared(engine: Engine) -> None:
    images = {"db": "", "web": "1000", "root": "1000", "reader": ""}
    found = _stack_volumes.writers(engine, CONFIG, images)
    assert {name: entry["users"] for name, entry in found.items()} == {"s_db": [70, 1000], "s_own": [1000]}
    assert found["s_db"]["labels"] == {"keep": "yes", **LABELS}


def test_a_new_volume_is_its_users(engine: Engine) -> None:
    wanted = {"s_db": {"labels": LABELS, "users": [70]}}
    said = ["make volume s_db for uid 70 of the containers"]
    assert _stack_volumes.prepare(engine, wanted, check=True) == said
    assert engine.made == []
    assert _stack_volumes.prepare(engine, wanted) == said
    assert engine.made == [["--label", f"{PROJECT}=s", "--label", f"{_stack_volumes.VOLUME}=db"]]
    assert engine.volumes["s_db"].stat().st_uid == 70
    assert _stack_volumes.prepare(engine, wanted) == []


def test_two_users_share_one(engine: Engine) -> None:
    engine.add("s_db")
    wanted = {"s_db": {"labels": LABELS, "users": [70, 1000]}}
    said = ["let uid 70, 1000 of the containers write volume s_db"]
    assert _stack_volumes.prepare(engine, wanted, check=True) == said
    assert _stack_volumes.prepare(engine, wanted) == said
    access = _posix_acl.read(str(engine.volumes["s_db"]), _posix_acl.ACCESS)
    assert all(_posix_acl.allows(access, uid, 7) for uid in (70, 1000))


@pytest.mark.parametrize("content", [True, False])
def test_what_has_content_or_an_owner_is_left_alone(engine: Engine, content: bool) -> None:
    path = engine.add("s_db")
    if content:
        (path / "rows").touch()
    else:
        os.chown(path, 33, 33)
    wanted = {"s_db": {"labels": LABELS, "users": [70]}}
    assert _stack_volumes.prepare(engine, wanted) == []
    assert path.stat().st_uid == (0 if content else 33)
