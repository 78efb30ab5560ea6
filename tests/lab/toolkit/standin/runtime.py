"""nvidia-container-runtime: puts the GPUs of NVIDIA_VISIBLE_DEVICES into a bundle's config.json, then runs runc."""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from . import host, plainyaml, settings, spec
from .discover import Edits, Options
from .log import LOG, Failure

LOW_LEVEL = "runc"
JIT_KIND = "runtime.nvidia.com/gpu"  # described for the container at hand, from all GPUs of the host
CREATING = "failed to create NVIDIA Container Runtime"
MODIFYING = "could not apply required modification to OCI specification: error modifying OCI spec"


class Unresolvable(Failure):
    """A device that no specification names."""


def _argument(arguments: list[str], *names: str) -> str:
    """The value of "--name value" or "--name=value"."""
    for at, word in enumerate(arguments):
        for name in names:
            if word == name and at + 1 < len(arguments):
                return arguments[at + 1]
            if word.startswith(f"{name}="):
                return word.partition("=")[2]
    return ""


def _wanted(config: dict[str, Any]) -> list[str]:
    """What NVIDIA_VISIBLE_DEVICES of the container asks for."""
    environment = config.get("process", {}).get("env", [])
    values = dict(entry.partition("=")[::2] for entry in environment)
    value = values.get("NVIDIA_VISIBLE_DEVICES", "")
    return [] if value in ("", "void") else value.split(",")


def apply(config: dict[str, Any], edits: Edits) -> None:
    """CDI's container edits, into an OCI specification."""
    process, linux = config.setdefault("process", {}), config.setdefault("linux", {})
    process["env"] = [*process.get("env", []), *edits.get("env", [])]
    for node in edits.get("deviceNodes", []):
        info = host.at(node.get("hostPath", node["path"])).stat()
        major, minor = node.get("major", os.major(info.st_rdev)), node.get("minor", 0)
        device = {"path": node["path"], "type": "c", "major": major, "minor": minor}
        device |= {key: node[key] for key in ("fileMode", "gid") if key in node}
        devices = linux.setdefault("devices", [])
        if all(known["path"] != node["path"] for known in devices):
            devices.append(device)
            allowed = linux.setdefault("resources", {}).setdefault("devices", [])
            allowed.append({"allow": True, "type": "c", "major": major, "minor": minor, "access": "rwm"})
    for mount in edits.get("mounts", []):
        config.setdefault("mounts", []).append(
            {
                "source": mount["hostPath"],
                "destination": mount["containerPath"],
                "type": "none",
                "options": mount["options"],
            }
        )
    for hook in edits.get("hooks", []):
        entry = {key: hook[key] for key in ("path", "args", "env") if key in hook}
        config.setdefault("hooks", {}).setdefault(hook["hookName"], []).append(entry)
    if groups := edits.get("additionalGids"):
        user = process.setdefault("user", {})
        user["additionalGids"] = sorted({*user.get("additionalGids", []), *groups})


def _from_folders(names: list[str], folders: list[str]) -> list[Edits]:
    """The edits of devices, by qualified name, in the specifications that are there; a later folder's win."""
    known: dict[str, tuple[Edits, Edits]] = {}
    for folder in folders:
        for name in host.listing(folder):
            if not name.endswith((".json", ".yaml")):
                continue
            document = plainyaml.load(host.at(f"{folder}/{name}").read_text())
            for device in document["devices"]:
                qualified = f"{document['kind']}={device['name']}"
                known[qualified] = (document.get("containerEdits", {}), device["containerEdits"])
    if missing := [name for name in names if name not in known]:
        raise Unresolvable(f"failed to inject CDI devices: unresolvable CDI devices {', '.join(missing)}")
    edits: list[Edits] = []
    for name in names:
        common, own = known[name]
        edits += [own] if common in edits else [common, own]
    return edits


def _just_in_time(ids: list[str]) -> list[Edits]:
    made = spec.generate(ids, ["uuid"], False, JIT_KIND, Options())
    return [made["containerEdits"], *(device["containerEdits"] for device in made["devices"])]


def _cdi(wanted: list[str], chosen: dict[str, Any]) -> list[Edits]:
    """Mode cdi: what the files in spec-dirs say, unless the value asks for the kind that is made just in time."""
    table = "nvidia-container-runtime.modes.cdi"
    kind, folders = settings.option(chosen, table, "default-kind"), settings.option(chosen, table, "spec-dirs")
    names = [name if "=" in name else f"{kind}={name}" for name in wanted]
    automatic = [name.partition("=")[2] for name in names if name.startswith(f"{JIT_KIND}=")]
    if automatic and len(automatic) != len(names):
        raise Failure(
            "requesting a CDI device with vendor 'runtime.nvidia.com' is not supported when requesting other CDI devices"
        )
    return _just_in_time(automatic) if automatic else _from_folders(names, folders)


def inject(bundle: Path) -> None:
    path = bundle / "config.json"
    config = json.loads(path.read_text())
    wanted = _wanted(config)
    if not wanted:
        return
    chosen = settings.load()
    mode = settings.option(chosen, "nvidia-container-runtime", "mode")
    if mode == "legacy":
        hook = settings.option(chosen, "nvidia-container-runtime-hook", "path")
        path_of_hook = host.program(hook) or f"/usr/bin/{hook}"
        entry = {"path": path_of_hook, "args": ["nvidia-container-runtime-hook", "prestart"]}
        config.setdefault("hooks", {}).setdefault("prestart", []).append(entry)
    elif mode == "cdi":
        for edits in _cdi(wanted, chosen):
            apply(config, edits)
    else:  # auto is jit-cdi
        for edits in _just_in_time([name.rpartition("=")[2] for name in wanted]):
            apply(config, edits)
    path.write_text(json.dumps(config))


def _tell(arguments: list[str], message: str) -> None:
    """To stderr, and to the log file that the engine reads the reason from."""
    LOG.write("error", message)
    if path := _argument(arguments, "--log"):
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        with Path(path).open("a") as file:
            file.write(json.dumps({"level": "error", "msg": message, "time": stamp}) + "\n")


def run() -> int:
    arguments = sys.argv[1:]
    LOG.lowest = "error"
    try:
        if "create" in arguments:
            inject(Path(_argument(arguments, "--bundle", "-b") or "."))
    except (Failure, OSError, ValueError) as error:
        _tell(arguments, f"{MODIFYING if isinstance(error, Unresolvable) else CREATING}: {error}")
        return 1
    try:
        os.execvp(LOW_LEVEL, [LOW_LEVEL, *arguments])
    except OSError as error:
        _tell(arguments, f"failed to execute low-level runtime: {error}")
        return 1
