"""Transactions by the researcher's command: what they are asked, what is said of them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpulab.fleet.plugins.module_utils import _docker_api, _gpulab, _gpulab_verbs
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._userenv import Account

DONE = {
    "changed": True, "actions": ["start robot-web-1", "release 0001"], "stack": "robot", "release": "0001",
    "notes": ["cache is kept as data in /d"], "seconds": {"up": 1.23, "build": 0.0}, "diff": [{"before": "secret"}],
    "services": [{"service": "web", "status": "running", "health": "healthy", "addresses": [{"address": "127.0.0.1:1"}]}],
}  # fmt: skip


class Fake:
    """Stands for the transaction: notes what it is asked."""

    asked: list[Any]
    fails: tuple[str, ...] = ()

    def __init__(self, user: Account, root: str, name: str, *, check: bool = False, who: str = "") -> None:
        self.name, self.check = name, check
        assert "@" in who

    def _do(self, *asked: Any) -> dict[str, Any]:
        Fake.asked.append((self.name, self.check, *asked))
        if self.name in Fake.fails:
            raise FleetError("STACK_UNHEALTHY", f"{self.name} is not well")
        return DONE

    def rollback(self, to: str | None) -> dict[str, Any]:
        return self._do("rollback", to)

    def undeploy(self) -> dict[str, Any]:
        return self._do("undeploy")

    def settle(self) -> dict[str, Any]:
        return self._do("settle")


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Account:
    found = Account("ada", os.geteuid(), os.getegid(), tmp_path)
    for name in ("arm", "robot"):
        folder = tmp_path / "gpulab/stacks" / name
        folder.mkdir(parents=True)
        (folder / "unfinished.json").write_text('{"verb": "deploy"}')
    Fake.asked, Fake.fails = [], ()
    monkeypatch.setattr(_gpulab, "me", lambda: found)
    monkeypatch.setattr(_gpulab_verbs, "Transaction", Fake)
    monkeypatch.setattr(_docker_api, "get", lambda *_: {})
    return found


@pytest.mark.parametrize(
    ("typed", "asked"),
    [
        (["rollback", "robot"], ("robot", False, "rollback", None)),
        (["rollback", "robot", "0001", "--check"], ("robot", True, "rollback", "0001")),
        (["undeploy", "robot"], ("robot", False, "undeploy")),
    ],
)
def test_what_is_asked(user: Account, typed: list[str], asked: tuple[Any, ...]) -> None:
    assert _gpulab.main(typed) == 0
    assert Fake.asked == [asked]


def test_what_is_said(user: Account, capsys: pytest.CaptureFixture[str]) -> None:
    _gpulab.main(["rollback", "robot"])
    said = capsys.readouterr().out.splitlines()
    assert said == [
        "start robot-web-1",
        "release 0001",
        "note: cache is kept as data in /d",
        "robot runs release 0001 (up 1.2 s)",
        "  web  healthy  127.0.0.1:1",
    ]
    _gpulab.main(["rollback", "robot", "--check"])
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "would start robot-web-1" and not any("runs release" in line for line in said)
    _gpulab.main(["rollback", "robot", "--json"])
    document = capsys.readouterr().out
    assert "secret" not in document and json.loads(document)["release"] == "0001"
    (user.home / "gpulab/data/robot").mkdir(parents=True)
    _gpulab.main(["undeploy", "robot"])
    assert f"data stay in {user.home}/gpulab/data/robot" in capsys.readouterr().out


def test_settling_goes_on_past_a_stack_that_cannot_be(user: Account, capsys: pytest.CaptureFixture[str]) -> None:
    Fake.fails = ("arm",)
    assert _gpulab.main(["settle"]) == 3
    assert [name for name, *_ in Fake.asked] == ["arm", "robot"]
    said = capsys.readouterr()
    assert said.out.splitlines() == ["arm: STACK_UNHEALTHY", "robot: start robot-web-1, release 0001"]
    assert "arm is not well" in said.err


def test_settling_waits_for_the_engine(user: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[int] = []

    def get(*_: Any) -> Any:
        tries.append(1)
        if len(tries) < 3:
            raise OSError("not yet")
        return {}

    monkeypatch.setattr(_docker_api, "get", get)
    monkeypatch.setattr("time.sleep", lambda _: None)
    assert _gpulab.main(["settle"]) == 0 and len(tries) == 3
    tries.clear()
    with pytest.raises(FleetError, match="STACK_ENGINE_DOWN"):
        _gpulab_verbs.wait_for_engine(user, 0.0)


def test_what_a_rollback_does_not_bring_back_is_said(user: Account, capsys: pytest.CaptureFixture[str]) -> None:
    release = user.home / "gpulab/stacks/robot/releases/0001"
    release.mkdir(parents=True)
    record: dict[str, Any] = dict.fromkeys(("made", "by", "why", "inputs", "files"), "")
    record |= {key: {} for key in ("settings", "services", "data", "secrets", "checksums")}
    record |= {key: [] for key in ("profiles", "ports", "volumes", "mounts", "checks")}
    for kind, said in (("folder", False), ("mutable", True)):
        source = {"kind": kind, "path": str(user.home), "commit": "", "dirty": False}
        (release / "release.json").write_text(json.dumps({**record, "schema": 1, "source": source, "wait_timeout": 1}))
        (release.parents[1] / "current").unlink(missing_ok=True)
        (release.parents[1] / "current").symlink_to("releases/0001")
        assert _gpulab.main(["rollback", "robot"]) == 0
        assert (f"Not back: the code in {user.home}" in capsys.readouterr().out) is said
