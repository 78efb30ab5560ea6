# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a stack is: its stack.yml read and checked, and a site's settings held against it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError

NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*")
TYPES = ("str", "int", "float", "bool", "path", "port")
SHORTEST, LONGEST = 8, 128  # of secrets that are generated; VNC takes 8 characters and no more
PARTS = {"description", "settings", "gpus", "data", "secrets", "wait_timeout"}
# Compose reads these from the environment that it is started in: a setting of that name would never reach it.
TAKEN = {"PATH", "HOME", "USER", "LOGNAME", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS", "DOCKER_HOST", "LC_ALL"}
# These belong to the deployment itself.
OURS = {"COMPOSE_FILE", "COMPOSE_PROJECT_NAME"}


def wrong(stack: str, text: str) -> FleetError:
    return FleetError("STACK_SETTING_INVALID", f"stack {stack}: {text}")


def definition(stack: str, read: Any) -> dict[str, Any]:
    """stack.yml as the rest of this collection uses it: every part there, every entry complete."""
    given = read or {}
    if not isinstance(given, Mapping):
        raise FleetError("STACK_INVALID", f"{stack}: stack.yml is not a mapping")
    unknown = sorted(set(given) - PARTS)
    if unknown:
        raise FleetError("STACK_INVALID", f"{stack}: stack.yml does not know {', '.join(unknown)}")
    whole: dict[str, Any] = {"description": "", "wait_timeout": 0, **given}
    for part in ("settings", "gpus", "data", "secrets"):
        whole[part] = dict(given.get(part) or {})
    for part in ("settings", "data", "secrets"):
        for name, entry in whole[part].items():
            if not VARIABLE.fullmatch(str(name)) or name in TAKEN | OURS:
                raise FleetError("STACK_INVALID", f"{stack}: {part}.{name} cannot be the name of a variable here")
            if not isinstance(entry, Mapping):
                raise FleetError("STACK_INVALID", f"{stack}: {part}.{name} is not a mapping")
    for name, entry in whole["settings"].items():
        if entry.get("type", "str") not in TYPES:
            raise FleetError("STACK_INVALID", f"{stack}: settings.{name}: type is one of {', '.join(TYPES)}")
    for name, entry in whole["data"].items():
        if not entry.get("folder"):
            raise FleetError("STACK_INVALID", f"{stack}: data.{name} names no folder")
    for name, entry in whole["secrets"].items():
        length = entry.get("generate", SHORTEST)
        if isinstance(length, bool) or not isinstance(length, int) or not SHORTEST <= length <= LONGEST:
            text = f"{stack}: secrets.{name}.generate is {length!r}: write how many characters, {SHORTEST} to {LONGEST}"
            raise FleetError("STACK_INVALID", text)
    return whole


def value(stack: str, name: str, entry: Mapping[str, Any], given: Any) -> str:
    """One setting as the text that Compose gets, or the error that says what it should have been."""
    kind = entry.get("type", "str")
    if kind == "bool":
        if not isinstance(given, bool):
            raise wrong(stack, f"{name} is {given!r}, not true or false")
        text = "true" if given else "false"
    elif kind in ("int", "port"):
        if isinstance(given, bool) or not re.fullmatch(r"-?\d+", str(given)):
            raise wrong(stack, f"{name} is {given!r}, not a whole number")
        if kind == "port" and not 1 <= int(given) <= 65535:
            raise wrong(stack, f"{name} is {given!r}, not a port (1 to 65535)")
        text = str(int(given))
    elif kind == "float":
        if isinstance(given, bool) or not re.fullmatch(r"-?\d+(\.\d*)?([eE][-+]?\d+)?", str(given)):
            raise wrong(stack, f"{name} is {given!r}, not a number")
        text = str(given)
    else:
        if not isinstance(given, (str, int, float)) or isinstance(given, bool):
            raise wrong(stack, f"{name} is {given!r}, not text")
        text = str(given)
    choices = entry.get("choices")
    if choices and text not in [str(choice) for choice in choices]:
        raise wrong(stack, f"{name} is {text!r}, not one of {', '.join(map(str, choices))}")
    return text


def settings(stack: str, defined: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, str]:
    """Every setting of the stack with its value: the site's, else the default.

    Data folders are settings as well (a path), but only a site's own choice of one is returned:
    where they are otherwise depends on the user's home.
    """
    known = {**defined["settings"], **{name: {"type": "path"} for name in defined["data"]}}
    unknown = sorted(set(given) - set(known))
    if unknown:
        names = ", ".join(sorted(known)) or "none"
        raise wrong(stack, f"no setting {', '.join(unknown)}; there are: {names}")
    found = {}
    for name, entry in known.items():
        if name in given:
            found[name] = value(stack, name, entry, given[name])
        elif "default" in entry:
            found[name] = value(stack, name, entry, entry["default"])
        elif entry.get("required"):
            raise wrong(stack, f"{name} has no default and is not set")
    return found


def check_secrets(stack: str, defined: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Every secret that was given is known, and every one that is required was given."""
    unknown = sorted(set(given) - set(defined["secrets"]))
    if unknown:
        names = ", ".join(sorted(defined["secrets"])) or "none"
        raise FleetError("STACK_SECRET_INVALID", f"stack {stack}: no secret {', '.join(unknown)}; there are: {names}")
    for name, text in given.items():
        if not isinstance(text, str) or not text:
            raise FleetError("STACK_SECRET_INVALID", f"stack {stack}: the secret {name} is not text, or empty")
    needed = {name for name, entry in defined["secrets"].items() if entry.get("required") and "generate" not in entry}
    missing = sorted(needed - set(given))
    if missing:
        raise FleetError("STACK_SECRET_INVALID", f"stack {stack}: {', '.join(missing)} must be given")


def numbers(version: str) -> tuple[int, ...]:
    """2.26.1-4 as (2, 26, 1), to compare."""
    return tuple(int(part) for part in re.sub(r"[^\d.].*", "", version.lstrip("v")).split(".") if part)
