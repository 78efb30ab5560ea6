"""The record changes with verdict and identity, and with nothing else."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpulab.fleet.plugins.module_utils import _record
from ansible_collections.gpulab.fleet.plugins.module_utils._findings import finding


def info(**changes: Any) -> dict[str, Any]:
    gpu = {"index": 0, "uuid": "GPU-a", "name": "A100", "status": "ok", "memory_total_bytes": 40 << 30}
    return {
        "verdict": "pass",
        "driver_version": "550.163.01",
        "cuda_driver_version": "12.4",
        "gpus": [gpu, {**gpu, "index": 1, "uuid": "GPU-b"}],
        "findings": [],
        **changes,
    }


def proof(**changes: Any) -> dict[str, Any]:
    return {
        "user": "ann",
        "gpus": ["GPU-b", "GPU-a"],
        "verdict": "pass",
        "engine": {"version": "28.5.2"},
        "spec": {"files": []},
        "steps": [
            {"name": "visible", "gpu": "GPU-a", "verdict": "pass", "seconds": 0.31, "detail": "0.92 of the host's"}
        ],
        "findings": [],
        "lines": ["PASS containers of ann"],
        "seconds": 1.2,
        **changes,
    }


def make(**changes: Any) -> dict[str, Any]:
    arguments: dict[str, Any] = {"info": info(), "proofs": [proof()], "expected": 2, "toolkit": "1.20.0-1", **changes}
    return _record.make(**arguments)[0]


def test_a_proven_host() -> None:
    record = make()
    assert record["verdict"] == "pass"
    assert record["users"]["ann"]["gpus"] == ["GPU-a", "GPU-b"]
    assert (record["driver"], record["toolkit"], record["users"]["ann"]["engine"]) == (
        "550.163.01",
        "1.20.0-1",
        "28.5.2",
    )


def other_times() -> dict[str, Any]:
    changed = copy.deepcopy(proof())
    changed["steps"][0].update(seconds=9.9, detail="0.61 of the host's")
    changed["seconds"] = 30.0
    return changed


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({}, True),
        ({"proofs": [other_times()]}, True),
        ({"toolkit": "1.19.1-1"}, False),
        ({"info": info(driver_version="580.1")}, False),
        ({"info": info(gpus=info()["gpus"][:1]), "expected": None}, False),
        ({"proofs": [proof(engine={"version": "29.5.0"})]}, False),
        ({"proofs": [proof(verdict="unknown")]}, False),
        ({"proofs": [proof(gpus=["GPU-a"])]}, False),
        ({"proofs": [proof(steps=[{**proof()["steps"][0], "verdict": "unknown"}])]}, False),
        ({"proofs": []}, False),
    ],
)
def test_what_changes_the_record(changes: dict[str, Any], same: bool) -> None:
    assert (_record.compared(make()) == _record.compared(make(**changes))) is same


def test_the_content_of_a_spec_is_part_of_it(tmp_path: Path) -> None:
    spec = tmp_path / "nvidia.json"
    spec.write_text("one")
    proofs = [proof(spec={"files": [str(spec)]})]
    before = make(proofs=proofs)
    spec.write_text("two")
    assert _record.compared(make(proofs=proofs)) != _record.compared(before)


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, "pass"),
        ({"expected": None}, "pass"),
        ({"expected": 3}, "fail"),
        ({"expected": 1}, "fail"),
        ({"expected": 0}, "fail"),
        ({"proofs": [proof(), proof(user="bo", verdict="unknown")]}, "unknown"),
        ({"proofs": [proof(verdict="unknown"), proof(user="bo", verdict="fail")]}, "fail"),
        ({"info": info(verdict="fail")}, "fail"),
        ({"info": info(verdict="unknown", gpus=[]), "proofs": [], "expected": None}, "unknown"),
    ],
)
def test_verdict(changes: dict[str, Any], verdict: str) -> None:
    assert make(**changes)["verdict"] == verdict


def test_a_wrong_number_of_gpus_is_told_by_name() -> None:
    gpus = [*info()["gpus"], {"index": 2, "uuid": None, "name": None, "status": "failed"}]
    found = _record.count_finding(info(gpus=gpus), 3)[0]
    assert found["code"] == "PROOF_GPU_COUNT"
    for part in ("expected 3", "usable 2", "GPU-a", "GPU-b", "GPU 2 (lost)"):
        assert part in found["evidence"]


def test_no_gpu() -> None:
    nothing = info(verdict="unknown", gpus=[], findings=[finding("NO_GPU", "nothing there")])
    assert _record.has_no_gpu(nothing)
    assert _record.host_lines(nothing) == ["no GPU on this host"]
    record, findings = _record.make(nothing, [], 2, None)
    assert record["verdict"] == "fail"
    assert "PROOF_GPU_COUNT" in [found["code"] for found in findings]
