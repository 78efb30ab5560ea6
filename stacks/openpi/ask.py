"""Asks the policy server what a client asks first, by openpi's own protocol: its metadata. Exit 0 when it answers."""

from __future__ import annotations

import sys
import urllib.request

from openpi_client import msgpack_numpy
from websockets.sync.client import connect

if sys.argv[1:] == ["health"]:  # answers once the policy is loaded, and waits behind a running inference
    urllib.request.urlopen("http://127.0.0.1:8000/healthz", timeout=55)
else:
    with connect("ws://127.0.0.1:8000", compression=None, max_size=None, open_timeout=55) as server:
        print(msgpack_numpy.unpackb(server.recv(timeout=55)))
