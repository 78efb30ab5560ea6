"""Data and disk by the researcher's command: which folders are mended, which images are offered to go."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpulab.fleet.plugins.module_utils import _disk_free, _gpulab, _gpulab_data
from ansible_collections.gpulab.fleet.plugins.module_utils._compose import Project
from ansible_collections.gpulab.fleet.plugins.module_utils._userenv import Account


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Account:
    found = Account("ada", os.geteuid(), os.getegid(), tmp_path)
    release = tmp_path / "gpulab/stacks/robot/releases/0001"
    release.mkdir(parents=True)
    record: dict[str, Any] = dict.fromkeys(("made", "by", "why", "inputs", "files"), "")
    record |= {key: {} for key in ("settings", "secrets", "checksums", "source")}
    record |= {key: [] for key in ("profiles", "ports", "volumes", "mounts", "checks")}
    record |= {"schema": 1, "wait_timeout": 1, "data": {"OUT": str(tmp_path / "out"), "GONE": str(tmp_path / "gone")}}
    record["services"] = {"web": {"image": "w", "image_id": "", "tag": "gpulab/robot-web:aaaaaaaaaaaa"}}
    (release / "release.json").write_text(json.dumps(record))
    (release.parents[1] / "current").symlink_to("releases/0001")
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(_gpulab, "me", lambda: found)
    return found


def test_the_data_folders_of_the_release_are_mended(
    user: Account, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_gpulab_data, "mend", lambda path, _user: {"files": 3, "changed": 1})
    assert _gpulab.main(["repair", "robot"]) == 0
    assert capsys.readouterr().out == f"{user.home}/out: 1 of 3 files mended\n"
    assert _gpulab.main(["repair", "nothing"]) == 3


def test_only_images_that_no_release_needs_are_offered(
    user: Account, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    offered: list[Any] = []

    def make_room(_user: Account, outdated: Iterable[str], check: bool) -> dict[str, Any]:
        offered.append((list(outdated), check))
        return {"changed": True, "freed": 3 << 20, "actions": [f"remove image {each}" for each in outdated]}

    here = dict.fromkeys(("gpulab/robot-web:aaaaaaaaaaaa", "gpulab/robot-web:bbbbbbbbbbbb", "mine:1"), "id")
    monkeypatch.setattr(_disk_free, "make_room", make_room)
    monkeypatch.setattr(Project, "images", lambda _self: here)
    assert _gpulab.main(["free", "--check"]) == 0
    assert capsys.readouterr().out == "would remove image gpulab/robot-web:bbbbbbbbbbbb\n"
    assert _gpulab.main(["free"]) == 0
    assert capsys.readouterr().out.endswith("3.0 MiB freed\n")
    assert offered == [(["gpulab/robot-web:bbbbbbbbbbbb"], True), (["gpulab/robot-web:bbbbbbbbbbbb"], False)]


def test_without_an_engine_there_is_room_to_be_made_all_the_same(
    user: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def make_room(*given: Any) -> dict[str, Any]:
        asked.append(given)
        return {"changed": False, "freed": 0, "actions": []}

    monkeypatch.setattr(_disk_free, "make_room", make_room)
    assert _gpulab.main(["free"]) == 0 and asked == [(user, [], False)]
