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
    connection = _UnixConnection(path, timeout)
    try:
        connection.request("GET", question)
        answer = connection.getresponse()
        body = answer.read()
    except http.client.HTTPException as error:
        raise OSError(f"{path}: {error}") from error
    finally:
        connection.close()
    if answer.status != 200:
        raise OSError(f"{path}: GET {question} answered {answer.status}: {body[:200]!r}")
    return json.loads(body)


def container_names(path: str, everything: bool = False) -> list[str]:
    """Names of the running containers (or of all)."""
    rows = get(path, f"/containers/json?all={int(everything)}")
    return sorted(row["Names"][0].lstrip("/") if row["Names"] else row["Id"][:12] for row in rows)
