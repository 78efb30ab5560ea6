"""A desktop's clients: who looks by VNC and counts pixels, and who runs a cell in a kernel of JupyterLab.

Run with the packages of desktop_client.txt:
  desktop_client.py look PICTURE...           JSON a picture: its size, how many colours, pixels of CartPole's pole and cart and of
                                              TensorBoard's first run, checksum
  desktop_client.py run URL TOKENFILE CODE    what the cell prints and gives; exit 1 where it raises
"""

from __future__ import annotations

import collections
import hashlib
import json
import sys
import urllib.request
import uuid
from pathlib import Path
from typing import Any

POLE, CART, PAPER = (202, 152, 101), (0, 0, 0), (255, 255, 255)  # as Gymnasium draws them
FIRST_RUN = (66, 80, 102)  # the first of TensorBoard's colours


def look(path: str) -> dict[str, Any]:
    from PIL import Image

    picture = Image.open(path).convert("RGB")
    raw = picture.tobytes()
    seen = collections.Counter(zip(raw[0::3], raw[1::3], raw[2::3], strict=True))
    return {
        "size": picture.size,
        "colours": len(seen),
        "pole": seen[POLE],
        "cart": seen[CART],
        "paper": seen[PAPER],
        "run": seen[FIRST_RUN],
        "sum": hashlib.sha256(raw).hexdigest(),
    }


def run(url: str, token: str, code: str) -> int:
    import websocket

    headers = {"Authorization": f"token {token}"}
    ask = urllib.request.Request(
        f"{url}/api/kernels", data=b'{"path": "cartpole.ipynb"}', headers=headers, method="POST"
    )
    with urllib.request.urlopen(ask, timeout=60) as answer:
        kernel = json.load(answer)["id"]
    where = f"{url.replace('http', 'ws', 1)}/api/kernels/{kernel}/channels"
    link = websocket.create_connection(where, header=[f"{k}: {v}" for k, v in headers.items()], timeout=180)
    mine = uuid.uuid4().hex
    content = {"code": code, "silent": False, "store_history": True, "allow_stdin": False, "stop_on_error": True}
    head = {
        "msg_id": mine,
        "msg_type": "execute_request",
        "username": "",
        "session": uuid.uuid4().hex,
        "version": "5.3",
    }
    link.send(json.dumps({"channel": "shell", "header": head, "parent_header": {}, "metadata": {}, "content": content}))
    failed = 0
    while True:
        said = json.loads(link.recv())
        if said.get("parent_header", {}).get("msg_id") != mine:
            continue
        kind, content = said["msg_type"], said["content"]
        if kind == "stream":
            print(content["text"], end="", flush=True)
        elif kind == "execute_result":
            print(content["data"]["text/plain"], flush=True)
        elif kind == "error":
            print(content["ename"], content["evalue"], file=sys.stderr, flush=True)
            failed = 1
        elif kind == "status" and content["execution_state"] == "idle":
            break
    link.close()
    end = urllib.request.Request(f"{url}/api/kernels/{kernel}", headers=headers, method="DELETE")
    urllib.request.urlopen(end, timeout=30).close()
    return failed


if __name__ == "__main__":
    if sys.argv[1] == "look":
        print(json.dumps([look(path) for path in sys.argv[2:]]))
    else:
        sys.exit(run(sys.argv[2], Path(sys.argv[3]).read_text(encoding="utf-8"), sys.argv[4]))
