"""Log lines on stderr, in the text form that the real programs write."""

import json
import sys
import time

LEVELS = {"debug": 0, "info": 1, "warning": 2, "error": 3}


class Log:
    def __init__(self) -> None:
        self.lowest = "info"

    def write(self, level: str, message: str) -> None:
        if LEVELS[level] < LEVELS[self.lowest]:
            return
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        plain = message and all(c.isalnum() or c in "-._/@^+" for c in message)
        text = message if plain else json.dumps(message, ensure_ascii=False)
        print(f'time="{stamp}" level={level} msg={text}', file=sys.stderr)

    def debug(self, message: str) -> None:
        self.write("debug", message)

    def info(self, message: str) -> None:
        self.write("info", message)

    def warning(self, message: str) -> None:
        self.write("warning", message)


LOG = Log()


class Failure(Exception):
    """Ends the program with exit status 1 and this message as an error line."""
