"""A stand-in for CARLA's server: its RPC protocol, and of its functions those that say version and map.

What it answers was held against the real client of CARLA 0.9.16, which takes it for a server and gets as far as the name of
its map. There is no world behind it.

python3 server.py PORT MODE VERSION   MODE: ready, loading (no map yet), silent (listens, answers nothing)
"""

from __future__ import annotations

import socketserver
import struct
import sys
from io import BufferedIOBase
from typing import Any

MAP = "Carla/Maps/Town10HD_Opt"
# Where a world's states would be streamed from, in the packed form of a token: TCP, version 4, and nobody is there.
TOKEN = struct.pack("<IHBB4s12x", 1, 2001, 1, 1, bytes([127, 0, 0, 1]))
# Synchronous: a client then does not wait for a first state.
SETTINGS = [True, False, [True, 0.05], True, 0.01, 10, 0.0, True, 3000.0, 2000.0, False]
ROADS = "<?xml version='1.0'?><OpenDRIVE><header revMajor='1' revMinor='4'/></OpenDRIVE>"


def unpack(file: BufferedIOBase) -> Any:
    """One msgpack value, of the kinds that requests have."""
    head = file.read(1)
    if not head:
        raise EOFError
    kind = head[0]
    if kind < 0x80:
        return kind
    if kind & 0xF0 == 0x90:
        return [unpack(file) for _ in range(kind & 15)]
    if kind & 0xE0 == 0xA0:
        return file.read(kind & 31).decode()
    if kind in (0xC0, 0xC2, 0xC3):
        return {0xC0: None, 0xC2: False, 0xC3: True}[kind]
    if kind in (0xCC, 0xCD, 0xCE, 0xCF):
        size = 1 << (kind - 0xCC)
        return int.from_bytes(file.read(size), "big")
    if kind in (0xCA, 0xCB):
        return struct.unpack(">f" if kind == 0xCA else ">d", file.read(4 if kind == 0xCA else 8))[0]
    raise ValueError(f"kind {kind:#x}")


def pack(value: Any) -> bytes:
    if value is None:
        return b"\xc0"
    if isinstance(value, bool):
        return b"\xc3" if value else b"\xc2"
    if isinstance(value, int):
        return bytes([value]) if 0 <= value < 128 else b"\xcf" + struct.pack(">Q", value)
    if isinstance(value, float):
        return b"\xcb" + struct.pack(">d", value)
    if isinstance(value, str):
        text = value.encode()
        return (bytes([0xA0 | len(text)]) if len(text) < 32 else b"\xda" + struct.pack(">H", len(text))) + text
    if isinstance(value, bytes):
        return b"\xc5" + struct.pack(">H", len(value)) + value
    items = b"".join(pack(each) for each in value)
    return (bytes([0x90 | len(value)]) if len(value) < 16 else b"\xdc" + struct.pack(">H", len(value))) + items


def answers(mode: str, version: str) -> dict[str, Any]:
    found: dict[str, Any] = {"version": [1, version]}
    if mode == "loading":
        found.update({name: [0, ["episode not ready"]] for name in ("get_map_info", "get_episode_info")})
    else:
        # A map's start points, long enough that an answer comes in several pieces.
        start = [[[0.0, 0.0, 0.5], [0.0, 0.0, 0.0]] for _ in range(400)]
        world = {
            "get_map_info": [MAP, start],
            "get_map_data": ROADS,
            "get_required_files": [],
            "get_episode_info": [7, [TOKEN]],
            "get_episode_settings": SETTINGS,
            "get_sensor_token": [TOKEN],
            "query_lights_state": [],
        }
        found.update({name: [1, value] for name, value in world.items()})
    return found


class Handler(socketserver.StreamRequestHandler):
    server: Server

    def handle(self) -> None:
        while True:
            try:
                request = unpack(self.rfile)
            except (EOFError, ConnectionError):
                return
            print(request, flush=True)
            mode, version = self.server.says
            answer = answers(mode, version).get(request[2])
            if mode != "silent" and answer is not None:
                self.wfile.write(pack([1, request[1], None, [answer]]))


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, host: str, port: int, mode: str, version: str) -> None:
        super().__init__((host, port), Handler)
        self.says = (mode, version)


if __name__ == "__main__":
    with Server("0.0.0.0", int(sys.argv[1]), sys.argv[2], sys.argv[3]) as server:
        server.serve_forever()
