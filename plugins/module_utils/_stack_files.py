# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The files of a stack: which are shipped, and how settings are written for Compose."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

COMPOSE = "compose.yml"
DOTENV = ".env"
SECRETS = "secrets"
# What a person's own use of a stack's folder leaves there, and what is made anew on the host.
NOT_SHIPPED = {DOTENV, SECRETS, "data", ".git", "__pycache__"}
LABEL = "gpulab.stack"
SECRETS_LABEL = "gpulab.secrets"
LOOPBACK = "127.0.0.1"


def shipped(folder: Path) -> dict[str, dict[str, Any]]:
    """Every file of a stack's folder that goes to the host: relative path -> sha256 and mode. Links are followed."""
    found = {}
    for where, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if name not in NOT_SHIPPED)
        for name in files:
            path = Path(where, name)
            relative = path.relative_to(folder).as_posix()
            if name in NOT_SHIPPED or not path.is_file():
                continue
            mode = 0o755 if path.stat().st_mode & 0o100 else 0o644
            found[relative] = {"sha256": sha256(path.read_bytes()).hexdigest(), "mode": mode}
    return dict(sorted(found.items()))


def folder_state(folder: str) -> str:
    """Changes when a file in the folder does; told from names, sizes and times, as reading gigabytes would take long.

    What Git and Python keep there for themselves does not count.
    """
    found = []
    for where, folders, names in os.walk(folder):
        folders[:] = sorted(set(folders) - {".git", "__pycache__"})
        for name in sorted(names):
            path = Path(where, name)
            try:
                status = path.lstat()
            except OSError:
                continue
            found.append([str(path.relative_to(folder)), status.st_size, status.st_mtime_ns, status.st_mode])
    return digest(found)[:16]


def checksum(path: Path) -> str | None:
    try:
        return sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None


def digest(value: Any) -> str:
    """One checksum for plain data."""
    return sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def dotenv(values: Mapping[str, str]) -> str:
    """A .env file that gives Compose exactly these texts."""
    return "".join(f"{name}={quoted(text)}\n" for name, text in sorted(values.items()))


def quoted(text: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9_@%+=:,./-]*", text):
        return text
    if "'" not in text and "\n" not in text:
        return f"'{text}'"
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$").replace("\n", "\\n")
    return f'"{escaped}"'


def used_secrets(service: Mapping[str, Any]) -> list[str]:
    return [each["source"] if isinstance(each, Mapping) else str(each) for each in service.get("secrets") or []]
