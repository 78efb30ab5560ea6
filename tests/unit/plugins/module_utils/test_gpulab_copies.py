"""Copies of data by the researcher's command: the stack is down meanwhile and up afterwards, however that ends."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpulab.fleet.plugins.module_utils import (
    _gpulab,
    _gpulab_copies,
    _release_gate,
    _stack_places,
    _stack_purge,
    _stack_snapshot,
)
from ansible_collections.gpulab.fleet.plugins.module_utils._compose import Project
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._userenv import Account


class Settled:
    def settle(self) -> dict[str, Any]:
        return {"actions": []}


@pytest.fixture
def done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What happens to a stack of one release, in order."""
    user = Account("ada", os.geteuid(), os.getegid(), tmp_path)
    release = tmp_path / "gpulab/stacks/robot/releases/0001"
    release.mkdir(parents=True)
    record: dict[str, Any] = dict.fromkeys(("made", "by", "why", "inputs", "files"), "")
    record |= {key: {} for key in ("settings", "secrets", "checksums", "source", "services")}
    record |= {key: [] for key in ("profiles", "ports", "volumes", "mounts", "checks")}
    record |= {"schema": 1, "wait_timeout": 1, "data": {"OUT": str(tmp_path / "out")}}
    (release / "release.json").write_text(json.dumps(record))
    (release.parents[1] / "current").symlink_to("releases/0001")
    events: list[str] = []

    def compose(self: Project, *arguments: str) -> subprocess.CompletedProcess[str]:
        noted = (release.parents[1] / "unfinished.json").exists()
        events.append(f"{' '.join(arguments)}{' noted' if noted else ''}")
        return subprocess.CompletedProcess([], 0, "", "")

    def make(self: Any, parts: list[Any], release: str, why: str = "", check: bool = False) -> Any:
        events.append(f"copy {len(parts)}{' (check)' if check else ''}")
        if why == "fails":
            raise FleetError("STACK_SNAPSHOT_FAILED", "no")
        return _stack_snapshot.Snapshot("s1", "robot", release, "", why, [])

    monkeypatch.setattr(_gpulab, "me", lambda: user)
    monkeypatch.setattr(_gpulab_copies, "transaction", lambda _place: Settled())
    monkeypatch.setattr(_release_gate, "bring_up", lambda *_: events.append("up"))
    monkeypatch.setattr(_stack_places, "volumes", lambda _project: [])
    monkeypatch.setattr(Project, "compose", compose)
    monkeypatch.setattr(Project, "containers", lambda _self: [])
    monkeypatch.setattr(_stack_snapshot.Snapshots, "make", make)
    return events


@pytest.mark.parametrize(
    ("typed", "status", "events"),
    [
        (["snapshot", "robot"], 0, ["stop noted", "copy 1", "up"]),
        (["snapshot", "robot", "--why", "fails"], 3, ["stop noted", "copy 1", "up"]),
        (["snapshot", "robot", "--check"], 0, ["copy 1 (check)"]),
        (["snapshot", "robot", "--list"], 0, []),
        (["restore", "robot", "nothing"], 3, []),
        (["snapshot", "nothing"], 3, []),
    ],
)
def test_down_only_while_it_has_to_be(
    done: list[str], tmp_path: Path, typed: list[str], status: int, events: list[str]
) -> None:
    assert _gpulab.main(typed) == status
    assert done == events
    assert not (tmp_path / "gpulab/stacks/robot/unfinished.json").exists()


def test_a_stack_that_does_not_come_up_again_is_left_to_be_settled(
    done: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise FleetError("STACK_UNHEALTHY", "no")

    monkeypatch.setattr(_release_gate, "bring_up", fail)
    assert _gpulab.main(["snapshot", "robot"]) == 3
    left = json.loads((tmp_path / "gpulab/stacks/robot/unfinished.json").read_text())
    assert (left["verb"], left["from"], left["to"]) == ("snapshot", "0001", None)


def test_data_of_a_deployed_stack_stay(done: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert _gpulab.main(["purge", "robot", "--yes-delete", "robot"]) == 3
    assert "STACK_PURGE_RUNS" in capsys.readouterr().err


def test_purging_needs_the_name_once_more(done: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "gpulab/data/arm/out"
    data.mkdir(parents=True)
    monkeypatch.setattr(_stack_purge, "volumes", lambda _project: [])
    monkeypatch.setattr(_stack_purge, "sizes", lambda _user, parts: {str(part.path): 1 for part in parts})
    monkeypatch.setattr(
        _stack_purge, "_delete", lambda _project, paths: [path.rename(f"{path}.gone") for path in paths]
    )
    for typed in (["arm"], ["arm", "--yes-delete", "robot"], ["../arm", "--yes-delete", "../arm"]):
        assert _gpulab.main(["purge", *typed]) == 3
    assert _gpulab.main(["purge", "arm", "--check"]) == 0 and data.exists()
    assert _gpulab.main(["purge", "arm", "--yes-delete", "arm"]) == 0 and not data.exists()
