"""A run that is killed half-way leaves a host from which the next run converges."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time

import pytest

from .site import ROOT, Site

pytestmark = pytest.mark.chaos


def kill_during(site: Site, marker: str, delay: float, playbook: str = "site.yml", *args: str) -> None:
    """Start a converge, or another verb, wait for a task whose name holds `marker`, then SIGKILL it and its workers."""
    env = site.environment(ANSIBLE_STDOUT_CALLBACK="default", PYTHONUNBUFFERED="1")
    run = subprocess.Popen(
        site.command(playbook, *args),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env=env,
        start_new_session=True,
    )
    assert run.stdout is not None
    seen = []
    try:
        for line in run.stdout:
            seen.append(line)
            if line.startswith("TASK [") and marker in line:
                time.sleep(delay)
                break
        else:
            raise AssertionError(f"no task with {marker!r} in its name:\n{''.join(seen)}")
    finally:
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
        # Ansible's workers have sessions of their own; they name the same inventory in their arguments.
        subprocess.run(["pkill", "-KILL", "-f", f"ansible-playbook -i {site.inventory} "], check=False)


@pytest.mark.parametrize(
    ("marker", "delay"),
    [
        ("package source", 0.1),
        ("engine's packages", 2.0),
        ("rootless engine", 0.8),
        ("Describe the GPUs", 0.5),
        ("Prove the GPUs", 0.8),
    ],
    ids=["source", "packages", "engine", "specs", "proof"],
)
def test_next_run_converges(fresh: Site, marker: str, delay: float) -> None:
    kill_during(fresh, marker, delay)
    fresh.run().ok()
    again = fresh.run().ok()
    assert again.changed == []
    record = json.loads(fresh.ssh("cat /var/lib/gpulab/proof.json"))
    assert record["users"]["trainer"]["verdict"] == "pass"
    leftovers = fresh.login("trainer", "docker ps -aq --filter label=gpulab.probe")
    assert leftovers.strip() == ""
