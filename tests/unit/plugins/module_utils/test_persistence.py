"""When the persistence daemon is enabled, and when it is let go again."""

from __future__ import annotations

import pytest
from ansible_collections.gpulab.fleet.plugins.module_utils._persistence import DAEMON, persistence_steps

ON = [["enable", "--now", DAEMON]]
OFF = [["disable", "--now", DAEMON]]


@pytest.mark.parametrize(
    ("state", "wanted", "ours", "steps"),
    [
        ("disabled", True, False, ON),
        ("enabled", True, True, []),
        ("static", True, False, []),
        ("masked", True, False, []),
        ("enabled", False, True, OFF),
        ("enabled", False, False, []),  # somebody else's wish
        ("disabled", False, True, []),
    ],
)
def test_only_what_is_disabled_is_enabled_and_only_ours_disabled(
    state: str, wanted: bool, ours: bool, steps: list[list[str]]
) -> None:
    load = "masked" if state == "masked" else "loaded"
    assert persistence_steps({"LoadState": load, "UnitFileState": state}, wanted, ours) == steps


def test_a_host_without_the_daemon() -> None:
    assert persistence_steps({}, True, False) == persistence_steps({"LoadState": "not-found"}, True, False) == []
