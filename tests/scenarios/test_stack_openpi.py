"""The shipped stack openpi in its small form: served, trained, upgraded under a robot's load, taken back, rebooted.

The clients are openpi's own, the policy is small, and every answer is held against what that policy must answer.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from .conftest import ONE_USER, Hosts
from .site import ROOT, Result, Site, lab, stack_in_lab

STACK = ROOT / "stacks" / "openpi"
DATA = "gpulab/data/openpi"
TRAINED = "checkpoints/small/first/200"
UPGRADE = {"SERVER_ARGS": f"policy:checkpoint --policy.config=small --policy.dir={TRAINED}", "CODE": "baked"}
UUID = "GPU-12345678-1234-1234-1234-12345678000"
WANTED = 1000
HOST = "scn-openpi"
KEY = {"WANDB_API_KEY": "not-for-everybody"}


class Stack:
    """openpi of user trainer."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.entry = stack_in_lab()

    def run(self, playbook: str, settings: dict[str, Any] | None = None, **entry: Any) -> Result:
        whole = {**self.entry, **entry, "settings": {**self.entry["settings"], **(settings or {})}}
        self.site.set({**ONE_USER, "gpulab_stacks": {"openpi": whole}})
        return self.site.run(playbook)

    def deploy(self, settings: dict[str, Any] | None = None, **entry: Any) -> Result:
        return self.run("playbooks/deploy.yml", settings, **entry)

    def sh(self, command: str, check: bool = True) -> str:
        return self.site.login("trainer", command, check=check)

    def container(self) -> str:
        return self.sh("docker inspect openpi-policy-server-1 --format '{{.Id}} {{.State.StartedAt}}'")


@pytest.fixture(scope="module")
def openpi(hosts: Hosts) -> Stack:
    stack = Stack(hosts.site(HOST))
    stack.run("site.yml", secrets=KEY).ok()
    return stack


@pytest.fixture(scope="module")
def client() -> str:
    """A Python with openpi's own client."""
    folder = ROOT / ".cache" / "openpi-client"
    python = folder / "bin" / "python"
    if not (folder / ".ready").exists():
        subprocess.run(["/usr/bin/python3", "-m", "venv", "--clear", str(folder)], check=True)
        lock = STACK / "small" / "requirements.txt"
        subprocess.run([str(python), "-m", "pip", "install", "-qq", "--require-hashes", "-r", str(lock)], check=True)
        (folder / ".ready").touch()
    return str(python)


@contextmanager
def tunnel(host: str) -> Iterator[int]:
    """A port of this machine that leads to the policy server's, as the page says to reach it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    listing = next(each for each in json.loads(lab("list", "--json")) if each["name"] == host)
    run = subprocess.Popen(
        [
            "ssh", "-N", "-i", listing["identity_file"], "-o", "StrictHostKeyChecking=no", "-o", "LogLevel=ERROR",
            "-o", "UserKnownHostsFile=/dev/null", "-o", "ExitOnForwardFailure=yes",
            "-L", f"{port}:127.0.0.1:8000", f"root@{listing['ip']}",
        ]
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert time.monotonic() < deadline and run.poll() is None, "no tunnel"
                time.sleep(0.1)
        yield port
    finally:
        run.terminate()
        run.wait()


class Robot:
    """openpi_load.py at work: how far it is, and in the end what it saw."""

    def __init__(self, python: str, port: int, wanted: int, known: dict[str, Path]) -> None:
        names = [f"{name}={folder}" for name, folder in known.items()]
        self.run = subprocess.Popen(
            [python, str(Path(__file__).parent / "openpi_load.py"), str(port), str(wanted), *names],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": str(STACK / "small" / "src"), "PYTHONDONTWRITEBYTECODE": "1"},
        )  # fmt: skip
        self.lines: list[str] = []
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.run.stdout
        self.lines.extend(line for line in iter(self.run.stdout.readline, ""))

    @property
    def answered(self) -> int:
        return int(self.lines[-1]) if self.lines else 0

    def answer_more(self, count: int) -> None:
        wanted, deadline = self.answered + count, time.monotonic() + 60
        while self.answered < wanted:
            assert self.run.poll() is None, self.run.stderr and self.run.stderr.read()
            assert time.monotonic() < deadline, f"{self.answered} inferences, not {wanted}"
            time.sleep(0.05)

    def result(self) -> dict[str, Any]:
        assert self.run.stdin and self.run.stderr
        self.run.stdin.close()
        assert self.run.wait(timeout=120) == 0, self.run.stderr.read()
        self.reader.join(timeout=10)
        found: dict[str, Any] = json.loads(self.lines[-1])
        return found


def fetched(stack: Stack, tmp_path: Path) -> dict[str, Path]:
    """The policies' files as they lie on the host, by the names that their servers give them."""
    packed = tmp_path / "policies.tar"
    root = f"/home/trainer/{DATA}"
    stack.site.ssh(f"tar -C {root} -cf /tmp/policies.tar assets/small-policy {TRAINED}")
    stack.site.ad_hoc(
        "gpu_hosts", "-m", "ansible.builtin.fetch", "-a", f"src=/tmp/policies.tar dest={packed} flat=true"
    )
    subprocess.run(["tar", "-C", str(tmp_path), "-xf", str(packed)], check=True)
    return {"default": tmp_path / "assets", TRAINED: tmp_path / TRAINED}


def test_a_run_needs_what_comes_before_it_and_leaves_a_checkpoint(openpi: Stack) -> None:
    early = openpi.sh("gpulab run openpi train small --exp-name=first 2>&1; echo rc=$?")
    assert "norm_stats.json is not there" in early and "rc=1" in early
    openpi.sh("gpulab run openpi norm-stats --config-name small")
    said = openpi.sh("gpulab run openpi train small --exp-name=first 2>&1")
    assert f"saved {TRAINED}" in said
    assert "/dev/shm has 8192 MiB" in said
    owner = openpi.sh(f"stat -c %U {DATA}/{TRAINED}/params.npz {DATA}/norm-stats/small/norm_stats.json")
    assert owner.split() == ["trainer", "trainer"]
    more = openpi.sh("gpulab run openpi train small --exp-name=first --resume --num-train-steps=300 2>&1")
    assert "resumed from step 200" in more and "saved checkpoints/small/first/300" in more


def test_a_key_is_known_to_the_training_and_to_nobody_else(openpi: Stack) -> None:
    openpi.sh("gpulab run -d openpi train small --exp-name=keyed --num-train-steps=1")
    name = openpi.sh("docker ps -aq --filter label=com.docker.compose.oneoff=True").strip()
    openpi.sh(f"docker wait {name}")
    said = openpi.sh(f"docker logs {name} 2>&1")
    assert "Weights & Biases is online, its key given" in said
    assert KEY["WANDB_API_KEY"] not in openpi.sh(f"docker inspect {name} openpi-policy-server-1") + said
    assert KEY["WANDB_API_KEY"] not in openpi.sh("cat gpulab/stacks/openpi/current/*")
    openpi.sh(f"docker rm {name}")


def test_the_containers_can_do_what_they_need_and_no_more(openpi: Stack) -> None:
    told = json.loads(openpi.sh("docker inspect openpi-policy-server-1"))[0]["HostConfig"]
    assert (told["ReadonlyRootfs"], told["CapDrop"], told["Privileged"]) == (True, ["ALL"], False)
    assert "no-new-privileges:true" in told["SecurityOpt"]
    assert told["PortBindings"]["8000/tcp"] == [{"HostIp": "127.0.0.1", "HostPort": "8000"}]
    inside = "docker exec openpi-policy-server-1 sh -c"
    assert "Read-only" in openpi.sh(f'{inside} "touch /app/x /data/x" 2>&1', check=False)


def test_a_thousand_inferences_through_an_upgrade_and_back(openpi: Stack, client: str, tmp_path: Path) -> None:
    known = fetched(openpi, tmp_path)
    with tunnel(openpi.site.hosts[0]) as port:
        robot = Robot(client, port, WANTED, known)
        robot.answer_more(200)
        openpi.deploy(settings=UPGRADE, secrets=KEY).ok()
        robot.answer_more(200)
        mounts = openpi.sh("docker inspect openpi-policy-server-1 --format '{{range .Mounts}}{{.Destination}} {{end}}'")
        assert "/app" not in mounts.split(), "the code is in the image"
        openpi.sh("gpulab rollback openpi")
        robot.answer_more(200)
        saw = robot.result()
    print(json.dumps(saw))
    assert saw["wrong"] == []
    # Old, new, old: nobody answers for another, and nobody comes back after the switch.
    assert [name for name, _count in saw["answered"]] == ["default", TRAINED, "default"]
    assert sum(count for _name, count in saw["answered"]) >= WANTED
    assert saw["connections"] == 3, "one for each server"


def test_services_are_split_over_gpus(openpi: Stack) -> None:
    split = {"policy-server": [0], "train": [1]}
    before = openpi.container()
    openpi.deploy(gpus=split).ok()
    assert openpi.container() != before or f"{UUID}0" in openpi.sh("docker exec openpi-policy-server-1 nvidia-smi -L")
    served = openpi.sh("docker exec openpi-policy-server-1 nvidia-smi -L")
    assert f"{UUID}0" in served and served.count("GPU-") == 1
    trained = openpi.sh(
        "cd gpulab/stacks/openpi/current; docker compose run --rm --entrypoint nvidia-smi train -L 2>&1"
    )
    assert f"{UUID}1" in trained and trained.count("GPU-") == 1


@pytest.mark.parametrize(
    ("settings", "gpus", "said"),
    [
        ({"FORM": "tiny"}, {}, "FORM is 'tiny', not one of small, openpi"),
        ({"COMPOSE_PROFILES": "libro"}, {}, "COMPOSE_PROFILES is 'libro', not one of , libero, aloha-sim"),
        ({"SERVER_ARG": "--env DROID"}, {}, "no setting SERVER_ARG"),
        ({}, {"policy-server": 3}, "policy-server asks for 3; the user has 2"),
        ({"COMPOSE_PROFILES": "libero"}, {}, "STACK_GRAPHICS_MISSING"),
        ({"FORM": "openpi"}, {}, r"\d OPENPI_SOURCE is not a checkout of openpi"),
        ({"COMPOSE_PROFILES": "aloha-sim"}, {"aloha-sim": 0}, r"\d OPENPI_SOURCE has no examples/aloha_sim"),
        ({"SERVER_ARGS": "policy:checkpoint"}, {}, "policy:checkpoint and --policy.dir belong together"),
    ],
    ids=["form", "profile", "unknown", "gpus", "graphics", "checkout", "example", "arguments"],
)
def test_what_cannot_be_is_refused_and_the_server_goes_on(
    openpi: Stack, settings: dict[str, str], gpus: dict[str, int], said: str
) -> None:
    """Wrong settings before anything; a folder that is no checkout when it is built; arguments when the server starts."""
    base = openpi.entry["settings"]["BASE_IMAGE"]
    refused = openpi.deploy(settings={"CUDA_BASE_IMAGE": base, "UV_IMAGE": base, **settings}, gpus=gpus)
    assert refused.rc != 0
    assert re.search(said, refused.failures), refused.failures
    assert openpi.sh("docker inspect openpi-policy-server-1 --format '{{.State.Health.Status}}'").strip() == "healthy"


def test_a_reboot_brings_it_back_with_its_data(openpi: Stack, client: str, tmp_path: Path) -> None:
    known = fetched(openpi, tmp_path)
    sums = f"cd {DATA}; find . -type f ! -path './wandb/*' | sort | xargs sha256sum"
    before = openpi.sh(sums)
    assert TRAINED in before and "small-policy/weights.npz" in before
    lab("reboot", openpi.site.hosts[0])
    with tunnel(openpi.site.hosts[0]) as port:
        robot = Robot(client, port, 20, known)
        saw = robot.result()
    assert (saw["wrong"], saw["answered"]) == ([], [["default", 20]])
    assert openpi.sh(sums) == before
