# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A fleet's health, one line a host."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.gpulab.fleet.plugins.module_utils._lines import why_not, wrapped

DOCUMENTATION = r"""
name: findings_summary
short_description: What host_health_info found on a fleet, one line a host
version_added: 0.1.0
description:
  - A table of hosts with verdict, GPUs, driver, engine and toolkit, failed hosts first. Below each host the codes of what
    is wrong, how much was not looked at, and what is lacking.
options:
  _input:
    description: Results of M(gpulab.fleet.host_health_info) by host name.
    type: dict
    required: true
seealso:
  - plugin: gpulab.fleet.findings_table
    plugin_type: filter
author:
  - gpulab.fleet contributors
"""

EXAMPLES = r"""
- name: Show the fleet
  ansible.builtin.debug:
    msg: "{{ {'gpu1': health1, 'gpu2': health2} | gpulab.fleet.findings_summary }}"
"""

RETURN = r"""
_value:
  description: One item a line, the first being the heading.
  type: list
  elements: str
"""

HEADING = ("HOST", "VERDICT", "GPUS", "DRIVER", "ENGINE", "TOOLKIT")
ORDER = ("not seen", "fail", "unknown", "pass")


def findings_summary(results: Any) -> list[str]:
    """Results by host as lines of a table."""
    if not isinstance(results, Mapping):
        raise AnsibleFilterError("findings_summary takes a mapping from host to result")
    rows = sorted(
        (_row(name, result) for name, result in results.items()), key=lambda row: (ORDER.index(row[0][1]), row[0][0])
    )
    widths = [max(map(len, column)) for column in zip(HEADING, *(cells for cells, _ in rows), strict=True)]
    lines = []
    for cells, notes in [(HEADING, ""), *rows]:
        lines.append("  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip())
        lines += wrapped("    ", notes) if notes else []
    return lines


def _row(name: str, result: Any) -> tuple[tuple[str, ...], str]:
    """A host's cells, and what stands below them."""
    if not isinstance(result, Mapping) or "findings" not in result:
        return (name, "not seen", "-", "-", "-", "-"), why_not(result or {}).splitlines()[0]
    host = result.get("host") or {}
    engine = host.get("engine") or {}
    notes = [found["code"] for found in result["findings"] if found["severity"] != "info"]
    if result.get("unknown"):
        notes.append(f"{len(result['unknown'])} not looked at")
    if host.get("lacks"):
        notes.append(f"lacks {', '.join(host['lacks'])}")
    cells = (
        name,
        str(result["verdict"]),
        str(len(host.get("gpus") or [])),
        str(host.get("driver") or "-"),
        str(engine.get("version") or "-"),
        str(host.get("toolkit") or "-"),
    )
    return cells, ", ".join(dict.fromkeys(notes))


class FilterModule:
    """What Ansible asks for."""

    def filters(self) -> dict[str, Any]:
        return {"findings_summary": findings_summary}
