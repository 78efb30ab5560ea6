"""Faults of the driver: the proof fails with the right cause; a healthy host raises no alarm."""

from __future__ import annotations

import json

import pytest

from .site import Site, lab


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("library-mismatch", "NVML_LIBRARY_MISMATCH"),
        ("not-loaded", "DRIVER_NOT_LOADED"),
        ("uvm-missing", "UVM"),
        ("wrong-result", "WRONG_RESULT"),
        ("corrupt-copy", "COPY"),
        ("nodes-0660", "NODE"),
    ],
)
def test_the_proof_fails_and_names_the_cause(converged: Site, fault: str, code: str) -> None:
    # Left running, the host's own units mend some faults (a missing UVM node) before anybody looks.
    converged.ssh("systemctl stop gpulab-cdi.path gpulab-cdi-poll.timer")
    lab("gpu", converged.hosts[0], "fault", fault)
    result = converged.run("playbooks/verify.yml")
    assert result.rc != 0, "the proof passed on a broken host"
    assert code in result.failures, result.failures
    assert "remedy" in result.failures
    lab("gpu", converged.hosts[0], "mend")
    converged.run("site.yml").ok()
    record = json.loads(converged.ssh("cat /var/lib/gpulab/proof.json"))
    assert record["users"]["trainer"]["verdict"] == "pass"


def test_no_false_alarm_on_a_healthy_host(converged: Site) -> None:
    result = converged.run("playbooks/doctor.yml").ok()
    reports = [t["result"] for t in result.tasks if "findings" in t["result"]]
    assert reports, "doctor reported nothing"
    for report in reports:
        assert [f for f in report["findings"] if f["severity"] != "info"] == []
