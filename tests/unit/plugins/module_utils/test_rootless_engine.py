"""A user's engine: what is written, when it is restarted, when not."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpulab.fleet.plugins.module_utils import _rootless_engine as module_under_test
from ansible_collections.gpulab.fleet.plugins.module_utils import _work
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._rootless_engine import (
    MARK,
    UNIT,
    Busy,
    Engine,
    file_system,
    started_at,
)
from ansible_collections.gpulab.fleet.plugins.module_utils._userenv import Account

DIR = "/var/lib/gpulab/cdi/trainer"


class FakeAccount(Account):
    """An account whose runtime folder lies beside its home."""

    @property
    def runtime_dir(self) -> Path:
        return self.home.parent / "run"


class Manager:
    """A user's service manager and engine, as far as Engine asks them."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.user = FakeAccount("trainer", os.getuid(), os.getgid(), tmp_path / "home")
        self.user.home.mkdir()
        (self.user.runtime_dir / "systemd").mkdir(parents=True)
        (self.user.runtime_dir / "systemd" / "private").touch()
        (self.user.runtime_dir / "bus").touch()
        self.state = "inactive"
        self.need_reload = "no"
        self.containers: list[str] = []
        self.replaced: list[str] = []
        self.started = 0.0
        self.calls: list[str] = []
        self.rejects = ""
        self.answers = True
        monkeypatch.setattr(module_under_test, "run", self.run)
        monkeypatch.setattr(module_under_test, "get", self.get)
        monkeypatch.setattr(_work, "running", lambda _socket: self.ask(self.containers))
        monkeypatch.setattr(_work, "told", str)
        monkeypatch.setattr(module_under_test, "started_at", lambda _pid: self.started)
        monkeypatch.setattr(Engine, "replaced_programs", lambda _self, _cgroup: self.replaced)
        monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")

    def ask(self, answer: Any) -> Any:
        if not self.answers:
            raise OSError("connection refused")
        return answer

    def run(self, argv: list[str], timeout: float = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.CompletedProcess(argv, 0, "", "")
        if argv[0] == "dockerd":
            json.loads(Path(argv[-1]).read_text(encoding="utf-8"))
            done.returncode, done.stderr = (1, f"unable to use {argv[-1]}: {self.rejects}") if self.rejects else (0, "")
        elif argv[2] == "show":
            done.stdout = f"ActiveState={self.state}\nMainPID=1\nControlGroup=/x\nResult=success\nNeedDaemonReload={self.need_reload}\n"
        else:
            self.calls.append(argv[2])
            if argv[2] in ("start", "restart"):
                self.state, self.started, self.replaced = "active", time.time() + 1, []
        return done

    def get(self, _socket: str, question: str) -> dict[str, str]:
        answer = {"Version": "28.5.2", "ApiVersion": "1.51"}
        if question == "/info":
            answer = {"DockerRootDir": "/d", "CgroupDriver": "systemd", "Driver": "overlay2"}
        result: dict[str, str] = self.ask(answer)
        return result

    def engine(self, check: bool = False, daemon: dict[str, Any] | None = None, upgraded: bool = False) -> Engine:
        return Engine(self.user, daemon or {}, DIR, check, upgraded)

    def converge(self, **options: Any) -> dict[str, Any]:
        self.calls.clear()
        busy = options.pop("busy", Busy())
        engine = self.engine(**options)
        engine.busy = busy
        return engine.converge()

    def read(self, name: str) -> Any:
        return json.loads((self.user.home / name).read_text(encoding="utf-8"))

    def files(self) -> dict[str, tuple[bytes, float]]:
        return {str(p): (p.read_bytes(), p.stat().st_mtime) for p in self.user.home.rglob("*") if p.is_file()}


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Manager:
    return Manager(tmp_path, monkeypatch)


def test_fresh_user_then_nothing_more(manager: Manager) -> None:
    first = manager.converge()
    assert manager.calls == ["daemon-reload", "reset-failed", "start"]
    assert first["engine"]["version"] == "28.5.2"
    assert not first["restart_pending"]
    home = manager.user.home
    assert (home / ".config/systemd/user/docker.service").read_text() == UNIT
    link = home / ".config/systemd/user/default.target.wants/docker.service"
    assert link.resolve() == home / ".config/systemd/user/docker.service"
    assert manager.read(".config/docker/daemon.json")["cdi-spec-dirs"] == [DIR]
    assert manager.read(".docker/config.json") == {"currentContext": "rootless"}
    assert (home / ".docker/config.json").stat().st_mode & 0o777 == 0o600
    (meta,) = home.glob(".docker/contexts/meta/*/meta.json")
    assert (
        json.loads(meta.read_text())["Endpoints"]["docker"]["Host"] == f"unix://{manager.user.runtime_dir}/docker.sock"
    )
    before = manager.files()
    second = manager.converge()
    assert second["actions"] == []
    assert manager.calls == []
    assert manager.files() == before


def test_check_mode_predicts_the_same_actions(manager: Manager) -> None:
    predicted = manager.converge(check=True)
    assert manager.files() == {}
    assert manager.calls == []
    done = manager.converge()
    assert predicted["actions"] == done["actions"]
    assert [d["after"] for d in predicted["diff"]] == [d["after"] for d in done["diff"]]


def test_check_mode_without_a_manager(manager: Manager) -> None:
    (manager.user.runtime_dir / "systemd" / "private").unlink()
    manager.answers = False
    assert manager.converge(check=True)["actions"][-1] == "started docker.service"
    with pytest.raises(FleetError, match="USER_MANAGER_DOWN"):
        manager.converge()


def test_a_changed_setting_restarts_an_idle_engine(manager: Manager) -> None:
    manager.converge()
    predicted = manager.converge(check=True, daemon={"mtu": 1400})
    result = manager.converge(daemon={"mtu": 1400})
    assert manager.calls == ["daemon-reload", "reset-failed", "restart"]
    assert predicted["actions"] == result["actions"]
    assert "restarted docker.service" in result["actions"]
    assert not result["restart_pending"]


def test_containers_are_never_restarted_under(manager: Manager) -> None:
    manager.converge()
    manager.containers = ["training"]
    manager.started = time.time() - 60
    result = manager.converge(daemon={"mtu": 1400})
    assert result["restart_pending"]
    assert "restart" not in manager.calls
    assert manager.read(".config/docker/daemon.json")["mtu"] == 1400
    # Still pending for a later run, which changes nothing either ...
    again = manager.converge(daemon={"mtu": 1400})
    assert again["restart_pending"]
    assert again["actions"] == []
    # ... until the containers are gone.
    manager.containers = []
    assert manager.converge(daemon={"mtu": 1400})["actions"] == ["restarted docker.service"]
    assert not manager.converge(daemon={"mtu": 1400})["restart_pending"]


@pytest.mark.parametrize("wait", [True, False])
def test_they_are_where_that_is_allowed_and_started_again(
    manager: Manager, monkeypatch: pytest.MonkeyPatch, wait: bool
) -> None:
    stopped: list[str] = []
    monkeypatch.setattr(_work, "stop", lambda _socket, _home: stopped.extend(manager.containers))
    monkeypatch.setattr(_work, "load", lambda _home: {"containers": [{"name": n} for n in stopped]})
    monkeypatch.setattr(_work, "start", lambda *_: ([{"name": n} for n in stopped], []))
    manager.converge()
    manager.containers = ["training"]
    answers = iter([["training"], ["training"], []])
    if wait:
        monkeypatch.setattr(_work, "running", lambda _socket: next(answers, []))
        monkeypatch.setattr("time.sleep", lambda _seconds: None)
    result = manager.converge(daemon={"mtu": 1400}, busy=Busy("wait" if wait else "proceed", 60))
    assert "restarted docker.service" in result["actions"]
    assert not result["restart_pending"]
    assert "started training again" in result["actions"]


def test_what_was_stopped_stays_so_where_a_later_task_starts_it(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_work, "load", lambda _home: {"containers": [{"name": "training"}]})
    manager.converge(busy=Busy(resume=False))
    monkeypatch.setattr(_work, "start", lambda *_: ([], ["training: unhealthy"]))
    with pytest.raises(FleetError, match="WORK_NOT_BACK"):
        manager.converge()


@pytest.mark.parametrize("containers", [[], ["training"]])
def test_programs_replaced_by_an_upgrade(manager: Manager, containers: list[str]) -> None:
    manager.converge()
    manager.replaced = ["dockerd"]
    manager.containers = containers
    result = manager.converge()
    assert result["restart_pending"] is bool(containers)
    assert ("restart" in manager.calls) is not bool(containers)


def test_an_upgrade_that_is_only_predicted(manager: Manager) -> None:
    manager.converge()
    assert manager.converge(check=True, upgraded=True)["actions"] == ["restarted docker.service"]
    assert manager.converge(upgraded=True)["actions"] == []  # for real, the running programs tell


def test_a_prediction_is_not_judged_by_the_engine_that_goes(manager: Manager) -> None:
    manager.rejects = "unknown flag: --validate"
    assert manager.converge(check=True, upgraded=True)["actions"]
    with pytest.raises(FleetError):
        manager.converge(check=True)


def test_a_drop_in_that_the_engine_has_not_read(manager: Manager) -> None:
    manager.converge()
    drop_in = manager.user.home / ".config/systemd/user/docker.service.d/proxy.conf"
    drop_in.parent.mkdir()
    drop_in.write_text("[Service]\n")
    manager.started = time.time() - 60
    manager.need_reload = "yes"
    manager.converge()
    assert manager.calls == ["daemon-reload", "reset-failed", "restart"]


def test_a_failed_engine_is_started_past_its_start_limit(manager: Manager) -> None:
    manager.converge()
    manager.state = "failed"
    assert manager.converge()["actions"] == ["started docker.service"]
    assert manager.calls == ["reset-failed", "start"]


def test_an_engine_that_does_not_answer(manager: Manager) -> None:
    manager.converge()
    manager.answers = False
    with pytest.raises(FleetError, match="ENGINE_UNRESPONSIVE"):
        manager.converge()
    manager.replaced = ["dockerd"]  # whether containers run is unknown: not restarted
    with pytest.raises(FleetError, match="ENGINE_UNRESPONSIVE"):
        manager.converge()
    assert "restart" not in manager.calls


def test_somebody_else_s_unit_is_kept_beside_ours(manager: Manager) -> None:
    units = manager.user.home / ".config/systemd/user"
    units.mkdir(parents=True)
    (units / "docker.service").write_text("[Service]\nExecStart=/usr/bin/dockerd-rootless.sh --iptables=false\n")
    assert "before-gpulab" not in str(manager.converge(check=True)["actions"])
    assert not (units / "docker.service.before-gpulab").exists()
    manager.converge()
    assert (units / "docker.service").read_text() == UNIT
    assert "--iptables=false" in (units / "docker.service.before-gpulab").read_text()
    # An older text of ours is no reason for another copy.
    (units / "docker.service").write_text(f"{MARK}; older\n")
    manager.converge()
    assert "--iptables=false" in (units / "docker.service.before-gpulab").read_text()


def test_a_masked_unit_becomes_ours(manager: Manager) -> None:
    units = manager.user.home / ".config/systemd/user"
    units.mkdir(parents=True)
    (units / "docker.service").symlink_to("/dev/null")
    manager.converge()
    assert not (units / "docker.service").is_symlink()
    assert (units / "docker.service").read_text() == UNIT


def test_the_user_s_own_settings_stay(manager: Manager) -> None:
    home = manager.user.home
    (home / ".docker").mkdir()
    (home / ".docker/config.json").write_text(
        '{"auths": {"r": {"auth": "c2VjcmV0"}}, "currentContext": "desktop-linux"}'
    )
    (home / ".docker/config.json").chmod(0o640)
    dotfiles = home / "dotfiles.json"
    dotfiles.write_text('{"debug": true}')
    (home / ".config/docker").mkdir(parents=True)
    (home / ".config/docker/daemon.json").symlink_to(dotfiles)
    result = manager.converge()
    assert manager.read(".docker/config.json")["auths"] == {"r": {"auth": "c2VjcmV0"}}
    assert manager.read(".docker/config.json")["currentContext"] == "rootless"
    assert (home / ".docker/config.json").stat().st_mode & 0o777 == 0o640
    assert "c2VjcmV0" not in str(result)
    assert (home / ".config/docker/daemon.json").is_symlink()
    assert manager.read("dotfiles.json")["debug"] is True
    assert json.loads(manager.read(".local/state/gpulab/rootless_docker_user.json")["original_daemon_json"]) == {
        "debug": True
    }


@pytest.mark.parametrize(
    ("path", "text", "code"),
    [
        (".config/docker/daemon.json", '{\n"debug": true,\n}', "DAEMON_JSON_INVALID"),
        (".config/docker/daemon.json", '{"cdi-spec-dir": ["/etc/cdi"]}', "DAEMON_JSON_TYPO"),
        (".docker/config.json", "{", "CLI_CONFIG_INVALID"),
    ],
)
def test_what_cannot_be_read_is_left_alone(manager: Manager, path: str, text: str, code: str) -> None:
    file = manager.user.home / path
    file.parent.mkdir(parents=True)
    file.write_text(text)
    for check in (True, False):
        with pytest.raises(FleetError) as caught:
            manager.converge(check=check)
        assert caught.value.code == code
    assert file.read_text() == text
    assert manager.calls == []


def test_a_folder_that_is_not_the_user_s(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, *_: Any) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(module_under_test, "write_atomic", refuse)
    with pytest.raises(FleetError) as caught:
        manager.converge()
    assert caught.value.code == "HOME_UNUSABLE"
    assert caught.value.detail.startswith(str(manager.user.home))
    assert manager.calls == []


def test_dockerd_judges_before_the_file_lands(manager: Manager) -> None:
    manager.rejects = "the following directives don't match any configuration option: cdi-spec-dirz"
    with pytest.raises(FleetError) as caught:
        manager.converge(daemon={"cdi-spec-dirz": []})
    assert caught.value.code == "DAEMON_JSON_REJECTED"
    assert "cdi-spec-dirz" in caught.value.detail
    assert str(manager.user.home / ".config/docker/daemon.json") in caught.value.detail
    assert manager.files() == {}


def test_a_data_root_on_a_network_file_system(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module_under_test, "file_system", lambda path, _: "nfs4" if "home" in str(path) else "ext4")
    with pytest.raises(FleetError, match="DATA_ROOT_NETWORK_FS"):
        manager.converge()
    assert manager.files() == {}
    manager.converge(daemon={"data-root": "/scratch/trainer"})


MOUNTS = """\
22 1 8:1 / / rw - ext4 /dev/sda1 rw
30 22 0:30 / /home rw,relatime shared:1 - nfs4 server:/home rw
31 30 8:2 / /home/local\\040disk rw - xfs /dev/sdb1 rw
32 22 0:32 / /home2 rw - btrfs /dev/sdc rw
33 32 0:33 / /home2 rw - tmpfs none rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/srv/x", "ext4"),
        ("/home/trainer/.local", "nfs4"),
        ("/home", "nfs4"),
        ("/homes", "ext4"),
        ("/home/local disk/docker", "xfs"),
        ("/home2/x", "tmpfs"),
    ],
)
def test_file_system(path: str, kind: str) -> None:
    assert file_system(Path(path), MOUNTS) == kind


def test_the_start_of_a_process_compares_with_file_times(tmp_path: Path) -> None:
    (tmp_path / "before").touch()
    time.sleep(0.05)
    child = subprocess.Popen(["sleep", "5"])
    time.sleep(0.05)
    (tmp_path / "after").touch()
    start = started_at(child.pid)
    child.kill()
    child.wait()
    assert (tmp_path / "before").stat().st_mtime - 0.02 < start < (tmp_path / "after").stat().st_mtime


def test_the_unit() -> None:
    """What experience demands of it, line by line."""
    lines = UNIT.splitlines()
    assert lines[0].startswith(MARK)
    for wanted in ("Type=notify", "NotifyAccess=all", "Delegate=yes", "KillMode=mixed", "Restart=always"):
        assert wanted in lines
    path = next(line for line in lines if line.startswith("Environment=PATH="))
    assert {"/usr/sbin", "/sbin", "/usr/share/docker.io/contrib"} <= set(re.split("[=:]", path))
    assert "iptables" not in UNIT
    assert [line for line in lines if line.startswith("[")] == ["[Unit]", "[Service]", "[Install]"]
    assert "StartLimitBurst" in UNIT.split("[Service]")[0]  # in [Service] systemd ignores it


CLIENT = {"proxies": {"default": {"httpProxy": "http://p:3128"}}}


@pytest.mark.parametrize(
    "own", [None, {"tcp://other": {"httpProxy": "http://o"}}, {"default": {"httpProxy": "http://mine"}}]
)
def test_the_clients_proxy_comes_and_goes(manager: Manager, own: dict[str, Any] | None) -> None:
    config = manager.user.home / ".docker" / "config.json"
    config.parent.mkdir()
    before = {"psFormat": "x", "currentContext": "rootless", **({"proxies": own} if own else {})}
    config.write_text(json.dumps(before), encoding="utf-8")

    def converge(client: dict[str, Any]) -> list[str]:
        engine = manager.engine()
        engine.client = client
        engine.converge_context()
        return [action for action in engine.actions if "config.json" in action]

    converge(CLIENT)
    after = json.loads(config.read_text(encoding="utf-8"))
    assert after["proxies"]["default"] == {"httpProxy": "http://p:3128"}
    assert after["psFormat"] == "x"
    assert converge(CLIENT) == []
    assert converge({}) != []
    assert json.loads(config.read_text(encoding="utf-8")) == before
    assert converge({}) == []


def test_settings_with_a_password_are_the_users_alone(manager: Manager) -> None:
    engine = manager.engine(daemon={"proxies": {"http-proxy": "http://me:hunter2@p:3128"}})
    engine.converge_settings()
    assert engine.daemon_json.stat().st_mode & 0o777 == 0o600
    assert "hunter2" not in str(engine.diff)
