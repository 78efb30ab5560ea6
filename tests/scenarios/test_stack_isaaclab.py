"""isaaclab with real training: rsl-rl's PPO on MuJoCo, resumed, upgraded, rolled back, after a reboot."""

from __future__ import annotations

import json
import os
import re
import time
from typing import Any

import pytest

from . import torch_wheel
from .conftest import ONE_USER, Hosts
from .site import Result, Site, lab, stack_in_lab

pytestmark = pytest.mark.heavy

HOST = f"{os.environ.get('PYTEST_XDIST_WORKER', 'scn')}-isaaclab"
# Nothing is drawn here, and these hosts' driver could not: it would be refused.
NO_GPU = {"ext": 0, "ext-dev": 0, "train": 0}
LOGS = "/home/trainer/gpulab/data/isaaclab/logs/rsl_rl/inverted_pendulum"


class Isaac:
    """The stack isaaclab of user trainer in its CPU form, production container."""

    def __init__(self, site: Site, wheels: str) -> None:
        self.site = site
        self.wheels = wheels

    def deploy(self, **settings: Any) -> Result:
        entry = stack_in_lab()
        entry["settings"].update(
            {
                "DEV_BASE_IMAGE": entry["settings"]["BASE_IMAGE"],
                "ACCEPT_EULA": "N",
                "REQUIREMENTS": "requirements-mujoco.txt",
                "WHEELS": self.wheels,
                "COMPOSE_PROFILES": "ext",
                **settings,
            }
        )
        self.site.set({**ONE_USER, "gpulab_stacks": {"isaaclab": {**entry, "gpus": NO_GPU}}})
        return self.site.run("playbooks/deploy.yml")

    def sh(self, command: str, check: bool = True) -> str:
        return self.site.login("trainer", command, check=check)

    def train(self, arguments: str) -> str:
        return self.sh(f"gpulab run isaaclab train --num_envs 16 {arguments} 2>&1")

    def models(self) -> list[str]:
        """Checksums of every checkpoint, by path."""
        return sorted(self.sh(f"find {LOGS} -name 'model_*.pt' -exec sha256sum {{}} +").splitlines())

    def version(self) -> str:
        label = '{{index .Config.Labels "gpulab.extension.version"}}'
        return self.sh(f"docker inspect -f '{label}' isaaclab-ext-1").strip()


@pytest.fixture(scope="module")
def isaac(hosts: Hosts) -> Isaac:
    site = hosts.site(HOST)
    site.set(ONE_USER)
    site.run().ok()
    isaac = Isaac(site, torch_wheel.bring(site))
    isaac.deploy(EXTENSION_VERSION="one").ok()
    return isaac


def test_a_training_leaves_checkpoints_that_are_the_hosts_users(isaac: Isaac) -> None:
    none = isaac.sh("gpulab run isaaclab train --resume 2>&1; echo status $?")
    assert "there is no model in" in none and "status 2" in none, none
    said = isaac.train("--max_iterations 6")
    assert "Learning iteration 5/6" in said, said
    rewards = re.findall(r"Mean reward: ([-\d.]+)", said)
    assert rewards and float(rewards[-1]) > 0, said
    assert len(isaac.models()) == 2, "the first and the last"
    assert set(isaac.sh(f"find {LOGS} -type f -printf '%u '").split()) == {"trainer"}
    assert "events.out.tfevents" in isaac.sh(f"ls {LOGS}/*")


def test_a_second_run_goes_on_where_the_first_ended(isaac: Isaac) -> None:
    said = isaac.train("--max_iterations 4 --resume")
    assert re.search(r"resumed from \S+model_5\.pt, iteration 5", said), said
    assert "Learning iteration 8/9" in said, said
    assert re.search(r"saved \S+model_8\.pt", said), said


def test_upgrade_rollback_and_reboot_leave_every_checkpoint(isaac: Isaac) -> None:
    before = isaac.models()
    assert before and isaac.version() == "one"
    isaac.deploy(EXTENSION_VERSION="two").ok()
    assert isaac.version() == "two"
    assert isaac.deploy(EXTENSION_VERSION="two").ok().changed == []
    isaac.sh("gpulab rollback isaaclab")
    assert isaac.version() == "one"
    lab("reboot", isaac.site.hosts[0])
    deadline = time.monotonic() + 120
    while not _healthy(isaac):
        assert time.monotonic() < deadline, isaac.sh("gpulab status isaaclab", check=False)
        time.sleep(1)
    assert isaac.version() == "one"
    assert isaac.models() == before
    assert "resumed from" in isaac.train("--max_iterations 1 --resume")


def _healthy(isaac: Isaac) -> bool:
    answer = isaac.sh("gpulab status isaaclab --json", check=False)
    try:
        return bool(json.loads(answer)["stacks"][0]["state"] == "healthy")
    except (ValueError, LookupError):
        return False
