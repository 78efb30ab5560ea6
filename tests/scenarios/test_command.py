"""gpulab on a real host: what a user without sudo can ask and do, and that a reset takes it away."""

from __future__ import annotations

import base64
import json
import tarfile
import tempfile
from typing import Any

import pytest

from .conftest import ONE_USER, Hosts
from .site import ROOT, Site, lab, stack_in_lab
from .small_stack import SOURCE

HOST = "scn-command"
GPUS = [f"GPU-12345678-1234-1234-1234-12345678000{number}" for number in (0, 1)]


@pytest.fixture(scope="module")
def site(hosts: Hosts) -> Site:
    site = hosts.site(HOST)
    site.set({**ONE_USER, "gpulab_stacks": {"quickstart": stack_in_lab()}})
    site.run().ok()
    return site


def put_folder(site: Site) -> None:
    """The test's small stack, in trainer's home."""
    with tempfile.TemporaryFile() as file:
        with tarfile.open(fileobj=file, mode="w") as tar:
            tar.add(SOURCE, "small")
        file.seek(0)
        packed = base64.b64encode(file.read()).decode()
    site.login("trainer", f"echo {packed} | base64 -d | tar x")


def says(site: Site) -> str:
    """What the small stack answers on its port."""
    fetch = 'import urllib.request as u; print(u.urlopen("http://127.0.0.1:8080/", timeout=3).read().decode())'
    return site.login("trainer", f"python3 -c '{fetch}'", check=False).strip().partition(" secret")[0]


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


def test_a_deploy_needs_no_program_on_the_host_and_leaves_another_alone(site: Site) -> None:
    """It is site.yml that installs it: a deploy from another version of the collection works all the same."""
    program = "/usr/local/lib/gpulab/gpulab.pyz"
    for there in (f"echo another > {program}", f"rm {program}"):
        site.ssh(f"cp {program} /root/kept; {there}")
        for arguments in ([], ["--check"]):
            assert site.run("playbooks/deploy.yml", *arguments).ok().changed == []
        said = site.run("playbooks/rollback.yml", "-e", "gpulab_stack=quickstart")
        assert "RELEASE_NONE_BEFORE" in said.failures, said.raw
        left = site.ssh(f"cat {program} || true; mv /root/kept {program}")
        assert left.strip() in ("another", "")


def test_logs_shell_and_one_off_runs(site: Site) -> None:
    assert "training-1" in gpulab(site, "logs quickstart training -n 2")
    assert gpulab(site, "shell quickstart training id -u").strip() == "0"
    gpulab(site, 'shell quickstart training sh -c "exit 7"', status=7)
    code = 'import os; print(os.environ[\\"GPULAB_GPUS\\"]); raise SystemExit(5)'
    assert GPUS[0][:8] in gpulab(site, f'run quickstart training python3 -c "{code}"', status=5)
    assert "-run-" not in site.login("trainer", "docker ps -a --format {{.Names}}"), "nothing is left of it"
    gpulab(site, "run -d quickstart training sleep 300")
    assert "end the run quickstart-training-run-" in gpulab(site, "undeploy quickstart --check"), (
        "nobody's work ends unsaid"
    )
    site.login("trainer", "docker rm -f $(docker ps -q --filter label=com.docker.compose.oneoff=True)")
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


def test_a_folder_is_deployed_taken_back_and_removed_without_ansible(site: Site) -> None:
    put_folder(site)
    base = f"--set BASE_IMAGE={stack_in_lab()['settings']['BASE_IMAGE']}"
    said = gpulab(site, f"deploy small --check {base}")
    assert "would build web" in said and "No such" in site.login("trainer", "ls gpulab/stacks/small 2>&1", check=False)
    first = answer(site, f"deploy ./small {base} --why first")
    assert first["release"] == "0001" and says(site) == "version 1 word one"
    assert not answer(site, "deploy small")["changed"]
    second = answer(site, "deploy small --set WORD=two")
    assert second["release"] == "0002" and says(site) == "version 1 word two"
    assert [each["service"] for each in second["services"]] == ["side", "web"]
    assert second["actions"] == ["create small-web-1", "release 0002"], "what did not change goes on"
    site.login("trainer", "echo 3 > small/version")
    assert answer(site, "deploy ./small")["release"] == "0003" and says(site) == "version 3 word two"
    for wrong in ("--set MODE=exit", "--set WORD", "--set NONE=1", "--gpus web=GPU-none", "--name Wrong/Name"):
        assert answer(site, f"deploy small {wrong}", status=3)["finding"]["remedy"]
    assert says(site) == "version 3 word two", "nothing of that has taken anything away"
    assert "this version cannot start" in gpulab(site, "logs small web --release 0004")
    assert answer(site, "rollback small 0001")["release"] == "0001" and says(site) == "version 1 word one"
    history = gpulab(site, "history small").splitlines()
    assert "trainer@" in history[0] and history[0].endswith("first") and "rolled back to" in history[-1]


def test_a_shipped_stack_is_there_by_name(site: Site) -> None:
    """Root's, and nobody else's to change; deployed by the inventory or by name it is the same release."""
    listed = {each["name"]: each["description"] for each in answer(site, "stacks")["stacks"]}
    assert set(listed) == {path.parent.name for path in (ROOT / "stacks").glob("*/compose.yml")} and all(
        listed.values()
    )
    assert "quickstart" in gpulab(site, "stacks", "guest")
    assert site.ssh("stat -c '%U %a' /usr/local/lib/gpulab/gpulab.pyz").strip() == "root 644"
    assert not answer(site, "deploy quickstart")["changed"]
    base = " ".join(f"--set {name}={text}" for name, text in stack_in_lab()["settings"].items())
    made = answer(site, f"deploy quickstart --name twin {base} --set SIMULATOR_PORT=8101 --gpus training=0")
    assert made["release"] == "0001" and {each["health"] for each in made["services"]} == {"healthy"}
    record = json.loads(site.login("trainer", "cat gpulab/stacks/twin/current/release.json"))
    assert record["source"]["kind"] == "catalogue" and record["source"]["path"].endswith("/stacks/quickstart")
    assert answer(site, "deploy twin --set GENERATIONS=3")["release"] == "0002"
    assert site.login("trainer", "ls -d /tmp/gpulab-* 2>/dev/null", check=False) == ""
    gpulab(site, "undeploy twin")
    gpulab(site, "purge twin --yes-delete twin")


def test_a_power_cut_in_the_middle_is_settled_at_boot_without_ansible(site: Site) -> None:
    site.login("trainer", "nohup gpulab deploy small --set WORD=cut --set MODE=hang > cut.log 2>&1 &")
    begun = "for n in $(seq 300); do grep -q switching gpulab/stacks/small/unfinished.json && exit; sleep 0.1; done; cat cut.log"
    assert site.login("trainer", begun) == ""
    lab("power-cut", HOST)
    lab("start", HOST)
    settled = "for n in $(seq 300); do test -e gpulab/stacks/small/unfinished.json || exit 0; sleep 0.2; done; exit 1"
    site.login("trainer", settled)
    assert says(site) == "version 1 word one"
    (stack,) = answer(site, "status small")["stacks"]
    assert stack["state"] == "healthy" and stack["failed"]["code"] == "STACK_INTERRUPTED"
    assert answer(site, "settle") == {"schema": 1, "stacks": [done("quickstart"), done("small")]}


def done(stack: str) -> dict[str, Any]:
    return {"stack": stack, "actions": [], "finding": None}


def test_data_are_copied_and_put_back(site: Site) -> None:
    (made,) = answer(site, "snapshot small --why before")["snapshots"]
    site.login("trainer", "docker stop -t 1 small-web-1; echo mine > gpulab/data/small/notes/starts")
    gpulab(site, "restore small nothing", status=3)
    answer(site, f"restore small {made['id']}")
    notes = site.login("trainer", "cat gpulab/data/small/notes/starts")
    assert "version 1 word one" in notes and "mine" not in notes
    assert answer(site, "status small")["stacks"][0]["state"] == "healthy"
    assert [each["id"] for each in answer(site, "snapshot small --list")["snapshots"]] == [made["id"]]
    assert answer(site, "repair small")["folders"][0]["files"] >= 2
    assert answer(site, "purge small --yes-delete small", status=3)["finding"]["code"] == "STACK_PURGE_RUNS"


def test_a_stack_is_removed_and_its_data_stay(site: Site) -> None:
    gpulab(site, "undeploy small")
    assert site.login("trainer", "docker ps -aq --filter label=com.docker.compose.project=small") == ""
    assert site.login("trainer", "ls gpulab/data/small; ls gpulab/stacks").split() == ["notes", "quickstart"]
    gpulab(site, "undeploy small", status=3)
    assert answer(site, "purge small", status=3)["finding"]["code"] == "STACK_PURGE_UNCONFIRMED"
    assert {each["kind"] for each in answer(site, "purge small --check")["going"]} == {"folder", "secrets", "snapshots"}
    assert len(site.login("trainer", "cat gpulab/secrets/small/KEY")) == 12, "an undeploy leaves it"
    gpulab(site, "purge small --yes-delete small")
    assert site.login("trainer", "ls gpulab/secrets") == ""
    assert site.login("trainer", "ls gpulab/data gpulab/snapshots").split() == [
        "gpulab/data:",
        "quickstart",
        "gpulab/snapshots:",
    ]


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
