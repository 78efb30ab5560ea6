"""Snapshots: whole or not there, checked before anything is touched, exchanged so that a cut loses nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpulab.fleet.plugins.module_utils import _disk_room, _posix_acl, _stack_places, _stack_snapshot
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._stack_places import Part
from ansible_collections.gpulab.fleet.plugins.module_utils._stack_snapshot import Snapshots, beside
from ansible_collections.gpulab.fleet.plugins.module_utils._userenv import Account


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    def as_all_ids(_user: Account, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        return work()

    for module in (_stack_snapshot, _stack_places):
        monkeypatch.setattr(module, "as_all_ids", as_all_ids)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data" / "s" / "work"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "model").write_bytes(b"weights")
    (folder / "deep" / "model").chmod(0o600)
    (folder / "link").symlink_to("deep/model")
    _posix_acl.share(str(folder), [100999])
    return folder


@pytest.fixture
def snapshots(tmp_path: Path) -> Snapshots:
    return Snapshots(Account("u", 0, 0, tmp_path), tmp_path, "s")


def content(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in [folder, *folder.rglob("*")]:
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = str(path.readlink())
            continue
        listed = _posix_acl.read(str(path), _posix_acl.ACCESS)
        found[name] = (path.read_bytes() if path.is_file() else "", path.stat().st_mode, listed)
    return found


def test_what_comes_back_is_what_was_there(snapshots: Snapshots, data: Path) -> None:
    before = content(data)
    made = snapshots.make([Part("folder", "WORK", data)], "0003", "upgrade")
    assert snapshots.all() == [made]
    assert made.bytes > 0
    (data / "deep" / "model").write_bytes(b"spoilt")
    (data / "new").touch()
    assert snapshots.restore(made.id, check=True) == [f"restore {data} as of {made.when}"]
    assert (data / "new").exists()
    snapshots.restore(made.id)
    assert content(data) == before
    assert sorted(path.name for path in data.parent.iterdir()) == ["work"], "nothing is left beside"
    assert snapshots.settle() == []
    data.rename(data.with_name("gone"))
    snapshots.restore(made.id)
    assert content(data) == before, "also where it had been deleted"


def test_in_check_mode_nothing_is_written(snapshots: Snapshots, data: Path, tmp_path: Path) -> None:
    snapshots.make([Part("folder", "WORK", data)], "0003", check=True)
    assert not (tmp_path / "snapshots").exists()


def test_room_is_made_sure_of_first(snapshots: Snapshots, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_disk_room, "free", lambda _path: (10, 1000))
    with pytest.raises(FleetError) as caught:
        snapshots.make([Part("folder", "WORK", data)], "0003")
    assert caught.value.code == "STACK_DISK_ROOM"
    assert snapshots.all() == []


def test_one_that_cannot_be_finished_is_not_there(
    snapshots: Snapshots, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_stack_snapshot, "TAR", ["/bin/sh", "-c", "echo half; echo torn file >&2; exit 1"])
    with pytest.raises(FleetError, match="torn file"):
        snapshots.make([Part("folder", "WORK", data)], "0003")
    assert snapshots.all() == []
    assert list(snapshots.folder.iterdir()) == []


def test_damage_is_seen_before_the_data_are_touched(snapshots: Snapshots, data: Path) -> None:
    made = snapshots.make([Part("folder", "WORK", data)], "0003")
    before = content(data)
    archive = snapshots.folder / made.id / made.parts[0]["file"]
    archive.write_bytes(archive.read_bytes().replace(b"weights", b"WEIGHTS"))
    with pytest.raises(FleetError) as caught:
        snapshots.restore(made.id)
    assert caught.value.code == "STACK_SNAPSHOT_DAMAGED"
    archive.unlink()
    with pytest.raises(FleetError, match="No such file"):
        snapshots.restore(made.id)
    assert content(data) == before


@pytest.mark.parametrize("name", ["0001", "../s", ".", "", "a/b"])
def test_an_unknown_one_is_refused_with_those_there_are(snapshots: Snapshots, data: Path, name: str) -> None:
    made = snapshots.make([Part("folder", "WORK", data)], "0003")
    with pytest.raises(FleetError) as caught:
        snapshots.restore(name)
    assert caught.value.code == "STACK_SNAPSHOT_UNKNOWN"
    assert made.id in caught.value.detail


def test_the_newest_are_kept(snapshots: Snapshots, data: Path) -> None:
    made = [snapshots.make([Part("folder", "WORK", data)], f"000{number}").id for number in (1, 2, 3)]
    assert snapshots.thin(5) == []
    assert snapshots.thin(2) == made[:1]
    assert [each.id for each in snapshots.all()] == made[1:]
    assert snapshots.thin(0) == made[1:]


@pytest.mark.parametrize("cut", ["nothing moved", "old moved", "both moved", "old half deleted"])
def test_an_exchange_that_was_cut_off_goes_on(snapshots: Snapshots, tmp_path: Path, cut: str) -> None:
    place = tmp_path / "place"
    new, old = beside(place)
    for path, text in ((place, "old"), (new, "new")):
        path.mkdir()
        (path / "file").write_text(text)
    if cut != "nothing moved":
        place.rename(old)
    if cut in ("both moved", "old half deleted"):
        new.rename(place)
    if cut == "old half deleted":
        (old / "file").unlink()
    snapshots.folder.mkdir(parents=True)
    snapshots._note("exchanging", [place])
    assert snapshots.settle() == [f"finish the restore of {place}"]
    assert (place / "file").read_text() == "new"
    assert not new.exists()
    assert not old.exists()
    assert snapshots.settle() == []


def test_one_that_was_cut_off_while_unpacking_is_undone(snapshots: Snapshots, tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    beside(place)[0].mkdir()
    snapshots.folder.mkdir(parents=True)
    snapshots._note("unpacking", [place])
    assert snapshots.settle() == [f"undo the restore of {place}"]
    assert [path.name for path in tmp_path.iterdir() if "place" in path.name] == ["place"]


def test_what_this_program_does_not_know_is_passed_over(snapshots: Snapshots, data: Path) -> None:
    made = snapshots.make([Part("folder", "WORK", data)], "0003")
    record = snapshots.folder / made.id / "snapshot.json"
    for text in ("{", "[]", json.dumps({"schema": 99})):
        record.write_text(text)
        assert snapshots.all() == []


def test_a_folder_in_another_comes_with_it() -> None:
    data = {"HOME": "/d/a", "MODELS": "/d/a/models", "LOGS": "/d/logs", "SAME": "/d/logs"}
    assert [(part.name, str(part.path)) for part in _stack_places.folders(data)] == [
        ("HOME", "/d/a"),
        ("LOGS", "/d/logs"),
    ]
