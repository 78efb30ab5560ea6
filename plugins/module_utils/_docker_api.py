# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A few questions to a Docker engine over its socket, without a client or an SDK."""

from __future__ import annotations

import http.client
import json
import socket
from typing import Any


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def get(path: str, question: str, timeout: float = 10) -> Any:
    """The engine's JSON answer to GET `question`; OSError when there is no (sensible) answer."""
    status, body = _ask(path, "GET", question, timeout)
    if status != 200:
        raise OSError(f"{path}: GET {question} answered {status}: {body[:200]!r}")
    return json.loads(body)


def post(path: str, request: str, timeout: float = 10) -> None:
    """POST without a body; OSError when the engine refuses. That it is so already (304) is no refusal."""
    status, body = _ask(path, "POST", request, timeout)
    if status not in (200, 201, 204, 304):
        raise OSError(f"POST {request} answered {status}: {_said(body)}")


def _said(body: bytes) -> str:
    """The engine's own words in an answer that refuses."""
    try:
        return str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        return body[:200].decode(errors="replace")


def _ask(path: str, method: str, resource: str, timeout: float) -> tuple[int, bytes]:
    connection = _UnixConnection(path, timeout)
    try:
        connection.request(method, resource)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except http.client.HTTPException as error:
        raise OSError(f"{path}: {error}") from error
    finally:
        connection.close()


def container_names(path: str, everything: bool = False) -> list[str]:
    """Names of the running containers (or of all)."""
    rows = get(path, f"/containers/json?all={int(everything)}")
    return sorted(row["Names"][0].lstrip("/") if row["Names"] else row["Id"][:12] for row in rows)
