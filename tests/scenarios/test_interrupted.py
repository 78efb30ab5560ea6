"""A run that is killed half-way leaves a host from which the next run converges."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import time

import pytest

from .conftest import Hosts
from .site import ROOT, Site, lab

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


# --- offboarding --------------------------------------------------------------------------------------

STAYS = {"trainer": {"gpus": "all"}}
LEAVES = {"create": True, "gpus": [1]}
# What is gone already when the module on the host is killed, as it goes on through a user's departure.
MOMENTS = {
    "files": "! test -e /home/mara/.config/docker/daemon.json",
    "data": "! test -e /home/mara/.local/share/docker/overlay2",
}


def left_of_mara(site: Site) -> str:
    """All that is hers or names her: files, ids, account, journal, specs."""
    return site.ssh(
        "grep -H mara /etc/passwd /etc/group /etc/shadow /etc/subuid /etc/subgid /etc/gpulab/* "
        "/var/lib/gpulab/journal/journal.json; find /home /var/lib/gpulab /var/lib/systemd /etc -name '*mara*'; "
        "loginctl list-users --no-legend | grep mara",
        check=False,
    )


def others_work(site: Site) -> str:
    """The other user's engine (not what it starts for a moment) and container: which, and since when."""
    return site.ssh("pgrep -o -u trainer -x dockerd") + site.login(
        "trainer", "docker inspect -f '{{.Id}} {{.State.StartedAt}} {{.State.Running}}' work"
    )


@pytest.fixture(scope="module")
def two_users(hosts: Hosts) -> Site:
    site = hosts.site("scn-leaving", {"gpulab_users": {**STAYS, "mara": LEAVES}})
    site.run().ok()
    image, python = site.probe()
    site.login(
        "trainer",
        f"docker run -d --name work --restart always --network none --entrypoint {python} {image} "
        '-c "import time; time.sleep(1e6)"',
    )
    site.login("mara", "docker volume create notes")
    lab("snapshot", site.hosts[0], "both")
    return site


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_departure_that_was_killed_is_completed_by_the_next_run(two_users: Site, moment: str) -> None:
    site = two_users
    lab("restore", site.hosts[0], "both")
    for user in ("trainer", "mara"):
        site.ssh(f"for i in $(seq 60); do test -S /run/user/$(id -u {user})/docker.sock && break; sleep 0.5; done")
    before = others_work(site)
    assert "true" in before
    assert site.ssh(f"{MOMENTS[moment]} && echo already", check=False) == ""
    site.set({"gpulab_users": {**STAYS, "mara": {**LEAVES, "state": "absent", "data": "remove"}}})
    # With pipelining a module is a bare interpreter; its children, which work as the user, are killed with it.
    kill = f"until {MOMENTS[moment]} >/dev/null 2>&1 && pkill -KILL -xf /usr/bin/python3; do sleep 0.02; done"
    site.ssh(f"systemd-run -q --collect bash -c {shlex.quote(kill)}")
    killed = site.run("site.yml", "--tags", "engine,toolkit")
    assert killed.rc != 0, "it was not killed"
    assert left_of_mara(site), "there was nothing left to do"
    site.run("site.yml", "--tags", "engine,toolkit").ok()
    assert left_of_mara(site) == ""
    assert site.run("site.yml", "--tags", "engine,toolkit").ok().changed == []
    assert others_work(site) == before
