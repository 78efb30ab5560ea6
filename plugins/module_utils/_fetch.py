# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Fetching through a site's proxy. Apart from _proxy.py: TLS and urllib take time to load, and few runs fetch anything."""

from __future__ import annotations

import base64
import ssl
import urllib.parse
import urllib.request
from typing import Any

from ansible_collections.gpulab.fleet.plugins.module_utils._proxy import Proxy


def opener(proxy: Proxy) -> urllib.request.OpenerDirector:
    """What fetches through the proxy and trusts its authority besides the host's own."""
    context = ssl.create_default_context()
    if proxy.ca:
        context.load_verify_locations(cadata=proxy.ca)
    handlers: list[Any] = [urllib.request.HTTPSHandler(context=context)]
    if proxy.used:
        handlers.append(_Exempting(proxy))
    return urllib.request.build_opener(*handlers)


class _Exempting(urllib.request.ProxyHandler):
    """A proxy for all addresses but those exempted, whatever the environment says."""

    def __init__(self, proxy: Proxy) -> None:
        named = {"http": proxy.http, "https": proxy.https}
        super().__init__({kind: address for kind, address in named.items() if address})
        self.exempt = {"no": ",".join(proxy.no_proxy)}

    # proxy_bypass_environment is documented in urllib's source only, hence the unchecked attribute: it is the one
    # function that takes the exemptions as an argument, and reads them as no_proxy is read everywhere else.
    def proxy_open(self, req: Any, proxy: Any, type: Any) -> Any:
        if req.host and not urllib.request.proxy_bypass_environment(req.host, self.exempt):  # type: ignore[attr-defined]
            address = urllib.parse.urlsplit(proxy)
            login, _, place = address.netloc.rpartition("@")
            if login:
                credentials = base64.b64encode(urllib.parse.unquote(login).encode()).decode()
                req.add_unredirected_header("Proxy-authorization", f"Basic {credentials}")
            req.set_proxy(place, address.scheme)
        # Nothing yet: the handler of the address's own kind goes on with it.
