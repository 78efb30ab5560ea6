"""One proxy in each program's own words."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from ansible_collections.gpulab.fleet.plugins.module_utils._fetch import opener
from ansible_collections.gpulab.fleet.plugins.module_utils._proxy import (
    Proxy,
    apt_settings,
    client_settings,
    daemon_settings,
    environment,
    proxy_from,
)

ADDRESS = "http://proxy.example.org:3128"
LOCAL = ("localhost", "127.0.0.1", "::1")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, Proxy()),
        ({}, Proxy()),
        ({"ca": "PEM"}, Proxy(ca="PEM")),
        ({"no_proxy": [".lan"]}, Proxy(no_proxy=(".lan",))),
        ({"http": ADDRESS}, Proxy(ADDRESS, ADDRESS, LOCAL)),
        ({"http": "http://a", "https": "http://b"}, Proxy("http://a", "http://b", LOCAL)),
        ({"https": "http://b", "no_proxy": "a.lan, localhost ,"}, Proxy("", "http://b", (*LOCAL, "a.lan"))),
    ],
)
def test_what_the_variable_means(given: Any, expected: Proxy) -> None:
    assert proxy_from(given) == expected


def test_no_proxy_leaves_no_trace() -> None:
    for nothing in (Proxy(), Proxy(ca="PEM")):
        assert environment(nothing) == daemon_settings(nothing) == client_settings(nothing) == {}
        assert apt_settings(nothing) == ""


def test_the_forms() -> None:
    proxy = proxy_from({"http": ADDRESS, "no_proxy": ["mirror.lan", "10.0.0.0/8", "*.x", ".y"]})
    exempt = ",".join((*LOCAL, "mirror.lan", "10.0.0.0/8", "*.x", ".y"))
    assert environment(proxy) == {"http_proxy": ADDRESS, "https_proxy": ADDRESS, "no_proxy": exempt}
    assert daemon_settings(proxy)["proxies"] == {"http-proxy": ADDRESS, "https-proxy": ADDRESS, "no-proxy": exempt}
    default = {"httpProxy": ADDRESS, "httpsProxy": ADDRESS, "noProxy": exempt}
    assert client_settings(proxy) == {"proxies": {"default": default}}
    assert apt_settings(proxy).splitlines() == [
        f'Acquire::http::Proxy "{ADDRESS}";',
        f'Acquire::https::Proxy "{ADDRESS}";',
        'Acquire::http::Proxy::mirror.lan "DIRECT";',
        'Acquire::https::Proxy::mirror.lan "DIRECT";',
        'Acquire::http::Proxy::y "DIRECT";',
        'Acquire::https::Proxy::y "DIRECT";',
    ]
    assert 'Acquire::http::Proxy "' not in apt_settings(Proxy(https=ADDRESS))


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    asked: list[str] = []

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"yes")

        def log_message(self, *_: Any) -> None:
            pass

    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{running.server_port}", asked
    running.shutdown()
    running.server_close()


def test_what_is_fetched_goes_through_the_proxy(server: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    address, asked = server
    with opener(proxy_from({"http": f"http://{address}"})).open("http://mirror.invalid/gpg") as answer:
        assert answer.read() == b"yes"
    assert asked == ["http://mirror.invalid/gpg"]


def test_what_is_exempt_does_not(server: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    address, asked = server
    with opener(Proxy("http://127.0.0.1:9", "", ("127.0.0.1",))).open(f"http://{address}/gpg") as answer:
        assert answer.read() == b"yes"
    assert asked == ["/gpg"]
