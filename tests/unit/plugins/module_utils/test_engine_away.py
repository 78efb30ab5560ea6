"""A user's engine goes: the home is what it was, what the user changed meanwhile stays."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpulab.fleet.plugins.module_utils import _engine_away, _gpu_holders, _home_record
from ansible_collections.gpulab.fleet.plugins.module_utils import _rootless_engine as engine_module
from ansible_collections.gpulab.fleet.plugins.module_utils._engine_away import Away
from ansible_collections.gpulab.fleet.plugins.module_utils._rootless_engine import Engine
from ansible_collections.gpulab.fleet.plugins.module_utils._settle_unit import ensure_unit
from ansible_collections.gpulab.fleet.plugins.module_utils._settle_unit import paths as settle_paths
from ansible_collections.gpulab.fleet.plugins.module_utils._userenv import Account


def refuse(*_arguments: Any, **_options: Any) -> Any:
    raise FileNotFoundError("no engine")


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Account:
    monkeypatch.setattr(_engine_away, "get", refuse)
    monkeypatch.setattr(engine_module, "get", refuse)
    monkeypatch.setattr("shutil.which", lambda _name: None)
    home = tmp_path / "home"
    home.mkdir()
    # An account without a service manager that runs: files are all there is.
    return Account("ann", os.getuid() + 54321, os.getgid(), home)


def tree(home: Path) -> dict[str, Any]:
    return {
        str(path.relative_to(home)): path.read_text() if path.is_file() and not path.is_symlink() else None
        for path in home.rglob("*")
    }


def come(user: Account, **daemon: Any) -> None:
    engine = Engine(user, daemon, "/var/lib/gpulab/cdi/ann", check=False)
    engine.converge_settings()
    engine.converge_unit()
    engine.converge_context()


def go(user: Account, check: bool = False) -> list[str]:
    away = Away(user, check)
    actions: list[str] = away.leave()["actions"]
    return [*actions, *Away(user, check).forget()["actions"]]


def test_an_empty_home_is_empty_again(user: Account) -> None:
    come(user)
    assert Away(user, True).look()["ours"]
    predicted = go(user, check=True)
    done = go(user)
    assert set(predicted) <= set(done)
    assert tree(user.home) == {}
    assert not Away(user, True).look()["ours"]


@pytest.mark.parametrize(
    "files",
    [
        {".config/docker/daemon.json": '{"debug": true}'},
        {".config/docker/daemon.json": '{"features": {"cdi": false}, "log-driver": "journald"}\n'},
        {".docker/config.json": '{"detachKeys": "ctrl-x"}'},
        {".docker/config.json": '{\n\t"auths": {\n\t\t"example.org": {\n\t\t\t"auth": "eDp5"\n\t\t}\n\t}\n}'},
        {".docker/config.json": '{"currentContext": "desktop-linux"}'},
        {".config/systemd/user/docker.service": "[Unit]\nDescription=by hand\n"},
        {".profile": "export DOCKER_HOST=unix:///x\n"},
    ],
    ids=lambda files: next(iter(files)),
)
def test_what_was_there_is_there_to_the_letter(user: Account, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = user.home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    before = tree(user.home)
    come(user)
    assert tree(user.home) != before
    go(user)
    assert tree(user.home) == before


@pytest.mark.parametrize("text", ["", '{"proxies": {"default": {"httpProxy": "http://mine:1"}}}'])
def test_the_proxy_for_containers_goes_and_the_users_own_comes_back(user: Account, text: str) -> None:
    path = user.home / ".docker" / "config.json"
    if text:
        path.parent.mkdir()
        path.write_text(text)
    before = tree(user.home)
    engine = Engine(user, {}, "", check=False)
    engine.client = {"proxies": {"default": {"httpProxy": "http://site:3128"}}}
    engine.converge_settings()
    engine.converge_context()
    assert "site:3128" in path.read_text()
    go(user)
    assert tree(user.home) == before


def test_what_the_user_changed_meanwhile_stays(user: Account) -> None:
    come(user, debug=True)
    path = user.home / ".config/docker/daemon.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({**settings, "debug": False, "labels": ["mine"]}))
    (user.home / ".docker" / "cli-plugins").mkdir()
    go(user)
    assert json.loads(path.read_text()) == {"debug": False, "labels": ["mine"]}
    assert (user.home / ".docker" / "cli-plugins").is_dir()


def test_the_data_root_is_known_after_daemon_json_went(user: Account) -> None:
    come(user, **{"data-root": "/scratch/ann"})
    Away(user, False).leave()
    default = str(user.home / ".local/share/docker")
    assert Away(user, False).look()["roots"] == [default, "/scratch/ann"]


def test_data_that_an_engine_left_where_it_was_before_are_known(user: Account) -> None:
    come(user)
    for root in ("/scratch/one", "/scratch/two"):
        come(user, **{"data-root": root})
    come(user)
    roots = [str(user.home / ".local/share/docker"), "/scratch/one", "/scratch/two"]
    assert Away(user, True).look()["roots"] == roots
    Away(user, False).leave()
    assert sorted(Away(user, False).look()["roots"]) == sorted(roots)


@pytest.mark.parametrize(
    ("error", "busy"),
    [
        (FileNotFoundError("no socket"), []),
        (ConnectionRefusedError("nobody listens"), []),
        (TimeoutError("timed out"), ["unknown, the engine of ann does not say (timed out)"]),
        (OSError("answered 500"), ["unknown, the engine of ann does not say (answered 500)"]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_engine_that_does_not_answer_may_be_at_work(
    user: Account, monkeypatch: pytest.MonkeyPatch, error: OSError, busy: list[str]
) -> None:
    def answer(*_arguments: Any, **_options: Any) -> Any:
        raise error

    monkeypatch.setattr(_engine_away, "get", answer)
    assert Away(user, True).look()["busy"] == busy


def test_somebody_elses_engine_is_not_ours(user: Account) -> None:
    unit = user.home / ".config/systemd/user/docker.service"
    unit.parent.mkdir(parents=True)
    unit.write_text("[Unit]\n")
    assert not Away(user, True).look()["ours"]


def test_folders_of_stacks_are_known_as_made_or_as_found(user: Account) -> None:
    root, found = user.home / "gpulab", user.home / "imagenet"
    found.mkdir()
    _home_record.remember_stacks(user.home, root)
    for data in (root / "data" / "s" / "runs", found):
        _home_record.remember_stacks(user.home, root, data)
    known = _home_record.stacks(user.home)
    assert known["data"] == [str(root / "data" / "s" / "runs")]
    assert str(root / "stacks") in known["folders"] and str(root / "data" / "s") in known["folders"]
    assert str(found) not in known["folders"]


def test_the_unit_that_settles_goes_with_the_engine(user: Account) -> None:
    come(user)
    assert len(ensure_unit(user, check=True)) == 2 and not settle_paths(user)[0].exists()
    assert len(ensure_unit(user)) == 2
    assert settle_paths(user)[1].resolve() == settle_paths(user)[0]
    assert ensure_unit(user) == []
    settle_paths(user)[0].write_text("changed")
    assert len(ensure_unit(user)) == 1
    predicted = go(user, check=True)
    assert set(predicted) <= set(go(user))
    assert tree(user.home) == {}


def test_a_unit_of_that_name_that_was_there_is_there_again(user: Account) -> None:
    unit = settle_paths(user)[0]
    unit.parent.mkdir(parents=True)
    unit.write_text("by hand\n")
    come(user)
    ensure_unit(user)
    go(user)
    assert unit.read_text() == "by hand\n" and list(unit.parent.iterdir()) == [unit]


def test_gpus_are_given_back(user: Account, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_gpu_holders, "FOLDER", tmp_path)
    come(user)
    _gpu_holders.claim(user, "one", {"training": {"gpus": ["GPU-a"]}})
    file = _gpu_holders.path_of(user)
    assert "gave back the GPUs of all stacks" in go(user, check=True) and file.exists()
    assert "gave back the GPUs of all stacks" in go(user) and not file.exists()
