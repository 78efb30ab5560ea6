"""The desktop's health check: it is well when each part gives its real answer, and says which does not."""

from __future__ import annotations

import http.server
import importlib.util
import io
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

DESKTOP = Path(__file__).parents[3] / "stacks" / "gym_desktop" / "desktop"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"gym_desktop_{name}", DESKTOP / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def healthy() -> ModuleType:
    return load("healthy")


class Greeter:
    """Says one thing to everybody who connects."""

    def __init__(self, greeting: bytes) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.socket.getsockname()[1]
        self.greeting = greeting
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        while True:
            try:
                link, _ = self.socket.accept()
            except OSError:
                return
            link.sendall(self.greeting)
            link.close()


@pytest.mark.parametrize(
    ("greeting", "said"), [(b"RFB 003.008\n", ""), (b"SSH-2.0-x\r\n", "VNC greets with"), (b"", "VNC greets with b''")]
)
def test_vnc_has_to_greet(healthy: ModuleType, greeting: bytes, said: str) -> None:
    found = healthy.vnc(Greeter(greeting).port)
    assert found.startswith(said) and bool(found) == bool(said)


class Handler(http.server.BaseHTTPRequestHandler):
    page, upgraded = b"<title>noVNC</title>", b"\x82\x0cRFB 003.008\n"

    def do_GET(self) -> None:
        if self.path == "/websockify":
            self.wfile.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n" + self.upgraded)
        elif self.path == "/api/status":
            right = self.headers.get("Authorization") == "token sesame"
            self.send_response(200 if right else 403)
            self.end_headers()
            self.wfile.write(b'{"kernels": 0}')
        else:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(self.page)

    def log_message(self, *_args: object) -> None:
        pass


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


def test_behind_the_web_page_is_the_desktop(healthy: ModuleType, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert healthy.web(port) == ""
    monkeypatch.setattr(Handler, "upgraded", b"")
    assert healthy.web(port).startswith("no desktop behind the web page")
    monkeypatch.setattr(Handler, "page", b"Directory listing for /")
    assert healthy.web(port) == "the web page is not noVNC"


def test_jupyter_has_to_know_the_token(healthy: ModuleType, port: int, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("sesame")
    assert healthy.jupyter(token, port) == ""
    token.write_text("sesame\n")
    with pytest.raises(ValueError, match="header value"):
        healthy.jupyter(token, port)
    token.write_text("other")
    with pytest.raises(OSError, match="403"):
        healthy.jupyter(token, port)


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("echo '  dimensions:    800x600 pixels (211x158 millimeters)'", ""),
        ("echo '  dimensions:    640x480 pixels (211x158 millimeters)'", "no display of 800x600"),
        ("echo 'xdpyinfo:  unable to open display' >&2; exit 1", "no display of 800x600: xdpyinfo:  unable"),
    ],
)
def test_the_display_has_the_size_that_was_asked_for(
    healthy: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, said: str
) -> None:
    (tmp_path / "xdpyinfo").write_text(f"#!/bin/sh\n{program}\n")
    (tmp_path / "xdpyinfo").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    found = healthy.display("800x600")
    assert found.startswith(said) and bool(found) == bool(said)


def test_the_first_part_that_is_not_well_is_named(
    healthy: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("display", "windows", "vnc", "web", "jupyter"):
        monkeypatch.setattr(healthy, name, lambda *_: "")
    monkeypatch.setenv("RESOLUTION", "800x600")
    monkeypatch.setenv("JUPYTER_TOKEN_FILE", "/nowhere")
    assert healthy.main() == 0

    def down(*_: object) -> str:
        raise ConnectionRefusedError("refused")

    monkeypatch.setattr(healthy, "vnc", down)
    assert healthy.main() == 1
    assert capsys.readouterr().out == "vnc: refused\n"


def test_what_cannot_be_kept_running_ends_the_supervisor(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    body = "processname:web groupname:web from_state:BACKOFF"
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"ver:3.0 eventname:PROCESS_STATE_FATAL len:{len(body)}\n{body}"))
    ended: list[tuple[int, int]] = []

    def kill(pid: int, number: int) -> None:
        ended.append((pid, number))
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "kill", kill)
    with pytest.raises(KeyboardInterrupt):
        load("guard").main()
    assert ended == [(os.getppid(), signal.SIGTERM)]
    said = capsys.readouterr()
    assert said.out == "READY\nRESULT 2\nOK"
    assert "processname:web" in said.err
