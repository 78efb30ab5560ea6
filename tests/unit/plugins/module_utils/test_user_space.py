"""What is an engine's in a data root, and with whose ids it is deleted."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from ansible_collections.gpulab.fleet.plugins.module_utils import _user_space
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._subid import Range, without
from ansible_collections.gpulab.fleet.plugins.module_utils._user_space import engine_data, id_map, readable
from ansible_collections.gpulab.fleet.plugins.module_utils._userenv import Account


def test_the_map_holds_the_user_and_their_ranges_alone() -> None:
    ranges = [Range("ann", 100000, 65536), Range("ann", 300000, 1000)]
    assert id_map(1000, ranges) == "0 1000 1\n1 100000 65536\n65537 300000 1000\n"


def test_only_what_is_an_engines_counts_and_its_id_comes_last(tmp_path: Path) -> None:
    for name in ("overlay2", "volumes", "my-thesis"):
        (tmp_path / name).mkdir()
    assert engine_data(tmp_path) == []
    (tmp_path / "engine-id").touch()
    assert [path.name for path in engine_data(tmp_path)] == ["overlay2", "volumes", "engine-id"]


@pytest.mark.parametrize(("number", "text"), [(0, "0 B"), (1023, "1023 B"), (2048, "2.0 KiB"), (5 << 40, "5.0 TiB")])
def test_sizes_are_for_people(number: int, text: str) -> None:
    assert readable(number) == text


def test_ranges_are_given_back_one_by_one() -> None:
    text = "root:1:1\nann:100000:65536\nbob:165536:65536\nann:300000:65536\n"
    assert without(text, "ann", ["300000:65536"]) == "root:1:1\nann:100000:65536\nbob:165536:65536\n"
    assert without(text, "ann", []) == text


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may write such a map")
def test_the_ids_of_others_stay_out_of_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in a real user namespace: what belongs to a range of the user's goes, root's files stay."""
    monkeypatch.setattr(_user_space, "maps", lambda _user: (id_map(12345, [Range("u", 700000, 10)]),) * 2)
    user = Account("u", 12345, 12345, tmp_path)
    for part in (tmp_path, *tmp_path.parents[:-1]):
        part.chmod(part.stat().st_mode | 0o011)
    theirs, roots = tmp_path / "theirs", tmp_path / "roots"
    for folder, owner in ((theirs, 700003), (roots, 0)):
        folder.mkdir()
        (folder / "file").write_bytes(b"x" * 5000)
        for each in (folder, folder / "file"):
            os.chown(each, owner, owner)
    theirs.chmod(0o700)
    os.chown(tmp_path, 12345, 12345)
    assert _user_space.size(user, theirs) >= 5000
    _user_space.delete(user, [theirs])
    assert not theirs.exists()
    with pytest.raises(FleetError) as caught:
        _user_space.delete(user, [roots])
    assert caught.value.code == "DATA_NOT_DELETED"
    assert (roots / "file").exists()
    shutil.rmtree(roots)
