# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Reading a file that may be missing; writing one so that nobody ever sees half of it."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path


def read_text(path: Path) -> str:
    """A file's text, also where it is not UTF-8; nothing where there is no file."""
    with contextlib.suppress(FileNotFoundError):
        return path.read_text(encoding="utf-8", errors="replace")
    return ""


def make_folders(path: Path, mode: int = 0o755) -> None:
    """Make a folder and its missing parents with exactly this mode, whatever the umask."""
    if path.is_dir():
        return
    make_folders(path.parent, mode)
    path.mkdir()
    path.chmod(mode)


def write_atomic(path: Path, data: bytes, mode: int, folder_mode: int = 0o755) -> None:
    """Write beside the file with its final mode, sync, rename; missing folders are made."""
    make_folders(path.parent, folder_mode)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(temporary).unlink()
        raise
