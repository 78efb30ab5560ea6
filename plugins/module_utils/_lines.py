# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Lines that people read on a terminal of 80 columns, through what Ansible prints around them."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

# Ansible prints a list as "    - '...'" and breaks, as YAML, whatever would end beyond column 80.
WIDTH = 72
NOT_A_REASON = ("Task failed: ", "Failed to connect to the host via ssh: ")


def wrapped(start: str, text: str) -> list[str]:
    """A text after a start, broken into lines; those that follow are as far to the right."""
    indent = " " * len(start)
    lines: list[str] = []
    for part in text.splitlines() or [""]:
        first = indent if lines else start
        lines += textwrap.wrap(
            first + part.strip(), WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
        )
    return lines


def why_not(result: Mapping[str, Any]) -> str:
    """Why a host has no result, in ssh's or Ansible's own words."""
    text = str(result.get("msg") or "no result").strip()
    for words in NOT_A_REASON:
        text = text.removeprefix(words)
    return text or "no result"
