# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Files and folders of the host that a site mounts into a stack's containers, by name; one that is off keeps its path.

They are data: in gpulab_stacks.NAME.mounts, or typed as `gpulab deploy --mount`. A release's compose.yml is made of the
stack's own files and of those that are on, as a compose.override.yml would be merged.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import combinations
from typing import Any, TypeGuard

from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._stack import Wrong

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
BELOW = "/mounts"  # where one is that names no target
KEYS = ("source", "target", "services", "write", "enabled")
FORM = "write /path/on/the/host, /path/on/the/host:/path/inside, or that with :ro or :rw at its end"


# --- reading -----------------------------------------------------------------------------------------------------


def read(value: Any) -> dict[str, dict[str, Any]]:
    """The part `mounts` of stack.yml or gpulab_stacks, every entry complete; no services means those of mount_into."""
    if not isinstance(value, Mapping):
        raise Wrong("", value, "write NAME: /path/on/the/host below it")
    found = {str(name): _entry(str(name), entry) for name, entry in value.items()}
    for (first, one), (second, other) in combinations(_on(found), 2):
        both = not one["services"] or not other["services"] or set(one["services"]) & set(other["services"])
        if both and one["target"] == other["target"]:
            raise Wrong(f".{second}.target", other["target"], f"{first} has that one: give it another, or turn one off")
    return found


def _entry(name: str, given: Any) -> dict[str, Any]:
    where = f".{name}"
    if not NAME.fullmatch(name):
        raise Wrong(where, name, "a mount's name has letters, digits, - _ and . only")
    parts = _text(where, given) if isinstance(given, str) else given
    if not isinstance(parts, Mapping):
        raise Wrong(where, given, FORM)
    if unknown := sorted(set(map(str, parts)) - set(KEYS)):
        raise Wrong(f"{where}.{unknown[0]}", parts.get(unknown[0]), f"a mount has {', '.join(KEYS)} only")
    whole = {"target": f"{BELOW}/{name}", "services": [], "write": False, "enabled": True, **parts}
    for key in ("write", "enabled"):
        if not isinstance(whole[key], bool):
            raise Wrong(f"{where}.{key}", whole[key], "write true or false")
    services = whole["services"]
    if not isinstance(services, list) or not all(isinstance(each, str) and each for each in services):
        raise Wrong(f"{where}.services", services, "write a list of names")
    source, target = whole.get("source"), whole["target"]
    if not _is_path(source) or not re.match(r"/|~(/|$)", source):
        raise Wrong(f"{where}.source", source, "write an absolute path on the host, or one that begins with ~/")
    if not _is_path(target) or not target.startswith("/") or posixpath.normpath(target) in ("/", "//"):
        raise Wrong(f"{where}.target", target, "write an absolute path in the container, not /")
    return {**whole, "target": posixpath.normpath(target)}


def _is_path(value: Any) -> TypeGuard[str]:
    """Compose would take $ for a variable; what leads up again is not what it looks like."""
    return isinstance(value, str) and "$" not in value and "\n" not in value and ".." not in value.split("/")


def _text(where: str, text: str) -> dict[str, Any]:
    """SOURCE[:TARGET][:ro|rw] as the parts that it names."""
    source, *more = text.split(":")
    found: dict[str, Any] = {"source": source}
    if more and more[-1] in ("ro", "rw"):
        found["write"] = more.pop() == "rw"
    if more:
        found["target"] = more.pop()
    if more or not source:
        raise Wrong(where, text, FORM)
    return found


# --- typed -------------------------------------------------------------------------------------------------------


def typed(stack: str, before: Mapping[str, Any], words: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """The mounts that there were, with what was typed: NAME=SOURCE[:TARGET][:ro|rw], NAME=on, NAME=off, NAME= (gone)."""
    found = {name: dict(entry) for name, entry in before.items()}
    try:
        for name, text in words.items():
            if text in ("on", "off", ""):
                if name not in found:
                    raise Wrong(
                        f".{name}", text, f"there is none of that name, but {', '.join(sorted(found)) or 'none at all'}"
                    )
                found[name]["enabled"] = text == "on"
                if not text:
                    del found[name]
            else:
                found[name] = {**found.get(name, {}), **_text(f".{name}", text), "enabled": True}
        return read(found)
    except Wrong as wrong:
        inner, seen, wanted = wrong.args
        raise FleetError("STACK_MOUNT_INVALID", f"stack {stack}: mounts{inner} is {seen!r}: {wanted}") from None


def still_known(given: Any, services: Iterable[str]) -> Any:
    """What was given, without services that the stack no longer has."""
    if not isinstance(given, Mapping):
        return given
    known = set(services)
    return {
        name: {**entry, "services": [each for each in entry.get("services") or [] if each in known]}
        if isinstance(entry, Mapping)
        else entry
        for name, entry in given.items()
    }


def into(mounts: Mapping[str, Mapping[str, Any]], services: list[str]) -> dict[str, dict[str, Any]]:
    """The mounts with those services where they name none themselves; without any it is all that the stack has."""
    return {name: {**entry, "services": entry["services"] or services} for name, entry in mounts.items()}


# --- on the host -------------------------------------------------------------------------------------------------


def _on(mounts: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    return ((name, entry) for name, entry in mounts.items() if entry["enabled"])


def missing(mounts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Those that are on and whose path is not there, or cannot be read by the user that this runs as."""
    return [
        f"mounts.{name}.source is {e['source']!r}" for name, e in _on(mounts) if not os.access(e["source"], os.R_OK)
    ]


def add(config: dict[str, Any], mounts: Mapping[str, Mapping[str, Any]], user: str) -> list[str]:
    """Puts them into a resolved configuration; returns what there is to say. The error says which cannot be had."""
    if absent := missing(mounts):
        text = f"is not on this host, or {user} may not read it: make it, correct the path, or turn the mount off"
        raise FleetError("STACK_MOUNT_INVALID", "; ".join(f"{each}, which {text}" for each in absent))
    notes = []
    for name, entry in _on(mounts):
        wanted = [each for each in entry["services"] or config["services"] if each in config["services"]]
        for service in wanted:
            taken = _targets(config["services"][service])
            if entry["target"] in taken:
                text = (
                    f"mounts.{name}.target is {entry['target']!r}, where {service} has {taken[entry['target']]} already"
                )
                raise FleetError("STACK_MOUNT_INVALID", f"{text}: name another path of the container")
            config["services"][service].setdefault("volumes", []).append(_volume(entry))
        if not wanted:
            notes.append(f"mount {name} is on, and none of its services is: {', '.join(entry['services'])}")
    return notes


def _targets(service: Mapping[str, Any]) -> dict[str, str]:
    """Path in the container -> what the stack's own files put there."""
    found = {str(entry).partition(":")[0]: "a tmpfs" for entry in service.get("tmpfs") or []}
    for volume in service.get("volumes") or []:
        found[posixpath.normpath(volume["target"])] = str(volume.get("source") or f"a {volume['type']}")
    return found


def _volume(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Without its folder the container does not start: nobody would look for an empty one that the engine made."""
    bind = {"type": "bind", "source": entry["source"], "target": entry["target"], "bind": {"create_host_path": False}}
    return bind if entry["write"] else {**bind, "read_only": True}


# --- told --------------------------------------------------------------------------------------------------------


def line(name: str, entry: Mapping[str, Any]) -> str:
    """One of them as a person reads it."""
    if not entry["enabled"]:
        return f"mount {name} is off ({entry['source']})"
    where = ", ".join(entry["services"]) or "all services"
    return f"mount {name} is {entry['source']} on {entry['target']} in {where}{'' if entry['write'] else ', read only'}"
