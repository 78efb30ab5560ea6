"""Enforced shares: who may open which node, and which nodes there must be."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from ansible_collections.gpulab.fleet.plugins.module_utils import _gpu_shares as shares
from ansible_collections.gpulab.fleet.plugins.module_utils._gpu_shares_host import files, on_the_host
from ansible_collections.gpulab.fleet.plugins.module_utils._subid import Range

DEVICES = "Character devices:\n  1 mem\n195 nvidia\n234 nvidia-caps\n511 nvidia-uvm\n\nBlock devices:\n  8 sd\n"


def put(root: Path, name: str, text: str) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host with two GPUs, mara's and bob's; ordinary files stand for the nodes."""
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        put(tmp_path, f"dev/{name}", "").chmod(0o666)
    for user, gpu in (("mara", 0), ("bob", 1)):
        common = {"deviceNodes": [{"path": "/dev/nvidiactl"}, {"path": "/dev/x", "hostPath": "/dev/nvidia-uvm"}]}
        device = {"name": str(gpu), "containerEdits": {"deviceNodes": [{"path": f"/dev/nvidia{gpu}"}]}}
        spec = {"kind": "nvidia.com/gpu", "containerEdits": common, "devices": [device]}
        put(tmp_path, f"var/lib/gpulab/cdi/{user}/nvidia.json", json.dumps(spec))
    put(tmp_path, "proc/devices", DEVICES)
    put(tmp_path, "proc/driver/nvidia/params", "ModifyDeviceFiles: 0\nDeviceFileMode: 438\n")
    put(tmp_path, "proc/driver/nvidia/gpus/0000:07:00.0/information", "Model: \t A\nDevice Minor: \t 0\n")
    put(tmp_path, "proc/driver/nvidia/gpus/0000:0f:00.0/information", "Model: \t A\nDevice Minor: \t 1\n")
    put(tmp_path, "proc/driver/nvidia/capabilities/gpu0/mig/gi1/access", "DeviceFileMinor: 12\nDeviceFileMode: 292\n")
    monkeypatch.setattr(shares, "nodes", lambda root: sorted((root / "dev").glob("nvidia*")))
    monkeypatch.setattr(shares, "services", lambda: {900})
    return tmp_path


def who(entries: list[shares.Entry]) -> list[int]:
    return [uid for tag, _, uid in entries if tag == shares.USER]


def test_a_node_is_for_those_whose_spec_names_it(root: Path) -> None:
    plan = shares.plan(root, {"mara": [1000, 100999], "bob": [1001]})
    assert {node.name: who(entries) for node, entries in plan.items()} == {
        "nvidia0": [900, 1000, 100999],
        "nvidia1": [900, 1001],
        "nvidiactl": [900, 1000, 1001, 100999],
        "nvidia-uvm": [900, 1000, 1001, 100999],
    }


@pytest.mark.parametrize("text", ["", "[]", "{", '{"devices": 3}'])
def test_a_user_with_a_broken_spec_has_no_gpu(root: Path, text: str) -> None:
    put(root, "var/lib/gpulab/cdi/bob/nvidia.json", text)
    plan = shares.plan(root, {"mara": [1000], "bob": [1001]})
    assert who(plan[root / "dev/nvidia1"]) == [900]
    assert who(plan[root / "dev/nvidia0"]) == [900, 1000]


def test_what_is_written_is_read_back_and_can_be_undone(root: Path) -> None:
    plan = shares.plan(root, {"mara": [1000], "bob": [1001]})
    assert shares.differing(plan) == plan
    for node, entries in plan.items():
        shares.give(node, entries)
        assert node.stat().st_mode & 0o007 == 0
    assert shares.differing(plan) == {}
    (root / "dev/nvidia0").chmod(0o666)  # what the driver's own program does
    assert list(shares.differing(plan)) == [root / "dev/nvidia0"]
    shares.release(root)
    for node in plan:
        assert node.stat().st_mode & 0o777 == 0o666
        assert shares.ACL not in os.listxattr(node)
    assert shares.release(root) == []


def test_a_gpu_of_nobody_is_for_nobody(root: Path) -> None:
    node = root / "dev/nvidia1"
    shares.give(node, shares.shared_with(set()))
    assert node.stat().st_mode & 0o777 == 0o600 and shares.ACL not in os.listxattr(node)


def test_the_nodes_that_the_driver_would_have_made(root: Path) -> None:
    assert shares.numbers(root) == {
        "nvidiactl": (195, 255),
        "nvidia-modeset": (195, 254),
        "nvidia0": (195, 0),
        "nvidia1": (195, 1),
        "nvidia-uvm": (511, 0),
        "nvidia-uvm-tools": (511, 1),
        "nvidia-caps/nvidia-cap12": (234, 12),
    }
    put(root, "proc/devices", "Character devices:\n  1 mem\n")
    assert shares.numbers(root) == {}


@pytest.mark.parametrize(("params", "alone"), [("ModifyDeviceFiles: 0\n", True), ("ModifyDeviceFiles: 1\n", False)])
def test_whether_the_driver_leaves_them_alone(root: Path, params: str, alone: bool) -> None:
    put(root, "proc/driver/nvidia/params", params)
    assert shares.left_alone(root) is alone


def test_settling_follows_the_settings_on_the_host(root: Path) -> None:
    assert shares.settle(root) == []  # not enforced here
    for path, text in files({"mara": [1000]}, "").items():
        put(root, path.lstrip("/"), text)
    (root / "proc/driver/nvidia/params").write_text("ModifyDeviceFiles: 1\n")  # nothing is missing: no node is made
    said = shares.settle(root)
    assert f"{root}/dev/nvidia0: for 900, 1000" in said and f"{root}/dev/nvidia1: for 900" in said
    assert shares.settle(root) == []


def test_ids_in_containers_follow_the_ranges_in_order() -> None:
    ranges = [Range("bob", 100000, 65536), Range("mara", 200000, 10), Range("1000", 300000, 65526)]
    found = [on_the_host(each, ranges, "mara", 1000) for each in (0, 1, 10, 11, 65536, 65537)]
    assert found == [1000, 200000, 200009, 300000, 365525, None]
