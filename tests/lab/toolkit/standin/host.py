"""The host's files. NVIDIA_STANDIN_ROOT puts another folder in front of every path: the stand-in's own tests use it."""

import os
import stat
from pathlib import Path

ROOT = os.environ.get("NVIDIA_STANDIN_ROOT", "").rstrip("/")
REAL_ROOT = Path(ROOT or "/").resolve()
PROGRAM_FOLDERS = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
LIBRARY_FOLDERS = ("/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib", "/lib/x86_64-linux-gnu", "/lib64")


def at(path: str) -> Path:
    return Path(ROOT + path)


def exists(path: str) -> bool:
    return at(path).exists()


def is_node(path: str) -> bool:
    try:
        return stat.S_ISCHR(at(path).stat().st_mode)
    except OSError:
        return False


def listing(folder: str) -> list[str]:
    try:
        return sorted(entry.name for entry in at(folder).iterdir())
    except OSError:
        return []


def program(name: str) -> str:
    """Where a program of this name is, or "" """
    if name.startswith("/"):
        return name if os.access(at(name), os.X_OK) else ""
    for folder in PROGRAM_FOLDERS:
        if os.access(at(f"{folder}/{name}"), os.X_OK):
            return f"{folder}/{name}"
    return ""


def library(name: str) -> str:
    """Where a library of this name is, links followed, or "" """
    for folder in LIBRARY_FOLDERS:
        path = at(f"{folder}/{name}")
        if path.exists():
            return f"/{path.resolve().relative_to(REAL_ROOT)}"
    return ""


def majors() -> dict[str, int]:
    """The character devices that the kernel knows, by name."""
    found = {}
    try:
        with at("/proc/devices").open() as file:
            for line in file:
                words = line.split()
                if len(words) == 2 and words[0].isdigit():
                    found.setdefault(words[1], int(words[0]))
                elif line.startswith("Block"):
                    break
    except OSError:
        pass
    return found
