"""browsergym with its real browser: used as a client does, trained in, upgraded, rolled back, rebooted, broken."""

from __future__ import annotations

import json
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from .conftest import ONE_USER, Hosts
from .site import ROOT, Site, lab, stack_in_lab, until

pytestmark = pytest.mark.heavy

HOST = "scn-browsergym"
DATA = "/home/trainer/gpulab/data/browsergym"
CONFIGS = "/home/trainer/configs"
SERVER = "browsergym-browsergym-1"
EPISODES = 24


def entry(**settings: Any) -> dict[str, Any]:
    entry = stack_in_lab()
    chosen = {"CONFIGS": CONFIGS, "TRAINING_CONFIG": "learn.yaml", **settings}
    return {**entry, "settings": {**entry["settings"], **chosen}}


def variables(**settings: Any) -> dict[str, Any]:
    return {**ONE_USER, "gpulab_stacks": {"browsergym": entry(**settings)}}


@pytest.fixture(scope="module")
def site(hosts: Hosts) -> Site:
    site = hosts.site(HOST)
    site.ssh(
        f"mkdir {CONFIGS}; cd {CONFIGS}; "
        f"echo '{{tasks: [click-button], episodes: {EPISODES}}}' > learn.yaml; "
        "echo '{tasks: [click-test], episodes: 3, sessions: 1}' > once.yaml; "
        "chown -R trainer: ."
    )
    site.set(variables())
    site.run().ok()
    return site


def episode(site: Site, config: str = "learn") -> int:
    """The newest checkpoint's number, 0 without any."""
    names = re.findall(r"episode_(\d+)\.npz", site.ssh(f"ls {DATA}/checkpoints/{config}", check=False))
    return max(map(int, names), default=0)


def health(site: Site, container: str) -> str:
    return site.login(
        "trainer", f"docker inspect -f '{{{{.State.Health.Status}}}}' browsergym-{container}-1", check=False
    ).strip()


def ask(site: Site, path: str, method: str = "GET", port: int = 8080) -> tuple[int, str]:
    """A plain HTTP request from the host to the published port."""
    program = (
        "import sys, urllib.request as u, urllib.error as e\n"
        f"request = u.Request('http://127.0.0.1:{port}{path}', method='{method}', data=b'{{}}' if '{method}' == 'POST' else None)\n"
        "try: answer = u.urlopen(request, timeout=20)\n"
        "except e.HTTPError as error: answer = error\n"
        "print(answer.status, answer.read().decode())"
    )
    status, _, text = site.ssh(f"python3 - <<'END'\n{program}\nEND").partition(" ")
    return int(status), text


@pytest.fixture(scope="module")
def client() -> Path:
    """A Python with OpenEnv's client, from the trainer's lock."""
    venv = ROOT / ".cache" / "openenv-client"
    if not (venv / "ready").exists():
        subprocess.run(["/usr/bin/python3", "-m", "venv", "--clear", str(venv)], check=True)
        lock = ROOT / "stacks" / "browsergym" / "training" / "requirements.txt"
        pip = [str(venv / "bin" / "python"), "-m", "pip", "install", "-qq", "--no-deps", "--require-hashes", "-r"]
        subprocess.run([*pip, str(lock)], check=True)
        (venv / "ready").touch()
    return venv / "bin" / "python"


def solve(site: Site, client: Path, folder: Path) -> dict[str, Any]:
    """What browsergym_solve.py says through the tunnel that the page names."""
    listing = next(h for h in json.loads(lab("list", "--json")) if h["name"] == HOST)
    tunnel = subprocess.Popen(
        [
            "ssh", "-N", "-i", listing["identity_file"], "-o", "StrictHostKeyChecking=no", "-o", "LogLevel=ERROR",
            "-o", "UserKnownHostsFile=/dev/null", "-o", "ExitOnForwardFailure=yes",
            "-L", "18080:127.0.0.1:8080", f"root@{listing['ip']}",
        ]
    )  # fmt: skip
    try:
        time.sleep(1.5)
        run = subprocess.run(
            [str(client), str(Path(__file__).parent / "browsergym_solve.py"), "18080"],
            capture_output=True, text=True, check=False, timeout=120, cwd=folder,
        )  # fmt: skip
    finally:
        tunnel.terminate()
        tunnel.wait()
    assert run.returncode == 0, run.stderr
    answer: dict[str, Any] = json.loads(run.stdout)
    return answer


SOLVED = {"goal": "Click the button.", "reward": 1.0, "done": True}


def test_a_task_is_solved_through_the_published_port(site: Site, client: Path, tmp_path: Path) -> None:
    assert solve(site, client, tmp_path) == SOLVED


def test_plain_http_is_refused_and_harms_nothing(site: Site, client: Path, tmp_path: Path) -> None:
    for path in ("/reset", "/step"):
        status, text = ask(site, path, "POST")
        assert status == 405 and "/ws" in text
    assert solve(site, client, tmp_path) == SOLVED


def test_the_trainer_learns_and_leaves_its_work(site: Site) -> None:
    until("all episodes", lambda: episode(site) == EPISODES, 600)
    program = (
        "import numpy, json; "
        f"solved = numpy.load('/workspace/checkpoints/learn/episode_{EPISODES:05d}.npz')['solved']; "
        "print(json.dumps(solved.tolist()))"
    )
    rewards = json.loads(site.login("trainer", f'docker exec browsergym-training-1 python3 -c "{program}"'))
    assert len(rewards) == EPISODES
    assert set(rewards) <= {0.0, 1.0}
    third = EPISODES // 3
    assert sum(rewards[-third:]) >= sum(rewards[:third]) + 2, rewards
    assert site.ssh(f"stat -c %U {DATA}/checkpoints/learn/episode_{EPISODES:05d}.npz").strip() == "trainer"
    assert "events.out.tfevents" in site.ssh(f"ls {DATA}/logs/learn")
    log = site.login("trainer", "docker logs browsergym-training-1 2>&1")
    assert "seen: GPU-12345678" in log
    assert f"episode {EPISODES} reached" in log
    assert health(site, "training") == "healthy"


def test_one_run_with_another_config_ends_by_itself_and_goes_on_from_where_it_was(site: Site) -> None:
    run = "gpulab run browsergym training --config-file-name once.yaml 2>&1"
    assert "episode 3 reached" in site.login("trainer", run)
    assert episode(site, "once") == 3
    assert "resumed from episode 3" in site.login("trainer", run)
    refused = site.login("trainer", "gpulab run browsergym training --config-file-name none.yaml 2>&1; echo rc $?")
    assert "there are: learn.yaml, once.yaml" in refused
    assert "rc 2" in refused


def test_a_service_that_is_confined_still_browses(site: Site) -> None:
    asked = "{{.HostConfig.ReadonlyRootfs}} {{.HostConfig.CapDrop}} {{.HostConfig.SecurityOpt}} {{.Config.User}}"
    seen = site.login("trainer", f"docker inspect -f '{asked}' {SERVER}").strip()
    assert seen == "true [ALL] [no-new-privileges:true] 10001:10001"


def test_the_health_check_notices_a_browser_that_cannot_start(site: Site) -> None:
    """The folder of the browser's profiles cannot be written any more; /health goes on saying that all is well."""
    assert health(site, "browsergym") == "healthy"
    site.login("trainer", f"docker exec -u 0 {SERVER} chmod 755 /tmp")
    until("unhealthy", lambda: health(site, "browsergym") == "unhealthy", 400)
    assert json.loads(ask(site, "/health")[1]) == {"status": "healthy"}
    assert "BrowserType.launch" in json.loads(ask(site, "/browser")[1])["last_failure"]
    site.login("trainer", f"docker exec -u 0 {SERVER} chmod 1777 /tmp")
    until("healthy again", lambda: health(site, "browsergym") == "healthy", 300)


def test_a_server_that_dies_is_started_again(site: Site, client: Path, tmp_path: Path) -> None:
    pid = site.login("trainer", f"docker inspect -f '{{{{.State.Pid}}}}' {SERVER}").strip()
    server = site.ssh(f"cat /proc/{pid}/task/{pid}/children").split()[0]  # below the container's init
    site.ssh(f"kill -9 {server}")
    until(
        "another one",
        lambda: site.login("trainer", f"docker inspect -f '{{{{.RestartCount}}}}' {SERVER}").strip() == "1",
        30,
    )
    until("healthy again", lambda: health(site, "browsergym") == "healthy", 300)
    assert solve(site, client, tmp_path) == SOLVED


def test_settings_that_cannot_be_are_refused_before_anything_changes(site: Site) -> None:
    before = site.login("trainer", "docker ps -q --no-trunc")
    for wrong, said in (
        ({"BROWSERGYM_TASK": "click-test"}, "BROWSERGYM_TASK"),
        ({"MAX_CONCURRENT_ENVS": "many"}, "MAX_CONCURRENT_ENVS"),
        ({"COMPOSE_PROFILES": "board"}, "board"),
        ({"BROWSERGYM_PORT": 80800}, "80800"),
    ):
        site.set(variables(**wrong))
        refused = site.run("playbooks/deploy.yml")
        assert refused.rc != 0
        assert said in refused.failures
    assert site.login("trainer", "docker ps -q --no-trunc") == before


def test_a_release_whose_server_refuses_its_settings_is_taken_back(site: Site, client: Path, tmp_path: Path) -> None:
    site.set(variables(BROWSERGYM_TASK_NAME="click-nothing"))
    refused = site.run("playbooks/deploy.yml")
    assert refused.rc != 0
    kept = site.login("trainer", "gpulab logs browsergym --release 0002")
    assert "no MiniWoB++ task 'click-nothing'" in kept
    until("healthy again", lambda: health(site, "browsergym") == "healthy", 300)
    assert solve(site, client, tmp_path) == SOLVED


def test_upgrade_rollback_and_reboot_leave_the_data_as_they_are(site: Site, client: Path, tmp_path: Path) -> None:
    sums = f"cd {DATA}; find checkpoints -name '*.npz' | sort | xargs sha256sum"
    before = site.ssh(sums)
    assert f"learn/episode_{EPISODES:05d}.npz" in before and "once/episode_00003.npz" in before

    site.set(variables(BROWSERGYM_VIEWPORT_WIDTH=800, COMPOSE_PROFILES="tensorboard"))
    site.run("playbooks/deploy.yml").ok()
    assert site.run("playbooks/deploy.yml").ok().changed == []
    width = f"docker inspect -f '{{{{.Config.Env}}}}' {SERVER}"
    assert "BROWSERGYM_VIEWPORT_WIDTH=800" in site.login("trainer", width)
    assert solve(site, client, tmp_path) == SOLVED
    assert set(json.loads(ask(site, "/data/runs", port=6006)[1])) == {"learn", "once"}
    assert site.ssh(sums) == before

    site.run("playbooks/rollback.yml", "-e", "gpulab_stack=browsergym").ok()
    assert "BROWSERGYM_VIEWPORT_WIDTH=1280" in site.login("trainer", width)
    assert site.ssh(sums) == before

    lab("reboot", HOST)
    until("healthy after the reboot", lambda: health(site, "browsergym") == health(site, "training") == "healthy", 300)
    assert solve(site, client, tmp_path) == SOLVED
    assert site.ssh(sums) == before
    assert f"resumed from episode {EPISODES}" in site.login("trainer", "docker logs browsergym-training-1 2>&1")
    site.run("playbooks/verify.yml").ok()  # without it no stack with a GPU is deployed in this boot
