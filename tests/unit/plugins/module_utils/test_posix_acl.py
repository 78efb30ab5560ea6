"""Access control lists: what is written is what setfacl would write, and nobody else gains by it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ansible_collections.gpulab.fleet.plugins.module_utils import _posix_acl as acl

NAMED = (acl.USER, 100999)


def entry(tag: int) -> tuple[int, int]:
    return (tag, acl.NOBODY)


def test_the_form_is_the_kernels() -> None:
    """As setfacl -m u:100999:rw writes it for a file of mode 0640."""
    written = acl.encode(acl.granting(acl.of_mode(0o640), [100999], 6))
    rows = ["01000600ffffffff", "02000600878a0100", "04000400ffffffff", "10000600ffffffff", "20000000ffffffff"]
    assert written.hex() == "02000000" + "".join(rows)


def test_encoding_is_undone_by_decoding() -> None:
    some = {**acl.of_mode(0o750), (acl.USER, 5): 7, (acl.NAMED_GROUP, 6): 1, entry(acl.MASK): 7}
    assert acl.decode(acl.encode(some)) == some


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        (0o755, {entry(acl.OWNER): 7, entry(acl.GROUP): 5, entry(acl.OTHER): 5, NAMED: 6, entry(acl.MASK): 7}),
        (0o600, {entry(acl.OWNER): 6, entry(acl.GROUP): 0, entry(acl.OTHER): 0, NAMED: 6, entry(acl.MASK): 6}),
    ],
)
def test_granting_to_plain_bits(mode: int, expected: acl.Acl) -> None:
    assert acl.granting(acl.of_mode(mode), [100999], 6) == expected


def test_a_wider_mask_gives_nobody_else_more() -> None:
    """What a file with mode 0600 has inherited: everybody named, and a mask that stops them all."""
    inherited = {**acl.of_mode(0o650), NAMED: 7, (acl.USER, 7): 7, (acl.NAMED_GROUP, 8): 7, entry(acl.MASK): 0}
    after = acl.granting(inherited, [100999], 6)
    assert after[NAMED] & after[entry(acl.MASK)] == 6
    assert (after[(acl.USER, 7)], after[(acl.NAMED_GROUP, 8)], after[entry(acl.GROUP)]) == (0, 0, 0)


def test_the_mask_counts() -> None:
    assert acl.allows({NAMED: 7, entry(acl.MASK): 6}, 100999, 6)
    assert not acl.allows({NAMED: 7, entry(acl.MASK): 4}, 100999, 6)
    assert not acl.allows({NAMED: 7}, 5, 4)


def test_sharing_is_done_once(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir(mode=0o755)
    program, text = folder / "run", folder / "text"
    for path, mode in ((program, 0o700), (text, 0o600)):
        path.touch()
        path.chmod(mode)
    for path in (folder, program, text):
        assert acl.share(str(path), [100999])
        assert not acl.share(str(path), [100999])
    assert acl.read(str(program), acl.ACCESS)[NAMED] == 7
    assert acl.read(str(text), acl.ACCESS)[NAMED] == 6
    assert acl.read(str(folder), acl.DEFAULT)[NAMED] == 7


def test_what_is_made_in_a_shared_folder_is_shared_whatever_the_umask(tmp_path: Path) -> None:
    acl.share(str(tmp_path), [100999])
    before = os.umask(0o077)
    try:
        (tmp_path / "deep" / "er").mkdir(parents=True)
        (tmp_path / "deep" / "er" / "file").touch()
    finally:
        os.umask(before)
    for path in tmp_path.rglob("*"):
        assert acl.allows(acl.read(str(path), acl.ACCESS), 100999, 6), path


def test_a_second_user_keeps_the_first_and_the_group_gains_nothing(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    acl.share(str(tmp_path), [100999])
    acl.share(str(tmp_path), [100998])
    for kind in (acl.ACCESS, acl.DEFAULT):
        listed = acl.read(str(tmp_path), kind)
        assert acl.allows(listed, 100999, 7)
        assert acl.allows(listed, 100998, 7)
        assert listed[entry(acl.GROUP)] & listed[entry(acl.MASK)] == 0
