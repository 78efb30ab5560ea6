"""Opens pages in a browser that is debugged on port 9222, and prints what came of it as JSON, with a picture in base64.

Runs inside the desktop's own container, which has a websocket client:
  python3 - desktop PASSWORD < this file   gives the password as a person does; whether it is connected, and what the page says
  python3 - curves URL < this file         TensorBoard's page, once a chart is there: its text
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
CHART = '!!document.querySelector("line-chart canvas, line-chart svg")'
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


def desktop(browser: Browser, password: str) -> dict[str, Any]:
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
    return {"loaded": loaded, "typed": typed, "connected": connected, "status": status}


def curves(browser: Browser, url: str) -> dict[str, Any]:
    browser.ask("Page.navigate", url=url)
    loaded = browser.until(CHART, 90)
    time.sleep(8)  # the chart comes, then what it draws
    return {"loaded": loaded, "text": browser.value("document.body.innerText")}


def main(what: str, word: str) -> None:
    browser = Browser()
    found = {"desktop": desktop, "curves": curves}[what](browser, word)
    print(json.dumps({**found, "picture": browser.ask("Page.captureScreenshot", format="png")["data"]}))


if __name__ == "__main__":
    main(*sys.argv[1:])
