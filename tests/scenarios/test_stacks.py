"""The shipped stacks used as a person uses them, and everything that happens to a host without Ansible."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from .conftest import ONE_USER, Hosts
from .site import Site, lab, stack_in_lab, until

HOST = f"{os.environ.get('PYTEST_XDIST_WORKER', 'scn')}-stacks"
DATA = "/home/trainer/gpulab/data/quickstart"
# Two poles, pushed to where they lean, until both have fallen: how many steps that took.
CLIENT = """
import asyncio, os
from openenv.core import GenericEnvClient

async def play():
    async with GenericEnvClient(base_url=os.environ["SIMULATOR_URL"]) as carts:
        seen, steps = await carts.reset(seed=1, count=2), 0
        while not seen.done:
            pushes = [int(angle + speed > 0) for _, _, angle, speed in seen.observation["carts"]]
            seen, steps = await carts.step({"pushes": pushes}), steps + 1
        print(steps)

asyncio.run(play())
"""


@pytest.fixture(scope="module")
def site(hosts: Hosts) -> Site:
    site = hosts.site(HOST)
    site.set({**ONE_USER, "gpulab_stacks": {"quickstart": stack_in_lab(), "openpi": stack_in_lab()}})
    site.run().ok()
    return site


def generation(site: Site) -> int:
    """The newest checkpoint's number, 0 without any."""
    names = site.ssh(f"ls {DATA}/checkpoints", check=False).split()
    return max((int(name[4:9]) for name in names if name.endswith(".npz")), default=0)


def checkpoints(site: Site) -> set[str]:
    """Each checkpoint with its checksum."""
    return set(site.ssh(f"sha256sum {DATA}/checkpoints/*.npz").splitlines())


def release(site: Site) -> str:
    return site.login("trainer", "basename $(readlink gpulab/stacks/quickstart/current)").strip()


def healthy(site: Site, project: str) -> bool:
    out = site.login("trainer", f"docker compose -p {project} ps -a --format '{{{{.Health}}}}'", check=False)
    return bool(out.split()) and set(out.split()) == {"healthy"}


def test_quickstart_learns_over_the_network_and_leaves_its_work(site: Site) -> None:
    until("first checkpoint", lambda: generation(site) > 0, 60)
    assert "events.out.tfevents" in site.ssh(f"ls -R {DATA}/logs")
    assert site.ssh(f"stat -c %U {DATA}/checkpoints").strip() == "trainer"
    log = site.login("trainer", "docker logs quickstart-training-1 2>&1")
    assert log.count("GPU-12345678") >= 1, "the trainer says which GPU it was given"
    fetch = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8001/health').read())"
    answer = site.login("trainer", f'python3 -c "{fetch}"')
    assert "healthy" in answer


def test_quickstart_resumes_from_its_last_checkpoint(site: Site) -> None:
    until("some checkpoints", lambda: generation(site) >= 2, 60)
    site.login("trainer", "docker stop quickstart-training-1")
    before = generation(site)
    site.login("trainer", "docker start quickstart-training-1")
    until("resumed", lambda: "resum" in site.login("trainer", "docker logs --since 60s quickstart-training-1 2>&1"), 30)
    assert generation(site) >= before


def test_quickstart_is_used_upgraded_and_rolled_back(site: Site) -> None:
    """The reboot, and that all of it is intact then, is the next test's."""
    steps = int(site.login("trainer", f"gpulab shell quickstart training python3 -c '{CLIENT}'"))
    assert steps > 50, "poles that nobody steers fall within ten steps"
    site.login("trainer", "docker stop quickstart-training-1")
    before, reached = checkpoints(site), generation(site)
    site.login("trainer", f"gpulab deploy quickstart --set POPULATION=8 --set GENERATIONS={reached + 5} --why upgrade")
    until("five more generations", lambda: generation(site) == reached + 5, 60)
    log = site.login("trainer", "docker logs quickstart-training-1 2>&1")
    assert f"resumed from generation {reached} " in log and "GPU-12345678" in log
    assert len(checkpoints(site) & before) >= min(len(before), 5), "of ten, those that were not yet replaced"
    site.login("trainer", "gpulab rollback quickstart")
    assert f"resumed from generation {reached + 5} " in site.login("trainer", "docker logs quickstart-training-1 2>&1")
    assert healthy(site, "quickstart") and release(site) == "0001"


def test_everything_survives_what_happens_to_hosts(site: Site) -> None:
    """Reboot, power cut, daemon-reload, engine restart, toolkit re-install: no Ansible in between, nothing to change after."""
    image, python = site.probe()
    site.login(
        "trainer",
        "docker run -d --name keeper --network none --restart unless-stopped --device nvidia.com/gpu=1 "
        f"--entrypoint {python} {image} -c 'import time; time.sleep(1e6)'",
    )
    ask = "docker exec keeper nvidia-smi -L 2>&1"
    learnt = generation(site)
    gpu = site.login("trainer", ask)
    assert gpu.count("GPU-") == 1
    user = "runuser -u trainer -- env XDG_RUNTIME_DIR=/run/user/1000 systemctl --user"
    events: dict[str, Callable[[], object]] = {
        "daemon-reload": lambda: site.ssh(f"systemctl daemon-reload; {user} daemon-reload"),
        "toolkit re-install": lambda: site.ssh("apt-get -qq install -y --reinstall nvidia-container-toolkit-base"),
        "spec regeneration": lambda: site.ssh("systemctl restart gpulab-cdi.service"),
        "engine restart": lambda: site.ssh(f"{user} restart docker"),
        "reboot": lambda: lab("reboot", HOST),
        "power cut": lambda: (lab("power-cut", HOST), lab("start", HOST)),
    }
    for name, event in events.items():
        event()
        until(f"the GPU after {name}", lambda: site.login("trainer", ask, check=False) == gpu, 45)
        until(f"the stacks after {name}", lambda: healthy(site, "quickstart") and healthy(site, "openpi"), 90)
    site.login("trainer", "docker rm -f keeper")
    assert release(site) == "0001" and generation(site) >= learnt
    assert "resumed from generation" in site.login("trainer", "docker logs quickstart-training-1 2>&1")
    # apt drops a package's hold when somebody installs it anew; putting it back is all that is left to do.
    again = [f"{HOST}: gpulab.fleet.nvidia_container_toolkit : Install the toolkit's base package"]
    assert site.run().ok().changed == again
    assert "nvidia-container-toolkit-base" in site.ssh("apt-mark showhold").split()
    assert site.run().ok().changed == []


def test_a_stack_is_not_given_to_a_host_whose_proof_fails(site: Site) -> None:
    lab("gpu", HOST, "fault", "wrong-result")
    assert site.run("playbooks/verify.yml").rc != 0
    refused = site.run("playbooks/deploy.yml")
    lab("gpu", HOST, "mend")
    assert refused.rc != 0
    assert "remedy" in refused.failures
    assert healthy(site, "quickstart"), "what ran goes on running"
