"""A policy server that speaks openpi's protocol, with a policy small enough for any machine.

It takes the arguments of openpi's serve_policy.py, listens on the same port, sends the same frames (metadata first, then
one msgpack answer an observation, a text frame with the traceback when something fails), answers the same /healthz, and
has its weights in OPENPI_DATA_HOME. What a client is told and sent is real; what it is told to do is of no use to a robot.
"""

from __future__ import annotations

import argparse
import asyncio
import http
import logging
import os
import signal
import time
import traceback
from pathlib import Path
from typing import Any

from openpi_client import msgpack_numpy
from smallpi.policy import SmallPolicy
from websockets.asyncio.server import Request, Response, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

log = logging.getLogger("policy-server")


async def answer(policy: SmallPolicy, client: ServerConnection) -> None:
    """One client: its observations in, actions out, until it goes."""
    pack = msgpack_numpy.Packer().pack
    await client.send(pack(policy.metadata))
    before: float | None = None
    try:
        while True:
            began = time.perf_counter()
            seen: dict[str, Any] = msgpack_numpy.unpackb(await client.recv())
            started = time.perf_counter()
            result = policy.infer(seen)
            result["server_timing"] = {"infer_ms": (time.perf_counter() - started) * 1000}
            if before is not None:
                result["server_timing"]["prev_total_ms"] = before * 1000
            await client.send(pack(result))
            before = time.perf_counter() - began
    except ConnectionClosed:
        log.info("%s is gone", client.remote_address)
    except Exception:
        log.exception("%s sent what the policy cannot use", client.remote_address)
        await client.send(traceback.format_exc())
        await client.close(code=1011, reason="Internal server error. Traceback included in previous frame.")


def health(client: ServerConnection, request: Request) -> Response | None:
    return client.respond(http.HTTPStatus.OK, "OK\n") if request.path == "/healthz" else None


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--env", default="LIBERO", choices=["LIBERO"], help="whose observations it understands")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("policy", nargs="?", default="policy:default", choices=["policy:default", "policy:checkpoint"])
    parser.add_argument("--policy.config", dest="config", default="small", choices=["small"])
    parser.add_argument("--policy.dir", dest="folder", type=Path, help="checkpoints/small/EXPERIMENT/STEP")
    given = parser.parse_args()
    if (given.policy == "policy:checkpoint") != (given.folder is not None):
        parser.error("policy:checkpoint and --policy.dir belong together")
    return given


async def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    logging.getLogger("websockets").setLevel(logging.WARNING)  # a line for every health check otherwise
    given = arguments()
    home = Path(os.environ.get("OPENPI_DATA_HOME", "/openpi_assets"))
    policy = SmallPolicy.checkpoint(given.folder) if given.folder else SmallPolicy.default(home)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with serve(
        lambda client: answer(policy, client),
        "0.0.0.0",
        given.port,
        compression=None,
        max_size=None,
        process_request=health,
    ):
        log.info("serving %s on port %d", policy.metadata["checkpoint"], given.port)
        await stop.wait()


if __name__ == "__main__":
    asyncio.run(main())
