"""A Playwright of its own for every session, and a note of how its browsers do.

BrowserGym keeps one Playwright for the whole process, and a Playwright belongs to the thread that started it. A server
that gives each session a thread needs one for each: sessions then neither wait for each other nor break each other.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import threading
import time

import browsergym.core.chat
import browsergym.core.env
from playwright.sync_api import Playwright, sync_playwright

_mine = threading.local()


def playwright() -> Playwright:
    """This thread's, started when there is none."""
    if getattr(_mine, "playwright", None) is None:
        _mine.playwright = sync_playwright().start()
    return _mine.playwright


def stop() -> None:
    """Ends this thread's Playwright and every browser that it has."""
    running, _mine.playwright = getattr(_mine, "playwright", None), None
    if running is not None:
        with contextlib.suppress(Exception):  # its driver may be gone already, which is what is wanted
            running.stop()
        # What a Playwright leaves behind refers to itself in circles: uncollected it is 3 MB a session.
        gc.collect()


browsergym.core.env._get_global_playwright = playwright
browsergym.core.chat._get_global_playwright = playwright
# Two lines at every reset, to say that viewport and timeout are the ones that were chosen.
logging.getLogger("browsergym.core.env").setLevel(logging.ERROR)


class Record:
    """When a browser last answered and when one last failed, over all sessions."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._answered: float | None = None
        self._failed: float | None = None
        self._why = ""

    def answered(self) -> None:
        with self._lock:
            self._answered = time.monotonic()

    def failed(self, error: BaseException) -> None:
        with self._lock:
            self._failed, self._why = time.monotonic(), f"{type(error).__name__}: {error}"[:500]

    def report(self) -> dict[str, object]:
        now = time.monotonic()
        with self._lock:
            well = self._answered is not None and (self._failed is None or self._failed <= self._answered)
            return {
                "well": well,
                "answered_seconds_ago": None if self._answered is None else round(now - self._answered, 1),
                "last_failure": self._why,
            }
