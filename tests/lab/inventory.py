"""The Ansible inventory of the lab's hosts."""

import json
from collections.abc import Mapping
from typing import Any

from . import hosts, parts, records
from .settings import LabError


def variables(record: records.Record, user: str = "root") -> dict[str, Any]:
    """How Ansible reaches a host."""
    return {
        "ansible_host": record.address,
        "ansible_user": user,
        "ansible_ssh_private_key_file": str(hosts.ssh_key()),
        "ansible_ssh_common_args": " ".join(hosts.ssh_options()),
        "ansible_python_interpreter": "/usr/bin/python3",
    }


def mirror_variables() -> dict[str, str]:
    """The roles' public variables, as a site with a mirror of its own sets them; none without a mirror."""
    state = parts.mirror_status()
    if state is None:
        return {}
    toolkit = f"{state['url']}/libnvidia-container"
    return {
        "rootless_docker_repository_url": state["url"] + "/docker/linux/{{ ansible_facts.distribution | lower }}",
        "rootless_docker_repository_key_fingerprint": state["fingerprint"],
        "nvidia_container_toolkit_repository_url": f"{toolkit}/stable/deb",
        "nvidia_container_toolkit_repository_key_url": f"{toolkit}/gpgkey",
        "nvidia_container_toolkit_repository_key_fingerprint": state["fingerprint"],
    }


def build(names: list[str], user: str = "root") -> dict[str, Any]:
    """All hosts, or those named, in the group that the collection's verbs are for.

    The mirror is named for `all`, so that any group_vars can say otherwise.
    """
    for name in names:
        if records.get(name).phase != "ready":
            raise LabError(f"{name} is broken (lab list)")
    chosen = [record for record in map(records.load, names or records.names()) if record and record.phase == "ready"]
    found = {record.name: variables(record, user) for record in chosen}
    return {"all": {"vars": mirror_variables(), "children": {"gpu_hosts": {"hosts": found}}}}


def to_yaml(content: Mapping[str, Any], depth: int = 0) -> str:
    """Nested mappings with plain values; a JSON string is a YAML string."""
    lines = []
    for key, value in content.items():
        indent = "  " * depth
        if isinstance(value, Mapping) and value:
            lines.append(f"{indent}{key}:\n{to_yaml(value, depth + 1)}")
        else:
            lines.append(f"{indent}{key}:" + ("" if value is None else f" {json.dumps(value)}") + "\n")
    return "".join(lines)
