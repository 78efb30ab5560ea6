"""Subordinate ids: reading, overlaps, free ranges."""

from __future__ import annotations

import pytest
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._subid import (
    LAST,
    Range,
    find_free,
    foreign_overlap,
    of_user,
    parse,
)

TRAINER = Range("trainer", 100000, 65536)
GUEST = Range("guest", 165536, 65536)


def test_parse_skips_comments_and_empty_lines() -> None:
    assert parse("# ours\n\ntrainer:100000:65536\n 1001:165536:65536 \n", "f") == [
        TRAINER,
        Range("1001", 165536, 65536),
    ]


@pytest.mark.parametrize("line", ["trainer", "trainer:1", "trainer:x:1", ":1:2", "trainer:1:-2", "a:1:2:3"])
def test_a_line_that_cannot_be_read_is_named(line: str) -> None:
    with pytest.raises(FleetError) as caught:
        parse(f"ok:1:2\n{line}\n", "/etc/subuid")
    assert caught.value.code == "SUBID_FILE_INVALID"
    assert "/etc/subuid:2:" in caught.value.detail


def test_a_user_is_known_by_name_and_by_number() -> None:
    by_number = Range("1000", 300000, 10)
    assert of_user([TRAINER, GUEST, by_number], "trainer", 1000) == [TRAINER, by_number]
    assert of_user([TRAINER, by_number], "trainer", None) == [TRAINER]


@pytest.mark.parametrize(
    ("other", "shared"),
    [
        (GUEST, False),
        (Range("guest", 100000, 65536), True),  # what the set-up tool suggests to everybody
        (Range("guest", 165535, 1), True),
        (Range("guest", 99999, 1), False),
        (Range("guest", 0, 4000000000), True),
        (Range("1001", 120000, 5), True),
        (Range("1000", 120000, 5), False),  # the same user, by number
        (Range("trainer", 120000, 5), False),
    ],
    ids=str,
)
def test_overlap_with_somebody_else(other: Range, shared: bool) -> None:
    assert bool(foreign_overlap([TRAINER, other], "trainer", 1000)) is shared
    assert bool(foreign_overlap([other, TRAINER], "trainer", 1000)) is shared


@pytest.mark.parametrize(
    ("ranges", "ids", "start"),
    [
        ([], [], 100000),
        ([], [0, 1000, 65534], 100000),
        ([TRAINER], [], 165536),
        ([GUEST], [], 231072),  # behind, not into the gap before: that one may belong to a user who is gone
        ([], [100000], 100001),
        ([], [165535], 165536),
        ([], [165536], 100000),
        ([TRAINER], [170000, 200000, 300000], 200001),
        # Accounts of a directory service are stepped over, not used as a floor.
        ([], [1_500_000_000, 1_500_000_001], 100000),
        ([TRAINER], [200001, 1_500_000_000], 200002),
        ([Range("root", 1_000_000, 1_000_000_000)], [], 1_001_000_000),
        # No room behind the last range: the first gap.
        ([Range("x", LAST - 10, 10)], [], 100000),
        ([TRAINER, Range("x", LAST - 10, 10)], [170000], 170001),
        ([], [LAST], 100000),
    ],
)
def test_free_range(ranges: list[Range], ids: list[int], start: int) -> None:
    found = find_free(65536, ranges, ids)
    assert found == start
    new = Range("new", found, 65536)
    assert not any(new.overlaps(r) for r in ranges)
    assert not any(new.start <= i < new.end for i in ids)


def test_a_full_house_is_an_error() -> None:
    with pytest.raises(FleetError) as caught:
        find_free(65536, [Range("x", 100000, LAST - 100000)], [])
    assert caught.value.code == "SUBID_EXHAUSTED"
