"""The BrowserGym server: episodes on WebSocket /ws, the tasks' pages on /html. Run it with `uvicorn app:app`.

MiniWoB++'s pages are served by this same process: there is no second one that could die unnoticed.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import browser
import miniwob
from environment import BrowserAction, BrowserObservation, BrowserTask, Settings, positive
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from openenv.core.env_server import HTTPEnvServer
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

PORT = 8000
USE_WEBSOCKET = (
    "This server is spoken to by WebSocket: connect to /ws and send "
    '{"type": "reset", "data": {}}. Episodes by plain HTTP would start a browser for every request.'
)

os.environ["MINIWOB_URL"] = f"http://127.0.0.1:{PORT}/html/miniwob/"
settings = Settings.from_environment(dict(os.environ))
record = browser.Record()
app = FastAPI(title="BrowserGym with MiniWoB++")


class Session(BrowserTask):
    def __init__(self) -> None:
        super().__init__(settings, record)


# The second is for the health check, which is a session like any other.
sessions = HTTPEnvServer(
    Session,
    BrowserAction,
    BrowserObservation,
    max_concurrent_envs=positive(dict(os.environ), "MAX_CONCURRENT_ENVS", 8, least=2),
)
# OpenEnv's production mode: everything but /reset, /step and /state by plain HTTP, which poison a server with a browser.
sessions.register_routes(app, mode="production")


@app.api_route("/reset", methods=["GET", "POST"], include_in_schema=False)
@app.api_route("/step", methods=["GET", "POST"], include_in_schema=False)
@app.api_route("/state", methods=["GET", "POST"], include_in_schema=False)
def by_websocket() -> JSONResponse:
    return JSONResponse({"detail": USE_WEBSOCKET}, status_code=405, headers={"Allow": ""})


@app.get("/browser")
def browsers() -> dict[str, object]:
    """How the browsers of all sessions do; healthy.py asks this first."""
    return {"sessions": sessions.active_sessions, "most": sessions.max_concurrent_envs, **record.report()}


class Departed:
    """A client that leaves without waiting for the goodbye is no error, and needs no traceback."""

    def __init__(self, inner: ASGIApp) -> None:
        self.inner = inner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with contextlib.suppress(WebSocketDisconnect):
            await self.inner(scope, receive, send)


app.add_middleware(Departed)
app.mount("/html", StaticFiles(directory=Path(miniwob.__file__).parent / "html"))
