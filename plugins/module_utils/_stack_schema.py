# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What stack.yml says of a stack as it is deployed: checks, one-off runs, profiles, health, snapshots, shared GPUs, ports.

`gpulab_stacks` may say the same parts for its own hosts; they are held to the same form.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible_collections.gpulab.fleet.plugins.module_utils import _stack, _stack_mounts
from ansible_collections.gpulab.fleet.plugins.module_utils._compose_network import spelled
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._stack import Wrong
from ansible_collections.gpulab.fleet.plugins.module_utils._stack_gpus import is_request

CHECK_TIMEOUT = 30
CHECKS = {"service": {"service", "command", "timeout"}, "url": {"url", "expect", "timeout"}}
SHARING = ("exclusive", "shared")
PORT = re.compile(r"((?P<address>\[[0-9a-fA-F:]+\]|[0-9.]+):)?((?P<published>\d+):)?(?P<target>\d+)(/(tcp|udp))?")
# A variable of a Compose file, or the sign for a dollar that is none.
VARIABLE = re.compile(r"\$(?:\$|\{(?P<braced>[A-Za-z_]\w*)(?P<required>:?\?)?|(?P<plain>[A-Za-z_]\w*))")


def definition(stack: str, read: Any) -> dict[str, Any]:
    """stack.yml with every part there: those of `_stack.definition`, and those of PARTS here."""
    if read is not None and not isinstance(read, Mapping):
        raise FleetError(
            "STACK_INVALID", f"{stack}: stack.yml is {_short(read)}, not a mapping: write `description: …`"
        )
    given = dict(read or {})
    # An empty list is nothing at all to Compose, which reads YAML on hosts.
    ours = {name: value for name in list(given) if name in PARTS and (value := given.pop(name)) is not None}
    unknown = sorted(map(str, set(given) - _stack.PARTS))
    if unknown:
        known = ", ".join(sorted(_stack.PARTS | set(PARTS)))
        text = f"{stack}: stack.yml does not know {', '.join(unknown)}: take it out, or correct its name; there are {known}"
        raise FleetError("STACK_INVALID", text)
    for part in ("settings", "gpus", "data", "secrets"):
        if given.get(part) is not None and not isinstance(given[part], Mapping):
            text = f"{stack}: stack.yml: {part} is {_short(given[part])}, not a mapping: write NAME: {{…}} below it"
            raise FleetError("STACK_INVALID", text)
    timeout = given.get("wait_timeout", 0)
    if isinstance(timeout, bool) or not isinstance(timeout, int) or timeout < 0:
        text = f"{stack}: stack.yml: wait_timeout is {_short(timeout)}, not a whole number of seconds: write 600"
        raise FleetError("STACK_INVALID", text)
    for service, request in (given.get("gpus") or {}).items():
        if not is_request(request):
            text = f"{stack}: stack.yml: gpus.{service} is {_short(request)}: write all, a number, or a list of UUIDs and indices"
            raise FleetError("STACK_INVALID", text)
    return {**_stack.definition(stack, given), **_parts(f"{stack}: stack.yml: ", "STACK_INVALID", {**DEFAULTS, **ours})}


def with_site(stack: str, defined: Mapping[str, Any], entry: Mapping[str, Any]) -> dict[str, Any]:
    """The definition with what a site's entry of gpulab_stacks says instead, part by part."""
    ours = {name: value for name, value in entry.items() if name in PARTS and value is not None}
    return {**defined, **_parts(f"gpulab_stacks.{stack}.", "STACK_SETTING_INVALID", ours)}


def check_shape(stack: str, compose: Any) -> dict[str, Any]:
    """The Compose file, when it has services at all. What each of them says is left to Compose, which knows it better."""
    services = compose.get("services") if isinstance(compose, Mapping) else None
    if not isinstance(services, Mapping) or not services:
        seen = f"services is {_short(services)}" if isinstance(compose, Mapping) else f"the file is {_short(compose)}"
        text = f"{stack}: compose.yml: {seen}, not a mapping: write `services: {{NAME: {{image: …}}}}`"
        raise FleetError("STACK_COMPOSE_INVALID", text)
    for name, service in services.items():
        if not isinstance(service, Mapping):
            text = f"{stack}: compose.yml: services.{name} is {_short(service)}, not a mapping: write `{name}: {{image: …}}`"
            raise FleetError("STACK_COMPOSE_INVALID", text)
    return dict(compose)


def profiles_of(services: Mapping[str, Any]) -> set[str]:
    """Every profile that a service names."""
    named = (service.get("profiles") for service in services.values())
    return {str(each) for profiles in named if isinstance(profiles, list) for each in profiles}


def check_names(stack: str, defined: Mapping[str, Any], compose: Any, site: Mapping[str, Any] | None = None) -> None:
    """Every service and profile that is named must be one of compose.yml's (read with all of its profiles).

    site  the entry of gpulab_stacks: a name that is in there is corrected there
    """
    services = compose["services"]
    profiles = profiles_of(services)
    named = [
        (f"checks[{i}].service", check["service"]) for i, check in enumerate(defined["checks"]) if "service" in check
    ]
    for part in ("runs", "publish", "no_health", "graphics", "mount_into", "gpus"):
        named += [(part, name) for name in defined.get(part) or ()]
    named += [
        (f"mounts.{name}.services", each) for name, mount in defined["mounts"].items() for each in mount["services"]
    ]
    for kind, known, names in (("service", set(services), named), ("profile", profiles,
                               [("profiles", name) for name in defined["profiles"]])):  # fmt: skip
        for where, name in names:
            if name not in known:
                there = ", ".join(sorted(known)) or "none"
                ours = where.startswith(("checks", "mounts")) or name in ((site or {}).get(where) or ())
                ours = ours and bool((site or {}).get(where.partition("[")[0]))
                whole = f"gpulab_stacks.{stack}.{where}" if ours else f"{stack}: stack.yml: {where}"
                text = f"{whole} names the {kind} {name}; compose.yml has {there}: correct the name"
                raise FleetError("STACK_SETTING_INVALID" if ours else "STACK_INVALID", text)


def derived(compose: Any) -> dict[str, Any]:
    """The stack.yml of a folder that has none: what its Compose file (not interpolated) takes from outside can be set."""
    found = variables(compose)
    settings = {name: {"required": True} if required else {} for name, required in sorted(found.items())}
    return {"settings": settings}


def variables(value: Any) -> dict[str, bool]:
    """Variable -> whether the file insists on a value, for those that may be a setting."""
    found: dict[str, bool] = {}
    if isinstance(value, str):
        for match in VARIABLE.finditer(value):
            name = match["braced"] or match["plain"]
            if name:
                found[name] = bool(match["required"])
    elif isinstance(value, Mapping):
        for key, each in value.items():
            if key == "environment":
                found.update(dict.fromkeys(_passed_on(each), False))
            found.update(variables(each))
    elif isinstance(value, (list, tuple)):
        for each in value:
            found.update(variables(each))
    mine = _stack.TAKEN | _stack.OURS | {"PWD"}
    return {name: must for name, must in found.items() if _stack.VARIABLE.fullmatch(name) and name not in mine}


def fill(text: str, values: Mapping[str, str]) -> str:
    """A check's URL with the stack's settings in it: ${PORT}."""
    return re.sub(r"\$\{([A-Z][A-Z0-9_]*)\}", lambda match: values.get(match[1], match[0]), text)


def _passed_on(environment: Any) -> list[str]:
    """Names that stand in `environment:` without a value: whoever starts Compose gives it."""
    if isinstance(environment, Mapping):
        return [str(name) for name, value in environment.items() if value is None]
    return [str(each) for each in environment if "=" not in str(each)] if isinstance(environment, list) else []


def _parts(where: str, code: str, given: Mapping[str, Any]) -> dict[str, Any]:
    found = {}
    for name, value in given.items():
        try:
            found[name] = PARTS[name](value)
        except Wrong as wrong:
            inner, seen, wanted = wrong.args
            raise FleetError(code, f"{where}{name}{inner} is {_short(seen)}: {wanted}") from None
    return found


def _checks(value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise Wrong("", value, "write a list of {service, command} and {url, expect}")
    found = []
    for index, entry in enumerate(value):
        where = f"[{index}]"
        kind = next((key for key in CHECKS if isinstance(entry, Mapping) and key in entry), None)
        if kind is None:
            raise Wrong(where, entry, "write {service: NAME, command: […]} or {url: http://…, expect: TEXT}")
        unknown = sorted(map(str, set(entry) - CHECKS[kind]))
        if unknown:
            raise Wrong(
                f"{where}.{unknown[0]}", entry[unknown[0]], f"a check has {', '.join(sorted(CHECKS[kind]))} only"
            )
        check = {"timeout": CHECK_TIMEOUT, **entry}
        if isinstance(check["timeout"], bool) or not isinstance(check["timeout"], int) or check["timeout"] < 1:
            raise Wrong(f"{where}.timeout", check["timeout"], "write a whole number of seconds, from 1 on")
        found.append(_command(where, check) if kind == "service" else _url(where, check))
    return found


def _command(where: str, check: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(check["service"], str) or not check["service"]:
        raise Wrong(f"{where}.service", check["service"], "write the name of a service")
    command = check.get("command")
    if isinstance(command, str) and command.strip():
        command = ["sh", "-c", command]
    if not isinstance(command, list) or not command or not all(isinstance(part, (str, int)) for part in command):
        raise Wrong(f"{where}.command", command, "write a command, or a list of its words")
    return {**check, "command": [str(part) for part in command]}


def _url(where: str, check: dict[str, Any]) -> dict[str, Any]:
    if not re.fullmatch(r"https?://[^\s/]\S*", str(check["url"])):
        raise Wrong(f"{where}.url", check["url"], "write http://127.0.0.1:PORT/PATH; ${SETTING} is filled in")
    expect = check.get("expect", 200)
    number = isinstance(expect, int) and not isinstance(expect, bool) and 100 <= expect <= 599
    if not number and not (isinstance(expect, str) and expect):
        raise Wrong(f"{where}.expect", expect, "write a status (200) or a text that the answer has")
    return {**check, "expect": expect}


def _runs(value: Any) -> dict[str, str]:
    """Service -> what a run of it does."""
    if isinstance(value, Mapping) and all(isinstance(text, str) for text in value.values()):
        return {str(name): text for name, text in value.items()}
    if isinstance(value, Mapping):
        name, text = next((name, text) for name, text in value.items() if not isinstance(text, str))
        raise Wrong(f".{name}", text, "write what a run of it does, in a line")
    return dict.fromkeys(_names(value), "")


def _names(value: Any) -> list[str]:
    if not isinstance(value, list):
        raise Wrong("", value, "write a list of names")
    for index, name in enumerate(value):
        if not isinstance(name, str) or not name:
            raise Wrong(f"[{index}]", name, "write a name")
    return list(dict.fromkeys(value))


def _yes(value: Any) -> bool:
    if not isinstance(value, bool):
        raise Wrong("", value, "write true or false")
    return value


def _sharing(value: Any) -> str:
    if value not in SHARING:
        raise Wrong("", value, f"write {' or '.join(SHARING)}")
    return str(value)


def _publish(value: Any) -> dict[str, list[str]]:
    if not isinstance(value, Mapping):
        raise Wrong("", value, "write SERVICE: [8000] below it")
    value = {name: ports or [] for name, ports in value.items()}
    for name, ports in value.items():
        if not isinstance(ports, list):
            raise Wrong(f".{name}", ports, "write a list of ports; an empty one for none")
        for index, port in enumerate(ports):
            match = PORT.fullmatch(str(port))
            numbers = [int(match[key]) for key in ("published", "target") if match[key]] if match else []
            if isinstance(port, bool) or not match or not all(1 <= number <= 65535 for number in numbers):
                raise Wrong(f".{name}[{index}]", port, 'write 8000, "9000:8000", or "0.0.0.0:9000:8000"')
            spelled(port)
    return {str(name): [str(port) for port in ports] for name, ports in value.items()}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


PARTS: dict[str, Callable[[Any], Any]] = {
    "checks": _checks,
    "runs": _runs,
    "profiles": _names,
    "no_health": _names,
    "graphics": _names,
    "snapshot": _yes,
    "gpu_sharing": _sharing,
    "publish": _publish,
    "mounts": _stack_mounts.read,
    "mount_into": _names,
}
DEFAULTS: dict[str, Any] = {
    "checks": [],
    "runs": [],
    "profiles": [],
    "no_health": [],
    "graphics": [],
    "snapshot": False,
    "gpu_sharing": "exclusive",
    "publish": {},
    "mounts": {},
    "mount_into": [],
}
