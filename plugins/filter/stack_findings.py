# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Stacks held against their own files, which only the controller has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible_collections.gpulab.fleet.plugins.plugin_utils._stack_plan import problems

DOCUMENTATION = r"""
name: stack_findings
short_description: What is wrong with stacks before anything is sent to a host
version_added: 0.2.0
description:
  - Holds each entry of C(gpulab_stacks) against the stack's own C(stack.yml) and C(compose.yml) on the controller, and
    gives for each mistake a code, what was seen, and the stack, for O(gpulab.fleet.host_health_info#module:found).
  - No value of a secret is in it.
positional: base
options:
  _input:
    description: The variable C(gpulab_stacks).
    type: raw
    required: true
  base:
    description: Folder that relative sources start at, the inventory's.
    type: path
    required: true
author:
  - gpulab.fleet contributors
"""

EXAMPLES = r"""
- name: Hold the stacks against their files
  gpulab.fleet.host_health_info:
    found: "{{ gpulab_stacks | gpulab.fleet.stack_findings(inventory_dir) }}"
"""

RETURN = r"""
_value:
  description: One entry (C(code), C(evidence), C(data)) a mistake.
  type: list
  elements: dict
"""


def stack_findings(stacks: Any, base: str | None = None) -> list[dict[str, Any]]:
    """What is wrong with stacks, as the module host_health_info takes it."""
    return [
        {"code": error.code, "evidence": f"gpulab_stacks.{name}: {error.detail}", "data": {"stack": name}}
        for name, error in problems(stacks, Path(base or "."))
    ]


class FilterModule:
    """What Ansible asks for."""

    def filters(self) -> dict[str, Any]:
        return {"stack_findings": stack_findings}
