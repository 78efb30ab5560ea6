# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Puts each part's bytecode beside it in the host's program: Python keeps none for what it reads from a zip, and translates
it twice at every start."""

from __future__ import annotations

import marshal
import zipfile
from hashlib import sha256
from importlib.util import MAGIC_NUMBER, source_hash
from io import BytesIO

from ansible_collections.gpulab.fleet.plugins.module_utils._host_program import COMMENT, comment

# Of a .pyc, after the magic number: by hash, and not to be compared with the source at every import (PEP 552).
UNCHECKED = (0b01).to_bytes(4, "little")


def bytecode(source: bytes, name: str) -> bytes:
    """What a .pyc of this source holds."""
    code = compile(source, name, "exec", dont_inherit=True)
    return MAGIC_NUMBER + UNCHECKED + source_hash(source) + marshal.dumps(code)


def compiled(sent: bytes) -> bytes:
    """The program as a host keeps it, made of what the controller sent."""
    buffer = BytesIO()
    with zipfile.ZipFile(BytesIO(sent)) as old, zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as new:
        for entry in old.infolist():
            data = old.read(entry)
            new.writestr(entry, data)
            # The shipped stacks' programs are data here: containers run them, nobody imports them.
            if entry.filename.endswith(".py") and not entry.filename.startswith("stacks/"):
                new.writestr(zipfile.ZipInfo(f"{entry.filename}c", entry.date_time), bytecode(data, entry.filename))
        new.comment = b" " * COMMENT
    body = buffer.getvalue()[:-COMMENT]
    return body + comment(sha256(sent).hexdigest().encode(), body)
