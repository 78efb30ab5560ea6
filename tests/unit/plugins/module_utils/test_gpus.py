"""Which GPUs a setting means."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.gpulab.fleet.plugins.module_utils._gpus import gpu_uuids

PLAIN = [{"index": 0, "uuid": "GPU-a", "mig": {"enabled": False, "instances": []}}, {"index": 1, "uuid": "GPU-b"}]
SPLIT = [{"index": 0, "uuid": "GPU-a", "mig": {"enabled": True, "instances": [{"uuid": "MIG-1"}, {"uuid": "MIG-2"}]}}]
LOST = [{"index": 0, "uuid": None}, {"index": 1, "uuid": "GPU-b"}]


@pytest.mark.parametrize(
    ("wanted", "gpus", "expected"),
    [
        ("all", PLAIN, ["GPU-a", "GPU-b"]),
        ("none", PLAIN, []),
        (None, PLAIN, []),
        ([], PLAIN, []),
        ([1], PLAIN, ["GPU-b"]),
        (["1"], PLAIN, ["GPU-b"]),
        ([1, "GPU-b"], PLAIN, ["GPU-b"]),
        (["GPU-elsewhere", 7], PLAIN, ["GPU-elsewhere", "7"]),
        ("all", SPLIT, ["MIG-1", "MIG-2"]),
        (["MIG-2"], SPLIT, ["MIG-2"]),
        ("all", LOST, ["GPU-b"]),
        ([0], LOST, ["0"]),
    ],
)
def test_gpu_uuids(wanted: Any, gpus: list[dict[str, Any]], expected: list[str]) -> None:
    assert gpu_uuids(wanted, gpus) == expected
