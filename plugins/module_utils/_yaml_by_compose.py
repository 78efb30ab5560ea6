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
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._userenv import Account

# In the order in which Compose itself looks.
NAMES = ("compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml")
STACK = "stack.yml"
KEYS = ("x-gpulab-compose", "x-gpulab-stack")
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
    files = {"STACK_COMPOSE_INVALID": compose, "STACK_INVALID": compose.parent / STACK}
    documents = {}
    for code, (key, path) in zip(files, zip(KEYS, files.values(), strict=True), strict=True):
        try:
            text = path.read_text(encoding="utf-8-sig") if path == compose or path.exists() else ""
        except (OSError, UnicodeDecodeError) as error:
            raise FleetError(code, f"{path}: {error}") from error
        documents[code] = below(key, text, path, code)
    done = _config(run, compose.parent, "".join(documents.values()))
    if done.returncode != 0:
        for code, document in documents.items():
            alone = _config(run, compose.parent, document)
            if alone.returncode != 0:
                # Compose counts the two lines that stand above it.
                said = re.sub(r"\bline (\d+)", lambda match: f"line {int(match[1]) - 2}", _said(alone))
                raise FleetError(code, f"{files[code]}: {said}")
        raise FleetError("STACK_COMPOSE_INVALID", f"{compose}: {_said(done)}")
    read_back = json.loads(done.stdout)
    config = read_back.get(KEYS[0])
    if not isinstance(config, dict):
        raise FleetError("STACK_COMPOSE_INVALID", f"{compose} is not a mapping with services")
    return config, read_back.get(KEYS[1])


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
