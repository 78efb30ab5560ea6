"""gpulab on a real host: what a user without sudo can ask and do, and that a reset takes it away."""

from __future__ import annotations

import json
from typing import Any

import pytest

from .conftest import ONE_USER, Hosts
from .site import Site, lab, stack_in_lab

HOST = "scn-command"
GPUS = [f"GPU-12345678-1234-1234-1234-12345678000{number}" for number in (0, 1)]


@pytest.fixture(scope="module")
def site(hosts: Hosts) -> Site:
    site = hosts.site(HOST)
    site.set({**ONE_USER, "gpulab_stacks": {"quickstart": stack_in_lab()}})
    site.run().ok()
    return site


def gpulab(site: Site, arguments: str, user: str = "trainer", status: int = 0) -> str:
    """What the command says on standard output; its exit status is judged."""
    said, _, code = site.login(user, f"gpulab {arguments}; echo :$?", check=False).rstrip().rpartition(":")
    assert int(code) == status, said
    return said


def answer(site: Site, arguments: str, user: str = "trainer", status: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(gpulab(site, f"{arguments} --json", user, status))
    return found


def test_what_runs(site: Site) -> None:
    (stack,) = answer(site, "status")["stacks"]
    assert stack["name"] == "quickstart" and stack["state"] == "healthy"
    assert {each["service"]: each["well"] for each in stack["services"]} == {"simulator": True, "training": True}
    folder = stack["folder"]
    assert "quickstart-training-1" in site.login("trainer", f"cd {folder} && docker compose ps")
    assert answer(site, "status", "guest")["stacks"] == []
    assert "simulator" in gpulab(site, "status quickstart")
    site.login("trainer", "docker stop -t 1 quickstart-simulator-1")
    assert answer(site, "status quickstart", status=1)["stacks"][0]["state"] == "unhealthy"
    site.login("trainer", "docker start quickstart-simulator-1")


def test_logs_shell_and_one_off_runs(site: Site) -> None:
    assert "training-1" in gpulab(site, "logs quickstart training -n 2")
    assert gpulab(site, "shell quickstart training id -u").strip() == "0"
    gpulab(site, 'shell quickstart training sh -c "exit 7"', status=7)
    code = 'import os; print(os.environ[\\"GPULAB_GPUS\\"]); raise SystemExit(5)'
    assert GPUS[0][:8] in gpulab(site, f'run quickstart training python3 -c "{code}"', status=5)
    assert "-run-" not in site.login("trainer", "docker ps -a --format {{.Names}}"), "nothing is left of it"
    for wrong in ("logs quickstart nothing", "run nothing training", "shell quickstart nothing"):
        gpulab(site, wrong, status=3)


def test_the_proof_without_root(site: Site) -> None:
    proof = answer(site, "verify")
    assert proof["verdict"] == "pass" and proof["gpus"] == GPUS
    assert {step["name"] for step in proof["steps"]} >= {"visible", "isolated", "compute", "bandwidth", "none", "all"}
    lab("gpu", HOST, "fault", "wrong-result")
    failed = answer(site, "verify", status=1)
    lab("gpu", HOST, "mend")
    assert failed["verdict"] == "fail" and failed["findings"][0]["remedy"]
    assert answer(site, "verify --recorded")["verdict"] == "pass"
    gpulab(site, "verify", "guest", status=3)


def test_who_is_on_which_gpu(site: Site) -> None:
    """A process in a stack's container, one of another user's outside of any, and one that is gone."""
    inside = site.login("trainer", "docker inspect -f {{.State.Pid}} quickstart-training-1").strip()
    outside = site.login("guest", "nohup sleep 9999 >/dev/null 2>&1 & echo $!").strip()
    lab("gpu", HOST, "set", f"gpu.0.processes={inside}:80,{outside}:900,4000000")
    first, second = answer(site, "gpus")["gpus"]
    assert [first["uuid"], second["uuid"]] == GPUS and second["processes"] == []
    seen = {each["pid"]: each for each in first["processes"]}
    theirs, ours, gone = seen[int(outside)], seen[int(inside)], seen[4000000]
    assert (ours["user"], ours["stack"], ours["service"]) == ("trainer", "quickstart", "training")
    assert (theirs["user"], theirs["command"], theirs["container"]) == ("guest", "sleep 9999", "")
    assert theirs["since"] and theirs["memory_used_bytes"] == 900 << 20
    assert gone["user"] == ""
    others = {each["pid"]: each for each in answer(site, "gpus", "guest")["gpus"][0]["processes"]}
    assert others[int(inside)]["user"] == "trainer" and others[int(inside)]["container"]


def test_what_others_hold_is_seen_and_nobody_elses_word_counts(site: Site) -> None:
    folder = "/var/lib/gpulab/holders"
    mine = {"schema": 1, "stacks": {"own": {"server": {"gpus": [GPUS[1]], "since": "2026-01-02T03:04:05Z"}}}}
    for name in (1001, 1000):  # guest's own, and one in trainer's name
        site.login(
            "guest", f"umask 022; echo '{json.dumps(mine)}' > {folder}/{name}x; mv -n {folder}/{name}x {folder}/{name}"
        )
    held = [(each["user"], each["stack"]) for each in answer(site, "gpus")["gpus"][1]["holders"]]
    assert held.count(("guest", "own")) == 1 and ("trainer", "own") not in held
    site.login("trainer", f"rm -f {folder}/1001", check=False)
    assert "1001" in site.ssh(f"ls {folder}"), "what belongs to others stays"
    site.ssh(f"rm -f {folder}/1001; find {folder} -name 1000 -user guest -delete")


def test_root_and_a_person_who_mistypes_are_told_what_to_do(site: Site) -> None:
    assert "CLI_AS_ROOT" in site.ssh("gpulab status 2>&1", check=False)
    assert "usage: gpulab" in site.login("trainer", "gpulab stauts 2>&1", check=False)


def test_nothing_changes_again_and_what_was_changed_is_mended(site: Site) -> None:
    assert site.run("site.yml", "--tags", "engine").ok().changed == []
    site.ssh("echo broken > /usr/local/lib/gpulab/gpulab.pyz; chmod 0700 /var/lib/gpulab/holders")
    task = [f"{HOST}: gpulab.fleet.rootless_docker : Prepare the host and keep a root engine from starting"]
    assert site.run("site.yml", "--tags", "engine", "--check").ok().changed == task
    assert site.run("site.yml", "--tags", "engine").ok().changed == task
    gpulab(site, "status")


def test_a_reset_takes_it_away(site: Site) -> None:
    site.run("playbooks/reset.yml").ok()
    left = site.ssh(
        "ls -d /usr/local/bin/gpulab /usr/local/lib/gpulab /var/lib/gpulab/holders 2>/dev/null", check=False
    )
    assert left == ""
