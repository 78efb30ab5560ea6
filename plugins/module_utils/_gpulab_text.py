# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Text for a terminal: columns, times, sizes."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from datetime import datetime, timezone


def width() -> int:
    """Columns of the terminal; 0 where the output goes into a file or a pipe, and nothing is cut off."""
    return max(60, shutil.get_terminal_size((80, 24)).columns) if sys.stdout.isatty() else 0


def cut(text: str, columns: int) -> str:
    """At most so many columns; 0 is as many as it takes."""
    return text if not columns or len(text) <= columns else text[: columns - 1].rstrip() + "…"


def table(rows: Sequence[Sequence[str]], columns: int = 0, indent: str = "") -> list[str]:
    """Rows in columns as wide as their widest cell; the last cell takes what is left."""
    if not rows:
        return []
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]) - 1)]
    lines = []
    for row in rows:
        start = indent + "".join(cell.ljust(wide + 2) for cell, wide in zip(row, widths, strict=False))
        lines.append(cut((start + row[-1]).rstrip(), columns))
    return lines


def when(iso: str) -> str:
    """A time of UTC in the reader's own time, to the minute."""
    try:
        at = datetime.strptime(iso[:19], "%Y-%m-%dT%H:%M:%S").replace(tzinfo=timezone.utc).astimezone()
    except ValueError:
        return iso or "?"
    today = datetime.now().astimezone().date() == at.date()
    return at.strftime("%H:%M" if today else "%Y-%m-%d %H:%M")
