"""subid_range: what is appended, and when nothing is."""

from __future__ import annotations

import itertools
import pwd
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.gpulab.fleet.plugins.module_utils._journal import SUBID, Journal
from ansible_collections.gpulab.fleet.plugins.module_utils._subid import Range, parse
from ansible_collections.gpulab.fleet.plugins.modules.subid_range import Ranges, allot, appended

T = "trainer:100000:65536\n"
G = "guest:165536:65536\n"


class Failed(Exception):
    pass


def module(users: list[str], check: bool = False) -> Any:
    def fail(**result: Any) -> None:
        raise Failed(result["finding"]["code"])

    return SimpleNamespace(params={"users": users, "system": [], "count": 65536}, check_mode=check, fail_json=fail)


@pytest.fixture
def etc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host with trainer, guest and one account of a directory service."""
    accounts = {"trainer": 1000, "guest": 1001, "ada": 1_500_000_000, "mid": 120_000}
    entries = {n: SimpleNamespace(pw_name=n, pw_uid=u, gr_name=n, gr_gid=u) for n, u in accounts.items()}
    monkeypatch.setattr(pwd, "getpwnam", entries.__getitem__)
    monkeypatch.setattr(pwd, "getpwall", lambda: [e for e in entries.values() if e.pw_name != "mid"])
    monkeypatch.setattr("grp.getgrall", list)
    return tmp_path


@pytest.mark.parametrize(
    ("users", "subuid", "subgid", "added_uid", "added_gid"),
    [
        (["trainer"], "", "", T, T),
        (["trainer"], T, T, "", ""),
        (["trainer"], T, "", "", T),  # the line that was lost in one file is still in the other
        (["trainer"], T, "x:100000:5\n", "", "trainer:165536:65536\n"),
        (["trainer", "guest"], "", "", T + G, T + G),
        (["guest"], T, T, G, G),
        # One start for both files, free in both.
        (["guest"], T, T + "x:165536:10\n", "guest:165546:65536\n", "guest:165546:65536\n"),
        (["trainer"], "trainer:500000:100\n", T, T, ""),  # too few: one more range
        (["trainer"], "1000:100000:65536\n", T, "", ""),
        (["ada"], "1500000000:100000:65536\n", "ada:100000:65536\n", "", ""),
        (["ada"], "", "", "ada:100000:65536\n", "ada:100000:65536\n"),
    ],
)
def test_what_is_appended(
    etc: Path, users: list[str], subuid: str, subgid: str, added_uid: str, added_gid: str
) -> None:
    (etc / "subuid").write_text(subuid)
    (etc / "subgid").write_text(subgid)
    first = Ranges(module(users), etc).converge()
    assert (etc / "subuid").read_text() == subuid + added_uid
    assert (etc / "subgid").read_text() == subgid + added_gid
    assert first["changed"] is bool(added_uid or added_gid)
    second = Ranges(module(users), etc).converge()
    assert not second["changed"]
    assert second["ranges"] == first["ranges"]
    for user in users:
        assert set(first["ranges"][user]) == {"subuid", "subgid"}


def test_check_mode_predicts_and_writes_nothing(etc: Path) -> None:
    (etc / "subuid").write_text(T)
    (etc / "subgid").write_text(T)
    result = Ranges(module(["guest", "nobody-yet"], check=True), etc).converge()
    assert result["changed"]
    assert result["diff"][0]["after"] == T + G
    assert (etc / "subuid").read_text() == T


def test_unknown_user(etc: Path) -> None:
    with pytest.raises(Exception, match="USER_MISSING"):
        Ranges(module(["nobody-yet"]), etc)


@pytest.mark.parametrize("kind", ["subuid", "subgid"])
def test_an_overlap_is_refused_before_any_change(etc: Path, kind: str) -> None:
    for name in ("subuid", "subgid"):
        (etc / name).write_text(T + G)
    (etc / kind).write_text(T + "guest:150000:65536\n")
    before = {p.name: p.read_text() for p in etc.iterdir()}
    with pytest.raises(Failed, match="SUBID_OVERLAP"):
        Ranges(module(["guest", "ada"]), etc).converge()
    assert {p.name: p.read_text() for p in etc.iterdir()} == before


def test_overlaps_of_others_are_not_ours_to_refuse(etc: Path) -> None:
    for name in ("subuid", "subgid"):
        (etc / name).write_text("old:100000:10\nolder:100000:10\n" + G)
    assert not Ranges(module(["guest"]), etc).converge()["changed"]


def test_a_range_over_an_account_is_a_warning(etc: Path) -> None:
    for name in ("subuid", "subgid"):
        (etc / name).write_text("guest:1499999999:65536\n")
    result = Ranges(module(["guest"]), etc).converge()
    assert not result["changed"]
    assert {f["code"] for f in result["findings"]} == {"SUBID_COVERS_ACCOUNT"}
    assert "ada (1500000000)" in result["findings"][0]["evidence"]


def test_a_last_line_without_an_end_is_not_glued(etc: Path) -> None:
    assert appended("a:1:2", [Range("b", 3, 4)]) == "a:1:2\nb:3:4\n"
    assert appended("a:1:2", []) == "a:1:2"


def test_users_of_one_call_never_share() -> None:
    users: dict[str, int | None] = {f"u{i}": 1000 + i for i in range(40)}
    added = allot(users, {"subuid": [], "subgid": parse("x:200000:5\n", "f")}, {300000}, 65536)
    ranges = sorted(added["subuid"], key=lambda r: r.start)
    assert added["subuid"] == added["subgid"]
    assert all(not a.overlaps(b) for a, b in itertools.pairwise(ranges))


@pytest.mark.parametrize(
    ("users", "present", "added"),
    [
        # A line that somebody deleted: files still belong to these ids.
        (["trainer", "guest"], G, T),
        # Whoever was removed with the data kept: nobody else gets the ids.
        (["guest"], "", G),
        (["mid"], G, "mid:231072:65536\n"),
        # Another has them by now: too late to give them back.
        (["trainer"], "x:100000:65536\n", "trainer:231072:65536\n"),
    ],
)
def test_what_was_given_is_given_again_and_to_nobody_else(
    etc: Path, users: list[str], present: str, added: str
) -> None:
    for name, line in (("trainer", T), ("guest", G)):
        text = line.strip().partition(":")[2]
        Journal().put(SUBID, name, {"subuid": [text], "subgid": [text]})
    for kind in ("subuid", "subgid"):
        (etc / kind).write_text(present)
    Ranges(module(users), etc).converge()
    for kind in ("subuid", "subgid"):
        assert (etc / kind).read_text() == present + added
    for line in added.splitlines():
        name, _, numbers = line.partition(":")
        assert numbers in Journal().entries(SUBID)[name]["subuid"]
    assert not Ranges(module(users), etc).converge()["changed"]
