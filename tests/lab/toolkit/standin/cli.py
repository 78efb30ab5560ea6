"""Commands with flags, parsed and refused as the real command line does it."""

import os
import sys
from collections.abc import Callable
from typing import Any

from .log import LOG, Failure
from .version import text as version_text

Values = dict[str, Any]


class Flag:
    """One option: its first name is the key of its value. kind: string, list or bool."""

    def __init__(self, names: str, kind: str = "string", default: Any = None, env: str = "", usage: str = "") -> None:
        self.names = names.split()
        self.kind = kind
        self.default = default if default is not None else {"string": "", "list": [], "bool": False}[kind]
        self.env = env.split()
        self.usage = usage

    def from_environment(self) -> Any:
        for name in self.env:
            if value := os.environ.get(name, ""):
                return self.parse(value)
        return list(self.default) if self.kind == "list" else self.default

    def parse(self, value: str) -> Any:
        if self.kind == "list":
            return [part.strip() for part in value.split(",")]
        if self.kind == "bool":
            if value.lower() not in ("1", "t", "true", "0", "f", "false"):
                raise Failure(f'invalid value "{value}" for flag -{self.names[0]}: parse error')
            return value.lower() in ("1", "t", "true")
        return value

    def help_line(self) -> tuple[str, str]:
        names = ", ".join(("-" if len(name) == 1 else "--") + name for name in self.names)
        if self.kind == "list":
            names += f" string [ {names} string ]"
        elif self.kind == "string":
            names += " string"
        notes = self.usage
        if self.default:
            shown = self.default if isinstance(self.default, list) else [self.default]
            notes += " (default: " + ", ".join(f'"{value}"' for value in shown) + ")"
        if self.env:
            notes += " [" + ", ".join("$" + name for name in self.env) + "]"
        return names, notes


class Command:
    def __init__(
        self,
        name: str,
        usage: str,
        flags: list[Flag] | None = None,
        commands: "list[Command] | None" = None,
        run: Callable[[Values], None] | None = None,
    ) -> None:
        self.name = name
        self.usage = usage
        self.flags = flags or []
        self.commands = commands or []
        self.run = run


class _Usage(Exception):
    """A wrong command line: told with the command's help."""


def _help(path: list[Command], top: bool) -> str:
    command = path[-1]
    names = " ".join(part.name for part in path)
    lines = ["NAME:", f"   {names} - {command.usage}", "", "USAGE:"]
    if command.commands:
        lines.append(f"   {names} {'[global options] ' if top else ''}[command [command options]]")
    else:
        lines.append(f"   {names} [options]")
    if top:
        lines += ["", "VERSION:", "   " + version_text()]

    def table(title: str, rows: list[tuple[str, str]]) -> None:
        width = max(len(left) for left, _ in rows)
        lines.extend(["", title, *(f"   {left:{width}}  {right}".rstrip() for left, right in rows)])

    if command.commands:
        rows = [(part.name, part.usage) for part in command.commands]
        table("COMMANDS:", rows + [("help, h", "Shows a list of commands or help for one command")] * top)
    options = [flag.help_line() for flag in command.flags] + [("--help, -h", "show help")]
    if top:
        options.append(("--version, -v", "print the version"))
    table("GLOBAL OPTIONS:" if top else "OPTIONS:", options)
    if not top:
        table("GLOBAL OPTIONS:", [flag.help_line() for flag in path[0].flags])
    return "\n".join(lines)


def _take_flag(command: Command, arguments: list[str], values: Values, given: set[str]) -> None:
    text = arguments.pop(0)
    name, equals, value = text.lstrip("-").partition("=")
    flag = next((flag for flag in command.flags if name in flag.names), None)
    if flag is None:
        raise _Usage(f"flag provided but not defined: -{name}")
    key = flag.names[0]
    if flag.kind == "bool":
        values[key] = flag.parse(value) if equals else True
    else:
        if not equals:
            if not arguments:
                raise _Usage(f"flag needs an argument: {text}")
            value = arguments.pop(0)
        parsed = flag.parse(value)
        values[key] = values[key] + parsed if flag.kind == "list" and key in given else parsed
    given.add(key)


def _dispatch(path: list[Command], arguments: list[str], before: Callable[[Values], None], outer: Values) -> int:
    command, top = path[-1], len(path) == 1
    values = outer | {flag.names[0]: flag.from_environment() for flag in command.flags}
    given: set[str] = set()
    while arguments and arguments[0].startswith("-") and len(arguments[0]) > 1:
        name = arguments[0].lstrip("-")
        if name in ("help", "h"):
            print(_help(path, top))
            return 0
        if top and name in ("version", "v"):
            print(f"{command.name} version {version_text()}")
            return 0
        try:
            _take_flag(command, arguments, values, given)
        except _Usage as error:
            print(f"Incorrect Usage: {error}\n\n{_help(path, top)}")
            raise Failure(str(error)) from None
    values["__given"] = given
    if top:
        before(values)
    if command.commands and arguments:
        wanted = arguments.pop(0)
        if wanted in ("help", "h"):
            print(_help(path, top))
            return 0
        for part in command.commands:
            if wanted in part.name.split(", "):
                part.name = wanted
                return _dispatch([*path, part], arguments, before, values)
        print(f"No help topic for '{wanted}'", file=sys.stderr)
        return 3
    if command.run is None:
        print(_help(path, top))
        return 0
    command.run(values)
    return 0


def main(program: Command) -> int:
    def before(values: Values) -> None:
        LOG.lowest = "error" if values.get("quiet") else "debug" if values.get("debug") else "info"

    try:
        return _dispatch([program], sys.argv[1:], before, {})
    except Failure as error:
        LOG.write("error", str(error))
        return 1
