# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The ways in which a Compose file asks for GPUs: understood in any of them, given in the one that works everywhere."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

KIND = "nvidia.com/gpu="
VISIBLE = "NVIDIA_VISIBLE_DEVICES"
NODE = re.compile(r"/dev/nvidia(\d+)$")
OTHER_NODES = re.compile(r"/dev/nvidia(ctl|-modeset|-uvm(-tools)?|-caps(/.*)?)$")
NOTHING = ("", "none", "void")


def requests(config: Mapping[str, Any]) -> dict[str, Any]:
    """Service -> what it asks for (all, a number, a list of UUIDs and indices), of a file that Compose has resolved.

    A service that asks in several ways gets the most that it says: all of them, else those it names, else the count.
    A service that asks for none by name (NVIDIA_VISIBLE_DEVICES=void) is not in the answer.
    """
    found: dict[str, Any] = {}
    for name, service in (config.get("services") or {}).items():
        asked = [each for _form, each in forms(service)]
        if not asked:
            continue
        named = [gpu for each in asked if isinstance(each, list) for gpu in each]
        if "all" in asked:
            found[name] = "all"
        elif named:
            found[name] = list(dict.fromkeys(named))
        else:
            found[name] = max(asked)
    return found


def written(compose: Mapping[str, Any]) -> dict[str, Any]:
    """The same of a file as it stands there: Compose before 2.30 drops `gpus:` without a word when it resolves it.

    A request with a variable in it is left to the host, which knows its value; a malformed service to Compose.
    """
    found: dict[str, Any] = {}
    for name, service in compose["services"].items():
        with contextlib.suppress(AttributeError, TypeError, ValueError):
            found |= requests({"services": {name: service}})
    return {name: request for name, request in found.items() if "$" not in str(request)}


def forms(service: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """(where in the service, what is asked for there), each way that this service uses."""
    found: list[tuple[str, Any]] = []
    for request in _reservations(service):
        if is_gpu(request):
            found.append(("deploy.resources.reservations.devices", _asked(request)))
    gpus = service.get("gpus") or []
    for request in [{"count": gpus}] if isinstance(gpus, (str, int)) else gpus:
        found.append(("gpus", _asked(request)))
    for device in service.get("devices") or []:
        source, node = device_source(device), NODE.match(device_source(device))
        if source.startswith(KIND):
            found.append(("devices", _names([source])))
        elif node:
            found.append(("devices", [int(node[1])]))
    if found:
        return found
    # Only where nothing else asks: the NVIDIA runtime lets a request win over the variable.
    visible = environment(service).get(VISIBLE)
    if visible is not None and visible not in NOTHING:
        found.append((f"environment.{VISIBLE}", _names(visible.split(","))))
    elif visible is None and service.get("runtime") == "nvidia":
        # The variable is then the image's, and NVIDIA's images say all.
        found.append(("runtime", "all"))
    return found


def is_gpu(request: Mapping[str, Any]) -> bool:
    """Whether a device reservation is for NVIDIA's GPUs."""
    driver, names = request.get("driver") or "", request.get("device_ids") or []
    if driver == "cdi":
        return any(str(name).startswith(KIND) for name in names)
    return driver == "nvidia" or (not driver and "gpu" in (request.get("capabilities") or []))


def device_source(device: Any) -> str:
    """The host's side of an entry of `devices`: written as text, or as Compose spells it out."""
    if isinstance(device, Mapping):
        return str(device.get("source", ""))
    text = str(device)
    return re.sub(r":[rwm]+$", "", text) if text.startswith(KIND) else text.partition(":")[0]


def environment(service: Mapping[str, Any]) -> dict[str, str | None]:
    given = service.get("environment") or {}
    if isinstance(given, Mapping):
        return {name: None if value is None else str(value) for name, value in given.items()}
    pairs = (str(each).partition("=") for each in given)
    return {name: value if equals else None for name, equals, value in pairs}


def strip(service: dict[str, Any]) -> list[str]:
    """Takes every request for a GPU out of a service; returns what was there, as a person would write it."""
    gone = []
    for request in _reservations(service):
        if is_gpu(request):
            driver = f"driver: {request['driver']}" if request.get("driver") else "capabilities: [gpu]"
            gone.append(f"deploy.resources.reservations.devices with {driver}")
    if gone:
        reserved = service["deploy"]["resources"]["reservations"]
        reserved["devices"] = [request for request in reserved["devices"] if not is_gpu(request)]
        if not reserved["devices"]:
            del reserved["devices"]
    if service.pop("gpus", None):
        gone.append("gpus")
    devices = service.get("devices") or []
    nodes = [device for device in devices if _is_gpu_device(device_source(device))]
    if nodes:
        gone += [f"devices: {device_source(device)}" for device in nodes]
        service["devices"] = [device for device in devices if device not in nodes]
        if not service["devices"]:
            del service["devices"]
    if service.get("runtime") == "nvidia":
        gone.append("runtime: nvidia")
        del service["runtime"]
    values = environment(service)
    if VISIBLE in values:
        gone.append(f"{VISIBLE}={values.pop(VISIBLE) or ''}")
        service["environment"] = values
    return gone


def give(service: dict[str, Any], uuids: Sequence[str]) -> None:
    """Asks for these GPUs in the form that every engine and Compose takes, and tells the program which they are."""
    service["environment"] = {**environment(service), "GPULAB_GPUS": ",".join(uuids)}
    request = {"driver": "cdi", "device_ids": [f"{KIND}{uuid}" for uuid in uuids], "capabilities": ["gpu"]}
    where = service
    for key in ("deploy", "resources", "reservations"):
        where[key] = dict(where.get(key) or {})
        where = where[key]
    where["devices"] = [*(where.get("devices") or []), request]


def _reservations(service: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    found: Any = service
    for key in ("deploy", "resources", "reservations", "devices"):
        found = found.get(key) if isinstance(found, Mapping) else None
    return list(found or [])


def _is_gpu_device(source: str) -> bool:
    return source.startswith(KIND) or bool(NODE.match(source) or OTHER_NODES.match(source))


def _asked(request: Any) -> Any:
    """all, a number or a list, of one request."""
    if not isinstance(request, Mapping):
        return "all"
    if request.get("device_ids"):
        return _names(request["device_ids"])
    count = request.get("count", "all")
    return "all" if count in ("all", -1, "-1", None) else int(count)


def _names(names: Sequence[Any]) -> Any:
    plain = [str(name).removeprefix(KIND).strip() for name in names]
    if "all" in plain:
        return "all"
    return [int(name) if name.isdecimal() else name for name in plain if name]
