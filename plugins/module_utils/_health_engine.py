# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Checks of Docker engines: the ones that are in the way, and the users' own."""

from __future__ import annotations

import json
from urllib.parse import quote

from ansible_collections.gpulab.fleet.plugins.module_utils import _health_facts as facts
from ansible_collections.gpulab.fleet.plugins.module_utils._cdi import GAVE_UP
from ansible_collections.gpulab.fleet.plugins.module_utils._findings import finding
from ansible_collections.gpulab.fleet.plugins.module_utils._floors import ENGINE_FLOOR, accepted
from ansible_collections.gpulab.fleet.plugins.module_utils._health import Check, Seen
from ansible_collections.gpulab.fleet.plugins.module_utils._health_view import HostView, Unreadable

ROOTFUL_SOCKET = "/run/docker.sock"
ENGINE_CDI_DEFAULT = (28, 2)
# Spelled like their command line flags; dockerd accepts these keys and does not use them.
SINGULAR_KEYS = {"cdi-spec-dir": "cdi-spec-dirs", "insecure-registry": "insecure-registries"}
DOWN = quote(json.dumps({"status": ["exited", "created"]}))
SERVER_PROGRAMS = ("dockerd", "containerd", "rootlesskit")


# --- engines in the way -------------------------------------------------------------------------
def rootful(host: HostView) -> Seen:
    """No engine of root's is in use, unless the inventory keeps it."""
    if host.settings.get("rootless_docker_rootful") == "keep":
        return
    service = facts.unit(host, "docker.service") or {}
    active = service.get("ActiveState") in ("active", "activating", "reloading")
    if not active and service.get("UnitFileState") != "enabled":
        return
    data_root = str((facts.json_file(host, "/etc/docker/daemon.json") or {}).get("data-root") or "/var/lib/docker")
    parts = [f"docker.service is {service.get('ActiveState')} and {service.get('UnitFileState')}"]
    try:
        info = facts.engine_info(host, ROOTFUL_SOCKET)
        if info:
            data_root = str(info.get("DockerRootDir") or data_root)
            parts[0] += f" (Docker {info.get('ServerVersion')})"
            parts.append(f"{info.get('ContainersRunning', 0)} of {info.get('Containers', 0)} containers run")
            names = [
                name for each in host.api(ROOTFUL_SOCKET, "/containers/json?all=1") or [] for name in each["Names"][:1]
            ]
            if names:
                parts[-1] += f" ({', '.join(sorted(name.lstrip('/') for name in names)[:5])})"
    except Unreadable:
        parts.append("its containers can only be listed as root")
    code = "ROOTFUL_ENGINE_ENDED" if host.settings.get("rootless_docker_rootful") == "remove" else "ROOTFUL_ENGINE"
    yield finding(code, f"{'; '.join(parts)}; data root {data_root}", data_root=data_root)


def snap(host: HostView) -> Seen:
    """Docker is not installed as a snap."""
    if host.exists("/snap/docker"):
        yield finding("DOCKER_SNAP", f"/snap/docker exists, revision {host.link('/snap/docker/current') or 'unknown'}")


def desktop(host: HostView) -> Seen:
    """Docker Desktop, whose engine lives in a virtual machine, is not installed or selected."""
    if "docker-desktop" in facts.packages(host) or host.exists("/opt/docker-desktop"):
        yield finding("DOCKER_DESKTOP", "the package docker-desktop is installed (/opt/docker-desktop)")
    for account in facts.interesting_accounts(host)[0]:
        try:
            selected = facts.cli_context(host, account) == "desktop-linux"
        except Unreadable as error:
            yield error
            continue
        if selected:
            yield finding("DOCKER_DESKTOP", f"{account.name} has the context desktop-linux of Docker Desktop")


def foreign_packages(host: HostView) -> Seen:
    """Packages that the wanted ones replace."""
    known = facts.packages(host)
    if "podman-docker" in known:
        yield finding("PODMAN_DOCKER", f"podman-docker {known['podman-docker'].version}: /usr/bin/docker is podman")
    origins = {"vendor": ("docker.io", "docker-ce"), "distribution": ("docker-ce", "docker.io")}
    wrong, right = origins.get(str(host.settings.get("rootless_docker_source")), ("", ""))
    if wrong in known and right not in known:
        yield finding("ENGINE_OTHER_ORIGIN", f"{wrong} {known[wrong].version} is installed", wrong=wrong, right=right)


def kubernetes(host: HostView) -> Seen:
    """containerd does not serve a kubelet here: the engine's packages would replace it."""
    kubelet = facts.unit(host, "kubelet.service") or {}
    if kubelet.get("ActiveState") == "active":
        yield finding("KUBERNETES_NODE", "kubelet.service is active")


# --- settings of engines ------------------------------------------------------------------------
def daemon_files(host: HostView) -> Seen:
    """Each daemon.json can be read by an engine, and says what its author meant."""
    for path in _daemon_files(host):
        try:
            text = host.read(path)
        except Unreadable as error:
            yield error
            continue
        if text is None:
            continue
        try:
            data = json.loads(text or "{}")
        except ValueError as error:
            yield finding("DAEMON_JSON_INVALID", f"{path}: {error}")
            continue
        if not isinstance(data, dict):
            yield finding("DAEMON_JSON_INVALID", f"{path}: holds no object")
            continue
        for wrong, right in SINGULAR_KEYS.items():
            if wrong in data:
                yield finding("DAEMON_JSON_TYPO", f"{path} has {wrong}", wrong=wrong, right=right)


def _daemon_files(host: HostView) -> list[str]:
    accounts = facts.interesting_accounts(host)[0]
    return ["/etc/docker/daemon.json", *(facts.daemon_path(account) for account in accounts)]


# --- the users' engines -------------------------------------------------------------------------
def floor(host: HostView) -> Seen:
    """The installed engine can hand GPUs to rootless containers."""
    found = facts.installed_engine(host)
    if found is None:
        return
    name, package = found
    number = facts.version(package.version)
    if number < ENGINE_FLOOR and not accepted(package.version, facts.accepted_versions(host)):
        yield finding("ENGINE_TOO_OLD", f"{name} {package.version}")
    elif number < ENGINE_CDI_DEFAULT:
        yield finding("ENGINE_BELOW_RECOMMENDED", f"{name} {package.version}")


def running(host: HostView) -> Seen:
    """Every user's engine that is set up runs, answers and is what is installed."""
    for each in facts.engines(host):
        if isinstance(each, Unreadable):
            yield each
            continue
        try:
            yield from _running(host, each)
        except Unreadable as error:
            yield error


def _running(host: HostView, engine: facts.Engine) -> Seen:
    name, uid = engine.account.name, engine.account.uid
    if not host.exists(f"/run/user/{uid}/systemd"):
        if host.exists(
            f"/var/lib/systemd/linger/{name}"
        ):  # else it went with the login, as the check 'lingering' tells
            yield finding("USER_MANAGER_DOWN", f"/run/user/{uid}/systemd of {name} is absent", uid=uid)
        return
    state = facts.unit(host, "docker.service", engine.account) or {}
    if state.get("Result") == "start-limit-hit":
        yield finding("ENGINE_START_LIMIT", f"docker.service of {name}: start-limit-hit", user=name)
    elif state.get("ActiveState") != "active":
        seen = f"{state.get('ActiveState')} ({state.get('SubState')}), last result {state.get('Result')}"
        yield finding("ENGINE_DOWN", f"docker.service of {name} is {seen}", user=name)
    elif facts.engine_info(host, engine.socket) is None:
        yield finding("ENGINE_UNRESPONSIVE", f"nobody answers on {engine.socket} of {name}", user=name)
    else:
        stale = deleted_programs(host, uid)
        if stale:
            yield finding("ENGINE_RESTART_PENDING", f"{name} still runs {', '.join(stale)}, since replaced", user=name)


def deleted_programs(host: HostView, uid: int) -> list[str]:
    """Engine programs of a user that run from files which an upgrade has replaced."""
    found = set()
    for pid in host.names("/proc"):
        if not pid.isdigit() or host.word(f"/proc/{pid}/comm") not in SERVER_PROGRAMS:
            continue
        node = host.node(f"/proc/{pid}")
        if node and node.uid == uid and (host.link(f"/proc/{pid}/exe") or "").endswith(" (deleted)"):
            found.add(str(host.word(f"/proc/{pid}/comm")))
    return sorted(found)


def cdi_feature(host: HostView) -> Seen:
    """An engine whose user has GPUs looks for CDI specs, and in the user's folder."""
    installed = facts.installed_engine(host)
    if installed is None:
        return
    number = facts.version(installed[1].version)
    for each in facts.engines(host):
        if isinstance(each, Unreadable):
            yield each
            continue
        name = each.account.name
        folder = facts.cdi_folder(name)
        if name not in facts.users_with_specs(host) or each.daemon is None or set(SINGULAR_KEYS) & set(each.daemon):
            continue  # needs none, or the check 'daemon_files' has told
        feature = facts.dict_of(each.daemon.get("features")).get("cdi")
        path = facts.daemon_path(each.account)
        if feature is False or (feature is None and number < ENGINE_CDI_DEFAULT):
            yield finding(
                "ENGINE_CDI_OFF", f"{path}: features.cdi is {json.dumps(feature)} on {installed[1].version}", user=name
            )
        elif folder not in (each.daemon.get("cdi-spec-dirs") or []):
            seen = f"{path}: cdi-spec-dirs is {json.dumps(each.daemon.get('cdi-spec-dirs'))}"
            yield finding("ENGINE_CDI_FOLDER", seen, user=name, folder=folder)


def lost_containers(host: HostView) -> Seen:
    """No container stays down because its GPU was not there when the engine started."""
    for each in facts.engines(host):
        if isinstance(each, Unreadable):
            continue  # told by the check 'running'
        name = each.account.name
        for container in host.api(each.socket, f"/containers/json?all=1&filters={DOWN}") or []:
            if "Exited (0)" in container.get("Status", ""):
                continue  # ended well: asking about each of these would take long (the others end with 1, 127 or 128)
            state = (host.api(each.socket, f"/containers/{container['Id']}/json") or {}).get("State", {})
            if GAVE_UP.search(state.get("Error") or ""):
                label = container["Names"][0].lstrip("/")
                yield finding("CONTAINER_LOST_GPU", f"{label} of {name}: {state['Error']}", user=name, name=label)


CHECKS = (
    Check("rootful", rootful, ("ROOTFUL_ENGINE", "ROOTFUL_ENGINE_ENDED"), preflight=True),
    Check("snap", snap, ("DOCKER_SNAP",), preflight=True),
    Check("desktop", desktop, ("DOCKER_DESKTOP",), preflight=True),
    Check("foreign_packages", foreign_packages, ("PODMAN_DOCKER", "ENGINE_OTHER_ORIGIN"), preflight=True),
    Check("kubernetes", kubernetes, ("KUBERNETES_NODE",), preflight=True),
    Check("daemon_files", daemon_files, ("DAEMON_JSON_INVALID", "DAEMON_JSON_TYPO"), preflight=True),
    Check("floor", floor, ("ENGINE_TOO_OLD", "ENGINE_BELOW_RECOMMENDED")),
    Check(
        "running",
        running,
        ("USER_MANAGER_DOWN", "ENGINE_START_LIMIT", "ENGINE_DOWN", "ENGINE_UNRESPONSIVE", "ENGINE_RESTART_PENDING"),
    ),
    Check("cdi_feature", cdi_feature, ("ENGINE_CDI_OFF", "ENGINE_CDI_FOLDER")),
    Check("lost_containers", lost_containers, ("CONTAINER_LOST_GPU",)),
)
