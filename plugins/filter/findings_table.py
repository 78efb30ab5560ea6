# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What host_health_info found, for people."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.gpulab.fleet.plugins.module_utils._lines import WIDTH, why_not

DOCUMENTATION = r"""
name: findings_table
short_description: What host_health_info found on one host, as lines for people
version_added: 0.1.0
description:
  - What the host is, what it lacks, then every finding with evidence, cause and remedy, worst first, then what could not
    be looked at.
options:
  _input:
    description: The result of M(gpulab.fleet.host_health_info).
    type: dict
    required: true
  name:
    description: Name of the host.
    type: str
    default: host
  width:
    description: Columns that a line may take; 72 and what Ansible puts around it fill 80.
    type: int
    default: 72
seealso:
  - plugin: gpulab.fleet.findings_summary
    plugin_type: filter
author:
  - gpulab.fleet contributors
"""

EXAMPLES = r"""
- name: Show what was found
  ansible.builtin.debug:
    msg: "{{ health | gpulab.fleet.findings_table(inventory_hostname) }}"
"""

RETURN = r"""
_value:
  description: One item a line.
  type: list
  elements: str
"""

LABEL = 9  # columns of the first column
ROOT_SEES = ("not permitted", "ermission denied", "needs root")


def findings_table(result: Any, name: str = "host", width: int = WIDTH) -> list[str]:
    """The result of host_health_info as lines."""
    if not isinstance(result, Mapping):
        raise AnsibleFilterError("findings_table takes the result of host_health_info")
    if "findings" not in result:
        return [f"{name}: NOT LOOKED AT", *_row("why", why_not(result), width)]
    lines = [f"{name}: {str(result['verdict']).upper()}, {tally(result)}"]
    for label, text in _facts(result.get("host") or {}):
        lines += _row(label, text, width)
    for found in result["findings"]:
        lines += ["", *_row(str(found["severity"]).upper(), f"{found['code']}: {found['title']}", width)]
        for label in ("evidence", "cause", "remedy"):
            lines += _row("", f"{label if label != 'evidence' else 'seen'}: {found[label]}", width)
    if result.get("unknown"):
        lines.append("")
    for unknown in result.get("unknown") or []:
        lines += _row("UNKNOWN", f"{unknown['reason']} ({', '.join(unknown['checks'])})", width)
        if any(words in unknown["reason"] for words in ROOT_SEES):
            lines += _row("", "root may look: run it again with -b", width)
    return lines


def tally(result: Mapping[str, Any]) -> str:
    """How many findings of each severity."""
    counts = []
    for severity, word in (("error", "error"), ("warning", "warning"), ("info", "note")):
        number = sum(found["severity"] == severity for found in result["findings"])
        if number:
            counts.append(f"{number} {word}{'s' if number > 1 else ''}")
    if result.get("unknown"):
        counts.append(f"{len(result['unknown'])} not looked at")
    return ", ".join(counts) or "nothing found"


def _facts(host: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What the host is: label and text."""
    words = [host.get("distribution"), host.get("version"), f"({host['codename']})" if host.get("codename") else None]
    system = [" ".join(str(word) for word in words if word) or "unknown system", str(host.get("arch"))]
    system += [f"{key} {host[key]}" for key in ("kernel", "systemd") if host.get(key)]
    yield "system", ", ".join(system)
    if host.get("gpus"):
        for gpu in host["gpus"]:
            yield "GPU", f"{gpu['index']}: {gpu['name']}, {gpu['memory_mib']} MiB, {gpu['uuid']}"
    else:
        yield "GPU", "present, but it does not answer" if host.get("gpu_present") else "none"
    if host.get("gpu_present"):
        origin = f", from {host['driver_origin']}" if host.get("driver_origin") else ""
        yield "driver", (host.get("driver") or "not loaded") + origin
    engine = host.get("engine")
    rootful = host.get("rootful_engine")
    text = f"{engine['package']} {engine['version']}" if engine else "none"
    if rootful:
        text += f"; root's runs ({rootful.get('version') or 'version not readable'}"
        text += f", {rootful['containers']} containers)" if rootful.get("containers") is not None else ")"
    yield "engine", text
    yield "toolkit", host.get("toolkit") or "none"
    for user in host.get("users") or []:
        if user["answers"]:
            state = (
                f"Docker {user['version']}, {user['storage_driver']}, {user['containers_running']} containers running"
            )
        else:
            state = "engine set up, does not answer or may not be asked"
        yield "user", f"{user['name']}: {state}"
    if host.get("lacks"):
        yield "lacks", ", ".join(host["lacks"])


def _row(label: str, text: str, width: int) -> list[str]:
    """A label and a text beside it, broken into lines."""
    start = "  " + label.ljust(LABEL)
    indent = " " * len(start)
    lines: list[str] = []
    for part in text.splitlines() or [""]:
        lines += textwrap.wrap(
            part, width, initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
        ) or [indent]
    return [start + lines[0][len(start) :], *lines[1:]]


class FilterModule:
    """What Ansible asks for."""

    def filters(self) -> dict[str, Any]:
        return {"findings_table": findings_table}
