# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The collection's code on a host: one file, which is the researcher's command, and which a module can take its parts from.

A module's parts travel with it in every run, are searched for what they import on the controller, and translated by Python
on the host, each time. Those of compose_release are most of what `gpulab` is made of, so it takes them from there.

The file is a zip that Python runs, each part with its bytecode beside it. It ends in a comment of a fixed length: the
checksum of what the controller sent, that of all that is before the comment, and for which Python the bytecode is.
"""

from __future__ import annotations

from hashlib import sha256
from importlib import import_module
from importlib.util import MAGIC_NUMBER
from pathlib import Path
from typing import Any

PROGRAM = "usr/local/lib/gpulab/gpulab.pyz"
PACKAGE = "ansible_collections.gpulab.fleet.plugins.module_utils"
COMMENT = 2 * (64 + 1) + 8  # bytes


def comment(sent: bytes, body: bytes) -> bytes:
    """sent is the checksum of what was sent, in hexadecimal digits."""
    return b" ".join([sent, sha256(body).hexdigest().encode(), MAGIC_NUMBER.hex().encode()])


def stands_for(program: Path) -> str:
    """The checksum of what was sent for it; "" where there is none, or it is not whole, or it is another Python's."""
    try:
        data = program.read_bytes()
    except OSError:
        return ""
    body, last = data[:-COMMENT], data[-COMMENT:]
    return last[:64].decode() if last == comment(last[:64], body) else ""


def is_as_sent(file: Path, wanted: str) -> bool:
    return sha256(file.read_bytes()).hexdigest() == wanted


def part(program: str, name: str) -> Any:
    """A part of the collection as the program has it, with all that it imports."""
    package = import_module(PACKAGE)
    package.__path__.insert(0, f"{program}/{PACKAGE.replace('.', '/')}")
    return import_module(f"{PACKAGE}.{name}")
