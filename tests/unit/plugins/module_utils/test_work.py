"""Running containers: listed, waited for, stopped and started again in their order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpulab.fleet.plugins.module_utils import _work


class Docker:
    """An engine with a stack of two services, a single container, and one that a person runs with --rm."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        self.state: dict[str, dict[str, Any]] = {}
        self.add("db", "10:00", project="app")
        self.add("web", "10:01", project="app")
        self.add("notebook", "09:00", temporary=True)
        self.add("job", "11:00", grace=120)
        self.unwell: set[str] = set()
        monkeypatch.setattr(_work, "get", self.get)
        monkeypatch.setattr(_work, "post", self.post)

    def add(self, name: str, at: str, project: str = "", grace: int | None = None, temporary: bool = False) -> None:
        self.state[name] = {
            "labels": {_work.PROJECT: project} if project else {},
            "running": True,
            "details": {
                "Name": f"/{name}",
                "State": {"StartedAt": f"2026-01-01T{at}:00.5Z"},
                "Config": {"StopTimeout": grace},
                "HostConfig": {"AutoRemove": temporary},
            },
        }

    def get(self, _socket: str, question: str) -> Any:
        if question == "/containers/json":
            rows = [(n, s) for n, s in self.state.items() if s["running"]]
            return [{"Id": n, "Image": "image:1", "Labels": s["labels"]} for n, s in reversed(rows)]
        name = question.split("/")[2]
        if name not in self.state:
            raise OSError("404: No such container")
        state = self.state[name]
        health = "unhealthy" if name in self.unwell else "healthy"
        status = {"Running": state["running"], "Status": "running", "ExitCode": 0, "Health": {"Status": health}}
        return {**state["details"], "State": {**state["details"]["State"], **status}}

    def post(self, _socket: str, request: str, timeout: float = 10) -> None:
        _, _, name, verb = request.split("/")
        if name not in self.state:
            raise OSError("404: No such container")
        self.calls.append(f"{verb} {name} {timeout}" if verb == "stop" else f"{verb} {name}")
        if verb == "stop" and self.state[name]["details"]["HostConfig"]["AutoRemove"]:
            del self.state[name]
        else:
            self.state[name]["running"] = verb == "start"


@pytest.fixture
def docker(monkeypatch: pytest.MonkeyPatch) -> Docker:
    return Docker(monkeypatch)


@pytest.fixture
def socket(tmp_path: Path) -> str:
    (tmp_path / "docker.sock").touch()
    return str(tmp_path / "docker.sock")


def test_listed_in_the_order_of_their_start(docker: Docker, socket: str) -> None:
    work = _work.running(socket)
    assert [each["name"] for each in work] == ["notebook", "db", "web", "job"]
    assert _work.told(work[1]) == "db (stack app, image image:1, running since 2026-01-01T10:00:00Z)"
    assert "gone for good when stopped" in _work.told(work[0])
    docker.state["web"]["labels"][_work.PROBE] = "1"
    assert "web" not in [each["name"] for each in _work.running(socket)]
    assert _work.running(socket + "-absent") == []


def test_stopped_by_their_own_grace_and_started_again_in_order(docker: Docker, socket: str, tmp_path: Path) -> None:
    _work.stop(socket, tmp_path)
    assert docker.calls.index("stop web 40") < docker.calls.index("stop db 40")
    assert "stop job 150" in docker.calls
    assert _work.record_path(tmp_path).stat().st_mode & 0o777 == 0o600
    docker.calls.clear()
    back, wrong = _work.start(socket, tmp_path, 1)
    assert wrong == []
    assert docker.calls.index("start db") < docker.calls.index("start web")
    assert sorted(each["name"] for each in back) == ["db", "job", "web"]  # and not what was run with --rm
    assert _work.load(tmp_path) == {}


def test_a_record_outlives_an_interruption_and_is_added_to(docker: Docker, socket: str, tmp_path: Path) -> None:
    _work.stop(socket, tmp_path)
    first = _work.load(tmp_path)
    docker.add("new", "12:00")
    _work.stop(socket, tmp_path)
    second = _work.load(tmp_path)
    assert second["stopped_at"] == first["stopped_at"]
    assert [each["name"] for each in second["containers"]] == ["notebook", "db", "web", "job", "new"]


def test_what_does_not_come_back_is_said_and_kept(docker: Docker, socket: str, tmp_path: Path) -> None:
    _work.stop(socket, tmp_path)
    docker.unwell.add("web")
    del docker.state["job"]
    _back, wrong = _work.start(socket, tmp_path, 0)
    assert len(wrong) == 2 and wrong[1].startswith("web: unhealthy")
    assert _work.load(tmp_path)["containers"]


def test_nothing_to_stop_leaves_no_record(docker: Docker, socket: str, tmp_path: Path) -> None:
    docker.state.clear()
    assert _work.stop(socket, tmp_path) == []
    assert not _work.record_path(tmp_path).exists()


@pytest.mark.parametrize(
    ("when_busy", "busy", "check", "answer"),
    [
        ("skip", [], False, True),
        ("skip", ["x"], False, False),
        ("proceed", ["x"], False, True),
        ("wait", ["x"], True, False),
        ("wait", ["x"], False, False),
        ("wait", [], False, True),
    ],
)
def test_what_a_site_wants(when_busy: str, busy: list[str], check: bool, answer: bool) -> None:
    assert _work.may_go_on(when_busy, lambda: busy, 0, check) is answer


def test_waiting_ends_when_the_work_does(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([["x"], ["x"], []])
    monkeypatch.setattr("time.sleep", lambda _seconds: None)
    assert _work.wait_until_idle(lambda: next(answers), 60)
