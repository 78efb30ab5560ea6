"""Only what changed travels; the rest comes from the trees that a host keeps."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest
from ansible_collections.gpulab.fleet.plugins.module_utils import _tree_delta
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError


def entry(text: str, mode: int = 0o644) -> dict[str, object]:
    return {"sha256": sha256(text.encode()).hexdigest(), "mode": mode}


def put(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
        (folder / name).chmod(0o644)


def test_what_changed(tmp_path: Path) -> None:
    kept = tmp_path / "files"
    put(kept / "1111", {"a": "one", "b/c": "same", "d": "old"})
    put(kept / "2222", {"a": "two", "b/c": "same"})
    put(kept / ".new-x", {"e": "half made"})
    wanted = {"a": entry("three"), "b/c": entry("same"), "d": entry("old"), "e": entry("half made")}
    assert _tree_delta.absent(kept, wanted) == ["a", "e"]
    assert _tree_delta.absent(tmp_path / "none", wanted) == list(wanted)

    make = tmp_path / "make"
    put(make, {"a": "three", "e": "half made"})
    _tree_delta.take_over(kept, wanted, make)
    found = {path.relative_to(make).as_posix(): path.read_text() for path in make.rglob("*") if path.is_file()}
    assert found == {"a": "three", "b/c": "same", "d": "old", "e": "half made"}
    assert (kept / "1111" / "d").samefile(make / "d"), "it is on the disk once"


def test_another_mode_is_a_file_of_its_own(tmp_path: Path) -> None:
    put(tmp_path / "files" / "1", {"run": "x"})
    _tree_delta.take_over(tmp_path / "files", {"run": entry("x", 0o755)}, tmp_path / "make")
    assert (tmp_path / "make" / "run").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "files" / "1" / "run").stat().st_mode & 0o777 == 0o644


def test_a_kept_file_that_somebody_changed_does_not_count(tmp_path: Path) -> None:
    put(tmp_path / "files" / "1", {"a": "changed"})
    assert _tree_delta.absent(tmp_path / "files", {"a": entry("one")}) == ["a"]
    with pytest.raises(FleetError, match="a did not arrive"):
        _tree_delta.take_over(tmp_path / "files", {"a": entry("one")}, tmp_path / "make")
