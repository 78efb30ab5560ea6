# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Other apt sources for a repository that this collection keeps: switched off in their own files, and on again.

apt refuses every command once two sources give one repository different keys, and other sources of the same
packages bring versions that nobody asked for. An entry is switched off where it stands, so that a person sees what
was there, and what else the file holds stays.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

MARK = "# Taken over by gpulab.fleet:"
OFF = ("no", "false", "0", "off", "disable", "without")
ONE_LINE = re.compile(r"\s*deb(?:-src)?\s+(?:\[(?P<options>[^\]]*)\]\s*)?(?P<uri>\S+)\s+(?P<suite>\S+)(?P<rest>[^#]*)")


class Entry(NamedTuple):
    """One repository that a file names."""

    uri: str
    suite: str
    components: tuple[str, ...]
    signed_by: str


class Wanted(NamedTuple):
    """The repository that is kept, and the addresses it replaces with all that is below them."""

    uris: tuple[str, ...]
    suites: tuple[str, ...]
    components: tuple[str, ...]
    replaces: tuple[str, ...] = ()
    architecture: str = ""

    def is_same(self, entry: Entry) -> bool:
        """Whether an entry names this repository, or one that it replaces.

        A mirror may hold other components in the same place, the distribution's own among them: those stay.
        """
        address = self.address(entry.uri)
        if any(f"{address}/".startswith(f"{self.address(prefix)}/") for prefix in self.replaces):
            return True
        suites = [self.address(suite) for suite in self.suites]
        if address not in map(self.address, self.uris) or self.address(entry.suite) not in suites:
            return False
        return not (self.components and entry.components) or bool(set(self.components) & set(entry.components))

    def address(self, text: str) -> str:
        """What apt compares, whether reached with or without TLS."""
        return re.sub(r"^(mirror\+)?\w+://", "", text.replace("$(ARCH)", self.architecture)).rstrip("/")


class Taken(NamedTuple):
    """A file's text with what was taken over switched off; what could not be, because others share its stanza."""

    text: str
    entries: list[Entry]
    shared: list[Entry]


def take(path: str, text: str, is_ours: Callable[[Entry], bool]) -> Taken:
    """Switch off the entries of a file that are ours."""
    return _take_stanzas(text, is_ours) if path.endswith(".sources") else _take_lines(text, is_ours)


def give_back(path: str, text: str, is_ours: Callable[[Entry], bool]) -> str:
    """A file's text with the entries that are ours switched on again, as far as nobody has changed them since."""
    # Lines stand alone in one form, stanzas in the other.
    parts = re.split(r"(\n[ \t]*\n)", text) if path.endswith(".sources") else text.splitlines(keepends=True)
    result = []
    for part in parts:
        before = _switched_on(part) if MARK in part else part
        result.append(before if all(is_ours(entry) for entry in entries(path, before)) else part)
    return "".join(result)


def _switched_on(part: str) -> str:
    kept: list[str] = []
    after_mark = False
    for line in part.splitlines(keepends=True):
        if line.startswith(MARK):
            after_mark = True
            if original := line[len(MARK) :].removeprefix(" ").strip("\n"):
                kept.append(f"{original}\n" if line.endswith("\n") else original)
        elif not (after_mark and line.strip() == "Enabled: no"):
            after_mark = False
            kept.append(line)
    return "".join(kept)


def _take_lines(text: str, is_ours: Callable[[Entry], bool]) -> Taken:
    lines, taken = [], []
    for line in text.splitlines(keepends=True):
        entry = one_line(line)
        if entry and is_ours(entry):
            taken.append(entry)
            line = f"{MARK} {line}"
        lines.append(line)
    return Taken("".join(lines), taken, [])


def one_line(line: str) -> Entry | None:
    """The entry that a line of a .list file is."""
    match = ONE_LINE.match(line)
    if not match:
        return None
    signed = re.search(r"(?i)\bsigned-by=(\S+)", match["options"] or "")
    return Entry(match["uri"], match["suite"], tuple(match["rest"].split()), signed[1] if signed else "")


def _take_stanzas(text: str, is_ours: Callable[[Entry], bool]) -> Taken:
    parts, taken, shared = [], [], []
    # The empty lines between stanzas are parts of their own.
    for part in re.split(r"(\n[ \t]*\n)", text):
        entries = stanza(part)
        ours = [entry for entry in entries if is_ours(entry)]
        if ours and len(ours) == len(entries):
            taken += ours
            part = _switched_off(part)
        else:
            shared += ours
        parts.append(part)
    return Taken("".join(parts), taken, shared)


def _switched_off(part: str) -> str:
    lines = part.splitlines()
    enabled = [number for number, line in enumerate(lines) if re.match(r"(?i)enabled\s*:", line)]
    if enabled:
        lines[enabled[0]] = f"{MARK} {lines[enabled[0]]}\nEnabled: no"
    else:
        first = next(number for number, line in enumerate(lines) if line and not line.startswith("#"))
        lines[first] = f"{MARK}\nEnabled: no\n{lines[first]}"
    return "\n".join(lines) + ("\n" if part.endswith("\n") else "")


def stanza(text: str) -> list[Entry]:
    """The entries that a stanza of a .sources file stands for; none when it is switched off."""
    fields: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        if line[:1] in (" ", "\t") and name:
            fields[name] += "\n" + line.strip()
        elif ":" in line:
            name, _, value = line.partition(":")
            name = name.strip().lower()
            fields[name] = value.strip()
    if fields.get("enabled", "yes").lower() in OFF:
        return []
    components, signed = tuple(fields.get("components", "").split()), fields.get("signed-by", "")
    return [
        Entry(uri, suite, components, signed)
        for uri in fields.get("uris", "").split()
        for suite in fields.get("suites", "").split()
    ]


def entries(path: str, text: str) -> list[Entry]:
    """All that a file names and apt reads."""
    if path.endswith(".sources"):
        return [entry for part in re.split(r"\n[ \t]*\n", text) for entry in stanza(part)]
    return [entry for line in text.splitlines() if (entry := one_line(line))]
