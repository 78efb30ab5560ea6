"""Limits of a user's slice."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.gpulab.fleet.plugins.module_utils._user_limits import drop_in, unenforceable


@pytest.mark.parametrize(
    ("limits", "lines"),
    [
        ({"cpus": 2.5}, ["CPUQuota=250%"]),
        ({"cpus": "4", "memory": "64G"}, ["CPUQuota=400%", "MemoryMax=64G"]),
        ({"memory": 1073741824}, ["MemoryMax=1073741824"]),
    ],
)
def test_a_limit_is_a_line(limits: dict[str, Any], lines: list[str]) -> None:
    assert drop_in(limits).splitlines()[1:] == ["[Slice]", *lines]


def test_no_limit_is_no_file() -> None:
    assert drop_in({}) == ""


def test_what_would_be_ignored_is_named_with_its_value() -> None:
    assert unenforceable("mara", {"cpus": 2, "memory": "1G"}, "cpuset cpu io memory pids") == []
    (cpus,) = unenforceable("mara", {"cpus": 2, "memory": "1G"}, "memory pids")
    assert cpus.startswith("gpulab_users.mara.limits.cpus = 2: ")
    (disk,) = unenforceable("mara", {"disk": "50G"}, "cpu memory")
    assert disk.startswith("gpulab_users.mara.limits.disk = 50G: ")
