# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A site's HTTP proxy and its own certificate authority, in each of the forms that programs want them in."""

from __future__ import annotations

import urllib.parse
from collections.abc import Mapping
from typing import Any, NamedTuple

PEM = "-----BEGIN CERTIFICATE-----"
LOCAL = ("localhost", "127.0.0.1", "::1")


# The option of every module that takes a proxy.
OPTION: dict[str, Any] = {
    "type": "dict",
    "default": {},
    "options": {
        "http": {"type": "str", "default": ""},
        "https": {"type": "str", "default": ""},
        "no_proxy": {"type": "raw"},
        "ca": {"type": "str", "default": ""},
    },
}


class Proxy(NamedTuple):
    """What gpulab_proxy says; every part may be empty."""

    http: str = ""
    https: str = ""
    no_proxy: tuple[str, ...] = ()
    ca: str = ""  # certificates as PEM text

    @property
    def used(self) -> bool:
        return bool(self.http or self.https)


def proxy_from(settings: Any) -> Proxy:
    """gpulab_proxy as Proxy; whoever names no proxy for https means the one for http."""
    given = settings if isinstance(settings, Mapping) else {}
    names = given.get("no_proxy") or []
    if isinstance(names, str):
        names = names.split(",")
    http = str(given.get("http") or "")
    https = str(given.get("https") or http)
    exempt = [str(name).strip() for name in names if str(name).strip()]
    if http or https:
        exempt = list(dict.fromkeys([*LOCAL, *exempt]))
    return Proxy(http, https, tuple(exempt), str(given.get("ca") or ""))


def environment(proxy: Proxy) -> dict[str, str]:
    """Variables that urllib, curl and most programs read."""
    named = {"http_proxy": proxy.http, "https_proxy": proxy.https, "no_proxy": ",".join(proxy.no_proxy)}
    return {name: value for name, value in named.items() if value}


def passwords(proxy: Proxy) -> set[str]:
    """What must not be shown of the proxy's addresses."""
    found = (urllib.parse.urlsplit(address).password for address in (proxy.http, proxy.https))
    return {password for password in found if password}


def keep_secret(module: Any) -> None:
    """Keep the passwords out of all that a module prints, its invocation (-vvv) and early failures included."""
    module.no_log_values.update(passwords(proxy_from(module.params["proxy"])))


def apt_settings(proxy: Proxy) -> str:
    """An apt.conf file; empty when there is no proxy. Addresses are quoted as apt wants them."""
    if not proxy.used:
        return ""
    lines = [f'Acquire::{kind}::Proxy "{address}";' for kind, address in (("http", proxy.http), ("https", proxy.https))]
    for name in proxy.no_proxy:
        if name not in LOCAL and "/" not in name and "*" not in name:
            lines += [f'Acquire::{kind}::Proxy::{name.lstrip(".")} "DIRECT";' for kind in ("http", "https")]
    return "\n".join(line for line in lines if ' "";' not in line) + "\n"


def daemon_settings(proxy: Proxy) -> dict[str, Any]:
    """The part of daemon.json with which an engine fetches images."""
    named = {"http-proxy": proxy.http, "https-proxy": proxy.https, "no-proxy": ",".join(proxy.no_proxy)}
    return {"proxies": {name: value for name, value in named.items() if value}} if proxy.used else {}


def client_settings(proxy: Proxy) -> dict[str, Any]:
    """The part of the client's config.json that new containers and builds get their variables from."""
    named = {"httpProxy": proxy.http, "httpsProxy": proxy.https, "noProxy": ",".join(proxy.no_proxy)}
    return {"proxies": {"default": {name: value for name, value in named.items() if value}}} if proxy.used else {}
