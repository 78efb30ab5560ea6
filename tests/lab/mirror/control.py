"""Switch the mirror on and off, say how it is, break it and mend it."""

from __future__ import annotations

import contextlib
import hashlib
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from .. import settings
from ..settings import LabError, say
from ..system import lock, process_runs, read_json, send
from . import build
from .archive import Progress
from .server import MODES

PORT = 8077
# Nothing ever listens here: a connection is refused at once.
CLOSED_PORT = 8078
SERVER = Path(__file__).with_name("server.py")


def main(words: list[str]) -> int:
    """`lab mirror WORDS`."""
    from . import cli  # which needs this module

    return cli.main(words)


def state_folder() -> Path:
    """What belongs to the server that runs now."""
    return settings.STATE / "mirror"


def up(progress: Progress = say, refresh: bool = False) -> dict[str, Any]:
    """Build what is not built yet and serve it; nothing happens where it is served already."""
    site = build.build(settings.CACHE, progress, refresh)
    with lock(state_folder() / "lock"):
        if _kept("program") != _program(site):
            _stop()
        if not _pid():
            _start(site)
    return status()


def down() -> bool:
    """Stop serving; what was built stays. True where a server was running."""
    if not state_folder().exists():
        return False
    with lock(state_folder() / "lock"):
        return _stop()


def status() -> dict[str, Any]:
    """Address, key and versions, whether it answers, and how it is broken."""
    built = read_json(settings.CACHE / "mirror/site/about.json") or {}
    url = f"http://{settings.GATEWAY}:{PORT}"
    pid = _pid()
    return {
        "running": pid is not None,
        "pid": pid,
        "url": url,
        "closed_url": f"http://{settings.GATEWAY}:{CLOSED_PORT}",
        "desktop_url": f"{url}/desktop/docker-desktop-amd64.deb",
        "fingerprint": built.get("fingerprint"),
        "versions": built.get("versions", {}),
        "broken": _kept("mode") or None,
        "modes": MODES,
        "log": str(state_folder() / "log"),
    }


def break_(mode: str) -> None:
    """Break every request in one way, until mend(). Tests that run side by side use /broken/MODE/ in their URL."""
    if mode not in MODES:
        raise LabError(f"no such mode: {mode}; there are {', '.join(MODES)}")
    state_folder().mkdir(parents=True, exist_ok=True)
    (state_folder() / "mode").write_text(f"{mode}\n", encoding="utf-8")


def mend() -> None:
    """Serve everything as it should be."""
    (state_folder() / "mode").unlink(missing_ok=True)


def _start(site: Path) -> None:
    state = state_folder()
    (state / "pid").unlink(missing_ok=True)
    log_file = state / "log"
    with log_file.open("w") as log:
        server = subprocess.Popen(
            [sys.executable, str(SERVER), str(site), str(state), settings.GATEWAY, str(PORT)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd="/",
        )
    while server.poll() is None:
        if (state / "pid").exists():
            (state / "program").write_text(_program(site), encoding="utf-8")
            return
        time.sleep(0.02)
    last = (log_file.read_text(encoding="utf-8").strip().splitlines() or ["nothing"])[-1]
    raise LabError(f"the mirror's server did not start; its log {log_file} ends with: {last}")


def _stop() -> bool:
    pid = _pid()
    if pid is None:
        return False
    send(pid, signal.SIGTERM)
    deadline = time.monotonic() + 5
    while _pid() and time.monotonic() < deadline:
        time.sleep(0.02)
    send(pid)
    (state_folder() / "pid").unlink(missing_ok=True)
    return True


def _pid() -> int | None:
    """The server's process, if it is alive."""
    with contextlib.suppress(ValueError):
        pid = int(_kept("pid"))
        if process_runs(pid, str(state_folder())):  # not by the program's path: another checkout may have started it
            return pid
    return None


def _program(site: Path) -> str:
    """A server that runs older code, or serves another folder, is replaced."""
    return hashlib.sha256(SERVER.read_bytes() + str(site).encode()).hexdigest()


def _kept(name: str) -> str:
    with contextlib.suppress(FileNotFoundError):
        return (state_folder() / name).read_text(encoding="utf-8").strip()
    return ""
