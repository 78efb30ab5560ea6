"""The web server of the mirror, and the ways in which it can be broken.

A request below /broken/MODE/ gets what the same path without that prefix would give, broken in that way: tests that run
side by side do not disturb each other. A mode in the state folder's file `mode` breaks every request.

Run as a program it serves until it is told to end:  server.py ROOT STATE ADDRESS PORT
"""

from __future__ import annotations

import contextlib
import http.server
import io
import os
import signal
import socket
import sys
import urllib.parse
from http import HTTPStatus
from pathlib import Path
from typing import Any, BinaryIO

MODES = {
    "bad-key": "the key that is served is not the one that signed",
    "not-a-key": "in place of the key comes a web page, as from a captive portal",
    "no-key": "the key is not there (404)",
    "bad-signature": "the release file was altered after it was signed",
    "other-signer": "the release file is signed by a key that nobody was given",
    "expired": "the release file's Valid-Until has passed",
    "no-suite": "no release file and no index is there (404)",
    "missing-package": "the packages that the index names are not there (404)",
    "hash-mismatch": "the packages differ from what the index says, size unchanged",
    "truncated-package": "the packages are shorter than the index says",
    "unreachable": "the connection closes without an answer",
}
KEYS = ("gpg", "gpgkey")
INDEXES = ("InRelease", "Release", "Release.gpg", "Packages", "Packages.gz")
IP_FREEBIND = getattr(socket, "IP_FREEBIND", 15)


class Server(http.server.ThreadingHTTPServer):
    """Binds before the bridge that carries its address is there."""

    def __init__(self, address: tuple[str, int], root: Path, mode_file: Path | None = None) -> None:
        self.root = root
        self.mode_file = mode_file
        super().__init__(address, Handler)

    def server_bind(self) -> None:
        self.socket.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
        super().server_bind()

    def everywhere(self) -> str:
        """The mode that breaks every request, or nothing."""
        with contextlib.suppress(FileNotFoundError):
            return self.mode_file.read_text(encoding="utf-8").strip() if self.mode_file else ""
        return ""


class Handler(http.server.SimpleHTTPRequestHandler):
    """One request: which file, broken how."""

    server: Server
    protocol_version = "HTTP/1.1"
    server_version = "gpulab-mirror"
    disable_nagle_algorithm = True

    def send_head(self) -> BinaryIO | None:
        mode, path = self._split()
        if mode == "unreachable":
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return None
        if (mode and mode not in MODES) or _is_absent(mode, Path(path).name):
            self.send_error(HTTPStatus.NOT_FOUND)
            return None
        self.path = path
        file = Path(self.translate_path(path))
        edition = file.with_name(f"{file.name}.{mode}")
        if mode and edition.is_file():
            self.path = f"{path}.{mode}"
        elif file.suffix == ".deb" and mode in ("hash-mismatch", "truncated-package") and file.is_file():
            return self._send_altered(file, mode)
        elif not file.is_file():
            self.send_error(HTTPStatus.NOT_FOUND)
            return None
        return super().send_head()

    def translate_path(self, path: str) -> str:
        self.directory = str(self.server.root)
        return super().translate_path(path)

    def copyfile(self, source: Any, outputfile: Any) -> None:
        with contextlib.suppress(ConnectionError):
            self.connection.sendfile(source)

    def log_message(self, format: str, *args: object) -> None:
        sys.stderr.write(f"{self.log_date_time_string()} {self.address_string()} {format % args}\n")

    def _split(self) -> tuple[str, str]:
        """The mode, and the path without the prefix that asked for it."""
        path = urllib.parse.urlsplit(self.path).path
        if path.startswith("/broken/"):
            _, _, mode, rest = path.split("/", 3) if path.count("/") > 2 else (*path.split("/"), "")
            return mode, f"/{rest}"
        return self.server.everywhere(), path

    def _send_altered(self, file: Path, mode: str) -> BinaryIO:
        content = bytearray(file.read_bytes())
        content[-1] ^= 0xFF
        if mode == "truncated-package":
            del content[len(content) // 2 :]
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-type", "application/vnd.debian.binary-package")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        return io.BytesIO(content)


def _is_absent(mode: str, name: str) -> bool:
    return (
        (mode == "no-key" and name in KEYS)
        or (mode == "no-suite" and name in INDEXES)
        or (mode == "missing-package" and name.endswith(".deb"))
    )


def main(argv: list[str]) -> None:
    """Serve; the pid file is there from the moment that requests are answered."""
    root, state, address, port = Path(argv[0]), Path(argv[1]), argv[2], int(argv[3])
    server = Server((address, port), root, state / "mode")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    fresh = state / ".pid"
    fresh.write_text(f"{os.getpid()}\n", encoding="utf-8")
    fresh.rename(state / "pid")
    server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1:])
