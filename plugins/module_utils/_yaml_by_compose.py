# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""compose.yml and stack.yml read on a host that has no YAML parser but Compose.

stack.yml travels as a second file, below a key that Compose lets through as it is. Nothing is filled in or looked up:
what comes back is what was written, with services of all profiles. It differs from PyYAML where YAML 1.2 does: `yes`
and `on` are texts here.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._userenv import Account

# In the order in which Compose itself looks.
NAMES = ("compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml")
STACK = "stack.yml"
KEY = "x-gpulab-stack"
RAW = ("--no-interpolate", "--no-normalize", "--no-path-resolution", "--no-consistency")

Run = Callable[[list[str], Path, str], "subprocess.CompletedProcess[str]"]


def locate(path: Path) -> tuple[Path, Path]:
    """(the tree, its Compose file) of a folder, or of a file: the checkout that the file is in, else its folder."""
    if path.is_file():
        tops = [parent for parent in path.absolute().parents if (parent / ".git").exists()]
        return (tops[0] if tops else path.absolute().parent), path.absolute()
    for name in NAMES:
        if (path / name).is_file():
            return path.absolute(), (path / name).absolute()
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


def read(compose: Path, run: Run) -> tuple[dict[str, Any], Any]:
    """(the Compose file, stack.yml beside it or None), both as plain data."""
    stack = compose.parent / STACK
    try:
        text = stack.read_text(encoding="utf-8-sig") if stack.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise FleetError("STACK_INVALID", f"{stack}: {error}") from error
    files = ["-f", str(compose)]
    done = _config(run, compose.parent, [*files, "-f", "-"], below(text, stack))
    if done.returncode != 0:
        alone = _config(run, compose.parent, files, "")
        if alone.returncode != 0:
            raise FleetError("STACK_COMPOSE_INVALID", f"{compose}: {_said(alone)}")
        # Compose counts the line of the key that stands above it.
        said = re.sub(r"\bline (\d+)", lambda match: f"line {int(match[1]) - 1}", _said(done))
        raise FleetError("STACK_INVALID", f"{stack}: {said}")
    config: dict[str, Any] = json.loads(done.stdout)
    return config, config.pop(KEY, None)


def below(text: str, path: Path) -> str:
    """A YAML document as the value of our key: one level further in, without the marks of a document."""
    lines = text.splitlines()
    marks = [number for number, line in enumerate(lines) if re.match(r"(---|\.\.\.)(\s|$)|%", line)]
    content = [number for number, line in enumerate(lines) if line.strip() and line.lstrip()[0] != "#"]
    for number in marks:
        before = any(each < number for each in content if each not in marks)
        after = any(each > number for each in content if each not in marks)
        if before and after:
            raise FleetError("STACK_INVALID", f"{path}: line {number + 1} begins a second document: keep one")
        rest = re.sub(r"^(---|\.\.\.|%.*)\s*", "", lines[number])
        if rest and not rest.startswith("#"):
            raise FleetError("STACK_INVALID", f"{path}: line {number + 1}: begin the text on a line of its own")
        lines[number] = ""
    return f"{KEY}:\n" + "".join(f"  {line}\n" if line.strip() else "\n" for line in lines)


def _config(run: Run, folder: Path, files: list[str], text: str) -> subprocess.CompletedProcess[str]:
    # The folder's own name may be none that a project can have.
    return run([*files, "-p", "stack", "--profile", "*", "config", *RAW, "--format", "json"], folder, text)


def _said(done: subprocess.CompletedProcess[str]) -> str:
    return re.sub(r"failed to parse \S+: ", "", (done.stderr or done.stdout).strip())
