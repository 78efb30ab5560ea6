"""What the probe's answers mean."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible_collections.gpulab.fleet.plugins.module_utils import _proof
from ansible_collections.gpulab.fleet.plugins.module_utils._catalogue import catalogue

GPU0, GPU1 = "GPU-00000000-0000-0000-0000-000000000000", "GPU-00000000-0000-0000-0000-000000000001"
BARE0, BARE1 = GPU0[4:], GPU1[4:]
CLOSED = {"open": "ENOENT", "make": "EPERM"}
SPEED = {"bytes": 1, "pinned": True, "host_to_device_bytes_per_second": 20e9, "device_to_host_bytes_per_second": 10e9}


def error(name: str = "X", code: int | None = None, step: str = "cuInit") -> dict[str, Any]:
    return {"step": step, "call": step, "code": code, "name": name, "text": "said the driver"}


def answer(**changes: Any) -> dict[str, Any]:
    """The probe's answer from a container with GPU 0 on a host with two."""
    return {
        "probe": 1,
        "ok": True,
        "error": None,
        "library": True,
        "nodes": {"/dev/nvidia0": "ok"},
        "control_nodes": {"/dev/nvidiactl": "ok", "/dev/nvidia-uvm": "ok"},
        "forbidden": {"/dev/nvidia1": CLOSED},
        "uuids": [BARE0],
        "device": {"name": "A100", "compute_capability": "8.0"},
        "copy": {"bytes": 1048576},
        "kernel": {"words": 16381, "wrong": 0},
        "bandwidth": SPEED,
        "steps": [{"name": "kernel", "ok": True, "seconds": 0.5}],
        **changes,
    }


def failed(name: str = "X", code: int | None = None, step: str = "cuInit", **changes: Any) -> dict[str, Any]:
    base = answer(ok=False, error=error(name, code, step), **changes)
    return {key: value for key, value in base.items() if key in changes or key not in ("uuids", "kernel", "bandwidth")}


def verdicts(judged: _proof.Judged) -> dict[str, str]:
    return {step["name"]: step["verdict"] for step in judged.steps}


def codes(judged: _proof.Judged) -> list[str]:
    return [found["code"] for found in judged.findings]


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        ([], "unknown"),
        (["pass"], "pass"),
        (["pass", "unknown"], "unknown"),
        (["unknown", "fail", "pass"], "fail"),
        (["pass", "fail"], "fail"),
        (["unknown"], "unknown"),
        (["skipped"], "unknown"),
    ],
)
def test_fold(seen: list[str], expected: str) -> None:
    assert _proof.fold(seen) == expected


@pytest.mark.parametrize(
    ("output", "found"),
    [
        ('{"probe": 1, "ok": true}\n', True),
        ('noise\n{"probe": 1}\nmore noise\n', True),
        ("", False),
        ("Traceback\n", False),
        ('{"probe": 2}\n', False),
        ('{"probe": 1, "cut', False),
        ("[]\n{}\n", False),
    ],
)
def test_parse_answer(output: str, found: bool) -> None:
    assert (_proof.parse_answer(output) is not None) is found


def test_a_gpu_that_works() -> None:
    judged = _proof.judge_gpu(answer(), GPU0, 1, 0.3, "ann")
    assert verdicts(judged) == {"visible": "pass", "isolated": "pass", "compute": "pass"}
    assert judged.findings == []


def test_on_a_host_with_one_gpu_there_is_nothing_to_isolate_from() -> None:
    assert "isolated" not in verdicts(_proof.judge_gpu(answer(forbidden={}), GPU0, 0, 0.3, "ann"))


@pytest.mark.parametrize(
    ("got", "step", "verdict", "code"),
    [
        (answer(uuids=[BARE0, BARE1]), "visible", "fail", "ISOLATION_BROKEN"),
        (answer(uuids=[BARE1]), "visible", "fail", "PROOF_GPU_SET_DIFFERS"),
        (answer(uuids=[]), "visible", "fail", "PROOF_GPU_SET_DIFFERS"),
        (answer(forbidden={"/dev/nvidia1": {"open": "ok"}}), "isolated", "fail", "ISOLATION_BROKEN"),
        (answer(forbidden={"/dev/nvidia1": {"open": "EACCES"}}), "isolated", "fail", "ISOLATION_BROKEN"),
        (
            answer(forbidden={"/dev/nvidia1": {"open": "ENOENT", "make": "ok", "open_made": "ok"}}),
            "isolated",
            "fail",
            "ISOLATION_BROKEN",
        ),
        (answer(forbidden={}), "isolated", "unknown", None),
        (failed("CUDA_ERROR_NO_DEVICE", 100), "visible", "fail", "CUDA_NO_DEVICE"),
        (failed("CUDA_ERROR_NO_DEVICE", 100), "compute", "unknown", "CUDA_NO_DEVICE"),
        (failed("LIBRARY_NOT_FOUND", None, "library"), "visible", "fail", "CUDA_LIBRARY_NOT_FOUND"),
        (failed("X", 2, "memory", uuids=[BARE0]), "compute", "fail", "CUDA_OUT_OF_MEMORY"),
        (failed("X", 46, "context", uuids=[BARE0]), "compute", "fail", "CUDA_DEVICES_UNAVAILABLE"),
        (failed("X", 218, "kernel", uuids=[BARE0]), "compute", "fail", "CUDA_PTX_REJECTED"),
        (failed("X", 222, "kernel", uuids=[BARE0]), "compute", "fail", "CUDA_PTX_REJECTED"),
        (failed("X", 700, "kernel", uuids=[BARE0]), "compute", "fail", "CUDA_KERNEL_FAULT"),
        (failed("X", 12345, "kernel", uuids=[BARE0]), "compute", "fail", "CUDA_ERROR"),
        (failed("COPY_DIFFERS", None, "copy", uuids=[BARE0]), "compute", "fail", "CUDA_COPY_DIFFERS"),
        (failed("RESULT_WRONG", None, "kernel", uuids=[BARE0]), "compute", "fail", "CUDA_WRONG_RESULT"),
        (failed("TIMEOUT", None, "context", uuids=[BARE0]), "compute", "fail", "CUDA_TIMEOUT"),
        (failed("X", 802), "visible", "fail", "CUDA_FABRIC_NOT_READY"),
        (failed("X", 803), "visible", "fail", "CUDA_DRIVER_MISMATCH"),
        (failed("X", 804), "visible", "fail", "CUDA_COMPAT_NOT_SUPPORTED"),
        (failed("X", 999), "visible", "fail", "CUDA_UNKNOWN"),
        (failed("X", 999, control_nodes={"/dev/nvidiactl": "ok"}), "visible", "fail", "UVM_MISSING"),
        (failed("X", 100, nodes={"/dev/nvidia0": "EACCES"}), "visible", "fail", "PROOF_NODE_FORBIDDEN"),
        (failed("X", 999, control_nodes={"/dev/nvidia-uvm": "EPERM"}), "visible", "fail", "PROOF_NODE_FORBIDDEN"),
    ],
)
def test_a_gpu_that_does_not(got: dict[str, Any], step: str, verdict: str, code: str | None) -> None:
    judged = _proof.judge_gpu(got, GPU0, 1, 0.3, "ann")
    assert verdicts(judged)[step] == verdict
    assert codes(judged) == ([code] if code else [])
    assert all("{" not in found["remedy"].replace("{{", "") for found in judged.findings)


def test_cuda_codes_are_in_the_catalogue() -> None:
    assert {*_proof.CUDA_CODES.values(), *_proof.PROBE_ERRORS.values()} <= set(catalogue())


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({"uuids": [], "nodes": {}, "forbidden": {"/dev/nvidia0": CLOSED}}, "pass"),
        ({"nodes": {}, "forbidden": {"/dev/nvidia0": CLOSED}, "error": error("X", 100)}, "pass"),
        ({"uuids": [BARE0], "nodes": {}, "forbidden": {"/dev/nvidia0": CLOSED}}, "fail"),
        ({"uuids": [], "nodes": {"/dev/nvidia0": "ok"}, "forbidden": {"/dev/nvidia0": {"open": "ok"}}}, "fail"),
        ({"uuids": [], "nodes": {"/dev/nvidia7": "EACCES"}, "forbidden": {"/dev/nvidia0": CLOSED}}, "fail"),
        ({"uuids": [], "nodes": {}, "forbidden": {}}, "unknown"),
    ],
)
def test_the_negative_control(changes: dict[str, Any], verdict: str) -> None:
    got = answer(**changes)
    if "uuids" not in changes:
        del got["uuids"]
    judged = _proof.judge_none(got, 1, 0.3, "ann")
    assert verdicts(judged) == {"none": verdict}
    assert codes(judged) == (["ISOLATION_BROKEN"] if verdict == "fail" else [])


@pytest.mark.parametrize(
    ("gpus", "got", "others", "verdict", "code"),
    [
        ([GPU0, GPU1], answer(uuids=[BARE0, BARE1], forbidden={}), 0, "pass", None),
        ([GPU0], answer(), 1, "pass", None),
        ([GPU0], answer(uuids=[BARE0, BARE1]), 1, "fail", "ISOLATION_BROKEN"),
        ([GPU0], answer(forbidden={"/dev/nvidia1": {"open": "ok"}}), 1, "fail", "ISOLATION_BROKEN"),
        ([GPU0, GPU1], answer(), 0, "fail", "PROOF_GPU_SET_DIFFERS"),
        ([GPU0], answer(forbidden={}), 1, "unknown", None),
        ([GPU0], failed("X", 100), 1, "fail", "CUDA_NO_DEVICE"),
        (["MIG-a", "MIG-b"], answer(uuids=["a"], forbidden={}), 0, "pass", None),
        (["MIG-a"], answer(uuids=["b"], forbidden={}), 0, "fail", "ISOLATION_BROKEN"),
    ],
)
def test_all(gpus: list[str], got: dict[str, Any], others: int, verdict: str, code: str | None) -> None:
    judged = _proof.judge_all(got, gpus, others, 0.3, "ann")
    assert verdicts(judged) == {"all": verdict}
    assert codes(judged) == ([code] if code else [])


@pytest.mark.parametrize(
    ("container", "host", "verdict", "code"),
    [
        (SPEED, SPEED, "pass", None),
        ({**SPEED, "device_to_host_bytes_per_second": 5e9}, SPEED, "pass", None),
        ({**SPEED, "device_to_host_bytes_per_second": 4.9e9}, SPEED, "fail", "PROOF_BANDWIDTH_LOW"),
        ({**SPEED, "host_to_device_bytes_per_second": 1e9}, SPEED, "fail", "PROOF_BANDWIDTH_LOW"),
        (None, SPEED, "unknown", None),
        (SPEED, None, "unknown", "PROOF_HOST_UNKNOWN"),
    ],
)
def test_bandwidth(
    container: dict[str, Any] | None, host: dict[str, Any] | None, verdict: str, code: str | None
) -> None:
    inside = answer(bandwidth=container)
    outside = answer(bandwidth=host) if host else failed("X", 100)
    judged = _proof.judge_bandwidth(inside, outside, GPU0, 0.5, "ann")
    assert verdicts(judged) == {"bandwidth": verdict}
    assert codes(judged) == ([code] if code else [])


def test_a_host_that_did_not_answer_is_unknown() -> None:
    judged = _proof.judge_bandwidth(answer(), None, GPU0, 0.5, "ann")
    assert verdicts(judged) == {"bandwidth": "unknown"}


def test_one_cause_is_told_once_with_all_it_concerns() -> None:
    judged = _proof.Judged()
    judged.find("CUDA_UNKNOWN", "GPU-a: step cuInit: 999")
    judged.find("CUDA_UNKNOWN", "GPU-b: step cuInit: 999")
    judged.find("CUDA_UNKNOWN", "GPU-c: another text")
    judged.find("CUDA_ECC", "no subject")
    first, second = _proof.gathered(judged.findings)
    assert first["evidence"].split("\n") == ["GPU-a, GPU-b: step cuInit: 999", "          GPU-c: another text"]
    assert second["evidence"] == "no subject"


def test_lines_name_verdict_time_and_gpu() -> None:
    judged = _proof.judge_gpu(answer(), GPU0, 1, 0.3, "ann")
    text = _proof.lines("ann", "pass", judged.steps)
    assert text[0].split() == ["PASS", "containers", "of", "ann"]
    assert text[1] == f"  {GPU0}"
    (compute,) = [line for line in text if "computes" in line]
    assert compute.startswith("    pass     0.50 s  computes: ")
    assert any("16381" in line for line in text)


def test_lines_fit_a_terminal_and_a_gpu_is_named_once() -> None:
    steps = [step for gpu in (GPU0, GPU1) for step in _proof.judge_gpu(answer(), gpu, 1, 0.3, "ann").steps]
    text = _proof.lines("ann", "pass", [*steps, {**steps[0], "name": "none", "gpu": None, "detail": "x " * 90}])
    assert max(map(len, text)) <= 72
    assert text.count(f"  {GPU0}") == text.count(f"  {GPU1}") == 1
    assert any(line.startswith("  pass     ") and "negative control" in line for line in text)


def test_steps_can_be_sent_as_json() -> None:
    judged = _proof.judge_gpu(answer(), GPU0, 1, 0.3, "ann")
    assert json.loads(json.dumps(judged.steps)) == judged.steps
