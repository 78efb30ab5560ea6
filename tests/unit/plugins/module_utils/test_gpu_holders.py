"""Who holds which GPU: what is believed of what everybody may write, and that nobody takes what is held."""

from __future__ import annotations

import json
import os
import pwd
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpulab.fleet.plugins.module_utils import _gpu_holders as holders
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._userenv import Account

ME = pwd.getpwuid(os.geteuid())
USER = Account(ME.pw_name, ME.pw_uid, ME.pw_gid, Path(ME.pw_dir))
A, B, C = "GPU-a", "GPU-b", "GPU-c"
OTHER = 54321


def other(folder: Path, sharing: str = "exclusive", uid: int = OTHER) -> None:
    """Another user's file, which this process can only make as root; as an ordinary user it is made to look so."""
    entry = {"gpus": [A], "since": "2026-01-01T00:00:00Z", "sharing": sharing}
    path = folder / str(uid)
    path.write_text(json.dumps({"schema": 1, "stacks": {"theirs": {"server": entry}}}))
    os.chown(path, OTHER, OTHER)


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make another user's file")


def test_recorded_read_and_given_back(tmp_path: Path) -> None:
    holders.record(USER, {"one": {"training": {"gpus": [A, B], "since": "2026-01-02T03:04:05Z"}}}, tmp_path)
    (held,) = holders.read(tmp_path)
    assert (held.user, held.stack, held.service, held.gpus) == (USER.name, "one", "training", (A, B))
    assert (held.since, held.sharing) == ("2026-01-02T03:04:05Z", "exclusive")
    assert (tmp_path / str(USER.uid)).stat().st_mode & 0o777 == 0o644
    holders.give_back(USER, "one", tmp_path)
    assert holders.read(tmp_path) == [] and list(tmp_path.iterdir()) == []


def test_since_is_when_the_service_got_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, gpus in enumerate(([A], [A], [A, B])):
        monkeypatch.setattr(holders, "now", lambda number=number: f"time {number}")
        holders.claim(USER, "one", {"training": {"gpus": gpus}}, tmp_path)
        expected = "time 2" if len(gpus) == 2 else "time 0"
        assert [each.since for each in holders.read(tmp_path)] == [expected]


def test_nothing_is_written_when_nothing_changed(tmp_path: Path) -> None:
    holders.claim(USER, "one", {"training": {"gpus": [A]}}, tmp_path)
    before = (tmp_path / str(USER.uid)).stat().st_ino
    holders.claim(USER, "one", {"training": {"gpus": [A]}}, tmp_path)
    assert (tmp_path / str(USER.uid)).stat().st_ino == before


@pytest.mark.parametrize(
    ("theirs", "mine", "refused"),
    [
        ("exclusive", "exclusive", True),
        ("exclusive", "shared", True),
        ("shared", "exclusive", True),
        ("shared", "shared", False),
    ],
)
def test_a_gpu_of_another_stack(tmp_path: Path, theirs: str, mine: str, refused: bool) -> None:
    holders.claim(USER, "theirs", {"server": {"gpus": [A], "sharing": theirs}}, tmp_path)
    wanted = {"training": {"gpus": [B, A], "sharing": mine}}
    assert (A in holders.taken(USER.name, "mine", mine, tmp_path)) is refused
    assert B not in holders.taken(USER.name, "mine", mine, tmp_path)
    if refused:
        with pytest.raises(FleetError, match=rf"GPU_HELD: training of mine is to have {A}, held by .*'s stack theirs"):
            holders.claim(USER, "mine", wanted, tmp_path)
        assert {each.stack for each in holders.read(tmp_path)} == {"theirs"}, "nothing was taken"
    else:
        holders.claim(USER, "mine", wanted, tmp_path)
        assert {each.stack for each in holders.read(tmp_path)} == {"theirs", "mine"}


def test_a_stack_is_not_in_its_own_way(tmp_path: Path) -> None:
    holders.claim(USER, "mine", {"one": {"gpus": [A]}}, tmp_path)
    assert holders.taken(USER.name, "mine", folder=tmp_path) == {}
    holders.claim(USER, "mine", {"two": {"gpus": [A]}}, tmp_path)
    assert [each.service for each in holders.read(tmp_path)] == ["two"]


@needs_root
def test_other_users_are_read_and_respected(tmp_path: Path) -> None:
    other(tmp_path)
    assert [(each.user, each.uid) for each in holders.read(tmp_path)] == [(f"uid {OTHER}", OTHER)]
    with pytest.raises(FleetError, match="GPU_HELD"):
        holders.claim(USER, "mine", {"training": {"gpus": [A]}}, tmp_path)


@needs_root
def test_a_file_under_another_users_number_is_not_believed(tmp_path: Path) -> None:
    other(tmp_path, uid=OTHER + 1)
    assert holders.read(tmp_path) == []


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"schema": 2, "stacks": {"a": {"b": {"gpus": ["GPU-a"]}}}}',
        '{"schema": 1, "stacks": [1]}',
        '{"schema": 1, "stacks": {"a": 3, "b": {"c": 4, "d": {"gpus": "GPU-a"}}}}',
        "[" * 100000,
        " " * (holders.LIMIT + 1),
    ],
)
def test_what_is_not_a_list_of_holders_is_passed_over(tmp_path: Path, content: str) -> None:
    (tmp_path / str(USER.uid)).write_text(content)
    assert holders.read(tmp_path) == []


def test_links_pipes_and_other_names_are_passed_over(tmp_path: Path) -> None:
    holders.claim(USER, "one", {"s": {"gpus": [A]}}, tmp_path)
    whole = tmp_path / str(USER.uid)
    whole.rename(tmp_path / "elsewhere")
    whole.symlink_to(tmp_path / "elsewhere")
    os.mkfifo(tmp_path / str(OTHER))
    assert holders.read(tmp_path) == []


def test_nothing_that_a_terminal_obeys_gets_through(tmp_path: Path) -> None:
    evil: dict[str, Any] = {"gpus": ["\x1b[2J"], "since": "\r", "sharing": "\x07"}
    (tmp_path / str(USER.uid)).write_text(json.dumps({"schema": 1, "stacks": {"\x1b]0;x": {"\n": evil}}}))
    (held,) = holders.read(tmp_path)
    assert held.stack == "?]0;x" and held.service == "?" and held.gpus == ("?[2J",) and held.since == "?"
    assert held.sharing == "exclusive"


def test_no_folder(tmp_path: Path) -> None:
    assert holders.read(tmp_path / "none") == []
    with pytest.raises(FleetError, match="GPU_HOLDERS_UNWRITABLE"):
        holders.claim(USER, "one", {}, tmp_path / "none")


def test_a_lock_that_is_never_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holders, "BUSY", 0.1)
    with holders._alone(tmp_path), pytest.raises(FleetError, match="GPU_HOLDERS_BUSY"):
        holders.claim(USER, "one", {}, tmp_path)
