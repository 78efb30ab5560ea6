"""The journal: the first state counts, and is on the disk before the change."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ansible_collections.gpulab.fleet.plugins.module_utils import _journal
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._journal import Journal


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(folder=tmp_path / "var" / "journal")


def test_the_first_state_of_a_file_counts(journal: Journal, tmp_path: Path) -> None:
    path = tmp_path / "there.conf"
    path.write_text("one")
    path.chmod(0o640)
    journal.write(path, b"two", 0o644)
    journal.write(path, b"three", 0o644)
    assert path.read_bytes() == b"three"
    assert journal.backup(str(path)) == b"one"
    assert journal.entries(_journal.FILE)[str(path)]["mode"] == 0o640


def test_a_new_file_and_the_folders_made_for_it(journal: Journal, tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "new.conf"
    journal.write(path, b"x", 0o600)
    assert journal.entries(_journal.FILE) == {str(path): None}
    assert list(journal.entries(_journal.FOLDERS)) == [str(tmp_path / "a"), str(tmp_path / "a" / "b")]


def test_a_link_is_kept_as_a_link(journal: Journal, tmp_path: Path) -> None:
    path = tmp_path / "link"
    path.symlink_to("/dev/null")
    journal.keep_file(path)
    assert journal.entries(_journal.FILE)[str(path)] == {"link": "/dev/null"}


def test_entries_are_on_the_disk_at_once_and_root_only(journal: Journal) -> None:
    journal.add(_journal.UNIT, "docker.service", "enabled")
    journal.add(_journal.UNIT, "docker.service", "masked")
    assert json.loads(journal.path.read_text()) == {"schema": 1, "unit": {"docker.service": "enabled"}}
    assert journal.path.stat().st_mode & 0o777 == 0o600
    assert journal.folder.stat().st_mode & 0o777 == 0o700


def test_what_was_taken_back_is_forgotten_with_its_backup(journal: Journal, tmp_path: Path) -> None:
    path = tmp_path / "there.conf"
    path.write_text("secret")
    journal.keep_file(path)
    journal.drop(_journal.FILE, str(path))
    assert journal.entries(_journal.FILE) == {}
    assert sorted(p.name for p in journal.folder.iterdir()) == ["journal.json", "lock"]


def test_check_mode_keeps_nothing(tmp_path: Path) -> None:
    journal = Journal(check=True, folder=tmp_path / "journal")
    journal.add(_journal.LINGER, "trainer")
    journal.write(tmp_path / "file", b"x", 0o644)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("by_file", [True, False])
def test_only_the_journal_is_closed_to_others(journal: Journal, tmp_path: Path, by_file: bool) -> None:
    """Users' engines read what lies beside it."""
    (tmp_path / "there.conf").write_text("one")
    if by_file:
        journal.keep_file(tmp_path / "there.conf")
    else:
        journal.add(_journal.PACKAGE, "jq")
    assert journal.folder.stat().st_mode & 0o777 == 0o700
    assert journal.folder.parent.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("text", ["", '{"schema": 1, "file": {', "[]", '{"schema": 2}'])
def test_one_that_cannot_be_read_is_not_an_empty_one(journal: Journal, text: str) -> None:
    journal.add(_journal.HOLD, "docker-ce")
    journal.path.write_text(text)
    for use in (lambda: journal.entries(_journal.HOLD), lambda: journal.add(_journal.HOLD, "x")):
        with pytest.raises(FleetError, match=f"JOURNAL_INVALID: {journal.path}"):
            use()
    assert journal.path.read_text() == text
