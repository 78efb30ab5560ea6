# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A user's daemon.json: their own keys stay, ours are merged in, what we no longer ask for goes."""

from __future__ import annotations

import copy
import json
import re
from typing import Any

from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError

# Rotation for whoever has not chosen a log driver; Docker's own default lets logs fill the disk.
LOGGING = {"log-driver": "local", "log-opts": {"max-size": "10m", "max-file": "3"}}

# Flags of the command line: accepted in the file by dockerd's check, and then ignored.
FLAG_SPELLINGS = {
    "add-runtime": "runtimes",
    "authorization-plugin": "authorization-plugins",
    "cdi-spec-dir": "cdi-spec-dirs",
    "default-address-pool": "default-address-pools",
    "default-network-opt": "default-network-opts",
    "default-ulimit": "default-ulimits",
    "dns-opt": "dns-opts",
    "exec-opt": "exec-opts",
    "feature": "features",
    "host": "hosts",
    "insecure-registry": "insecure-registries",
    "label": "labels",
    "log-opt": "log-opts",
    "node-generic-resource": "node-generic-resources",
    "registry-mirror": "registry-mirrors",
    "storage-opt": "storage-opts",
}


def parse(text: str, path: str, code: str = "DAEMON_JSON_INVALID") -> dict[str, Any]:
    """The settings in a file; an empty file has none. Errors name the place."""
    if not text.strip():
        return {}
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise FleetError(code, f"{path}:{error.lineno}:{error.colno}: {error.msg}") from error
    if not isinstance(data, dict):
        raise FleetError(code, f"{path}:1:1: it holds a {type(data).__name__}, not an object")
    return data


def render(data: dict[str, Any]) -> str:
    return json.dumps(data, indent=2, ensure_ascii=False) + "\n"


def refuse_flag_spellings(data: dict[str, Any]) -> None:
    for wrong, right in FLAG_SPELLINGS.items():
        if wrong in data:
            raise FleetError("DAEMON_JSON_TYPO", f"{wrong}: write {right}")


def overlay(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`base` with `over` on top: objects are merged, everything else (lists too) is replaced."""
    result = copy.deepcopy(base)
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = overlay(result[key], value)
        else:
            result[key] = copy.deepcopy(value)
    return result


def without(data: dict[str, Any], stale: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    """`data` less what was put in before (`stale`), is no longer wanted, and nobody has changed since."""
    result = copy.deepcopy(data)
    for key, old in stale.items():
        if key not in result:
            continue
        now, want = result[key], wanted.get(key)
        if isinstance(old, dict) and isinstance(now, dict) and (key not in wanted or isinstance(want, dict)):
            kept = without(now, old, want or {})
            if kept or isinstance(want, dict):
                result[key] = kept
            else:
                del result[key]
        elif key not in wanted and now == old:
            del result[key]
    return result


def nvidia_runtime(folder: str) -> dict[str, Any]:
    """NVIDIA's runtime with the config.toml under this folder, in place of the host's in /etc.

    env instead of a path: the engine makes a script of path and arguments. The program may be installed later; until
    then only a container that asks for the runtime fails.
    """
    return {"path": "/usr/bin/env", "runtimeArgs": [f"XDG_CONFIG_HOME={folder}", "/usr/bin/nvidia-container-runtime"]}


def ours(
    existing: dict[str, Any], daemon: dict[str, Any], cdi_spec_dir: str, before: dict[str, Any], runtime: str = ""
) -> dict[str, Any]:
    """What this collection puts into the file: the inventory's keys, CDI, and log rotation unless the user chose.

    before   what it put in the last time: rotation that is ours is not the user's choice
    runtime  folder with the configuration of NVIDIA's runtime; the inventory's own runtime of that name wins
    """
    chosen = {k for k in LOGGING if k in daemon or existing.get(k) != before.get(k)}
    if not chosen or not any(k in daemon or k in existing for k in LOGGING):
        wanted = overlay(LOGGING, daemon)
    elif chosen == {"log-opts"} and "log-driver" in before:
        # Only other limits for the driver that we set.
        wanted = overlay({"log-driver": LOGGING["log-driver"]}, daemon)
    else:
        wanted = copy.deepcopy(daemon)
    if cdi_spec_dir:
        wanted = overlay(wanted, {"features": {"cdi": True}, "cdi-spec-dirs": [cdi_spec_dir]})
    named = daemon.get("runtimes", {})
    if runtime and isinstance(named, dict) and "nvidia" not in named:
        wanted = overlay(wanted, {"runtimes": {"nvidia": nvidia_runtime(runtime)}})
    return wanted


def merge(existing: dict[str, Any], wanted: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    """The file's new content, by three ways: what is there, what is wanted, what was put in the last time."""
    merged = overlay(without(existing, before, wanted), wanted)
    runtimes = wanted.get("runtimes")
    if isinstance(runtimes, dict):
        # The options of one runtime belong together: what remains of another one's makes none that works.
        merged["runtimes"] |= copy.deepcopy(runtimes)
    return merged


def redact(text: str) -> str:
    """Text for a diff: without the user and password of proxy and mirror addresses."""
    return re.sub(r"//[^/@\s\"]+@", "//***@", text)
