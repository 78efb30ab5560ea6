# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Subordinate id ranges: reading them, seeing overlaps, finding free ones."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError

FIRST = 100000
LAST = 4294967294  # 2**32 - 1 means "no id"
COUNT = 65536


@dataclass(frozen=True)
class Range:
    """One line of /etc/subuid or /etc/subgid."""

    owner: str  # a name, or a uid written as a number
    start: int
    count: int

    @property
    def end(self) -> int:
        """The first id after the range."""
        return self.start + self.count

    def overlaps(self, other: Range) -> bool:
        return self.start < other.end and other.start < self.end

    def __str__(self) -> str:
        return f"{self.owner}:{self.start}:{self.count}"


def parse(text: str, path: str) -> list[Range]:
    """The ranges of a file; a line that cannot be read is an error, because it may hide an overlap."""
    ranges = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        parts = line.strip().split(":")
        if len(parts) != 3 or not parts[0] or not parts[1].isdigit() or not parts[2].isdigit():
            raise FleetError("SUBID_FILE_INVALID", f"{path}:{number}: {line.strip()!r}")
        ranges.append(Range(parts[0], int(parts[1]), int(parts[2])))
    return ranges


def of_user(ranges: Iterable[Range], user: str, uid: int | None) -> list[Range]:
    """A user's ranges in the order of the file, which is the order in which they are mapped."""
    return [r for r in ranges if r.owner == user or (uid is not None and r.owner == str(uid))]


def foreign_overlap(ranges: list[Range], user: str, uid: int | None) -> tuple[Range, Range] | None:
    """The first pair of a user's range and somebody else's that share ids."""
    mine = of_user(ranges, user, uid)
    others = [r for r in ranges if r not in mine]
    # The same line twice under another owner is equal in ids only, so it is among the others.
    return next(((m, o) for m in mine for o in others if m.overlaps(o)), None)


def without(text: str, owner: str, ranges: Iterable[str]) -> str:
    """A file's text less these ranges (start:count) of an owner."""
    gone = {f"{owner}:{each}" for each in ranges}
    return "".join(line for line in text.splitlines(keepends=True) if line.strip() not in gone)


def find_free(count: int, ranges: Iterable[Range], ids: Iterable[int]) -> int:
    """The start of a free range: behind all existing ranges if there is room, else in the first gap.

    It never contains an id that an account has. Ids far above the ranges, as directory services hand
    them out, are stepped over, not used as a floor: just above them is where the next accounts will be.
    """
    ranges = list(ranges)
    taken = sorted([(r.start, r.end) for r in ranges] + [(i, i + 1) for i in ids])
    for start in (max([FIRST, *(r.end for r in ranges)]), FIRST):
        for low, high in taken:
            if low < start + count and start < high:
                start = high
        if start + count - 1 <= LAST:
            return start
    raise FleetError("SUBID_EXHAUSTED", f"{count} ids are wanted, {len(ranges)} ranges exist")
