"""Secrets that a stack has made for it: once, where nobody gives one, and never shown."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpulab.fleet.plugins.module_utils import (
    _compose,
    _gpulab_plan,
    _release_gate,
    _stack,
    _transaction,
)
from ansible_collections.gpulab.fleet.plugins.module_utils import _generated_secrets as generated
from ansible_collections.gpulab.fleet.plugins.module_utils._deploy_plan import Handed, Plan, of_definition
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._home_record import stacks
from ansible_collections.gpulab.fleet.plugins.module_utils._release import Release, Store
from ansible_collections.gpulab.fleet.plugins.module_utils._release_files import (
    keep_secrets,
    masked,
    secret_digests,
    secret_path,
)
from ansible_collections.gpulab.fleet.plugins.module_utils._release_make import Making
from ansible_collections.gpulab.fleet.plugins.module_utils._stack_lines import lines
from ansible_collections.gpulab.fleet.plugins.module_utils._stack_schema import definition
from ansible_collections.gpulab.fleet.plugins.module_utils._userenv import Account


@pytest.fixture
def user(tmp_path: Path) -> Account:
    return Account("ada", os.geteuid(), os.getegid(), tmp_path)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "gpulab", "robot")
    made.folder.mkdir(parents=True)
    made.keep_salt("salt")
    return made


def making(store: Store, user: Account, **given: str) -> Making:
    nobody: Any = None
    plan = Plan(generate={"TOKEN": 24, "KEY": 8}, secrets=given)
    return Making(store, user, nobody, plan, Handed(), False, "ada")


def kept(store: Store, user: Account, made: Making) -> None:
    generated.keep(user, store, {name: made.secrets[name] for name in made.generated})


def released(store: Store, made: Making) -> Release:
    """A release with the secrets of what is being made."""
    keep_secrets(store, made.secrets, {}, made.digests)
    empty: dict[str, Any] = {
        "id": "0001", "folder": store.folder, "made": "", "by": "", "why": "", "inputs": "", "settings": {}, "profiles": [],
        "source": {}, "services": {}, "ports": [], "data": {}, "volumes": [], "files": "", "mounts": [], "checks": [],
        "checksums": {}, "wait_timeout": 1,
    }  # fmt: skip
    return Release(**empty, secrets=made.digests, generated=made.generated)


def test_made_once_and_kept(store: Store, user: Account) -> None:
    first = making(store, user)
    assert first.generated == ["KEY", "TOKEN"]
    assert [len(first.secrets[name]) for name in first.generated] == [8, 24]
    assert not (store.root / "secrets").exists(), "only what is deployed is kept"
    kept(store, user, first)
    place = store.root / "secrets" / "robot"
    assert (place / "TOKEN").read_bytes() == first.secrets["TOKEN"].encode(), "and nothing behind it"
    modes = [path.stat().st_mode & 0o777 for path in (place, place / "TOKEN", place / "KEY")]
    assert modes == [0o700, 0o600, 0o600]
    assert stacks(user.home)["data"] == [str(place)], "whoever deletes the user's data deletes them"
    again = making(store, user)
    assert again.secrets == first.secrets
    assert again.inputs() == first.inputs(), "and no new release for it"
    store.remove()
    assert making(store, user).secrets == first.secrets, "an undeploy leaves them"
    assert set(first.secrets["TOKEN"]) <= set(generated.ALPHABET)


def test_one_that_is_given_wins_and_the_other_waits(store: Store, user: Account) -> None:
    first = making(store, user)
    kept(store, user, first)
    given = making(store, user, TOKEN="ours")
    assert (given.secrets, given.generated) == ({"KEY": first.secrets["KEY"], "TOKEN": "ours"}, ["KEY"])
    kept(store, user, given)
    assert list(generated.where(store, released(store, given).plain())) == ["KEY"]
    assert making(store, user).secrets == first.secrets, "no longer given: the one that was made is back"


def test_whoever_removes_the_file_gets_a_new_one_and_a_rollback_the_old(store: Store, user: Account) -> None:
    first = making(store, user)
    kept(store, user, first)
    old = released(store, first)
    path = store.root / "secrets" / "robot" / "TOKEN"
    assert generated.where(store, old.plain())["TOKEN"] == str(path)
    path.unlink()
    second = making(store, user)
    assert second.secrets["TOKEN"] != first.secrets["TOKEN"]
    assert second.inputs() != first.inputs()
    kept(store, user, second)
    assert generated.where(store, replace(old, secrets=second.digests).plain())["TOKEN"] == str(path)
    told = generated.where(store, old.plain())["TOKEN"]
    assert told == str(secret_path(store, "TOKEN", first.digests["TOKEN"]))
    assert Path(told).read_text() == first.secrets["TOKEN"]


def test_what_a_person_wrote_into_the_file_is_taken_without_its_line_break(store: Store, user: Account) -> None:
    kept(store, user, making(store, user))
    path = store.root / "secrets" / "robot" / "KEY"
    path.write_text("my own word\n")
    path.chmod(0o644)
    made = making(store, user)
    assert made.secrets["KEY"] == "my own word"
    kept(store, user, made)
    assert path.stat().st_mode & 0o777 == 0o600
    assert secret_path(store, "KEY", released(store, made).secrets["KEY"]).read_text() == "my own word"
    path.write_bytes(b"\xff")
    with pytest.raises(FleetError, match=r"STACK_SECRET_INVALID.*KEY"):
        making(store, user)


def test_a_person_who_deploys_again_takes_none_of_it_for_given(store: Store, user: Account) -> None:
    made = making(store, user, TOKEN="ours")
    release = released(store, made)
    both: dict[str, Any] = {"secrets": {"KEY": {"generate": 8}, "TOKEN": {"generate": 24}}}
    assert _gpulab_plan.kept_secrets(store, release, both) == {"TOKEN": "ours"}
    neither: dict[str, Any] = {"secrets": {"KEY": {}, "TOKEN": {}}}
    assert _gpulab_plan.kept_secrets(store, release, neither) == made.secrets, "a stack that no longer makes any"


def test_it_is_named_and_not_shown(store: Store, user: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    made = making(store, user)
    kept(store, user, made)
    release = released(store, made)
    place = store.root / "secrets" / "robot"
    verbs = _transaction.Transaction(user, str(store.root), "robot", who="ada")
    verbs.done.release = release
    result = verbs.result()
    assert result["secret_files"] == {name: str(place / name) for name in ("KEY", "TOKEN")}
    service = {"service": "web", "status": "running", "health": "healthy", "addresses": []}
    told = lines("robot", "ada", {**result, "services": [service]})
    assert f"TOKEN is in {place}/TOKEN" in " ".join(" ".join(told).split())

    def fail(*_: Any) -> None:
        raise FleetError("STACK_UNHEALTHY", f"web said: token={made.secrets['TOKEN']} is odd")

    monkeypatch.setattr(_release_gate, "bring_up", fail)
    monkeypatch.setattr(_compose.Project, "containers", lambda _self: [])
    with pytest.raises(FleetError) as caught:
        verbs._bring_up(release)
    assert caught.value.detail == "web said: token=******** is odd"
    text = str([result, release.plain(), caught.value])
    assert not any(value in text for value in made.secrets.values())
    assert masked(store, release, made.secrets["KEY"]) == "********"


@pytest.mark.parametrize("length", [7, 129, True, "16", None, 8.0])
def test_a_length_that_is_none(length: Any) -> None:
    with pytest.raises(FleetError, match=r"STACK_INVALID.*secrets.KEY.generate is .* 8 to 128"):
        definition("robot", {"secrets": {"KEY": {"generate": length}}})


def test_one_that_is_made_need_not_be_given() -> None:
    defined = definition("robot", {"secrets": {"KEY": {"generate": 8, "required": True}, "TOKEN": {}}})
    _stack.check_secrets("robot", defined, {})
    assert of_definition(defined, described=True)["generate"] == {"KEY": 8}


def test_digests_do_not_depend_on_who_made_it(store: Store, user: Account) -> None:
    made = making(store, user)
    assert made.digests == secret_digests("salt", made.secrets)
