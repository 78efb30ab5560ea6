"""Downloads from Debian's archive: which version a package has, and that nothing is downloaded twice."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ... import carry
from ...settings import LabError
from ...system import run
from .. import archive, recipes


@pytest.mark.parametrize(
    ("version", "upstream"),
    [
        ("28.5.2+dfsg4-5", "28.5.2"),
        ("1.7.24~ds1-6+deb13u1", "1.7.24"),
        ("2.40.3-3", "2.40.3"),
        ("0.13.1+ds1-3", "0.13.1"),
        ("1:2.0.2-2+b9", "2.0.2"),
    ],
)
def test_the_upstream_part(version: str, upstream: str) -> None:
    assert archive.Package("x", version, "", Path()).upstream == upstream


def test_what_was_downloaded_is_not_asked_for_again(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a command was run")

    folder = site.parent / "archive" / recipes.COMMON_SUITE
    monkeypatch.setattr(archive, "run", refuse)
    packages = archive.fetch(recipes.COMMON_SUITE, recipes.COMMON_SOURCES, folder, refuse)
    assert [p.name for p in packages] == sorted(recipes.COMMON_SOURCES)
    with pytest.raises(AssertionError, match="a command was run"):
        archive.fetch(recipes.COMMON_SUITE, ["another"], folder / "none", lambda line: None)


def test_a_package_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="no-such-package"):
        archive.fetch("bookworm", ["no-such-package"], tmp_path / "archive", lambda line: None)


def test_a_machine_without_a_debian_archive_needs_one_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(archive.ARCHIVE_VARIABLE, raising=False)
    monkeypatch.setattr(carry, "mirror", lambda: None)
    with pytest.raises(LabError, match=archive.ARCHIVE_VARIABLE):
        archive.archive_uri()
    monkeypatch.setenv(archive.ARCHIVE_VARIABLE, "http://archive.example/debian")
    assert archive.archive_uri() == "http://archive.example/debian"


def test_a_download_leaves_the_package_and_its_description_only(tmp_path: Path) -> None:
    (package,) = archive.fetch("bookworm", ["tini"], tmp_path / "archive", lambda line: None)
    assert package.path.stat().st_size > 100_000
    assert {path.name for path in (tmp_path / "archive").iterdir()} == {package.path.name, "packages.json"}


def test_the_machines_own_lists_cache_and_hooks_are_out_of_play(tmp_path: Path) -> None:
    conf = archive._apt_settings(tmp_path / "apt", "trixie")
    dump = run(["apt-config", f"--config-file={conf}", "dump"]).stdout
    folders = dict(re.findall(r'^(Dir\S*) "(.*)";$', dump, re.M))
    own = {key.lower() for key, path in folders.items() if path.startswith(str(tmp_path))}
    wanted = {"dir::state", "dir::state::status", "dir::cache", "dir::etc::sourcelist", "dir::etc::sourceparts"}
    assert own >= {*wanted, "dir::etc::preferences", "dir::etc::preferencesparts"}
    assert not re.search(r"^APT::Update::Post-Invoke(-Success)?:: ", dump, re.M)
    assert (tmp_path / "apt/sources/debian.sources").read_text(encoding="utf-8").count("Suites: trixie\n") == 1
