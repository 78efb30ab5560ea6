"""What people see of a host's health."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.gpulab.fleet.plugins.filter.findings_table import findings_table
from ansible_collections.gpulab.fleet.plugins.module_utils._findings import finding

GPU = {"index": "0", "name": "NVIDIA H200", "memory_mib": "143771", "uuid": "GPU-1"}
ALICE = {"name": "alice", "answers": True, "version": "28.5.2", "storage_driver": "overlay2", "containers_running": 3}


def result(**changes: Any) -> dict[str, Any]:
    host = {
        "distribution": "Ubuntu",
        "version": "22.04",
        "codename": "jammy",
        "arch": "x86_64",
        "kernel": "5.15.0-91-generic",
        "systemd": 249,
        "gpu_present": True,
        "gpus": [GPU],
        "driver": "580.95.05",
        "engine": {"package": "docker-ce", "version": "28.5.2"},
        "rootful_engine": None,
        "toolkit": "1.20.0-1",
        "users": [ALICE],
        "lacks": [],
    }
    host.update(changes.pop("host", {}))
    return {"verdict": "pass", "findings": [], "unknown": [], "host": host} | changes


def test_a_healthy_host_takes_a_few_lines() -> None:
    assert findings_table(result(), "gpu1") == [
        "gpu1: PASS, nothing found",
        "  system   Ubuntu 22.04 (jammy), x86_64, kernel 5.15.0-91-generic,",
        "           systemd 249",
        "  GPU      0: NVIDIA H200, 143771 MiB, GPU-1",
        "  driver   580.95.05",
        "  engine   docker-ce 28.5.2",
        "  toolkit  1.20.0-1",
        "  user     alice: Docker 28.5.2, overlay2, 3 containers running",
    ]


def test_a_finding_shows_evidence_cause_and_remedy() -> None:
    found = [finding("LINGER_OFF", "no file", user="alice"), finding("UVM_MISSING", "no node")]
    lines = findings_table(result(verdict="fail", findings=found[::-1]), "gpu1")
    assert lines[0] == "gpu1: FAIL, 1 error, 1 warning"
    text = "\n".join(lines)
    assert text.index("  ERROR    UVM_MISSING: ") < text.index("  WARNING  LINGER_OFF: ")
    assert "           seen: no file" in lines
    assert "           remedy: loginctl enable-linger alice" in lines


@pytest.mark.parametrize(
    ("host", "line"),
    [
        ({"gpus": [], "gpu_present": False, "driver": None}, "  GPU      none"),
        ({"gpus": [], "driver": None}, "  GPU      present, but it does not answer"),
        ({"gpus": [], "driver": None}, "  driver   not loaded"),
        ({"engine": None}, "  engine   none"),
        (
            {"rootful_engine": {"version": "26.1.5", "containers": 2}},
            "  engine   docker-ce 28.5.2; root's runs (26.1.5, 2 containers)",
        ),
        (
            {"rootful_engine": {"version": None, "containers": None}},
            "  engine   docker-ce 28.5.2; root's runs (version not readable)",
        ),
        (
            {"users": [ALICE | {"answers": False}]},
            "  user     alice: engine set up, does not answer or may not be asked",
        ),
        ({"lacks": ["a Docker engine", "a user"]}, "  lacks    a Docker engine, a user"),
        (
            {"distribution": None, "version": None, "codename": None},
            "  system   unknown system, x86_64, kernel 5.15.0-91-generic, systemd 249",
        ),
    ],
)
def test_facts(host: dict[str, Any], line: str) -> None:
    assert line in findings_table(result(host=host))


def test_unknown_is_shown() -> None:
    lines = findings_table(
        result(verdict="unknown", unknown=[{"checks": ["kernel_log"], "reason": "log: not permitted"}]), "gpu1"
    )
    assert lines[0] == "gpu1: UNKNOWN, 1 not looked at"
    assert lines[-2:] == [
        "  UNKNOWN  log: not permitted (kernel_log)",
        "           root may look: run it again with -b",
    ]


def test_root_is_not_advised_where_it_would_not_help() -> None:
    lines = findings_table(result(unknown=[{"checks": ["engine"], "reason": "no answer within 5 s"}]))
    assert lines[-1] == "  UNKNOWN  no answer within 5 s (engine)"


def test_lines_keep_to_the_width() -> None:
    lines = findings_table(result(findings=[finding("UVM_NODE_STALE", "x " * 200)]), "gpu1")
    assert max(map(len, lines)) <= 72


def test_a_host_that_did_not_answer() -> None:
    lines = findings_table({"unreachable": True, "msg": "Connection refused"}, "gpu9")
    assert lines == ["gpu9: NOT LOOKED AT", "  why      Connection refused"]


def test_something_else_is_refused() -> None:
    with pytest.raises(AnsibleFilterError):
        findings_table("text")
