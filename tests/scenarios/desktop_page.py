"""Opens the desktop's web page in a browser that is debugged on port 9222, gives the password as a person does, and prints
what came of it as JSON: whether it is connected, what the page says, and a picture in base64.

Runs inside the desktop's own container, which has a websocket client: desktop_page.py PASSWORD < this file.
"""

from __future__ import annotations

import json
import sys
import time
import urllib.request
from typing import Any

import websocket

PAGE = "http://127.0.0.1:6080/"
TYPE = """(() => {
  const field = document.getElementById("noVNC_password_input");
  if (!field || !document.getElementById("noVNC_credentials_dlg").classList.contains("noVNC_open")) return false;
  field.value = PASSWORD;
  document.getElementById("noVNC_credentials_button").click();
  return true;
})()"""
CONNECT = 'document.getElementById("noVNC_connect_button").click()'
CONNECTED = 'document.documentElement.classList.contains("noVNC_connected")'
STATUS = 'document.getElementById("noVNC_status").textContent'


class Browser:
    """One tab, by the DevTools protocol."""

    def __init__(self) -> None:
        ask = urllib.request.Request("http://127.0.0.1:9222/json/new?about:blank", method="PUT")
        with urllib.request.urlopen(ask, timeout=20) as answer:
            where = json.load(answer)["webSocketDebuggerUrl"]
        self.link = websocket.create_connection(where, timeout=60, suppress_origin=True)
        self.count = 0

    def ask(self, method: str, **params: Any) -> Any:
        self.count += 1
        self.link.send(json.dumps({"id": self.count, "method": method, "params": params}))
        while True:
            said = json.loads(self.link.recv())
            if said.get("id") == self.count:
                return said["result"]

    def value(self, expression: str) -> Any:
        return self.ask("Runtime.evaluate", expression=expression)["result"].get("value")

    def until(self, expression: str, seconds: float) -> bool:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.value(expression):
                return True
            time.sleep(0.3)
        return False


def main(password: str) -> None:
    browser = Browser()
    browser.ask("Page.navigate", url=PAGE)
    loaded = browser.until(
        'document.readyState === "complete" && !!document.getElementById("noVNC_connect_button")', 40
    )
    time.sleep(2)  # the page's scripts are modules: they come after its text
    browser.value(CONNECT)
    typed = browser.until(TYPE.replace("PASSWORD", json.dumps(password)), 30)
    connected = browser.until(CONNECTED, 20)
    status = browser.value(STATUS)
    time.sleep(3)
    picture = browser.ask("Page.captureScreenshot", format="png")["data"]
    print(json.dumps({"loaded": loaded, "typed": typed, "connected": connected, "status": status, "picture": picture}))


if __name__ == "__main__":
    main(sys.argv[1])
