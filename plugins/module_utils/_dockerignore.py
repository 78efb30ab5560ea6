# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a .dockerignore leaves out of a build context."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any


class Ignored:
    """The patterns of one file, the last that fits decides."""

    def __init__(self, text: str) -> None:
        self.rules: list[tuple[re.Pattern[str], bool]] = []
        for line in text.lstrip("\ufeff").splitlines():
            pattern = line.strip()
            if not pattern or pattern.startswith("#"):
                continue
            out = not pattern.startswith("!")
            pattern = str(PurePosixPath("/", pattern.lstrip("!").strip())).lstrip("/")
            if pattern and pattern != ".":
                self.rules.append((re.compile(translated(pattern)), out))

    def __contains__(self, path: str) -> bool:
        """Whether a file, by its path in the context, is left out: by itself or with a folder that it is in."""
        parts = path.split("/")
        chain = ["/".join(parts[: end + 1]) for end in range(len(parts))]
        answer = False
        for pattern, out in self.rules:
            if any(pattern.fullmatch(each) for each in chain):
                answer = out
        return answer


def translated(pattern: str) -> str:
    """A pattern of Docker's as a regular expression: ** is any number of folders, * and ? stay within one."""
    text, at = "", 0
    while at < len(pattern):
        if pattern.startswith("**/", at):
            text, at = text + "(?:.*/)?", at + 3
        elif pattern.startswith("**", at):
            text, at = text + ".*", at + 2
        elif pattern[at] == "*":
            text, at = text + "[^/]*", at + 1
        elif pattern[at] == "?":
            text, at = text + "[^/]", at + 1
        elif pattern[at] == "[" and "]" in pattern[at + 2 :]:
            end = pattern.index("]", at + 2)
            inside = pattern[at + 1 : end].replace("\\", "\\\\")
            text, at = text + "[" + inside + "]", end + 1
        elif pattern[at] == "\\" and at + 1 < len(pattern):
            text, at = text + re.escape(pattern[at + 1]), at + 2
        else:
            text, at = text + re.escape(pattern[at]), at + 1
    return text


def builds(compose: Any, where: str) -> list[tuple[str, str]] | None:
    """(context, Dockerfile) of each build of a Compose file (not interpolated), by their paths in the tree.

    where is the Compose file's folder in the tree. None: a path is not known before variables are filled in.
    """
    found = []
    for service in _services(compose):
        build = service.get("build")
        if not build:
            continue
        context = build if isinstance(build, str) else str(build.get("context", "."))
        file = "Dockerfile" if isinstance(build, str) else str(build.get("dockerfile", "Dockerfile"))
        extra = [] if isinstance(build, str) else _paths(build.get("additional_contexts"))
        inside = relative(context, where)
        if "$" in context + file or extra:
            return None
        if inside is not None:
            found.append((inside, str(PurePosixPath(inside, file))))
    return found


def mounted(compose: Any, where: str) -> list[str]:
    """Paths in the tree that containers mount ("" is all of it); a variable may stand for any."""
    found = []
    for service in _services(compose):
        for volume in service.get("volumes") or []:
            short = isinstance(volume, str)
            source = _source(volume) if short else str(volume.get("source") or "")
            if source in ("$PWD", "${PWD}"):
                found.append("")
            elif source.startswith(("$PWD/", "${PWD}/")):
                found.append(source.partition("/")[2].strip("/"))
            elif "$" in source:
                # ${X:-./x}: the default is in the tree, a site's own folder is not.
                default = re.fullmatch(r"\$\{\w+:?-(\.{0,2}/?[^${}]*)\}", source)
                found += _inside(default[1], where) if default else [""]
            elif source.startswith((".", "/")) or (not short and volume.get("type") == "bind"):
                found += _inside(source, where)
    return sorted(set(found))


def needless(
    files: Mapping[str, Any], texts: Mapping[str, str], contexts: list[tuple[str, str]], kept: list[str]
) -> set[str]:
    """Those files that no build sees and no container mounts.

    texts has the content of each .dockerignore, by its path; a file outside of every context is kept.
    """
    rules = []
    for context, dockerfile in contexts:
        names = (f"{dockerfile}.dockerignore", str(PurePosixPath(context, ".dockerignore")))
        text = next((texts[name] for name in names if name in texts), "")
        rules.append((f"{context}/" if context not in ("", ".") else "", Ignored(text)))
    always = {dockerfile for _context, dockerfile in contexts} | set(texts)
    found = set()
    for name in files:
        if name in always or any(name == each or not each or name.startswith(f"{each}/") for each in kept):
            continue
        seen = [name[len(prefix) :] in ignored for prefix, ignored in rules if name.startswith(prefix)]
        if seen and all(seen):
            found.add(name)
    return found


def relative(path: str, where: str) -> str | None:
    """A path of a Compose file as one in the tree, or None where it leads out."""
    if path.startswith(("/", "~", "git@")) or "://" in path:
        return None
    parts: list[str] = []
    for part in PurePosixPath(where, path).parts:
        if part == "..":
            if not parts:
                return None
            parts.pop()
        elif part != ".":
            parts.append(part)
    return "/".join(parts)


def _source(volume: str) -> str:
    """What stands before the first colon that is not within a variable."""
    found = re.match(r"(?:\$\{[^}]*\}|[^:])*", volume)
    return found[0] if found else ""


def _inside(path: str, where: str) -> list[str]:
    found = relative(path, where)
    return [] if found is None else [found]


def _services(compose: Any) -> list[Mapping[str, Any]]:
    services = (compose.get("services") if isinstance(compose, Mapping) else None) or {}
    return [service for service in services.values() if isinstance(service, Mapping)]


def _paths(contexts: Any) -> list[str]:
    """Additional contexts that are folders: any of them may be in the tree."""
    given = (
        contexts.values() if isinstance(contexts, Mapping) else [str(each).partition("=")[2] for each in contexts or []]
    )
    return [str(each) for each in given if "://" not in str(each)]


def read(tree: Path, files: Mapping[str, Any]) -> dict[str, str]:
    """The text of every .dockerignore in the tree."""
    names = [name for name in files if name.rpartition("/")[2].endswith(".dockerignore")]
    return {name: (tree / name).read_text(encoding="utf-8", errors="replace") for name in names}
