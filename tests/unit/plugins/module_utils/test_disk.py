"""The floor of free space, and the way back from a full disk."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.gpulab.fleet.plugins.module_utils import _disk_free, _disk_room
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._userenv import Account

GIB = 1 << 30


@pytest.mark.parametrize(("total", "floor"), [(1000 * GIB, 5 * GIB), (100 * GIB, 5 * GIB), (20 * GIB, GIB)])
def test_the_floor(total: int, floor: int) -> None:
    assert _disk_room.floor(total) == floor


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    found = SimpleNamespace(f_bavail=8 << 20, f_frsize=1024, f_blocks=100 << 20)  # 8 GiB of 100 GiB
    monkeypatch.setattr(os, "statvfs", lambda _path: found)
    return found


@pytest.mark.parametrize(("need", "keep"), [(0, None), (3 * GIB, None), (8 * GIB, 0)])
def test_what_fits_is_let_through(disk: SimpleNamespace, tmp_path: Path, need: int, keep: int | None) -> None:
    _disk_room.room(tmp_path / "not" / "there", need, keep)


@pytest.mark.parametrize(("need", "keep"), [(3 * GIB + 1, None), (0, 9 * GIB), (9 * GIB, 0)])
def test_what_does_not_is_refused_with_figures(
    disk: SimpleNamespace, tmp_path: Path, need: int, keep: int | None
) -> None:
    with pytest.raises(FleetError) as caught:
        _disk_room.room(tmp_path, need, keep)
    assert caught.value.code == "STACK_DISK_ROOM"
    assert "8.0 GiB of 100.0 GiB are free" in caught.value.detail
    assert str(tmp_path) in caught.value.detail


def test_where_nothing_is_brought_a_little_will_do(disk: SimpleNamespace, tmp_path: Path) -> None:
    disk.f_bavail = 70 << 10  # 70 MiB, far below the floor
    _disk_room.refuse_standstill([tmp_path])
    disk.f_bavail = 60 << 10
    with pytest.raises(FleetError, match=r"60.0 MiB of 100.0 GiB are free, and 64.0 MiB have to stay free"):
        _disk_room.refuse_standstill([tmp_path])
    disk.f_blocks = 900 << 10  # of a small disk, the floor
    _disk_room.refuse_standstill([tmp_path])


def user(home: Path) -> Account:
    return Account("trainer", 1000, 1000, home)


def test_the_data_root_is_where_the_settings_say(tmp_path: Path) -> None:
    assert _disk_free.data_root(user(tmp_path)) == tmp_path / ".local/share/docker"
    path = tmp_path / ".config" / "docker" / "daemon.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"data-root": "/scratch/docker"}')
    assert _disk_free.data_root(user(tmp_path)) == Path("/scratch/docker")
    path.write_text("[]")
    assert _disk_free.data_root(user(tmp_path)) == tmp_path / ".local/share/docker"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / ".local" / "share" / "docker"
    container = folder / "containers" / ("ab" * 32)
    (container / "local-logs").mkdir(parents=True)
    (folder / "tmp").mkdir()
    for name in ("engine-id", "tmp/docker-import-1"):
        (folder / name).write_text("x")
    for name in (f"{'ab' * 32}-json.log", f"{'ab' * 32}-json.log.1", "local-logs/container.log", "config.v2.json"):
        (container / name).write_text("some lines\n")
    return folder


def logs(root: Path) -> dict[str, int]:
    return {path.name[-12:]: path.stat().st_size for path in root.glob("containers/**/*") if path.is_file()}


@pytest.mark.parametrize("check", [True, False])
def test_without_the_engine_logs_and_remains_go_and_nothing_else(root: Path, check: bool) -> None:
    before = logs(root)
    assert len(_disk_free.empty_logs(root, check)) == 4
    after = logs(root)
    assert after["nfig.v2.json"] == before["nfig.v2.json"]
    assert (sum(after.values()) == sum(before.values())) is check
    assert (root / "tmp" / "docker-import-1").exists() is check
    assert len(_disk_free.empty_logs(root, check)) == (4 if check else 0)


def test_logs_of_an_engine_that_runs_are_left_alone(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_disk_free, "engine_runs", lambda _user: True)
    before = logs(root)
    with pytest.raises(FleetError, match="stop it first"):
        _disk_free.make_room(user(tmp_path))
    assert logs(root) == before


def test_what_is_no_data_root_is_not_touched(tmp_path: Path) -> None:
    with pytest.raises(FleetError, match="no data root"):
        _disk_free.make_room(user(tmp_path))


def test_with_the_engine_only_named_tags_and_the_cache_go(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    asked = []

    class Engine:
        def __init__(self, *_arguments: object) -> None: ...

        def engine(self) -> dict[str, Any]:
            return {}

        def api(self, _question: str) -> dict[str, Any]:
            return {"BuildCache": [{"Size": 5}, {"Size": 2}]}

        def docker(self, *arguments: str) -> SimpleNamespace:
            asked.append(arguments)
            return SimpleNamespace(returncode=1 if arguments[-1] == "gpulab/in-use:1" else 0, stderr="")

    monkeypatch.setattr(_disk_free, "Project", Engine)
    done = _disk_free.make_room(user(root.parents[2]), ["gpulab/old:1", "gpulab/in-use:1"])
    assert done["actions"] == ["remove the build cache (7 B)", "remove image gpulab/old:1"]
    assert asked[0] == ("builder", "prune", "--all", "--force")
    assert [each[-1] for each in asked[1:]] == ["gpulab/old:1", "gpulab/in-use:1"]
    asked.clear()
    assert len(_disk_free.make_room(user(root.parents[2]), ["gpulab/old:1"], check=True)["actions"]) == 2
    assert asked == []
