"""Single entries of the journal, taken back."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.gpulab.fleet.plugins.module_utils import _undo
from ansible_collections.gpulab.fleet.plugins.module_utils._journal import FILE, FOLDERS, TREE, Journal


def test_a_file_that_was_there_is_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "docker.list"
    path.write_text("deb one\n")
    path.chmod(0o604)
    journal = Journal()
    journal.write(path, b"deb two\n", 0o644)
    diff: _undo.Diff = []
    assert _undo.file(journal, str(path), diff) == f"restored {path}"
    assert path.read_text() == "deb one\n"
    assert path.stat().st_mode & 0o777 == 0o604
    assert (diff[0]["before"], diff[0]["after"]) == ("deb two\n", "deb one\n")
    assert journal.entries(FILE) == {}


def test_a_file_that_is_already_as_it_was_is_no_change(tmp_path: Path) -> None:
    path = tmp_path / "docker.list"
    path.write_text("deb one\n")
    journal = Journal()
    journal.keep_file(path)
    diff: _undo.Diff = []
    assert _undo.file(journal, str(path), diff) == ""
    assert diff == []


def test_a_removed_file_and_a_link_come_back(tmp_path: Path) -> None:
    path, link = tmp_path / "key.gpg", tmp_path / "link"
    path.write_bytes(b"\x00key")
    link.symlink_to("/dev/null")
    journal = Journal()
    for each in (path, link):
        journal.keep_file(each)
        each.unlink()
    diff: _undo.Diff = []
    assert _undo.file(journal, str(path), diff) == f"restored {path}"
    assert _undo.file(journal, str(link), diff) == f"restored {link}"
    assert path.read_bytes() == b"\x00key"
    assert str(link.readlink()) == "/dev/null"


def test_new_files_folders_and_trees_go(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "new.conf"
    tree = tmp_path / "lib"
    journal = Journal()
    journal.write(path, b"x", 0o644)
    journal.add(TREE, str(tree))
    (tree / "deep").mkdir(parents=True)
    (tree / "deep" / "file").touch()
    assert _undo.file(journal, str(path), []) == f"removed {path}"
    assert _undo.tree(journal, str(tree)) == f"removed {tree}"
    made = sorted(journal.entries(FOLDERS), key=len, reverse=True)
    assert [_undo.folder(journal, each, set()) for each in made] == [f"removed {each}" for each in made]
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_somebody_uses_stays_and_is_remembered(tmp_path: Path) -> None:
    path = tmp_path / "a" / "new.conf"
    journal = Journal()
    journal.write(path, b"x", 0o644)
    (tmp_path / "a" / "theirs").touch()
    _undo.file(journal, str(path), [])
    assert _undo.folder(journal, str(tmp_path / "a"), set()) == ""
    assert list(journal.entries(FOLDERS)) == [str(tmp_path / "a")]


@pytest.mark.parametrize("existed", [True, False])
def test_check_mode_says_the_same_and_does_nothing(tmp_path: Path, existed: bool) -> None:
    path = tmp_path / "a" / "x.conf"
    journal = Journal()
    if existed:
        path.parent.mkdir()
        path.write_text("one")
    journal.write(path, b"two", 0o644)
    check = Journal(check=True)
    assert _undo.file(check, str(path), []) == f"{'restored' if existed else 'removed'} {path}"
    assert path.read_text() == "two"
    if not existed:
        assert _undo.folder(check, str(path.parent), {str(path)}) == f"removed {path.parent}"
        assert path.parent.is_dir()
    assert _undo.file(journal, str(path), [])


def test_no_secret_is_in_a_diff(tmp_path: Path) -> None:
    """Neither what only root may read, nor a password in an address."""
    proxy, key = tmp_path / "90proxy", tmp_path / "auth.conf"
    journal = Journal()
    journal.write(proxy, b'Acquire::http::Proxy "http://ann:s3cret@proxy:3128";\n', 0o644)
    key.write_text("login ann password s3cret\n")
    key.chmod(0o600)
    journal.write(key, b"login bob password t0psecret\n", 0o600)
    diff: _undo.Diff = []
    for path in (proxy, key):
        assert _undo.file(journal, str(path), diff)
    text = str(diff)
    assert "s3cret" not in text and "t0psecret" not in text and "proxy:3128" in text
    assert key.read_text() == "login ann password s3cret\n"


def test_a_long_file_that_goes_is_shown_by_its_size(tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    journal = Journal()
    journal.write(path, b"line\n" * 300, 0o644)
    diff: _undo.Diff = []
    _undo.file(journal, str(path), diff)
    assert (diff[0]["before"], diff[0]["after"]) == ("(300 lines)\n", "")


def test_a_long_file_that_comes_back_is_shown_whole(tmp_path: Path) -> None:
    path = tmp_path / "settings"
    path.write_text("old\n" * 300)
    journal = Journal()
    journal.write(path, b"new\n" * 300, 0o644)
    diff: _undo.Diff = []
    _undo.file(journal, str(path), diff)
    assert (diff[0]["before"], diff[0]["after"]) == ("new\n" * 300, "old\n" * 300)
