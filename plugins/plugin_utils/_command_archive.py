# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The researcher's command as one file: the parts of this collection that it needs, in a zip that Python runs; what
compose_release does on a host; and the shipped stacks, which the command deploys by name.

Made on the controller from its own files, always with the same bytes: an unchanged one is not sent again.
"""

from __future__ import annotations

import functools
import io
import json
import re
import tempfile
import zipfile
from hashlib import sha256
from pathlib import Path
from typing import Any

from ansible_collections.gpulab.fleet.plugins.module_utils._gpulab_catalogue import FOLDER, INDEX
from ansible_collections.gpulab.fleet.plugins.module_utils._host_program import PACKAGE
from ansible_collections.gpulab.fleet.plugins.module_utils._stack_files import COMPOSE, shipped

UTILS = Path(__file__).parents[1] / "module_utils"
CATALOGUE = Path(__file__).parents[2] / "stacks"
COMMAND, OF_MODULES = "_gpulab", "_release_verbs"
MAIN = f"import sys\n\nfrom {PACKAGE}.{COMMAND} import main\n\nsys.exit(main())\n"
# `from PACKAGE._part import x`, or `from PACKAGE import _part, _other`, in parentheses or not, at any depth.
IMPORT = re.compile(rf"^\s*from {re.escape(PACKAGE)}(?:\.(\w+) import|\s+import\s+(\([^)]*\)|[^\n]+))", re.MULTILINE)
DESCRIPTION = re.compile(r"^description:(.*)$", re.MULTILINE)
EPOCH = (1980, 1, 1, 0, 0, 0)


def imported(text: str) -> set[str]:
    """The parts that a part asks for."""
    found: set[str] = set()
    for one, several in IMPORT.findall(text):
        found |= {one} if one else set(re.findall(r"(\w+)(?:\s+as\s+\w+)?\s*[,)\n]", f"{several.lstrip('(')}\n"))
    return found


def parts(*starts: str, folder: Path = UTILS) -> dict[str, str]:
    """These parts and all that they need, directly or not: name and text."""
    found: dict[str, str] = {}
    waiting = set(starts)
    while waiting:
        name = waiting.pop()
        found[name] = (folder / f"{name}.py").read_text(encoding="utf-8")
        waiting |= imported(found[name]) - found.keys()
    return dict(sorted(found.items()))


def catalogue(folder: Path = CATALOGUE) -> dict[str, tuple[bytes, int]]:
    """The shipped stacks, path -> content and mode, and a list of them with their descriptions."""
    found: dict[str, tuple[bytes, int]] = {}
    about = {}
    for stack in sorted(path.parent for path in folder.glob(f"*/{COMPOSE}")):
        for name, entry in shipped(stack).items():
            found[f"{FOLDER}/{stack.name}/{name}"] = ((stack / name).read_bytes(), entry["mode"])
        text = found.get(f"{FOLDER}/{stack.name}/stack.yml", (b"", 0))[0].decode()
        # Not read as YAML: this is done in every run for every host.
        about[stack.name] = match[1].strip("'\" ") if (match := DESCRIPTION.search(text)) else ""
    return {INDEX: (json.dumps(about, indent=1).encode(), 0o644), **found}


@functools.cache
def archive() -> bytes:
    """The whole file. Stored, not compressed: compressed bytes differ between versions of zlib."""
    packages = PACKAGE.split(".")
    files = {"/".join([*packages[: depth + 1], "__init__.py"]): "" for depth in range(len(packages))}
    files |= {f"{PACKAGE.replace('.', '/')}/{name}.py": text for name, text in parts(COMMAND, OF_MODULES).items()}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as made:
        whole = {name: (text.encode(), 0o644) for name, text in {"__main__.py": MAIN, **files}.items()}
        for name, (data, mode) in {**whole, **catalogue()}.items():
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.create_system, entry.external_attr = 3, mode << 16
            made.writestr(entry, data)
    return buffer.getvalue()


def digest(data: bytes) -> str:
    return sha256(data).hexdigest()


def send(action: Any) -> str:
    """Puts the file on the host of an action plugin; returns where it is now."""
    if not action._connection._shell.tmpdir:
        action._make_tmp_path()
    where = action._connection._shell.tmpdir
    with tempfile.NamedTemporaryFile(suffix=".pyz") as local:
        local.write(archive())
        local.flush()
        sent = str(action._transfer_file(local.name, action._connection._shell.join_path(where, "gpulab.pyz")))
    action._fixup_perms2((where, sent))
    return sent
