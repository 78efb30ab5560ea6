# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""compose.yml and stack.yml read on a host that has no YAML parser but Compose.

Both travel below keys that Compose lets through as they are, so that nothing is filled in, looked up or judged: Compose
2.26 cannot even judge a file whose variables are not filled in. What comes back is what was written. It differs from
PyYAML where YAML 1.2 does: `yes` and `on` are texts here.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._files import read_text
from ansible_collections.gpulab.fleet.plugins.module_utils._userenv import Account

# In the order in which Compose itself looks.
NAMES = ("compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml")
# What it merges with the file that it found, when it was not told which to take; the first one there.
OVERRIDES = (
    "compose.override.yml",
    "compose.override.yaml",
    "docker-compose.override.yml",
    "docker-compose.override.yaml",
)
STACK = "stack.yml"
KEYS = ("x-gpulab-compose", "x-gpulab-override", "x-gpulab-stack")
RAW = ("--no-interpolate", "--no-normalize", "--no-path-resolution", "--no-consistency")

Run = Callable[[list[str], Path, str], "subprocess.CompletedProcess[str]"]


class Found(NamedTuple):
    """A stack's tree, its Compose file in it, and the file that is merged into that one."""

    tree: Path
    compose: Path
    override: Path | None = None
    alone: bool = False  # it was named itself, not its folder

    def inside(self) -> dict[str, str]:
        """The files as paths within the tree, as plans and releases have them."""
        override = self.override.relative_to(self.tree).as_posix() if self.override else ""
        return {"compose_file": self.compose.relative_to(self.tree).as_posix(), "override": override}


def locate(path: Path) -> Found:
    """Of a folder, what plain `docker compose` would take there. Of a file: that one alone, of the checkout that it is in."""
    whole = path.absolute()
    if path.is_file():
        tops = [parent for parent in whole.parents if (parent / ".git").exists()]
        return Found(tops[0] if tops else whole.parent, whole, alone=True)
    for name in NAMES:
        if (whole / name).is_file():
            beside = [whole / each for each in OVERRIDES if (whole / each).is_file()]
            return Found(whole, whole / name, beside[0] if beside else None)
    raise FleetError("STACK_UNKNOWN", f"{path} has none of {', '.join(NAMES)}")


def run_as(user: Account) -> Run:
    """Runs Compose in a folder with a text for its standard input; reading needs no engine."""

    def run(argv: list[str], folder: Path, text: str) -> subprocess.CompletedProcess[str]:
        # COMPOSE_* of the caller would name other files.
        return subprocess.run(
            ["docker", "compose", *argv],
            input=text,
            capture_output=True,
            text=True,
            check=False,
            cwd=folder,
            env=user.environment(),
            timeout=60,
        )

    return run


def read(compose: Path, run: Run, override: Path | None = None) -> tuple[dict[str, Any], Any]:
    """(the Compose file, merged with the override; stack.yml beside it or None), both as plain data."""
    stack = compose.parent / STACK
    files = {
        KEYS[0]: compose,
        **({KEYS[1]: override} if override else {}),
        **({KEYS[2]: stack} if stack.exists() else {}),
    }
    documents = {}
    for key, path in files.items():
        try:
            documents[key] = below(key, path.read_text(encoding="utf-8-sig"), path, _code(path))
        except (OSError, UnicodeDecodeError) as error:
            raise FleetError(_code(path), f"{path}: {error}") from error
    done = _config(run, compose.parent, "".join(documents.values()))
    if done.returncode != 0:
        for key, document in documents.items():
            alone = _config(run, compose.parent, document)
            if alone.returncode != 0:
                # Compose counts the two lines that stand above it.
                said = re.sub(r"\bline (\d+)", lambda match: f"line {int(match[1]) - 2}", _said(alone))
                raise FleetError(_code(files[key]), f"{files[key]}: {said}")
        raise FleetError("STACK_COMPOSE_INVALID", f"{compose}: {_said(done)}")
    read_back = json.loads(done.stdout)
    for key in documents:
        if key != KEYS[2] and not isinstance(read_back.get(key), dict):
            raise FleetError("STACK_COMPOSE_INVALID", f"{files[key]} is not a mapping with services")
    return merged(read_back[KEYS[0]], read_back.get(KEYS[1])), read_back.get(KEYS[2])


def _code(path: Path) -> str:
    return "STACK_INVALID" if path.name == STACK else "STACK_COMPOSE_INVALID"


def merged(base: Any, over: Any) -> Any:
    """A file with its override, well enough to see which services, profiles and variables there are.

    What a deploy uses is what Compose itself makes of the two.
    """
    if over is None:
        return base
    if isinstance(base, Mapping) and isinstance(over, Mapping):
        return {**base, **{key: merged(base.get(key), value) for key, value in over.items()}}
    if isinstance(base, list) and isinstance(over, list):
        return [*base, *(each for each in over if each not in base)]
    return over


def notes(found: Found, dotenv: Mapping[str, str]) -> list[str]:
    """What there is to say of a folder's Compose files; dotenv is what stands in the .env beside them."""
    said = []
    if found.override:
        said.append(f"{found.override.name} is merged into {found.compose.name}, as `docker compose` does it")
    if named := dotenv.get("COMPOSE_FILE"):
        said.append(
            f".env says COMPOSE_FILE={named}, which counts for `docker compose` by hand alone: here it is "
            f"{found.compose.name}{f' with {found.override.name}' if found.override else ''}"
        )
    return said


# NAME=value, 'value' or "value", with a comment behind it or not; values that are to be expanded are left alone.
ASSIGNMENT = re.compile(r"\s*(?:export\s+)?([A-Za-z_]\w*)\s*=\s*(?:'([^']*)'|\"([^\"$]*)\"|([^'\"$#]*?))\s*(?:#.*)?")


def dotenv(path: Path) -> dict[str, str]:
    """The values of a .env file that stand there as they are."""
    found = {}
    for line in read_text(path).splitlines():
        if match := ASSIGNMENT.fullmatch(line):
            found[match[1]] = next((each for each in match.groups()[1:] if each is not None), "")
    return found


def below(key: str, text: str, path: Path, code: str) -> str:
    """A YAML document as the value of a key: one level further in, without the marks of a document."""
    lines = text.splitlines()
    marks = [number for number, line in enumerate(lines) if re.match(r"(---|\.\.\.)(\s|$)|%", line)]
    content = [number for number, line in enumerate(lines) if line.strip() and line.lstrip()[0] != "#"]
    for number in marks:
        before = any(each < number for each in content if each not in marks)
        after = any(each > number for each in content if each not in marks)
        if before and after:
            raise FleetError(code, f"{path}: line {number + 1} begins a second document: keep one")
        rest = re.sub(r"^(---|\.\.\.|%.*)\s*", "", lines[number])
        if rest and not rest.startswith("#"):
            raise FleetError(code, f"{path}: line {number + 1}: begin the text on a line of its own")
        lines[number] = ""
    return f"{key}:\n" + "".join(f"  {line}\n" if line.strip() else "\n" for line in lines)


def _config(run: Run, folder: Path, text: str) -> subprocess.CompletedProcess[str]:
    # The folder's own name may be none that a project can have.
    return run(["-f", "-", "-p", "stack", "config", *RAW, "--format", "json"], folder, f"services: {{}}\n{text}")


def _said(done: subprocess.CompletedProcess[str]) -> str:
    return re.sub(r"failed to parse \S+: ", "", (done.stderr or done.stdout).strip())
