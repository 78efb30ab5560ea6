"""Unpacking the Python parts: whole or not at all, and one set in use."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from ansible_collections.gpulab.fleet.plugins.modules import target_python


def archive(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as content:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            content.addfile(member, io.BytesIO(data))
    return path


def test_install_and_use(tmp_path: Path) -> None:
    root = tmp_path / "python"
    for digest in ("aaa", "bbb"):
        target_python.install(root, digest, archive(tmp_path / "a.tar.gz", {"pkg/__init__.py": b"X = 1\n"}))
        target_python.use(root, digest)
        assert target_python.has(root, digest)
        assert target_python.link_target(root) == digest
    assert sorted(path.name for path in root.iterdir()) == ["bbb", "current"]
    assert list((root / "current" / "pkg" / "__pycache__").glob("*.pyc"))


@pytest.mark.parametrize("name", ["../escape.py", "/etc/escape.py", "pkg/../../escape.py"])
def test_nothing_is_written_outside(tmp_path: Path, name: str) -> None:
    root = tmp_path / "python"
    with pytest.raises(ValueError, match="does not belong"):
        target_python.install(root, "aaa", archive(tmp_path / "a.tar.gz", {name: b""}))
    assert list(root.iterdir()) == []


def test_a_cut_archive_leaves_nothing(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.tar.gz", {"pkg/big.py": b"x" * 100000})
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises((OSError, EOFError, tarfile.TarError)):
        target_python.install(tmp_path / "python", "aaa", path)
    assert list((tmp_path / "python").iterdir()) == []


def test_nothing_there_yet(tmp_path: Path) -> None:
    assert not target_python.has(tmp_path / "python", "aaa")
    assert target_python.link_target(tmp_path / "python") == ""
