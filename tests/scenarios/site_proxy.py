"""A site's proxy: the only way out of a host, and one that opens TLS with an authority of its own.

As a program (Molecule's): `python -m tests.scenarios.site_proxy FOLDER MIRROR` serves until it is ended and writes
FOLDER/proxy.json {url, port, ca, pid} once it does.
"""

from __future__ import annotations

import http.server
import json
import os
import signal
import ssl
import subprocess
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

DOMAIN = "example.test"
ADDRESS = "10.77.0.1"  # the lab's bridge
PASSED_ON = ("If-Modified-Since", "Range", "If-Range", "Accept", "User-Agent")
ANSWERED = ("Content-Type", "Last-Modified", "ETag", "Content-Range", "Accept-Ranges")


def openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


class SiteProxy:
    """Serves from a thread. What was asked for is in `asked`, as METHOD https://name/path."""

    def __init__(self, folder: Path, mirror: str) -> None:
        self.mirror = mirror
        self.asked: list[str] = []
        self.ca = folder / "ca.pem"
        key, request, certificate = folder / "site.key", folder / "site.csr", folder / "site.pem"
        subject = ("-subj", "/CN=Site authority")
        openssl(
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            *subject,
            "-keyout",
            folder / "ca.key",
            "-out",
            self.ca,
        )
        openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={DOMAIN}", "-keyout", key, "-out", request)
        (folder / "names").write_text(f"subjectAltName=DNS:{DOMAIN},DNS:*.{DOMAIN}\n", encoding="utf-8")
        signed = ("-CA", self.ca, "-CAkey", folder / "ca.key", "-CAcreateserial", "-extfile", folder / "names")
        openssl("x509", "-req", "-in", request, *signed, "-days", "2", "-out", certificate)
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.tls.load_cert_chain(certificate, key)
        proxy = self

        class Handler(_Handler):
            site = proxy

        self.server = http.server.ThreadingHTTPServer((ADDRESS, 0), Handler)
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://{ADDRESS}:{self.port}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    site: SiteProxy
    opened = ""  # the name whose TLS was opened

    def do_CONNECT(self) -> None:
        name = self.path.partition(":")[0]
        self.site.asked.append(f"CONNECT {name}")
        if not name.endswith(DOMAIN):
            self.send_error(403)
            return
        self.send_response(200)
        self.end_headers()
        try:
            self.connection = self.site.tls.wrap_socket(self.connection, server_side=True)
        except (ssl.SSLError, OSError):
            self.close_connection = True
            return
        self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb", 0)
        self.opened = name
        self.close_connection = False

    def do_GET(self) -> None:
        url = f"https://{self.opened}{self.path}" if self.opened else self.path
        self.site.asked.append(f"{self.command} {url}")
        parts = urllib.parse.urlsplit(url)
        if parts.hostname == f"packages.{DOMAIN}":
            url = f"{self.site.mirror}{parts.path}"
        elif self.opened:
            self.answer(200 if parts.path == "/v2/" else 404, b"{}", {"Content-Type": "application/json"})
            return
        headers = {name: self.headers[name] for name in PASSED_ON if name in self.headers}
        try:
            with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=60) as found:
                self.answer(found.status, found.read(), found.headers)
        except urllib.error.HTTPError as error:
            self.answer(error.code, error.read(), error.headers)
        except OSError as error:
            self.answer(502, str(error).encode(), {})

    do_HEAD = do_GET

    def answer(self, status: int, body: bytes, headers: Any) -> None:
        self.send_response(status)
        for name in ANSWERED:
            if name in headers:
                self.send_header(name, headers[name])
        self.send_header("Content-Length", str(0 if status == 304 else len(body)))
        self.end_headers()
        if self.command != "HEAD" and status != 304:
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    running = SiteProxy(folder, sys.argv[2])
    about = {"url": running.url, "port": running.port, "ca": str(running.ca), "pid": os.getpid()}
    (folder / "proxy.new").write_text(json.dumps(about), encoding="utf-8")
    (folder / "proxy.new").rename(folder / "proxy.json")
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
