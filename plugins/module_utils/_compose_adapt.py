# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Other people's Compose files on an engine without root: what works stays, what can be put otherwise is, the rest is refused.

Input is what `docker compose config --format json` says, output the same with changes and a sentence for each of them.
Everything is decided from the file and from what the host is: the same file gives the same result again.
"""

from __future__ import annotations

import copy
import re
import resource
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible_collections.gpulab.fleet.plugins.module_utils import _compose_gpus as gpu_forms
from ansible_collections.gpulab.fleet.plugins.module_utils import _compose_mounts as mounts
from ansible_collections.gpulab.fleet.plugins.module_utils import _compose_network as network
from ansible_collections.gpulab.fleet.plugins.module_utils._compose_gpus import requests
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._stack import numbers
from ansible_collections.gpulab.fleet.plugins.module_utils._userenv import Account

__all__ = ["Host", "adapt", "requests"]

FIRST_PORT = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
# What --privileged is besides the host's devices: those would be every GPU, whoever it was given to.
PRIVILEGED = ["seccomp=unconfined", "systempaths=unconfined"]
# Whether the engine can hold a container to a limit, by its own account.
BINDS = {"memory": "MemoryLimit", "cpus": "CpuCfsQuota", "pids": "PidsLimit"}
LIMITS = {"memory": ("mem_limit", "memswap_limit"), "cpus": ("cpus", "cpu_quota"), "pids": ("pids_limit",)}
ULIMITS = {"memlock": "Max locked memory", "nofile": "Max open files", "nproc": "Max processes", "stack": "Max stack size",
           "rtprio": "Max realtime priority", "core": "Max core file size", "msgqueue": "Max msgqueue size"}  # fmt: skip
SHARED = {
    "ipc": "shares the memory segments of every process of the host; shm_size is what most programs want instead",
    "pid": "sees every process of the host, and can end those of its own user",
    "uts": "has the host's name",
}


@dataclass(frozen=True)
class Host:
    """What a stack's host can do for it."""

    engine: str
    home: Path
    socket: Path
    runtimes: frozenset[str] = frozenset()
    first_port: int = 1024
    binds: frozenset[str] = frozenset(BINDS)  # limits that the engine can hold containers to
    ulimits: Mapping[str, int] = field(default_factory=dict)  # highest that a container may have; none: no end
    ids: int = 65536  # user and group ids that containers have, from 0 on
    names: Mapping[str, str] = field(default_factory=dict)  # container -> project, of this engine

    @classmethod
    def read(cls, user: Account, engine: str, info: Mapping[str, Any], names: Mapping[str, str] | None = None) -> Host:
        """info is the engine's answer to /info."""
        return cls(
            engine=engine,
            home=user.home,
            socket=user.socket,
            runtimes=frozenset(info.get("Runtimes") or {}),
            first_port=int(FIRST_PORT.read_text(encoding="ascii")) if FIRST_PORT.exists() else 1024,
            binds=frozenset(kind for kind, key in BINDS.items() if info.get(key)),
            ulimits=hard_limits(user.runtime_dir / "docker.pid"),
            ids=container_ids(user.runtime_dir / "docker.pid"),
            names=names or {},
        )


def hard_limits(pid_file: Path, proc: Path = Path("/proc")) -> dict[str, int]:
    """The most that the engine may give its containers; without a running engine nothing is known."""
    try:
        text = (proc / pid_file.read_text(encoding="ascii").strip() / "limits").read_text(encoding="ascii")
    except (OSError, ValueError):
        return {}
    found = {}
    for name, title in ULIMITS.items():
        line = re.search(rf"^{title}\s+\S+\s+(\d+)", text, re.MULTILINE)
        if line:
            found[name] = int(line[1])
    return found


def container_ids(pid_file: Path, proc: Path = Path("/proc")) -> int:
    """How many ids the engine's containers have; without a running engine, what is usual."""
    try:
        text = (proc / pid_file.read_text(encoding="ascii").strip() / "uid_map").read_text(encoding="ascii")
        return max(int(line.split()[0]) + int(line.split()[2]) for line in text.splitlines())
    except (OSError, ValueError):
        return 65536


def adapt(
    config: Mapping[str, Any],
    host: Host,
    gpus: Mapping[str, Sequence[str]],
    publish: Mapping[str, Sequence[Any]] | None = None,
) -> tuple[dict[str, Any], list[str]]:
    """(the configuration as it can run, what was changed and why); an error that names all that cannot run.

    gpus     the UUIDs that each service was handed; a service without any loses its requests
    publish  the ports of services on the host's network, where their file does not say them (an empty list: none)
    """
    changed = copy.deepcopy(dict(config))
    notes: list[str] = []
    wrong: dict[str, list[str]] = {}
    for name, service in sorted((changed.get("services") or {}).items()):
        where = f"services.{name}"
        notes += _gpus(service, where, list(gpus.get(name) or []))
        notes += _rights(service, where, bool(gpus.get(name)))
        notes += _limits(service, where, host)
        notes += _unset(service, where)
        mount_notes, mount_problems = mounts.adapt(service, where, host.home, host.socket)
        notes += mount_notes
        for code, text in [*mount_problems, *_problems(service, where, host, changed)]:
            wrong.setdefault(code, []).append(text)
    if numbers(host.engine) < network.HOST_NETWORK:
        network_notes, unknown = network.share(changed, publish or {})
        notes += network_notes
        for name in unknown:
            text = f"services.{name}.network_mode is host, and neither it nor publish.{name} says a port"
            wrong.setdefault("STACK_HOST_NETWORK", []).append(f"{text} (Engine {host.engine})")
    for name, service in sorted((changed.get("services") or {}).items()):
        notes += network.bind_ports(service, f"services.{name}")
        for port in network.below(service, host.first_port):
            wrong.setdefault("STACK_PORT_PRIVILEGED", []).append(f"services.{name}.ports: {port}")
    notes += [
        f"services.{name}.network_mode: host opens its ports on every address of the host"
        for name, service in sorted((changed.get("services") or {}).items())
        if network.is_host(service) and numbers(host.engine) >= network.HOST_NETWORK
    ]
    for code, text in _networks_and_volumes(changed):
        wrong.setdefault(code, []).append(text)
    refuse(wrong)
    return changed, notes


def refuse(wrong: Mapping[str, Sequence[str]]) -> None:
    """One error for everything: the first kind's, with the others named, so that nobody has to try five times."""
    if not wrong:
        return
    code, *others = list(wrong)
    text = "; ".join(wrong[code])
    for other in others:
        text += f"; also {other}: {'; '.join(wrong[other])}"
    raise FleetError(code, text)


def _gpus(service: dict[str, Any], where: str, uuids: list[str]) -> list[str]:
    asked = [form for form, _request in gpu_forms.forms(service)]
    gone = gpu_forms.strip(service)
    if uuids:
        gpu_forms.give(service, uuids)
    visible = gpu_forms.environment(service).get("CUDA_VISIBLE_DEVICES")
    beyond = [each for each in (visible or "").split(",") if each.strip().isdecimal() and int(each) >= len(uuids)]
    notes = []
    if gone:
        became = f"a CDI request for {', '.join(uuids)}" if uuids else "nothing"
        why = (
            "the form that every engine takes" if uuids else "no GPU was given to it" if asked else "it asked for none"
        )
        notes.append(f"{where}: {', '.join(gone)} became {became}: {why}")
    if uuids and beyond:
        notes.append(
            f"{where}.environment.CUDA_VISIBLE_DEVICES is {visible}: that counts within the container, which has "
            f"{len(uuids)} (from 0 on), so that the program will see no GPU"
        )
    return notes


def _rights(service: dict[str, Any], where: str, gpus: bool) -> list[str]:
    notes = []
    if service.pop("privileged", None):
        service["cap_add"] = ["ALL"]
        service["security_opt"] = list(dict.fromkeys([*(service.get("security_opt") or []), *PRIVILEGED]))
        notes.append(
            f"{where}.privileged: true became all capabilities within the container: without root it gives no more, "
            "and would show every GPU of the host, whoever holds it"
        )
    elif service.get("cap_add"):
        added = ", ".join(service["cap_add"])
        notes.append(f"{where}.cap_add: {added} holds within the container only, not over the host")
    if gpus and service.get("pid") == "host":
        del service["pid"]
        notes.append(f"{where}.pid: host was taken out: NVIDIA's hook cannot start a container with a GPU in there")
    for key, what in SHARED.items():
        if service.get(key) == "host":
            notes.append(f"{where}.{key}: host {what}")
    return notes


def _limits(service: dict[str, Any], where: str, host: Host) -> list[str]:
    notes = []
    declared = ((service.get("deploy") or {}).get("resources") or {}).get("limits") or {}
    for kind, keys in LIMITS.items():
        if kind in host.binds:
            continue
        # Left in, one on CPUs would keep the container from being made, and one on memory would be dropped silently.
        gone = [f"{key}: {service.pop(key)}" for key in keys if service.get(key)]
        if declared.get(kind):
            gone.append(f"deploy.resources.limits.{kind}: {declared.pop(kind)}")
        if gone:
            notes.append(
                f"{where}.{', '.join(gone)} was taken out: this user's engine has no control over {kind} "
                "(Delegate= of user@.service)"
            )
    for name, wanted in (service.get("ulimits") or {}).items():
        highest = host.ulimits.get(name)
        pair = dict(wanted) if isinstance(wanted, Mapping) else {"soft": wanted, "hard": wanted}
        if highest is None or all(0 <= int(value) <= highest for value in pair.values()):
            continue
        service["ulimits"][name] = {key: _at_most(int(value), highest) for key, value in pair.items()}
        notes.append(f"{where}.ulimits.{name}: {_plain(wanted)} became {highest}, the most that this user may have")
    return notes


def _at_most(value: int, highest: int) -> int:
    return highest if value == resource.RLIM_INFINITY or value > highest else value


def _plain(wanted: Any) -> str:
    return "/".join(str(value) for value in wanted.values()) if isinstance(wanted, Mapping) else str(wanted)


def _unset(service: dict[str, Any], where: str) -> list[str]:
    """A variable without a value would be taken from whoever starts the stack next."""
    values = gpu_forms.environment(service)
    unset = [name for name, value in values.items() if value is None]
    if not unset:
        return []
    service["environment"] = {name: value for name, value in values.items() if value is not None}
    return [f"{where}.environment: {', '.join(unset)} has no value and was left out"]


def _problems(service: Mapping[str, Any], where: str, host: Host, config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What is refused, each with what to do instead."""
    found = []
    numeric = [each for each in str(service.get("user") or "").split(":") if each.isdecimal()]
    numeric += [str(each) for each in service.get("group_add") or [] if str(each).isdecimal()]
    beyond = [each for each in numeric if int(each) >= host.ids]
    if beyond:
        text = (
            f"{where}.user or group_add names {', '.join(beyond)}, and ids end at {host.ids - 1}: leave it out, as a "
            "container's root is the user of the host"
        )
        found.append(("STACK_NEEDS_ROOT", text))
    runtime = service.get("runtime")
    if runtime and runtime not in host.runtimes:
        known = ", ".join(sorted(host.runtimes)) or "none"
        found.append(("STACK_NEEDS_ROOT", f"{where}.runtime is {runtime}; this engine has {known}: take it out"))
    container = service.get("container_name")
    holder = host.names.get(container or "", config.get("name"))
    if holder != config.get("name"):
        text = f"{where}.container_name is {container}, which a container of {holder or 'no stack'} has"
        found.append(("STACK_NAME_TAKEN", text))
    return found


def _networks_and_volumes(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    found = []
    for name, entry in (config.get("networks") or {}).items():
        driver = (entry or {}).get("driver")
        if driver in ("macvlan", "ipvlan", "overlay"):
            text = f"networks.{name}.driver is {driver}, which needs root: leave it out for a bridge, and publish ports"
            found.append(("STACK_NEEDS_ROOT", text))
    for name, entry in (config.get("volumes") or {}).items():
        kind = str(((entry or {}).get("driver_opts") or {}).get("type", ""))
        if kind not in ("", "none", "tmpfs"):
            text = (
                f"volumes.{name}.driver_opts.type is {kind}, and only root can mount that: mount it on the host and "
                "bind the folder"
            )
            found.append(("STACK_NEEDS_ROOT", text))
    return found
