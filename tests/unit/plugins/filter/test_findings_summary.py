"""A fleet's health in lines."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.gpulab.fleet.plugins.filter.findings_summary import findings_summary
from ansible_collections.gpulab.fleet.plugins.module_utils._findings import finding

HOST = {"gpus": [{}, {}], "driver": "580.95.05", "engine": {"version": "28.5.2"}, "toolkit": "1.20.0-1"}


def result(verdict: str, *findings: Any, unknown: Any = ()) -> dict[str, Any]:
    return {"verdict": verdict, "findings": list(findings), "unknown": list(unknown), "host": HOST}


def test_worst_first() -> None:
    lines = findings_summary(
        {
            "good": result("pass", finding("CGROUP_CONTROLLERS_MISSING", "a note")),
            "bad": result("fail", finding("UVM_MISSING", "x"), finding("UVM_MISSING", "y"), finding("LINGER_OFF", "z")),
            "dim": result("unknown", unknown=[{"checks": ["a"], "reason": "b"}]),
            "off": {"unreachable": True, "msg": "Task failed: Connection timed out\nmore"},
        }
    )
    assert lines == [
        "HOST  VERDICT   GPUS  DRIVER     ENGINE  TOOLKIT",
        "off   not seen  -     -          -       -",
        "    Connection timed out",
        "bad   fail      2     580.95.05  28.5.2  1.20.0-1",
        "    UVM_MISSING, LINGER_OFF",
        "dim   unknown   2     580.95.05  28.5.2  1.20.0-1",
        "    1 not looked at",
        "good  pass      2     580.95.05  28.5.2  1.20.0-1",
    ]


def test_what_a_host_lacks_is_shown() -> None:
    bare = {"verdict": "pass", "findings": [], "unknown": [], "host": {"lacks": ["a Docker engine", "a user"]}}
    assert findings_summary({"bare": bare})[1:] == [
        "bare  pass     0     -       -       -",
        "    lacks a Docker engine, a user",
    ]


def test_nothing_known_of_a_host() -> None:
    assert [line.split() for line in findings_summary({"a": None})[1:]] == [
        ["a", "not", "seen", "-", "-", "-", "-"],
        ["no", "result"],
    ]


def test_lines_fit_a_terminal() -> None:
    codes = [
        finding(code, "x") for code in ("UVM_MISSING", "LINGER_OFF", "PROOF_GPU_COUNT", "DISK_LOW", "PODMAN_DOCKER")
    ]
    ssh = "Task failed: Failed to connect to the host via ssh: ssh: connect to host 192.0.2.7 port 22: No route to host"
    lines = findings_summary({"gpu01.lab.example.org": result("fail", *codes), "off": {"msg": ssh}})
    assert max(map(len, lines)) <= 72
    assert "    ssh: connect to host 192.0.2.7 port 22: No route to host" in lines


def test_something_else_is_refused() -> None:
    with pytest.raises(AnsibleFilterError):
        findings_summary(["a"])
