# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The researcher's command as one file: the parts of this collection that it needs, in a zip that Python runs.

Made on the controller from its own files, always with the same bytes: an unchanged one is not sent again.
"""

from __future__ import annotations

import io
import re
import zipfile
from hashlib import sha256
from pathlib import Path

UTILS = Path(__file__).parents[1] / "module_utils"
PACKAGE = "ansible_collections.gpulab.fleet.plugins.module_utils"
START = "_gpulab"
MAIN = f"import sys\n\nfrom {PACKAGE}.{START} import main\n\nsys.exit(main())\n"
# `from PACKAGE._part import x`, or `from PACKAGE import _part, _other`, in parentheses or not, at any depth.
IMPORT = re.compile(rf"^\s*from {re.escape(PACKAGE)}(?:\.(\w+) import|\s+import\s+(\([^)]*\)|[^\n]+))", re.MULTILINE)
EPOCH = (1980, 1, 1, 0, 0, 0)


def imported(text: str) -> set[str]:
    """The parts that a part asks for."""
    found: set[str] = set()
    for one, several in IMPORT.findall(text):
        found |= {one} if one else set(re.findall(r"(\w+)(?:\s+as\s+\w+)?\s*[,)\n]", f"{several.lstrip('(')}\n"))
    return found


def parts(start: str = START, folder: Path = UTILS) -> dict[str, str]:
    """A part and all that it needs, directly or not: name and text."""
    found: dict[str, str] = {}
    waiting = {start}
    while waiting:
        name = waiting.pop()
        found[name] = (folder / f"{name}.py").read_text(encoding="utf-8")
        waiting |= imported(found[name]) - found.keys()
    return dict(sorted(found.items()))


def archive() -> bytes:
    """The whole file. Stored, not compressed: compressed bytes differ between versions of zlib."""
    packages = PACKAGE.split(".")
    files = {"/".join([*packages[: depth + 1], "__init__.py"]): "" for depth in range(len(packages))}
    files |= {f"{PACKAGE.replace('.', '/')}/{name}.py": text for name, text in parts().items()}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as made:
        for name, text in {"__main__.py": MAIN, **files}.items():
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.create_system, entry.external_attr = 3, 0o644 << 16
            made.writestr(entry, text.encode())
    return buffer.getvalue()


def digest(data: bytes) -> str:
    return sha256(data).hexdigest()
