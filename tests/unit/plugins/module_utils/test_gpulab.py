"""The researcher's command: what it says of stacks and GPUs, what it starts, and how it ends."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpulab.fleet.plugins.module_utils import (
    _gpu_holders,
    _gpu_processes,
    _gpulab,
    _gpulab_gpus,
    _gpulab_inside,
    _gpulab_stacks,
    _gpulab_status,
    _gpulab_text,
    _gpulab_verify,
    _nvml,
    _stack_gpus,
)
from ansible_collections.gpulab.fleet.plugins.module_utils._compose import Container, Project
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._findings import finding
from ansible_collections.gpulab.fleet.plugins.module_utils._gpu_processes import Process
from ansible_collections.gpulab.fleet.plugins.module_utils._userenv import Account

USER = "ada"


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Account:
    """Somebody with a stack of two releases, the newer of which failed, and one of the form without releases."""
    found = Account(USER, os.geteuid(), os.getegid(), tmp_path)
    monkeypatch.setattr(_gpulab, "me", lambda: found)
    monkeypatch.setattr(_gpu_holders, "FOLDER", tmp_path / "holders")
    (tmp_path / "holders").mkdir()
    stack = tmp_path / "gpulab/stacks/robot"
    services = {"training": {"image": "t", "gpus": ["GPU-a"]}, "web": {}, "once": {"one_off": True}}
    for number, extra in (("0001", {}), ("0002", {"failed.json": {"code": "STACK_UNHEALTHY"}})):
        release = {"schema": 1, "id": number, "made": "2026-01-02T03:04:05Z", "by": "ada@desk", "why": "first try"}
        mounts = {"lib": {"source": "/lib", "target": "/opt/lib", "services": [], "write": False, "enabled": True}}
        files = {"release.json": {**release, "services": services, "host_mounts": mounts}, **extra}
        for name, data in files.items():
            path = stack / "releases" / number / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(data))
        (path.parent / "compose.yml").write_text("services: {}\n")
    (stack / "releases/0002/logs").mkdir()
    (stack / "releases/0002/logs/robot-web-1.log").write_text("starting\nno such file\n")
    (stack / "current").symlink_to("releases/0001")
    (stack / "history").write_text("2026-01-02 0001 deployed ada@desk first try\n")
    plain = tmp_path / "gpulab/stacks/plain"
    plain.mkdir()
    (plain / "compose.yml").write_text("services: {}\n")
    (tmp_path / "gpulab/stacks/.staged").mkdir()
    (tmp_path / "gpulab/stacks/leftover").mkdir()
    return found


def container(service: str, **changed: Any) -> Container:
    values: dict[str, Any] = {
        "id": "1", "name": f"robot-{service}-1", "service": service, "config_hash": "", "image": "i", "image_id": "",
        "status": "running", "health": "healthy", "exit_code": 0, "restarts": 0, "policy": "unless-stopped",
        "started": "2026-01-02T03:04:05.123Z", "said": "", "published": (("127.0.0.1", 8000, 80),),
    }  # fmt: skip
    return Container(**{**values, **changed})


def running(monkeypatch: pytest.MonkeyPatch, *containers: Container) -> None:
    monkeypatch.setattr(Project, "containers", lambda _self: list(containers))


# --- stacks ------------------------------------------------------------------------------------------------------


def test_stacks_are_found(user: Account) -> None:
    assert list(_gpulab_stacks.find(user)) == ["plain", "robot"]
    robot = _gpulab_stacks.pick(user, "robot")
    assert robot.current == user.home / "gpulab/stacks/robot/current" and robot.releases() == ["0001", "0002"]
    assert robot.failed() == ("0002", {"code": "STACK_UNHEALTHY"})
    assert robot.services([]) == ["training", "web"]
    assert _gpulab_stacks.pick(user, "plain").current == user.home / "gpulab/stacks/plain"


@pytest.mark.parametrize("name", ["nothing", "../robot", "robot/releases", ".staged", ""])
def test_a_stack_that_is_not_there(user: Account, name: str) -> None:
    with pytest.raises(FleetError, match=r"STACK_NOT_HERE.*ada has: plain, robot"):
        _gpulab_stacks.pick(user, name)


@pytest.mark.parametrize(
    ("containers", "unfinished", "state"),
    [
        ([container("training"), container("web")], False, "healthy"),
        ([container("training"), container("web")], True, "unfinished"),
        ([container("training"), container("web", health="starting")], False, "starting"),
        ([container("training"), container("web", health="unhealthy")], False, "unhealthy"),
        ([container("training")], False, "unhealthy"),
        ([container("training"), container("web", status="exited", exit_code=1)], False, "unhealthy"),
        ([container("training"), container("web", status="exited", policy="no")], False, "healthy"),
        ([container("training", status="exited"), container("web", status="exited")], False, "stopped"),
        ([], False, "stopped"),
    ],
)
def test_state_of_a_stack(containers: list[Container], unfinished: bool, state: str) -> None:
    assert _gpulab_status.state_of(["training", "web"], containers, unfinished) == state


def test_status_in_words_and_as_data(
    user: Account, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    running(monkeypatch, container("training"), container("web", published=()))
    assert _gpulab.main(["status", "robot"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("robot: healthy, release 0001 of ") and " by ada@desk\n  why: first try\n" in said
    assert "127.0.0.1:8000, 1 GPU\n" in said
    assert "\n  mount lib is /lib on /opt/lib in all services, read only\n" in said
    assert "release 0002 failed (STACK_UNHEALTHY): gpulab logs robot --release 0002" in said
    assert _gpulab.main(["status", "robot", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)["stacks"][0]
    assert data["state"] == "healthy" and data["services"][0]["gpus"] == ["GPU-a"]
    running(monkeypatch)
    assert _gpulab.main(["status"]) == 1


def test_what_is_refused_is_said_with_its_remedy(user: Account, capsys: pytest.CaptureFixture[str]) -> None:
    assert _gpulab.main(["status", "nothing", "--json"]) == 3
    said = capsys.readouterr()
    assert json.loads(said.out)["finding"]["code"] == "STACK_NOT_HERE"
    assert "remedy: gpulab status lists your stacks" in said.err


def test_an_engine_that_is_down(user: Account, capsys: pytest.CaptureFixture[str]) -> None:
    assert _gpulab.main(["status"]) == 3
    assert "STACK_ENGINE_DOWN" in capsys.readouterr().err


# --- Compose in this process's place -----------------------------------------------------------------------------


class Became(Exception):
    pass


@pytest.fixture
def became(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """What would have been started: arguments, environment, folder."""
    seen: list[Any] = []

    def execute(program: str, argv: list[str], environment: dict[str, str]) -> None:
        seen.extend([argv, environment, str(Path.cwd())])
        raise Became

    home = Path.cwd()
    monkeypatch.setattr(os, "execvpe", execute)
    monkeypatch.setenv("COMPOSE_FILE", "/elsewhere.yml")
    monkeypatch.setenv("DOCKER_CONTEXT", "another")
    yield seen
    os.chdir(home)


@pytest.mark.parametrize(
    ("arguments", "compose"),
    [
        (["logs", "robot"], "logs"),
        (["logs", "robot", "web", "-f", "-n", "5", "--since", "2h"], "logs --follow --tail 5 --since 2h web"),
        (["shell", "robot", "web", "ls", "-l", "--json"], "exec -T web ls -l --json"),
        (["shell", "--root", "robot", "web", "id"], "exec --user 0 -T web id"),
        (["run", "robot", "once", "--epochs", "3", "-d"], "run --rm -T once --epochs 3 -d"),
        (["run", "-d", "robot", "once"], "run --detach once"),
    ],
)
def test_compose_is_asked(user: Account, became: list[Any], arguments: list[str], compose: str) -> None:
    with pytest.raises(Became):
        _gpulab.main(arguments)
    argv, environment, folder = became
    assert argv == ["docker", "compose", "--project-name", "robot", *compose.split()]
    assert folder == str(user.home / "gpulab/stacks/robot/releases/0001")
    assert environment["DOCKER_HOST"] == f"unix://{user.socket}"
    assert not {"COMPOSE_FILE", "DOCKER_CONTEXT"} & set(environment)


def test_a_shell_is_the_best_that_there_is(user: Account, became: list[Any]) -> None:
    with pytest.raises(Became):
        _gpulab.main(["shell", "robot", "web"])
    assert became[0][-3:] == _gpulab_inside.SHELL


@pytest.mark.parametrize("arguments", [["logs", "robot", "wep"], ["shell", "robot", "wep"], ["run", "robot", "wep"]])
def test_a_service_that_is_not_there(
    user: Account,
    became: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
) -> None:
    monkeypatch.setattr(_gpulab_stacks, "services_of", lambda _place: ["web", "training"])
    assert _gpulab.main(arguments) == 3 and became == []
    assert "wep; robot has: training, web" in capsys.readouterr().err


def test_a_stack_without_a_current_release(
    user: Account, became: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    (user.home / "gpulab/stacks/robot/current").unlink()
    assert _gpulab.main(["run", "robot", "web"]) == 3 and became == []
    assert "STACK_NOT_DEPLOYED" in capsys.readouterr().err


def test_logs_of_a_release_that_failed(user: Account, capsys: pytest.CaptureFixture[str]) -> None:
    assert _gpulab.main(["logs", "robot", "--release", "0002"]) == 0
    assert capsys.readouterr().out == "web | starting\nweb | no such file\n"
    for arguments, code in (
        (["--release", "0009"], "RELEASE_UNKNOWN"),
        (["x", "--release", "0002"], "SERVICE_UNKNOWN"),
    ):
        assert _gpulab.main(["logs", "robot", *arguments]) == 3
        assert code in capsys.readouterr().err


def test_history(user: Account, capsys: pytest.CaptureFixture[str]) -> None:
    assert _gpulab.main(["history", "robot"]) == 0
    assert _gpulab.main(["history", "plain"]) == 0
    assert capsys.readouterr().out == "2026-01-02 0001 deployed ada@desk first try\nnothing was recorded\n"


# --- GPUs --------------------------------------------------------------------------------------------------------

CONTAINER = "c" * 64


def test_gpus_with_holders_and_processes(
    user: Account, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    held = {"gpus": ["GPU-a", "GPU-gone"], "since": "2026-01-02T03:04:05Z", "containers": [CONTAINER]}
    _gpu_holders.claim(user, "robot", {"training": held})
    gpu = {"name": "H100", "status": "ok", "memory_total_bytes": 80 << 30, "memory_used_bytes": 1 << 30}
    both = [{**gpu, "index": number, "uuid": f"GPU-{letter}"} for number, letter in enumerate("ab")]
    seen = {"gpus": both, "driver_version": "550.1", "findings": []}
    inside = Process(10, "compute", 5 << 20, "ada", 1, "python train.py", "2026-01-02T03:04:05Z", CONTAINER)
    outside = Process(11, "compute", None, "bob", 2, "python own.py", "2026-01-02T03:04:05Z")
    monkeypatch.setattr(_nvml, "query", lambda *_: seen)
    monkeypatch.setattr(_nvml, "in_time", lambda action, _seconds: action())
    library = type("L", (), {"nvmlInit": lambda: None, "nvmlShutdown": lambda: None, "NVMLError": OSError})
    monkeypatch.setattr(_nvml, "load_pynvml", lambda _path: library)
    monkeypatch.setattr(_gpu_processes, "by_gpu", lambda *_: {"GPU-a": [inside, outside], "GPU-b": []})
    assert _gpulab.main(["gpus", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    first, second, gone = data["gpus"]
    assert [each["stack"] for each in first["holders"]] == ["robot"]
    assert [(each["pid"], each["user"], each["stack"]) for each in first["processes"]] == [
        (10, "ada", "robot"),
        (11, "bob", ""),
    ]
    assert second["holders"] == second["processes"] == []
    assert gone["uuid"] == "GPU-gone" and gone["status"] == "not there" and gone["holders"]
    text = "\n".join(_gpulab_gpus.lines(data))
    assert "GPU 0: H100, 1.0 GiB of 80.0 GiB in use\n  GPU-a\n" in text
    assert "robot/training" in text and "no container" in text and "  GPU-b\n  free" in text


@pytest.mark.parametrize(("code", "status"), [("DRIVER_NOT_LOADED", 1), ("NO_GPU", 0)])
def test_gpus_without_a_driver(
    user: Account, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], code: str, status: int
) -> None:
    """Said, with what is held all the same."""
    _gpu_holders.claim(user, "robot", {"training": {"gpus": ["GPU-a"]}})
    seen = {"gpus": [], "driver_version": None, "findings": [finding(code, "seen")]}
    monkeypatch.setattr(_nvml, "query", lambda *_: seen)
    assert _gpulab.main(["gpus"]) == status
    said = capsys.readouterr()
    assert f"no driver that answers: {finding(code, '')['title']}" in said.out and "robot/training" in said.out
    assert ("remedy:" in said.err) is bool(status)


def test_instances_take_the_place_of_a_partitioned_gpu() -> None:
    instance = {"index": 0, "uuid": "MIG-1", "name": "1g", "memory_total_bytes": 5}
    gpu = {"index": 3, "uuid": "GPU-a", "name": "A100", "status": "ok", "mig": {"instances": [instance]}}
    assert [(each["index"], each["uuid"]) for each in _gpulab_gpus.parts(gpu)] == [("3:0", "MIG-1")]


# --- verify ------------------------------------------------------------------------------------------------------


def test_verify_of_somebody_without_gpus(
    user: Account, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_stack_gpus, "PROOF", tmp_path / "proof.json")
    for arguments in (["verify"], ["verify", "--recorded"]):
        assert _gpulab.main(arguments) == 3
        assert "CLI_NO_GPUS_GIVEN" in capsys.readouterr().err


@pytest.mark.parametrize(("verdict", "status"), [("pass", 0), ("fail", 1), ("unknown", 1)])
def test_verify_ends_with_the_verdict(
    user: Account, monkeypatch: pytest.MonkeyPatch, verdict: str, status: int
) -> None:
    result = {"user": USER, "verdict": verdict, "steps": [], "findings": []}
    monkeypatch.setattr(_gpulab_verify, "prove", lambda _user: result)
    assert _gpulab.main(["verify"]) == status


def test_a_record_of_another_boot_is_no_pass(user: Account, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = {"users": {USER: {"verdict": "pass", "gpus": ["GPU-a"], "steps": [], "specs": {}}}}
    (tmp_path / "proof.json").write_text(json.dumps(record))
    monkeypatch.setattr(_stack_gpus, "PROOF", tmp_path / "proof.json")
    assert _gpulab_verify.given(user) == ["GPU-a"]
    defaults = (tmp_path / "proof.json", tmp_path / "of this boot")
    monkeypatch.setattr(_stack_gpus.proven, "__defaults__", defaults)
    assert _gpulab_verify.recorded(user)["verdict"] == "unknown"
    defaults[1].touch()
    assert _gpulab_verify.recorded(user)["verdict"] == "pass"


# --- the rest ----------------------------------------------------------------------------------------------------


def test_root_is_sent_away(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert _gpulab.main(["status"]) == 3
    assert "CLI_AS_ROOT" in capsys.readouterr().err


def test_without_a_verb_there_is_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert _gpulab.main([]) == 2
    assert "who holds which GPU since when" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["frobnicate"], ["logs"], ["status", "a", "b"], ["gpus", "--jason"]])
def test_wrong_use(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        _gpulab.main(arguments)
    assert ended.value.code == 2


def test_tables() -> None:
    rows = [["a", "bb", "the last one takes what is left"], ["aaa", "b", ""]]
    assert _gpulab_text.table(rows, 20, " ") == [" a    bb  the last…", " aaa  b"]
    assert _gpulab_text.table(rows)[0].endswith("left")
    assert _gpulab_text.table([]) == []
