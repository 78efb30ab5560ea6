"""What is typed at `gpulab deploy` becomes a plan: nothing of what a release had is lost, and wrong words are refused."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpulab.fleet.plugins.module_utils import _gpulab_deploy, _gpulab_plan
from ansible_collections.gpulab.fleet.plugins.module_utils._deploy_plan import Plan
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._gpulab_options import parser
from ansible_collections.gpulab.fleet.plugins.module_utils._gpulab_plan import Wish
from ansible_collections.gpulab.fleet.plugins.module_utils._release import Store
from ansible_collections.gpulab.fleet.plugins.module_utils._userenv import Account

DEFINITION: dict[str, Any] = {
    "settings": {
        "EPOCHS": {"type": "int", "default": 3},
        "FAST": {"type": "bool", "default": False},
        "COMPOSE_PROFILES": {"default": ""},
    },
    "gpus": {"training": 1},
    "data": {"OUT": {"folder": "out"}},
    "secrets": {"TOKEN": {}},
}
COMPOSE: dict[str, Any] = {"services": {"training": {"image": "x"}, "web": {"image": "y"}}}


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Account:
    """Somebody with a folder to deploy; YAML is read as the JSON that it is here, Compose being elsewhere."""

    def read(compose: Path, _run: Any) -> Any:
        stack = compose.with_name("stack.yml")
        return json.loads(compose.read_text()), json.loads(stack.read_text()) if stack.exists() else None

    monkeypatch.setattr(_gpulab_plan, "read", read)
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / "robot"
    folder.mkdir()
    (folder / "stack.yml").write_text(json.dumps(DEFINITION))
    (folder / "compose.yml").write_text(json.dumps(COMPOSE))
    (folder / "train.py").write_text("print()")
    (folder / ".env").write_text("EPOCHS=99\n")
    return Account("ada", os.geteuid(), os.getegid(), tmp_path)


def store(user: Account, **changed: Any) -> Store:
    """A stack with one release, as `changed` says."""
    made = Store(user.home / "gpulab", "robot")
    record: dict[str, Any] = {
        "schema": 1, "made": "", "by": "", "why": "", "inputs": "", "settings": {"EPOCHS": "7", "OUT": "/scratch/out"},
        "profiles": [], "source": {"kind": "catalogue", "path": "/controller/robot"}, "ports": [], "data": {},
        "services": {"training": {"image": "x", "image_id": "", "tag": "", "gpus": ["GPU-a"]}, "web": {"image": "y",
        "image_id": "", "tag": ""}}, "volumes": [], "secrets": {"TOKEN": "d1"}, "files": "f1", "mounts": [], "checks": [],
        "checksums": {}, "wait_timeout": 300, "sharing": "shared", **changed,
    }  # fmt: skip
    place = made.releases / "0001"
    place.mkdir(parents=True)
    (place / "release.json").write_text(json.dumps(record))
    (made.folder / "current").symlink_to("releases/0001")
    made.secrets.mkdir()
    (made.secrets / "TOKEN.d1").write_text("first line\n")
    return made


def plan(user: Account, made: Store | None = None, **wish: Any) -> Plan:
    source = _gpulab_plan.of_folder(user.home / "robot")
    return _gpulab_plan.make(user, made or Store(user.home / "gpulab", "robot"), source, Wish(**wish))[0]


def test_a_folder_for_the_first_time(user: Account) -> None:
    made = plan(user, why="look")
    assert made.settings == {"EPOCHS": "3", "FAST": "false", "COMPOSE_PROFILES": ""}
    assert made.gpus == {"training": 1} and made.secrets == {} and made.why == "look"
    assert sorted(made.files) == ["compose.yml", "stack.yml", "train.py"]
    assert made.local == str(user.home / "robot") and made.wait_timeout == 120
    assert made.source["kind"] == "folder" and made.source["host"] == os.uname().nodename


def test_what_a_release_had_goes_on(user: Account) -> None:
    made = plan(user, store(user))
    assert made.settings["EPOCHS"] == "7" and made.settings["OUT"] == "/scratch/out"
    assert made.secrets == {"TOKEN": "first line\n"} and made.sharing == "shared" and made.wait_timeout == 300
    assert made.gpus == {"training": 1}


def test_what_is_typed_wins(user: Account, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("new\n")
    made = plan(
        user,
        store(user),
        settings={"FAST": "true", "EPOCHS": "9"},
        unset=["OUT"],
        gpus={"web": "2", "training": "none"},
        secrets={"TOKEN": tmp_path / "token"},
    )
    assert made.settings == {"EPOCHS": "9", "FAST": "true", "COMPOSE_PROFILES": ""}
    assert made.gpus == {"web": 2, "training": "none"} and made.secrets == {"TOKEN": "new"}


@pytest.mark.parametrize(
    ("had", "asked", "expected"),
    [
        (["GPU-a"], 1, 1),  # as many as the stack's own file says: any will do
        (["GPU-a", "GPU-b"], 1, ["GPU-a", "GPU-b"]),  # the site gave more
        ([], 1, 0),  # the site gave none
        (["GPU-a"], "all", "all"),
        ([], 0, 0),
    ],
)
def test_gpus_that_a_site_had_chosen(had: list[str], asked: Any, expected: Any) -> None:
    current: Any = argparse.Namespace(services={"s": argparse.Namespace(gpus=had), "gone": argparse.Namespace(gpus=[])})
    assert _gpulab_plan.gpus("n", {"s": asked}, {"s"}, current, Wish()) == {"s": expected}


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        ({"settings": {"EPOCH": "1"}}, "no setting EPOCH; there are: COMPOSE_PROFILES, EPOCHS, FAST, OUT"),
        ({"settings": {"EPOCHS": "many"}}, "EPOCHS is 'many', not a whole number"),
        ({"settings": {"FAST": "yes"}}, "FAST is 'yes', not true or false"),
        ({"unset": ["EPOCH"]}, "no setting EPOCH"),
        ({"gpus": {"trainer": "1"}}, "trainer; robot has: training, web"),
        ({"secrets": {"TOKEN": Path("/nothing/here")}}, "STACK_SECRET_INVALID: /nothing/here: No such file"),
        ({"secrets": {"WANDB": Path("/etc/hostname")}}, "no secret WANDB"),
    ],
)
def test_wrong_wishes(user: Account, wish: dict[str, Any], said: str) -> None:
    with pytest.raises(FleetError) as caught:
        plan(user, **wish)
    assert said in str(caught.value)


def test_a_folder_without_a_definition_has_its_own_settings(user: Account) -> None:
    folder = user.home / "robot"
    (folder / "stack.yml").unlink()
    service = {"image": "x", "command": "${A} ${B:-b} $C ${D} ${E-}"}
    (folder / "compose.yml").write_text(json.dumps({"services": {"one": service}}))
    (folder / ".env").write_text("# x\nexport A=1\nB='two words' # y\nC=\"$HOME\"\nD=\n")
    made = plan(user, settings={"B": "3", "E": "5"})
    assert made.settings == {"A": "1", "B": "3", "D": "", "E": "5"} and made.no_health is None
    with pytest.raises(FleetError, match="no setting Z; there are: A, B, C, D, E"):
        plan(user, settings={"Z": "/"})


def test_mutable_copies_nothing(user: Account) -> None:
    made = plan(user, mutable=True)
    assert made.mutable and made.files == {}
    kept = store(user, source=made.source)
    again = _gpulab_plan.make(user, kept, _gpulab_deploy.choose(user, "robot", None)[1], Wish())[0]
    assert again.mutable, "it stays what it was deployed as"


def test_what_git_ignores_does_not_travel(user: Account) -> None:
    folder = user.home / "robot"
    (folder / ".gitignore").write_text("*.bin\n")
    (folder / "weights.bin").write_text("")
    subprocess.run(["git", "init"], cwd=folder, check=True, capture_output=True)
    assert sorted(plan(user).files) == [".gitignore", "compose.yml", "stack.yml", "train.py"]


# --- what is named -----------------------------------------------------------------------------------------------


def test_a_stack_by_name_is_made_of_what_was_kept_of_it(user: Account) -> None:
    made = store(user)
    with pytest.raises(FleetError, match="STACK_SOURCE_GONE"):
        _gpulab_deploy.choose(user, "robot", None)
    kept = made.files / "f1"
    kept.mkdir(parents=True)
    (kept / "compose.yml").write_text("{}")
    name, source = _gpulab_deploy.choose(user, "robot", None)
    assert (name, source.folder) == ("robot", kept) and source.record == {
        "kind": "catalogue",
        "path": "/controller/robot",
    }


def test_a_stack_by_name_is_made_of_its_folder_on_this_host(user: Account) -> None:
    known = {"kind": "folder", "path": str(user.home / "robot"), "host": os.uname().nodename}
    store(user, source=known)
    assert _gpulab_deploy.choose(user, "robot", None)[1].folder == user.home / "robot"


def test_folders_files_and_what_is_neither(user: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(user.home)
    store(user)
    assert _gpulab_deploy.choose(user, "./robot", None)[1].folder == user.home / "robot"
    other = user.home / "other"
    other.mkdir()
    (other / "docker-compose.yaml").write_text("")
    (other / "extra.yml").write_text("")
    assert _gpulab_deploy.choose(user, "other", "named")[0] == "named"
    assert _gpulab_deploy.choose(user, "other", None)[1].compose_file == "docker-compose.yaml"
    assert _gpulab_deploy.choose(user, "other/extra.yml", None)[1].compose_file == "extra.yml"
    (user.home / "checkout/.git").mkdir(parents=True)
    (user.home / "checkout/docker").mkdir()
    (user.home / "checkout/docker/gpu.yml").write_text("")
    name, source = _gpulab_deploy.choose(user, "checkout/docker/gpu.yml", None)
    assert (name, source.folder.name, source.compose_file) == ("checkout", "checkout", "docker/gpu.yml")
    for target, code in (
        ("nothing", "STACK_NOT_HERE"),
        ("./nothing", "STACK_UNKNOWN"),
        (str(user.home), "STACK_UNKNOWN"),
    ):
        with pytest.raises(FleetError, match=code):
            _gpulab_deploy.choose(user, target, None)


@pytest.mark.parametrize("typed", [["--set", "EPOCHS"], ["--gpus", "=1"], ["--secret", "TOKEN"]])
def test_pairs(user: Account, typed: list[str]) -> None:
    with pytest.raises(FleetError, match="is not of the form NAME=VALUE"):
        _gpulab_deploy.deploy(user, parser().parse_args(["deploy", "robot", *typed]))


def test_a_name_that_is_none(user: Account) -> None:
    made = Store(user.home / "gpulab", "Robot Arm")
    with pytest.raises(FleetError, match="choose one with --name"):
        _gpulab_plan.make(user, made, _gpulab_plan.of_folder(user.home / "robot"), Wish())


def test_what_the_inventory_had_added_goes_on(user: Account) -> None:
    once = {"image": "z", "image_id": "", "tag": "", "one_off": True}
    silent = {"image": "y", "image_id": "", "tag": "", "health": False}
    services = {"training": {**silent, "health": True}, "web": silent, "once": once}
    archives = [{"name": "base:1", "kind": "load", "sha256": "f" * 64, "archive": "/controller/base.tar"}]
    source = {"kind": "catalogue", "path": "/controller/robot", "archives": archives}
    made = store(user, services=services, profiles=["gpu"], checks=[{"url": "http://x"}], source=source)
    kept = made.files / "f1"
    kept.mkdir(parents=True)
    for name in ("compose.yml", "stack.yml"):
        (kept / name).write_text((user.home / "robot" / name).read_text())
    found = _gpulab_deploy.choose(user, "robot", None)[1]
    plan = _gpulab_plan.make(user, made, found, Wish(settings={"EPOCHS": "8"}))[0]
    assert (plan.profiles, plan.checks, plan.runs) == (["gpu"], [{"url": "http://x"}], {"once": ""})
    assert plan.archives == archives
    assert plan.no_health == ["web"] and plan.settings["EPOCHS"] == "8"


def test_a_stack_by_name_with_nothing_new_only_has_to_run(user: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    made = store(user)
    (made.files / "f1").mkdir(parents=True)
    (made.files / "f1/compose.yml").write_text(json.dumps(COMPOSE))
    asked: list[Any] = []

    class Fake:
        def __init__(self, *_: Any) -> None: ...

        def rollback(self, release: str) -> dict[str, Any]:
            asked.append(release)
            return {"release": release}

        def deploy(self, plan: Any, _handed: Any) -> dict[str, Any]:
            asked.append(plan)
            return {"needs": {"archives": ["base:1"]}}

    monkeypatch.setattr(_gpulab_deploy, "transaction", Fake)
    monkeypatch.setattr(_gpulab_deploy, "prepare", lambda _user: None)
    typed = ["deploy", "robot"]
    assert _gpulab_deploy.deploy(user, parser().parse_args(typed))["release"] == "0001" and asked == ["0001"]
    with pytest.raises(FleetError, match="STACK_IMAGE_MISSING: base:1"):
        _gpulab_deploy.deploy(user, parser().parse_args([*typed, "--gpus", "web=0"]))
