"""A fleet run: what check mode promises, what a second run does, what survives."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from .site import ROOT, Site, lab

PROOF_TASKS = ("Prove the GPUs from inside containers", "Judge and record the proof")


def test_check_mode_tells_the_truth_on_a_fresh_host(fresh: Site) -> None:
    promised = fresh.run("site.yml", "--check", "--diff").ok()
    assert promised.changed, "a fresh host must show changes"
    assert fresh.ssh("ls /etc/apt/keyrings/docker.asc 2>&1 || true").strip().endswith("No such file or directory")
    done = fresh.run().ok()
    # The proof is not run in check mode, so what it makes (its image, its record) cannot be promised.
    proof = {f"{fresh.hosts[0]}: gpulab.fleet.gpu_verify : {task}" for task in PROOF_TASKS}
    assert set(promised.changed) == set(done.changed) - proof
    assert proof <= set(done.changed)


def test_second_run_and_its_check_change_nothing(converged: Site) -> None:
    for args in ((), ("--check", "--diff")):
        result = converged.run("site.yml", *args).ok()
        assert result.changed == []


def test_installed_collection_does_what_the_clone_does(converged: Site, tmp_path: Path) -> None:
    bin_ = Path(converged.command("x")[0]).parent
    env = converged.environment()
    subprocess.run(
        [bin_ / "ansible-galaxy", "collection", "build", "--output-path", tmp_path, ROOT],
        check=True, capture_output=True, env=env, cwd=tmp_path,
    )  # fmt: skip
    (tarball,) = tmp_path.glob("gpulab-fleet-*.tar.gz")
    listing = subprocess.run(["tar", "tzf", tarball], check=True, capture_output=True, text=True).stdout.split()
    assert not [name for name in listing if name.split("/")[0] in ("collections", "tests", "molecule", ".venv", ".ci")]
    subprocess.run(
        [bin_ / "ansible-galaxy", "collection", "install", "--no-deps", "-p", tmp_path / "collections", tarball],
        check=True, capture_output=True, env=env, cwd=tmp_path,
    )  # fmt: skip
    result = converged.run(
        "gpulab.fleet.site", "--check", cwd=tmp_path, ANSIBLE_COLLECTIONS_PATH=str(tmp_path / "collections")
    )
    assert result.ok().changed == []


def start_gpu_container(site: Site) -> str:
    """A container with a GPU and a restart policy; returns the command that asks it for its GPU."""
    image, python = site.probe()
    site.login(
        "trainer",
        "docker run -d --name keeper --network none --restart unless-stopped --device nvidia.com/gpu=1 "
        f"--entrypoint {python} {image} -c 'import time; time.sleep(1e6)'",
    )
    return "docker exec keeper nvidia-smi -L"


def wait_for(site: Site, command: str, seconds: float = 20) -> str:
    deadline = time.monotonic() + seconds
    while True:
        out = site.login("trainer", command, check=False)
        if "GPU-" in out or time.monotonic() > deadline:
            return out
        time.sleep(0.5)


@pytest.mark.parametrize(
    "event", ["reboot", "power-cut", "daemon-reload", "engine restart", "toolkit re-install", "spec regeneration"]
)
def test_a_container_keeps_its_gpu_without_ansible(converged: Site, event: str) -> None:
    ask = start_gpu_container(converged)
    before = wait_for(converged, ask)
    assert before.count("GPU-") == 1
    host = converged.hosts[0]
    user = "runuser -u trainer -- env XDG_RUNTIME_DIR=/run/user/1000 systemctl --user"
    if event == "reboot":
        lab("reboot", host)
    elif event == "power-cut":
        lab("power-cut", host)
        lab("start", host)
    elif event == "daemon-reload":
        converged.ssh(f"systemctl daemon-reload; {user} daemon-reload")
    elif event == "engine restart":
        converged.ssh(f"{user} restart docker")
    elif event == "toolkit re-install":
        converged.ssh("apt-get -qq install -y --reinstall nvidia-container-toolkit-base")
    else:
        converged.ssh("systemctl restart gpulab-cdi.service")
    assert wait_for(converged, ask) == before
    fresh_run = converged.login(
        "trainer",
        "docker run --rm --network none --entrypoint nvidia-smi --device nvidia.com/gpu=0 "
        "$(docker images -q gpulab/probe | head -1) -L",
    )
    assert fresh_run.count("GPU-") == 1
    assert converged.run().ok().changed == []
