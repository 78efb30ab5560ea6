"""The doctor: what it says of hosts as they are found, and of engines that were broken on purpose."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from .site import Result, Site

AS_TRAINER = "runuser -u trainer -- env XDG_RUNTIME_DIR=/run/user/1000 HOME=/home/trainer"
DAEMON = "/home/trainer/.config/docker/daemon.json"


def doctor(site: Site, *args: str) -> Result:
    return site.run("playbooks/doctor.yml", *args).ok()


def health(result: Result) -> dict[str, Any]:
    return next(task["result"] for task in result.tasks if "findings" in task["result"])


def codes(result: Result) -> set[str]:
    return {found["code"] for found in health(result)["findings"] if found["severity"] != "info"}


def test_a_bare_host(fresh: Site, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    result = doctor(fresh, "-e", f"gpulab_report={report}")
    found = health(result)
    assert codes(result) == set()
    assert found["unknown"] == []
    assert len(found["host"]["gpus"]) == 2
    assert found["host"]["lacks"] == [
        "a Docker engine",
        "a user with a rootless engine",
        "the NVIDIA container toolkit",
    ]
    assert json.loads(report.read_text(encoding="utf-8"))[fresh.hosts[0]]["verdict"] == "pass"


def test_it_writes_nothing_on_a_host(converged: Site) -> None:
    look = "find /etc /usr /home /var/lib/gpulab -newer /root/before ! -path '*/.ansible/*' ! -path '*/.local/share/docker*' | sort"
    converged.ssh("touch /root/before; sleep 1")
    result = doctor(converged)
    assert result.changed == []
    assert converged.ssh(look).strip() == ""


def test_without_root_what_it_may_not_see_is_unknown(converged: Site) -> None:
    result = doctor(converged, "-b", "--become-user", "guest")
    assert codes(result) == set()
    found = health(result)
    assert found["verdict"] == "unknown"
    assert any("trainer" in unknown["reason"] for unknown in found["unknown"])


# Broken together, because each is to be named whatever else is wrong.
FILES = {
    # A session of the user's holds the engine up meanwhile: without one it may go down at any moment.
    "LINGER_OFF": "systemd-run --unit held -p User=trainer -p PAMName=login sleep infinity; rm /var/lib/systemd/linger/trainer",
    "SUBID_OVERLAP": "echo other:100100:10 >>/etc/subuid",
    "DAEMON_JSON_TYPO": f"sed -i s/cdi-spec-dirs/cdi-spec-dir/ {DAEMON}",
    "CLI_ELSEWHERE": f"{AS_TRAINER} docker context use default",
    "UIDMAP_NOT_PRIVILEGED": "chmod u-s /usr/bin/newuidmap",
    "DPKG_INTERRUPTED": "touch /var/lib/dpkg/updates/0000",
    "PROOF_SPEC_MISSING": "systemctl stop gpulab-cdi-poll.timer; rm /var/lib/gpulab/cdi/trainer/nvidia.json",
    "APT_SOURCE_CONFLICT": "sed 's/^URIs: \\(.*\\)/deb [signed-by=\\/x.gpg] \\1 jammy stable/;/^deb/!d' "
    "/etc/apt/sources.list.d/docker.sources >/etc/apt/sources.list.d/old.list",
}
ENGINE = {
    "ENGINE_DOWN": f"{AS_TRAINER} systemctl --user stop docker",
    "DAEMON_JSON_INVALID": f"echo '{{' >{DAEMON}",
}
PROGRAMS = {"ENGINE_RESTART_PENDING": "cp -a /usr/bin/dockerd /usr/bin/x && mv /usr/bin/x /usr/bin/dockerd"}


@pytest.mark.parametrize("faults", [FILES, ENGINE, PROGRAMS], ids=["files", "engine", "programs"])
def test_a_broken_host(converged: Site, faults: dict[str, str]) -> None:
    converged.ssh("; ".join(faults.values()))
    assert codes(doctor(converged)) == set(faults)
