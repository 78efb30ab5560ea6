# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The one error that this collection's helpers raise."""

from __future__ import annotations


class FleetError(Exception):
    """A failure that a person can act on.

    code    stable upper-case name, one of the catalogue in _catalogue.py
    detail  what was seen: the exact value, path or message
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
