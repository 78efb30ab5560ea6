# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A fleet's health, one line a host."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible.errors import AnsibleFilterError

DOCUMENTATION = r"""
name: findings_summary
short_description: What host_health_info found on a fleet, one line a host
version_added: 0.1.0
description:
  - A table of hosts with verdict, GPUs, driver, engine, toolkit, the codes of what is wrong and what is lacking, failed
    hosts first.
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

HEADING = ("HOST", "VERDICT", "GPUS", "DRIVER", "ENGINE", "TOOLKIT", "FINDINGS")
ORDER = ("not seen", "fail", "unknown", "pass")


def findings_summary(results: Any) -> list[str]:
    """Results by host as lines of a table."""
    if not isinstance(results, Mapping):
        raise AnsibleFilterError("findings_summary takes a mapping from host to result")
    rows = sorted(
        (_row(name, result) for name, result in results.items()), key=lambda row: (ORDER.index(row[1]), row[0])
    )
    widths = [max(len(row[column]) for row in [HEADING, *rows]) for column in range(len(HEADING) - 1)]
    lines = []
    for row in [HEADING, *rows]:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        lines.append("  ".join([*cells, row[-1]]).rstrip())
    return lines


def _row(name: str, result: Any) -> tuple[str, ...]:
    if not isinstance(result, Mapping) or "findings" not in result:
        reason = str((result or {}).get("msg") or "no result").strip().splitlines()[0]
        reason = reason.removeprefix("Task failed: ")
        return (name, "not seen", "-", "-", "-", "-", reason[:80])
    host = result.get("host") or {}
    engine = host.get("engine") or {}
    codes = [found["code"] for found in result["findings"] if found["severity"] != "info"]
    if result.get("unknown"):
        codes.append(f"{len(result['unknown'])} not looked at")
    if host.get("lacks"):
        codes.append(f"lacks {', '.join(host['lacks'])}")
    return (
        name,
        str(result["verdict"]),
        str(len(host.get("gpus") or [])),
        str(host.get("driver") or "-"),
        str(engine.get("version") or "-"),
        str(host.get("toolkit") or "-"),
        ", ".join(dict.fromkeys(codes)) or "-",
    )


class FilterModule:
    """What Ansible asks for."""

    def filters(self) -> dict[str, Any]:
        return {"findings_summary": findings_summary}
