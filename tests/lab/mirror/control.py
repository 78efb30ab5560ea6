"""Switch the mirror on and off, say how it is, break it and mend it."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .. import settings
from . import build
from .archive import MirrorError, Progress
from .server import MODES

PORT = 8077
# Nothing ever listens here: a connection is refused at once.
CLOSED_PORT = 8078
SERVER = Path(__file__).with_name("server.py")


def cache_folder() -> Path:
    """What may be thrown away and made again."""
    return settings.CACHE


def state_folder() -> Path:
    """What belongs to the server that runs now."""
    return settings.STATE / "mirror"


def up(progress: Progress = lambda line: None, refresh: bool = False) -> dict[str, Any]:
    """Build what is not built yet and serve it; nothing happens where it is served already."""
    site = build.build(cache_folder(), progress, refresh)
    with _locked():
        if (state_folder() / "program").exists() and _program() != _kept("program"):
            _stop()
        if not _pid():
            _start(site)
    return status()


def down() -> bool:
    """Stop serving; what was built stays. True where a server was running."""
    with _locked():
        return _stop()


def status() -> dict[str, Any]:
    """Address, key and versions, whether it answers, and how it is broken."""
    versions = cache_folder() / "mirror/site/versions.json"
    built = versions.exists()
    url = f"http://{settings.GATEWAY}:{PORT}"
    return {
        "running": _pid() is not None,
        "pid": _pid(),
        "url": url,
        "closed_url": f"http://{settings.GATEWAY}:{CLOSED_PORT}",
        "desktop_url": f"{url}/desktop/docker-desktop-amd64.deb",
        "fingerprint": build.fingerprint(cache_folder()) if built else None,
        "versions": json.loads(versions.read_text(encoding="utf-8")) if built else {},
        "broken": _kept("mode") or None,
        "modes": MODES,
        "log": str(state_folder() / "log"),
    }


def break_(mode: str) -> None:
    """Break every request in one way, until mend(). Tests that run side by side use /broken/MODE/ in their URL."""
    if mode not in MODES:
        raise MirrorError(f"no such mode: {mode}; there are {', '.join(MODES)}")
    state_folder().mkdir(parents=True, exist_ok=True)
    (state_folder() / "mode").write_text(f"{mode}\n", encoding="utf-8")


def mend() -> None:
    """Serve everything as it should be."""
    (state_folder() / "mode").unlink(missing_ok=True)


def _start(site: Path) -> None:
    state = state_folder()
    (state / "pid").unlink(missing_ok=True)
    with (state / "log").open("a") as log:
        server = subprocess.Popen(
            [sys.executable, "-u", str(SERVER), str(site), str(state), settings.GATEWAY, str(PORT)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd="/",
        )
    for _ in range(100):
        if (state / "pid").exists():
            (state / "program").write_text(_program(), encoding="utf-8")
            return
        if server.poll() is not None:
            break
        time.sleep(0.05)
    log_file = state / "log"
    raise MirrorError(f"the mirror's server did not start, its log {log_file} ends with: {_last_line(log_file)}")


def _stop() -> bool:
    pid = _pid()
    if pid is None:
        return False
    os.kill(pid, signal.SIGTERM)
    for _ in range(100):
        if not _pid():
            break
        time.sleep(0.05)
    (state_folder() / "pid").unlink(missing_ok=True)
    return True


def _pid() -> int | None:
    """The server's process, if it is alive and is the server (a number may have passed to another process)."""
    with contextlib.suppress(ValueError, OSError):
        pid = int(_kept("pid"))
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
        command = Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8")
        if stat.rsplit(")", 1)[1].split()[0] != "Z" and str(state_folder()) in command and SERVER.name in command:
            return pid
    return None


def _program() -> str:
    """A server that runs older code is replaced."""
    return hashlib.sha256(SERVER.read_bytes() + str(cache_folder()).encode()).hexdigest()


def _kept(name: str) -> str:
    with contextlib.suppress(FileNotFoundError):
        return (state_folder() / name).read_text(encoding="utf-8").strip()
    return ""


def _last_line(log: Path) -> str:
    return (log.read_text(encoding="utf-8").strip().splitlines() or ["nothing"])[-1]


@contextlib.contextmanager
def _locked() -> Iterator[None]:
    state_folder().mkdir(parents=True, exist_ok=True)
    with (state_folder() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
