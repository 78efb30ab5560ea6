# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a stack is: its stack.yml read and checked, and a site's settings held against it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError


class Wrong(Exception):
    """(which part of an entry, what it is, what it must be)"""


NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*")
TYPES = ("str", "int", "float", "bool", "path", "port")
SHORTEST, LONGEST = 8, 128  # of secrets that are generated; VNC takes 8 characters and no more
PARTS = {"description", "settings", "gpus", "data", "secrets", "wait_timeout"}
KEYS = {
    "settings": {"type", "default", "required", "choices", "description"},
    "data": {"folder", "description"},
    "secrets": {"required", "mode", "generate", "description"},
}
FOLDER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")
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
    for part, known in KEYS.items():
        for name, entry in whole[part].items():
            _check_entry(f"{stack}: stack.yml: {part}.{name}", name, entry, known)
    for name, entry in whole["settings"].items():
        where = f"{stack}: stack.yml: settings.{name}"
        if entry.get("type", "str") not in TYPES:
            raise FleetError("STACK_INVALID", f"{where}.type is {entry['type']!r}, not one of {', '.join(TYPES)}")
        if not isinstance(entry.get("choices") or [], list):
            raise FleetError("STACK_INVALID", f"{where}.choices is {entry['choices']!r}, not a list")
    for name, entry in whole["data"].items():
        folder = entry.get("folder")
        if not isinstance(folder, str) or not FOLDER.fullmatch(folder):
            text = (
                f"{stack}: stack.yml: data.{name}.folder is {folder!r}: write a name such as weights, without .. in it"
            )
            raise FleetError("STACK_INVALID", text)
    for name, entry in whole["secrets"].items():
        length = entry.get("generate", SHORTEST)
        if isinstance(length, bool) or not isinstance(length, int) or not SHORTEST <= length <= LONGEST:
            text = f"{stack}: stack.yml: secrets.{name}.generate is {length!r}: write how many characters, {SHORTEST} to {LONGEST}"
            raise FleetError("STACK_INVALID", text)
        # YAML reads 0644 without quotes as a number, of which nobody can tell any more what was meant.
        mode = entry.get("mode", "0600")
        if not isinstance(mode, str) or not re.fullmatch(r"0?[0-7]{3}", mode):
            text = f'{stack}: stack.yml: secrets.{name}.mode is {mode!r}: write it in quotes, "0644"'
            raise FleetError("STACK_INVALID", text)
    return whole


def _check_entry(where: str, name: Any, entry: Any, known: set[str]) -> None:
    if not VARIABLE.fullmatch(str(name)):
        raise FleetError("STACK_INVALID", f"{where}: a variable's name has capital letters, digits and _ only")
    if name in TAKEN | OURS:
        raise FleetError("STACK_INVALID", f"{where}: this variable means something else to Compose: take another name")
    if not isinstance(entry, Mapping):
        raise FleetError("STACK_INVALID", f"{where} is {entry!r}, not a mapping: write {{description: …}}")
    unknown = sorted(map(str, set(entry) - known))
    if unknown:
        text = f"{where} does not know {', '.join(unknown)}: there are {', '.join(sorted(known))}"
        raise FleetError("STACK_INVALID", text)
    if not isinstance(entry.get("required", False), bool):
        raise FleetError("STACK_INVALID", f"{where}.required is {entry['required']!r}, not true or false")


def check_name(name: str, hint: str = "") -> None:
    """A stack's name is part of paths, of a project's name and of tags: whatever it comes from, it is held to this."""
    if not NAME.fullmatch(name):
        text = (
            f"stack {name!r}: a stack's name has up to 63 small letters, digits, - and _, and begins with no mark{hint}"
        )
        raise FleetError("STACK_SETTING_INVALID", text)


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
    unknown = sorted(map(str, set(given) - set(known)))
    if unknown:
        names = ", ".join(sorted(known)) or "none"
        raise wrong(stack, f"no setting {', '.join(unknown)}; there are: {names}")
    for name in sorted(set(given) & set(defined["data"])):
        place = str(given[name])
        if not re.match(r"/|~(/|$)", place) or ".." in place.split("/"):
            raise wrong(
                stack, f"{name} is {place!r}, not a data folder: write an absolute path, or one that begins with ~/"
            )
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
