# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a host is, in a few facts, and what a GPU host of this collection has that it lacks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible_collections.gpulab.fleet.plugins.module_utils import _driver_origin
from ansible_collections.gpulab.fleet.plugins.module_utils import _health_facts as facts
from ansible_collections.gpulab.fleet.plugins.module_utils._health_engine import ROOTFUL_SOCKET
from ansible_collections.gpulab.fleet.plugins.module_utils._health_view import HostView, Unreadable


def summary(host: HostView) -> dict[str, Any]:
    """Facts for people; one that cannot be read is None."""
    release = facts.os_release(host)
    kernel, machine = host.kernel()
    gpus = _or_none(lambda: facts.smi(host)) if facts.gpu_present(host) else None
    toolkit = next((each for name in facts.TOOLKIT_PACKAGES if (each := facts.packages(host).get(name))), None)
    found: dict[str, Any] = {
        "distribution": release.get("NAME"),
        "version": release.get("VERSION_ID"),
        "codename": release.get("VERSION_CODENAME"),
        "arch": machine,
        "kernel": kernel,
        "systemd": _or_none(lambda: facts.systemd_version(host)),
        "gpu_present": facts.gpu_present(host),
        "gpus": gpus.gpus if gpus else [],
        "driver": facts.driver_version(host),
        "driver_origin": _or_none(lambda: _driver_origin.origin(host)) if facts.gpu_present(host) else None,
        "engine": _engine(host),
        "rootful_engine": _or_none(lambda: _rootful(host)),
        "toolkit": toolkit.version if toolkit else None,
        "users": [_user(host, each) for each in facts.engines(host) if isinstance(each, facts.Engine)],
    }
    found["lacks"] = _lacks(found)
    return found


def _or_none(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except Unreadable:
        return None


def _engine(host: HostView) -> dict[str, str] | None:
    installed = facts.installed_engine(host)
    if installed is None:
        return None
    name, package = installed
    return {"package": name, "version": ".".join(map(str, facts.version(package.version)))}


def _rootful(host: HostView) -> dict[str, Any] | None:
    """The engine of root's, when it runs."""
    service = facts.unit(host, "docker.service") or {}
    if service.get("ActiveState") != "active":
        return None
    info = _or_none(lambda: facts.engine_info(host, ROOTFUL_SOCKET)) or {}
    return {"version": info.get("ServerVersion"), "containers": info.get("Containers")}


def _user(host: HostView, engine: facts.Engine) -> dict[str, Any]:
    info = _or_none(lambda: facts.engine_info(host, engine.socket)) or {}
    return {
        "name": engine.account.name,
        "uid": engine.account.uid,
        "data_root": engine.data_root,
        "answers": bool(info),
        "version": info.get("ServerVersion"),
        "storage_driver": info.get("Driver"),
        "containers_running": info.get("ContainersRunning"),
    }


def _lacks(found: dict[str, Any]) -> list[str]:
    """What the roles would bring, in the order in which they do."""
    lacks = []
    if found["gpu_present"] and not found["driver"]:
        lacks.append("a loaded NVIDIA driver")
    if not found["engine"]:
        lacks.append("a Docker engine")
    if not found["users"]:
        lacks.append("a user with a rootless engine")
    if found["gpu_present"] and not found["toolkit"]:
        lacks.append("the NVIDIA container toolkit")
    return lacks
