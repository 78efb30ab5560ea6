"""The few things that every part asks of the operating system: run, lock, write whole, remove."""

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .settings import LabError

# In front of a command that works long on files: it dies with the command of ours that started it, however that dies.
WITH_US = ("setpriv", "--pdeathsig", "KILL")


def run(argv: Sequence[str | Path], stdin: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command to its end and keep what it said; a failure carries the command's own words."""
    command = [str(word) for word in argv]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, errors="replace", check=False)
    if check and done.returncode:
        words = (done.stderr or done.stdout).strip() or f"exit {done.returncode}"
        raise LabError(f"{' '.join(command[:8])}: {words}")
    return done


def write_json(path: Path, content: Any) -> None:
    """A reader sees the old content or the new one, never half."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(content, indent=1) + "\n")
    temporary.replace(path)


def read_json(path: Path) -> Any:
    """The content, or None for a file that is not there (or was being made when its writer died)."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        return None


def remove_tree(path: Path) -> None:
    """Never crosses into another file system: a mount that was left in a tree keeps its content."""
    for _ in range(5):
        if not path.exists() and not path.is_symlink():
            return
        done = run([*WITH_US, "rm", "-rf", "--one-file-system", "--", path], check=False)
        if done.returncode == 0:
            return
        time.sleep(0.2)  # somebody who was just killed wrote his last file
    raise LabError(f"{path} cannot be removed: {done.stderr.strip()}")


# From linux/fs.h, as chattr +T uses them.
GET_FLAGS, SET_FLAGS, TOP_FOLDER = 0x80086601, 0x40086602, 0x00020000


def spread(folder: Path) -> None:
    """Have ext4 put each new folder in this one at another place on the disk, as it does with home folders.

    It does not use an inode again within minutes of its removal, and looks for another one by one: a tree that is
    unpacked where one was just removed takes ten times as long. Other file systems do not mind, or refuse.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with contextlib.suppress(OSError):
            flags = int.from_bytes(fcntl.ioctl(handle, GET_FLAGS, bytes(8)), sys.byteorder)
            if not flags & TOP_FOLDER:
                fcntl.ioctl(handle, SET_FLAGS, (flags | TOP_FOLDER).to_bytes(8, sys.byteorder))
    finally:
        os.close(handle)


class Busy(LabError):
    """Another command holds the lock."""


@contextlib.contextmanager
def lock(path: Path, wait: bool = True) -> Iterator[int]:
    """Hold an exclusive lock on a file; the kernel lets it go when the holder dies, however it dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            os.close(handle)
            raise Busy(f"{path} is held by another command") from None
        except BaseException:
            os.close(handle)
            raise
        # The holder before us may have removed the file: then this lock protects nothing, take the new file's.
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_ino == os.fstat(handle).st_ino:
                break
        os.close(handle)
    try:
        yield handle
    finally:
        os.close(handle)


def is_locked(path: Path) -> bool:
    if not path.exists():
        return False
    try:
        with lock(path, wait=False):
            return False
    except Busy:
        return True


def process_runs(pid: int, *words: str) -> bool:
    """Whether this process id still belongs to a process whose command line holds these words (ids are reused)."""
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (OSError, IndexError):
        return False
    return state != "Z" and all(word in line for word in words)


def children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def send(pid: int, number: int = signal.SIGKILL) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
