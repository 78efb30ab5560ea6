"""Says its version, its word and its secret's length on port 8000; notes each start; or breaks, as MODE says."""

import http.server
import os
import pathlib
import sys
import time

version = pathlib.Path("/version")
text = f"version {version.read_text().strip() if version.exists() else '-'} word {os.environ.get('WORD')}"
secret = pathlib.Path("/run/secrets/TOKEN")
mode = os.environ.get("MODE", "serve")
notes = pathlib.Path("/notes")
if notes.is_dir():
    with (notes / "starts").open("a") as file:
        file.write(f"{text}\n")
print(f"starting in mode {mode}", flush=True)
if mode == "exit":
    sys.exit("this version cannot start")
if mode == "hang":
    time.sleep(3600)


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(500 if mode == "sick" else 200)
        self.end_headers()
        self.wfile.write(f"{text} secret {secret.read_text() if secret.exists() else ''}".encode())

    def log_message(self, *_args: object) -> None:
        pass


http.server.ThreadingHTTPServer(("", 8000), Handler).serve_forever()
