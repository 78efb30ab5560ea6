# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Findings: catalogue entries together with what was seen on one host."""

from __future__ import annotations

from typing import Any

from ansible_collections.gpulab.fleet.plugins.module_utils._catalogue import catalogue
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError

SEVERITIES = ("error", "warning", "info")


class _Keep(dict[str, Any]):
    """Leaves a placeholder that has no value as it stands."""

    def __missing__(self, key: str) -> str:
        return "{" + key + "}"


def finding(code: str, evidence: str, **data: Any) -> dict[str, Any]:
    """One finding as plain data: code, layer, severity, title, evidence, cause, remedy.

    evidence is what was seen (a path, a value, an exact message); data fills the
    placeholders of cause and remedy. An unknown code is a programming error: KeyError.
    """
    entry = catalogue()[code]
    values = _Keep(data)
    return {
        "code": code,
        "layer": entry["layer"],
        "severity": entry["severity"],
        "title": entry["title"],
        "evidence": evidence,
        "cause": entry["cause"].format_map(values),
        "remedy": entry["remedy"].format_map(values),
    }


def from_error(error: FleetError, **data: Any) -> dict[str, Any]:
    """The finding that a FleetError stands for."""
    return finding(error.code, error.detail, **data)


def sort_findings(findings: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Errors first, then warnings, then information; stable within."""
    return sorted(findings, key=lambda f: SEVERITIES.index(f["severity"]))


def message(found: dict[str, Any]) -> str:
    """A finding as the text of a failed task: what, seen, why, remedy."""
    return (
        f"{found['code']}: {found['title']}.\n"
        f"  seen:   {found['evidence']}\n"
        f"  cause:  {found['cause']}\n"
        f"  remedy: {found['remedy']}"
    )
