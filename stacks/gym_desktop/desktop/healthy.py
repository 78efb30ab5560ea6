"""Whether the desktop does what it is there for: each part is asked for its real answer, and the first that fails is named."""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

TIMEOUT = 4.0


def display(resolution: str) -> str:
    """The X server answers, with the size that was asked for."""
    said = subprocess.run(["xdpyinfo"], capture_output=True, text=True, timeout=TIMEOUT, check=False)
    wanted = f"dimensions:    {resolution} pixels"
    return "" if wanted in said.stdout else f"no display of {resolution}: {(said.stderr or said.stdout)[:200]}"


def windows() -> str:
    """A window manager has taken its place."""
    ask = ["xprop", "-root", "_NET_SUPPORTING_WM_CHECK"]
    said = subprocess.run(ask, capture_output=True, text=True, timeout=TIMEOUT, check=False).stdout
    return "" if "window id" in said else f"no window manager: {said.strip()[:200]}"


def vnc(port: int = 5900) -> str:
    """The VNC server's own greeting."""
    with socket.create_connection(("127.0.0.1", port), TIMEOUT) as link:
        link.settimeout(TIMEOUT)
        greeting = link.recv(12)
    return "" if greeting.startswith(b"RFB ") else f"VNC greets with {greeting!r}"


def web(port: int = 6080) -> str:
    """The page is there, and through its websocket the VNC server greets."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/vnc.html", timeout=TIMEOUT) as answer:
        if b"noVNC" not in answer.read():
            return "the web page is not noVNC"
    key = base64.b64encode(os.urandom(16)).decode()
    ask = (
        f"GET /websockify HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: binary\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", port), TIMEOUT) as link:
        link.settimeout(TIMEOUT)
        link.sendall(ask.encode())
        said = b""
        while b"RFB " not in said and len(said) < 4096:
            more = link.recv(4096)
            if not more:
                break
            said += more
    return "" if b"101 " in said and b"RFB " in said else f"no desktop behind the web page: {said[:200]!r}"


def jupyter(token_file: Path, port: int = 8888) -> str:
    """JupyterLab answers whoever has the token."""
    url = f"http://127.0.0.1:{port}/api/status"
    headers = {"Authorization": f"token {token_file.read_text(encoding='utf-8')}"}
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT) as answer:
        return "" if "kernels" in json.load(answer) else "JupyterLab does not say its status"


def main() -> int:
    checks = {
        "display": lambda: display(os.environ["RESOLUTION"]),
        "windows": windows,
        "vnc": vnc,
        "web": web,
        "jupyter": lambda: jupyter(Path(os.environ["JUPYTER_TOKEN_FILE"])),
    }
    for name, check in checks.items():
        try:
            wrong = check()
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            wrong = str(error)
        if wrong:
            print(f"{name}: {wrong}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
