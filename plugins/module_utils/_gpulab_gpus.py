# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""`gpulab gpus`: who holds which GPU since when, and which processes are on it, those outside stacks included."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible_collections.gpulab.fleet.plugins.module_utils import _gpu_holders, _gpu_processes, _nvml
from ansible_collections.gpulab.fleet.plugins.module_utils._compose import ONE_OFF, PROJECT, SERVICE
from ansible_collections.gpulab.fleet.plugins.module_utils._docker_api import get
from ansible_collections.gpulab.fleet.plugins.module_utils._gpu_holders import Holder
from ansible_collections.gpulab.fleet.plugins.module_utils._gpu_processes import Process
from ansible_collections.gpulab.fleet.plugins.module_utils._gpulab_text import cut, table, when, width
from ansible_collections.gpulab.fleet.plugins.module_utils._user_space import readable

SCHEMA = 1
PYTHON_PARTS = "/var/lib/gpulab/python/current"
PATIENCE = 20.0  # seconds; a driver that hangs does not hang this
Containers = Mapping[str, tuple[str, str]]  # (stack, service) by the container's whole id


def answer(socket: str, python_path: str = PYTHON_PARTS) -> dict[str, Any]:
    """GPUs with their holders and processes; without a driver that answers, what is held all the same."""
    seen = _nvml.query(python_path, PATIENCE)
    processes: dict[str, list[dict[str, Any]]] = {}
    holders = _gpu_holders.read()
    containers = {**recorded(holders), **own_containers(socket)}
    with contextlib.suppress(TimeoutError, RuntimeError):
        processes = _nvml.in_time(lambda: look(python_path, containers), PATIENCE)
    devices = [each for gpu in seen["gpus"] for each in parts(gpu)]
    known = {device["uuid"] for device in devices}
    for gone in sorted({gpu for holder in holders for gpu in holder.gpus} - known):
        devices.append({"index": None, "uuid": gone, "name": None, "status": "not there", "memory_total_bytes": None})
    for device in devices:
        device["holders"] = [h.plain() for h in holders if device["uuid"] in h.gpus]
        device["processes"] = processes.get(device["uuid"] or "", [])
    return {
        "schema": SCHEMA,
        "driver_version": seen["driver_version"],
        "gpus": devices,
        "findings": seen["findings"],
    }


def parts(gpu: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A GPU, or the instances that it is partitioned into."""
    keys = ("index", "uuid", "name", "status", "memory_total_bytes", "memory_used_bytes")
    whole = {key: gpu.get(key) for key in keys}
    instances = (gpu.get("mig") or {}).get("instances") or []
    return [
        {**whole, "index": f"{gpu['index']}:{each['index']}", "memory_used_bytes": None,
         **{key: each[key] for key in ("uuid", "name", "memory_total_bytes")}}
        for each in instances
    ] or [whole]  # fmt: skip


def recorded(holders: Sequence[Holder]) -> dict[str, tuple[str, str]]:
    return {each: (holder.stack, holder.service) for holder in holders for each in holder.containers}


def own_containers(socket: str) -> dict[str, tuple[str, str]]:
    """Every container of the user who asks; other users' engines tell nothing."""
    found = {}
    with contextlib.suppress(OSError):
        for row in get(socket, "/containers/json"):
            labels = row.get("Labels") or {}
            name = row["Names"][0].lstrip("/") if row.get("Names") else row["Id"][:12]
            service = labels.get(SERVICE, "") + (" (one-off run)" if labels.get(ONE_OFF) == "True" else "")
            found[row["Id"]] = (labels[PROJECT], service) if PROJECT in labels else ("", name)
    return found


def look(python_path: str, containers: Containers, proc: Path = Path("/proc")) -> dict[str, list[dict[str, Any]]]:
    """The processes by GPU, as plain data."""
    library = _nvml.load_pynvml(python_path)
    try:
        library.nvmlInit()
    except library.NVMLError:
        return {}
    try:
        return {
            uuid: [{**process.plain(), **place_of(process, containers)} for process in found]
            for uuid, found in _gpu_processes.by_gpu(library, proc).items()
        }
    finally:
        library.nvmlShutdown()


def place_of(process: Process, containers: Containers) -> dict[str, str]:
    """The stack and service that a process belongs to; for a container outside stacks, its name."""
    stack, service = containers.get(process.container, ("", ""))
    return {"stack": stack, "service": service}


def status_code(result: Mapping[str, Any]) -> int:
    return 1 if any(found["severity"] == "error" for found in result["findings"]) else 0


# --- for people ------------------------------------------------------------------------------------------------


def lines(result: Mapping[str, Any]) -> list[str]:
    columns = width()
    version = result["driver_version"]
    text = [f"driver {version}"] if version else [f"no driver that answers: {of_finding(result['findings'])}"]
    for gpu in result["gpus"]:
        text += ["", *of_gpu(gpu, columns)]
    return text


def of_finding(findings: Sequence[Mapping[str, Any]]) -> str:
    return str(findings[0]["title"]) if findings else "unknown why"


def of_gpu(gpu: Mapping[str, Any], columns: int) -> list[str]:
    head = f"GPU {gpu['index']}: {gpu['name']}" if gpu["index"] is not None else "GPU that is held and not there"
    total, used = gpu.get("memory_total_bytes"), gpu.get("memory_used_bytes")
    if total:
        head += f", {readable(used)} of {readable(total)} in use" if used is not None else f", {readable(total)}"
    if gpu["status"] not in ("ok", None):
        head += f" ({gpu['status']})"
    rows = [
        ["held", each["user"], f"{each['stack']}/{each['service']}", f"since {when(each['since'])}, {each['sharing']}"]
        for each in gpu["holders"]
    ]
    for each in gpu["processes"]:
        known = [f"since {when(each['since'])}"] if each["since"] else []
        known += [readable(each["memory_used_bytes"])] if each["memory_used_bytes"] else []
        what = ", ".join([*known, each["command"] or "not a process of this host's"])
        rows.append([f"pid {each['pid']}", each["user"] or "?", told_place(each), what])
    return [cut(head, columns), f"  {gpu['uuid']}", *(table(rows, columns, "  ") or ["  free"])]


def told_place(process: Mapping[str, Any]) -> str:
    if process["stack"]:
        return f"{process['stack']}/{process['service']}"
    if process["container"]:
        return f"container {process['service'] or process['container']}"
    return "no container" if process["command"] else "?"
