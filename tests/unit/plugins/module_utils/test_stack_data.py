"""Data folders: who writes where, and what is done to a folder that both sides use."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpulab.fleet.plugins.module_utils import _container_user, _posix_acl, _stack_data
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._userenv import Account

MAP = "0 0 1\n1 100000 65536\n"
USER = Account("trainer", 0, 0, Path("/nowhere"))


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The namespace is this process's own: ids inside and outside are told apart by the map alone."""

    def as_all_ids(_user: Account, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        return work()

    monkeypatch.setattr(_stack_data, "maps", lambda _user: (MAP, MAP))
    monkeypatch.setattr(_stack_data, "as_all_ids", as_all_ids)


def named(path: Path, kind: str = _posix_acl.DEFAULT) -> set[int]:
    return {uid for tag, uid in _posix_acl.read(str(path), kind) if tag == _posix_acl.USER}


def test_a_folder_of_an_image_that_runs_as_root_needs_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "data"
    assert _stack_data.prepare(folder, USER, [0], check=True) == [f"make {folder}"]
    assert not folder.exists()
    assert _stack_data.prepare(folder, USER, [0]) == [f"make {folder}"]
    assert _stack_data.prepare(folder, USER, [0]) == []
    assert named(folder) == set()


def test_what_is_in_a_folder_is_shared_as_well(tmp_path: Path) -> None:
    (tmp_path / "run1").mkdir(mode=0o700)
    (tmp_path / "run1" / "model").touch(mode=0o600)
    (tmp_path / "link").symlink_to("/etc/passwd")
    before = _posix_acl.read("/etc/passwd", _posix_acl.ACCESS)
    action = f"let uid 1000 of the containers write {tmp_path}"
    assert _stack_data.prepare(tmp_path, USER, [1000, 0], check=True) == [action]
    assert named(tmp_path) == set()
    assert _stack_data.prepare(tmp_path, USER, [1000, 0]) == [action]
    assert named(tmp_path) == {0, 1000}
    assert named(tmp_path / "run1") == {0, 1000}
    assert 1000 in named(tmp_path / "run1" / "model", _posix_acl.ACCESS)
    assert _posix_acl.read("/etc/passwd", _posix_acl.ACCESS) == before, "links are not followed"


def test_a_prepared_folder_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As seen from the host: the namespace's 1000 is 100999 there."""
    _posix_acl.share(str(tmp_path), [0, 100999])
    monkeypatch.setattr(_stack_data, "as_all_ids", None)
    assert _stack_data.prepare(tmp_path, USER, [1000]) == []
    assert _stack_data.prepare(tmp_path, USER, [1001], check=True) != []


def test_a_uid_that_the_engine_has_not_is_refused_before_anything_is_changed(tmp_path: Path) -> None:
    with pytest.raises(FleetError) as caught:
        _stack_data.prepare(tmp_path, USER, [70000])
    assert caught.value.code == "STACK_CONTAINER_USER"
    assert "70000" in caught.value.detail


def test_a_file_system_without_lists_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "setxattr", refuse)
    with pytest.raises(FleetError) as caught:
        _stack_data.prepare(tmp_path, USER, [1000])
    assert caught.value.code == "STACK_DATA_NO_ACL"
    assert str(tmp_path) in caught.value.detail


def test_repair_gives_back_what_a_file_withholds(tmp_path: Path) -> None:
    _posix_acl.share(str(tmp_path), [0, 100999])
    file = tmp_path / "secret"
    file.touch()
    file.chmod(0o600)
    assert not _posix_acl.allows(_posix_acl.read(str(file), _posix_acl.ACCESS), 100999, 6)
    done = _stack_data.repair(tmp_path, USER)
    assert done["files"] == 2
    assert done["changed"] >= 1
    # In this process inside and outside are the same: the folder's 100999 is the namespace's 1000.
    assert _posix_acl.allows(_posix_acl.read(str(file), _posix_acl.ACCESS), 1000, 6)
    assert _stack_data.repair(tmp_path, USER)["changed"] == 0


def test_every_service_that_mounts_a_folder_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    images = {"train": {"User": ""}, "notebook": {"User": "1000:100"}, "other": {"User": "7"}}
    monkeypatch.setattr(_container_user, "image_config", lambda _project, image: images[image])

    def bind(source: str) -> dict[str, Any]:
        return {"volumes": [{"type": "bind", "source": source, "target": "/x"}, {"type": "volume", "source": "/d/a"}]}

    config = {"services": {"train": bind("/d/a"), "notebook": bind("/d/a/sub"), "other": bind("/d/ab")}}
    project: Any = None
    found = _stack_data.writers(project, config, {name: name for name in images}, ["/d/a", "/d/b"])
    assert found == {"/d/a": {0, 1000}, "/d/b": set()}
