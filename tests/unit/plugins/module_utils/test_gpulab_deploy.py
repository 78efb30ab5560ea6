"""What is typed at `gpulab deploy` becomes a plan: nothing of what a release had is lost, and wrong words are refused."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpulab.fleet.plugins.module_utils import (
    _gpulab_catalogue,
    _gpulab_deploy,
    _gpulab_plan,
    _stack_files,
)
from ansible_collections.gpulab.fleet.plugins.module_utils._deploy_plan import Plan
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._gpulab_options import parser
from ansible_collections.gpulab.fleet.plugins.module_utils._gpulab_plan import Wish
from ansible_collections.gpulab.fleet.plugins.module_utils._release import Store
from ansible_collections.gpulab.fleet.plugins.module_utils._userenv import Account
from ansible_collections.gpulab.fleet.plugins.module_utils._yaml_by_compose import merged
from ansible_collections.gpulab.fleet.plugins.plugin_utils._command_archive import CATALOGUE, archive

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

    def read(compose: Path, _run: Any, override: Path | None = None) -> Any:
        stack = compose.with_name("stack.yml")
        whole = merged(json.loads(compose.read_text()), json.loads(override.read_text()) if override else None)
        return whole, json.loads(stack.read_text()) if stack.exists() else None

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


def choose(user: Account, target: str, name: str | None = None) -> tuple[str, _gpulab_plan.Source]:
    return _gpulab_deploy.choose(user, target, name, user.home / "scratch")[:2]


@pytest.fixture
def catalogue(user: Account, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The command's file as hosts have it, with the shipped stacks in it."""
    path = user.home / "gpulab.pyz"
    path.write_bytes(archive())
    monkeypatch.setattr(_gpulab_catalogue, "ARCHIVE", str(path))
    return path


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
    assert made.gpus == {"training": ["GPU-a"], "web": 0}, "of a release that does not say what was asked for"


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


GIVEN: dict[str, Any] = {
    "settings": {"EPOCHS": "7", "GONE": "x"},
    "gpus": {"training": ["GPU-a", "GPU-b"], "gone": 1},
    "profiles": ["board", "gone"],
    "publish": {"web": ["8000"], "gone": []},
    "runs": {"web": "once"},
    "no_health": ["training", "gone"],
    "checks": [{"url": "http://x", "expect": 200, "timeout": 30}, {"service": "gone", "command": ["x"], "timeout": 30}],
    "snapshot": True,
    "gpu_sharing": "shared",
    "keep": 5,
    "wait_timeout": 900,
}


def test_everything_that_was_given_goes_on_where_there_is_still_a_place_for_it(user: Account) -> None:
    services = {"training": {"image": "x"}, "web": {"image": "y", "profiles": ["board"]}}
    (user.home / "robot/compose.yml").write_text(json.dumps({"services": services}))
    made = plan(user, store(user, given=GIVEN), settings={"FAST": "true"}, gpus={"web": "1"})
    assert made.settings == {"EPOCHS": "7", "FAST": "true", "COMPOSE_PROFILES": ""}
    assert made.gpus == {"training": ["GPU-a", "GPU-b"], "web": 1}
    assert (made.profiles, made.publish, made.runs) == (["board"], {"web": ["8000"]}, {"web": "once"})
    assert made.no_health == ["training"] and made.checks == GIVEN["checks"][:1]
    assert (made.snapshot, made.sharing, made.keep, made.wait_timeout) == (True, "shared", 5, 900)
    # And so for the next one.
    again = plan(user, store_again(user, made.given), unset=["FAST"])
    assert again.settings["EPOCHS"] == "7" and again.settings["FAST"] == "false"
    assert (again.gpus, again.publish, again.keep) == (made.gpus, made.publish, 5)


def test_mounts_go_on_and_what_is_typed_of_them_wins(user: Account) -> None:
    given = {"mounts": {"lib": "/lib", "own": {"source": "~/own", "services": ["web", "gone"]}}}
    made = plan(user, store(user, given=given), mounts={"lib": "off", "new": "/new:rw"})
    assert {name: (each["source"], each["enabled"]) for name, each in made.mounts.items()} == {
        "lib": ("/lib", False), "own": ("~/own", True), "new": ("/new", True)
    }  # fmt: skip
    assert made.mounts["own"]["services"] == ["web"] and made.mounts["new"]["services"] == []
    again = plan(user, store_again(user, made.given), settings={"EPOCHS": "9"})
    assert again.mounts == made.mounts
    assert plan(user, store_again(user, again.given), mounts={"lib": "", "new": "", "own": ""}).given["mounts"] == {}


def test_a_stack_says_which_services_mounts_are_for(user: Account) -> None:
    definition = {**DEFINITION, "mount_into": ["web"]}
    (user.home / "robot/stack.yml").write_text(json.dumps(definition))
    assert plan(user, mounts={"lib": "/lib"}).mounts["lib"]["services"] == ["web"]


def store_again(user: Account, given: dict[str, Any]) -> Store:
    made = Store(user.home / "gpulab", "robot")
    path = made.releases / "0001/release.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "given": given}))
    return made


def test_a_default_of_the_file_is_not_kept(user: Account) -> None:
    """EPOCHS was 7 only because stack.yml said so then."""
    made = plan(user, store(user, given={"settings": {}, "gpus": {}}))
    assert made.settings["EPOCHS"] == "3" and made.gpus == {"training": 1}


def test_an_override_is_merged_and_travels(user: Account) -> None:
    folder = user.home / "robot"
    (folder / "compose.override.yml").write_text(json.dumps({"services": {"extra": {"image": "z"}}}))
    (folder / "docker-compose.override.yml").write_text("{")
    source = _gpulab_plan.of_folder(folder)
    made, said = _gpulab_plan.make(user, Store(user.home / "gpulab", "robot"), source, Wish(gpus={"extra": "1"}))
    assert made.override == "compose.override.yml" and made.override in made.files and made.gpus["extra"] == 1
    assert made.source["override"] == "compose.override.yml" and made.source["alone"] is False
    assert said == ["compose.override.yml is merged into compose.yml, as `docker compose` does it"]
    alone = _gpulab_plan.of_folder(folder / "compose.yml")
    assert _gpulab_plan.make(user, Store(user.home / "gpulab", "robot"), alone, Wish())[0].override == ""


def test_an_override_that_came_later_counts(user: Account) -> None:
    known = {"kind": "folder", "path": str(user.home / "robot"), "host": "h", "compose_file": "compose.yml"}
    made = store(user, source=known)
    (user.home / "robot/compose.override.yaml").write_text(json.dumps({"services": {}}))
    found = choose(user, "robot")[1].found
    assert found.override == user.home / "robot/compose.override.yaml"
    store_again(user, {})
    record = made.releases / "0001/release.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "source": {**known, "alone": True}}))
    assert choose(user, "robot")[1].found.override is None


def test_a_compose_file_in_the_env_file_is_said_and_not_used(user: Account) -> None:
    (user.home / "robot/.env").write_text("COMPOSE_FILE=compose.yml:compose.gpu.yml\n")
    source = _gpulab_plan.of_folder(user.home / "robot")
    (note,) = _gpulab_plan.make(user, Store(user.home / "gpulab", "robot"), source, Wish())[1]
    assert "COMPOSE_FILE=compose.yml:compose.gpu.yml" in note and "here it is compose.yml" in note


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
    again = _gpulab_plan.make(user, kept, choose(user, "robot")[1], Wish())[0]
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
        choose(user, "robot")
    kept = made.files / "f1"
    kept.mkdir(parents=True)
    (kept / "compose.yml").write_text("{}")
    name, source = choose(user, "robot")
    assert (name, source.found.tree) == ("robot", kept) and source.record == {
        "kind": "catalogue",
        "path": "/controller/robot",
    }


def test_a_stack_by_name_is_made_of_its_folder_on_this_host(user: Account) -> None:
    known = {"kind": "folder", "path": str(user.home / "robot"), "host": os.uname().nodename}
    store(user, source=known)
    assert choose(user, "robot")[1].found.tree == user.home / "robot"


def test_folders_files_and_what_is_neither(user: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(user.home)
    store(user)
    assert choose(user, "./robot")[1].found.tree == user.home / "robot"
    other = user.home / "other"
    other.mkdir()
    (other / "docker-compose.yaml").write_text("")
    (other / "extra.yml").write_text("")
    assert choose(user, "other", "named")[0] == "named"
    assert choose(user, "other")[1].found.inside()["compose_file"] == "docker-compose.yaml"
    assert choose(user, "other/extra.yml")[1].found.inside()["compose_file"] == "extra.yml"
    (user.home / "checkout/.git").mkdir(parents=True)
    (user.home / "checkout/docker").mkdir()
    (user.home / "checkout/docker/gpu.yml").write_text("")
    name, source = choose(user, "checkout/docker/gpu.yml")
    assert (name, source.found.tree.name) == ("checkout", "checkout")
    assert source.found.inside() == {"compose_file": "docker/gpu.yml", "override": ""}
    for target, code in (
        ("nothing", "STACK_NOT_HERE"),
        ("./nothing", "STACK_UNKNOWN"),
        (str(user.home), "STACK_UNKNOWN"),
    ):
        with pytest.raises(FleetError, match=code):
            choose(user, target)


@pytest.mark.parametrize("typed", [["--set", "EPOCHS"], ["--gpus", "=1"], ["--secret", "TOKEN"]])
def test_pairs(user: Account, typed: list[str]) -> None:
    with pytest.raises(FleetError, match="is not of the form NAME=VALUE"):
        _gpulab_deploy.deploy(user, parser().parse_args(["deploy", "robot", *typed]))


def test_a_name_that_is_none(user: Account) -> None:
    (user.home / "robot").rename(user.home / "Robot Arm")
    with pytest.raises(FleetError, match="choose one with --name"):
        _gpulab_deploy.deploy(user, parser().parse_args(["deploy", f"{user.home}/Robot Arm"]))


def test_what_the_inventory_had_added_goes_on(user: Account) -> None:
    archives = [{"name": "base:1", "kind": "load", "sha256": "f" * 64, "archive": "/controller/base.tar"}]
    source = {"kind": "catalogue", "path": "/controller/robot", "archives": archives}
    made = store(user, source=source, given={"checks": [{"url": "http://x"}], "gpu_sharing": "shared"})
    kept = made.files / "f1"
    kept.mkdir(parents=True)
    for name in ("compose.yml", "stack.yml"):
        (kept / name).write_text((user.home / "robot" / name).read_text())
    found = choose(user, "robot")[1]
    plan = _gpulab_plan.make(user, made, found, Wish(settings={"EPOCHS": "8"}))[0]
    assert plan.archives == archives and plan.settings["EPOCHS"] == "8"
    assert plan.checks == [{"url": "http://x", "expect": 200, "timeout": 30}] and plan.sharing == "shared"


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


# --- the catalogue -----------------------------------------------------------------------------------------------


def test_a_shipped_stack_by_name(user: Account, catalogue: Path) -> None:
    name, source = choose(user, "quickstart")
    folder = source.found.tree
    assert (name, folder) == ("quickstart", user.home / "scratch/quickstart") and not source.kept
    assert _stack_files.shipped(folder) == _stack_files.shipped(CATALOGUE / "quickstart"), "as the controller ships it"
    assert source.record == {
        "kind": "catalogue", "path": f"{catalogue}/stacks/quickstart", "archives": [], "compose_file": "compose.yml",
        "override": "",
    }  # fmt: skip
    with pytest.raises(FleetError, match=r"STACK_NOT_HERE: nothing; ada has: none; the catalogue has: .*quickstart"):
        choose(user, "nothing")


def test_what_a_bare_name_means(user: Account, catalogue: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but what was deployed, then what is shipped, then a folder; and a slash makes it a folder."""
    monkeypatch.chdir(user.home)
    (user.home / "robot").rename(user.home / "quickstart")

    def of(target: str) -> tuple[Path, list[str]]:
        _name, source, notes = _gpulab_deploy.choose(user, target, None, user.home / "scratch")
        return source.found.tree, notes

    assert of("quickstart") == (
        user.home / "scratch/quickstart",
        ["quickstart is a folder here, too: for that, write ./quickstart"],
    )
    assert of("./quickstart") == (user.home / "quickstart", [])
    (user.home / "quickstart").rename(user.home / "plain")
    assert of("plain") == (user.home / "plain", [])
    made = store(user)
    made.folder.rename(made.stacks / "quickstart")
    kept = made.stacks / "quickstart/files/f1"
    kept.mkdir(parents=True)
    (kept / "compose.yml").write_text("{}")
    assert of("quickstart") == (kept, []), "a stack of that name which was made of something else"


def test_a_stack_of_the_catalogue_is_deployed_again_from_there(user: Account, catalogue: Path) -> None:
    archives = [{"name": "base:1"}]
    store(user, source={"kind": "catalogue", "path": "/controller/stacks/quickstart", "archives": archives})
    name, source = choose(user, "robot")
    assert name == "robot" and source.found.tree.name == "quickstart" and not source.kept
    assert source.record and source.record["archives"] == archives
    with pytest.raises(FleetError, match="--mutable mounts a folder of yours"):
        _gpulab_plan.make(user, Store(user.home / "gpulab", "robot"), source, Wish(mutable=True))


def test_what_is_shipped_is_listed(catalogue: Path) -> None:
    said = _gpulab_catalogue.lines(_gpulab_catalogue.answer(), 80)
    assert any(line.startswith("quickstart") and "simulator" in line for line in said)
    assert max(map(len, said)) <= 80


def test_a_host_without_a_catalogue() -> None:
    assert _gpulab_catalogue.ARCHIVE is None
    assert _gpulab_catalogue.lines(_gpulab_catalogue.answer()) == ["this host has no catalogue"]
