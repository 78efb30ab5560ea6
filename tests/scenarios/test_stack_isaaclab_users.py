"""isaaclab's user modes, told by who owns on the host what its containers write, and its mounts; a base image is all it needs."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from .conftest import ONE_USER, Hosts
from .site import Site, lab, stack_in_lab, until

HOST = f"{os.environ.get('PYTEST_XDIST_WORKER', 'scn')}-isaac"
# Nothing is drawn here, and these hosts' driver could not: it would be refused.
NO_GPU = {"ext": 0, "ext-dev": 0, "train": 0}
LOGS = "/home/trainer/gpulab/data/isaaclab/logs"
# A file of the container's own user, and one that another user of the container has.
WRITE = "touch logs/{0}-own; touch logs/{0}-other; chown 1000 logs/{0}-other 2>/dev/null; id -u; id -un"
MINE = """mkdir -p mine/source/mine/mine mine/logs mine/outputs; touch mine/source/mine/mine/__init__.py
mkdir -p own rsl/rsl_rl lab/source/isaaclab/isaaclab; echo here = 1 | tee rsl/rsl_rl/__init__.py > lab/source/isaaclab/isaaclab/__init__.py"""
WHERE = 'gpulab shell isaaclab ext-dev python -c "import {0}; print({0}.__file__)" 2>&1'


class Isaac:
    """The stack isaaclab of user trainer, on a base that has a Python and nothing else."""

    def __init__(self, site: Site) -> None:
        self.site = site

    def sh(self, command: str, check: bool = True) -> str:
        return self.site.login("trainer", command, check=check)

    def deploy(self, arguments: str) -> dict[str, Any]:
        """On the host, as its user does."""
        found: dict[str, Any] = json.loads(self.sh(f"gpulab deploy isaaclab {arguments} --json", check=False))
        return found

    def refused(self, arguments: str) -> str:
        """The evidence of a deploy that is refused, with its code."""
        finding = self.deploy(arguments)["finding"]
        assert finding["remedy"]
        return f"{finding['code']}: {finding['evidence']}"

    def owner(self, name: str) -> str:
        return self.sh(f"stat -c %u {LOGS}/{name}").strip()

    def status(self) -> dict[str, Any]:
        (stack,) = json.loads(self.sh("gpulab status isaaclab --json", check=False))["stacks"]
        return dict(stack)


@pytest.fixture(scope="module")
def isaac(hosts: Hosts) -> Isaac:
    """Deployed with the user mode `preserve`, an extension of the user's own and a mount that is off."""
    isaac = Isaac(hosts.site(HOST))
    entry = stack_in_lab()
    mine = {"EXTENSION_SOURCE": "/home/trainer/mine", "EXTENSION_NAME": "mine"}
    entry["settings"] |= {"DEV_BASE_IMAGE": entry["settings"]["BASE_IMAGE"], "ACCEPT_EULA": "N", **mine}
    entry |= {"gpus": NO_GPU, "mounts": {"rsl_rl": {"source": "/home/trainer/rsl", "enabled": False}}}
    isaac.site.set({**ONE_USER, "gpulab_stacks": {"isaaclab": entry}})
    isaac.site.run("site.yml", "--skip-tags", "stacks").ok()
    isaac.sh(MINE)
    isaac.site.run("playbooks/deploy.yml").ok()
    return isaac


def test_nobody_accepts_a_licence_for_a_site_and_what_cannot_be_drawn_is_refused(isaac: Isaac) -> None:
    assert "ACCEPT_EULA has no default and is not set" in isaac.refused("--check --name other")
    assert "nvidia_icd.json (Vulkan)" in isaac.refused("--check --gpus ext-dev=1")


def test_preserve_what_the_containers_write_is_the_hosts_users(isaac: Isaac) -> None:
    write = WRITE.format("preserve")
    assert isaac.sh(f"gpulab shell isaaclab ext-dev sh -c '{write}'").split() == ["0", "developer"]
    assert isaac.owner("preserve-own") == "1000", "container root is the host's user"
    assert isaac.owner("preserve-other") == "100999", "everybody else is a subordinate id"
    # The extension's folder is the host's own: an edit there counts at once, and what a container writes there stays.
    isaac.sh("echo word = 42 > mine/source/mine/mine/new.py")
    ask = 'python -c "import mine.new; print(mine.new.word)"'
    assert isaac.sh(f"gpulab shell isaaclab ext-dev {ask}").strip() == "42"
    isaac.sh("gpulab shell isaaclab ext-dev touch source/from-container")
    assert isaac.sh("stat -c %U mine/source/from-container").strip() == "trainer"


def test_fix_perms_gives_everything_to_the_hosts_user_and_mounts_go_on_and_off(isaac: Isaac) -> None:
    """One deploy for both: what is mounted has nothing to do with who works in the container."""
    assert "ModuleNotFoundError" in isaac.sh(WHERE.format("rsl_rl"), check=False)
    tried = isaac.deploy("--check --mount isaaclab=~/lab --mount rsl_rl=~/rsl")
    assert {"recreate ext-dev", "release 0002"} <= set(tried["actions"]), tried
    made = isaac.deploy(
        "--set USER_MODE=fix-perms --mount rsl_rl=on --mount isaaclab=~/lab --mount own=~/own:/opt/own:rw"
    )
    assert made["release"] == "0002", made
    assert isaac.sh(WHERE.format("rsl_rl")).strip() == "/mounts/rsl_rl/rsl_rl/__init__.py"
    inside = "/mounts/isaaclab/source/isaaclab/isaaclab/__init__.py"
    assert isaac.sh(WHERE.format("isaaclab")).strip() == inside
    assert "Read-only" in isaac.sh(f"gpulab shell isaaclab ext-dev touch {inside} 2>&1", check=False)
    isaac.sh("gpulab shell isaaclab ext-dev touch /opt/own/from-container")
    assert isaac.sh("stat -c %U own/from-container").strip() == "trainer"
    write = WRITE.format("fixed")
    assert isaac.sh(f"gpulab run isaaclab ext-dev sh -c '{write}; exit 7' 2>/dev/null; echo $?").split()[-1] == "7"
    assert isaac.owner("fixed-own") == isaac.owner("fixed-other") == "1000"
    assert isaac.owner("preserve-other") == "1000", "what lay there before, too"


def test_what_cannot_be_mounted_is_refused_and_what_ran_goes_on(isaac: Isaac) -> None:
    before = isaac.sh("docker ps --no-trunc --format '{{.ID}}'")
    for typed, parts in {
        "new=/no/such": ("mounts.new.source is '/no/such'", "not on this host"),
        "new=~/rsl:inside": ("mounts.new.target is 'inside'", "absolute path in the container"),
        "new=~/rsl:/mounts/isaaclab": ("mounts.new.target is '/mounts/isaaclab'", "isaaclab has that one"),
        "new=~/rsl:/workspace/mine/logs": ("mounts.new.target is '/workspace/mine/logs'", "ext-dev has"),
        "other=off": ("mounts.other is 'off'", "isaaclab, own, rsl_rl"),
    }.items():
        said = isaac.refused(f"--mount {typed}")
        assert said.startswith("STACK_MOUNT_INVALID: ") and all(part in said for part in parts), said
    assert isaac.sh("docker ps --no-trunc --format '{{.ID}}'") == before


def test_a_custom_user_is_a_subordinate_id_and_both_sides_write(isaac: Isaac) -> None:
    assert "USER_MODE is custom and USER_UID is 0" in isaac.refused("--set USER_MODE=custom")
    assert "ext-dev" in isaac.sh("docker ps --format '{{.Names}}'"), "what ran goes on running"
    mara = "--set USER_MODE=custom --set USER_UID=2000 --set USER_GID=2000 --set USER_NAME=mara --mount isaaclab=off"
    made = isaac.deploy(mara)
    assert made["release"] == "0003", made
    write = WRITE.format("custom")
    assert isaac.sh(f"gpulab shell isaaclab ext-dev sh -c '{write}'").split() == ["2000", "mara"]
    assert isaac.owner("custom-own") == "101999"
    isaac.sh(f"echo of the host >> {LOGS}/custom-own; rm {LOGS}/custom-other")
    assert "ModuleNotFoundError" in isaac.sh(WHERE.format("isaaclab"), check=False)
    assert isaac.sh(WHERE.format("rsl_rl")).strip().startswith("/mounts/")
    shown = isaac.sh("gpulab status isaaclab")
    assert "mount isaaclab is off (/home/trainer/lab)" in shown
    assert "mount rsl_rl is /home/trainer/rsl on /mounts/rsl_rl in ext-dev, read only" in shown


def test_root_in_the_container_and_a_rollback_that_brings_mounts_back_over_a_reboot(isaac: Isaac) -> None:
    made = isaac.deploy(
        "--set USER_MODE=root --unset USER_UID --unset USER_GID --mount rsl_rl= --mount isaaclab= --mount own="
    )
    assert made["release"] == "0004", made
    write = WRITE.format("root")
    assert isaac.sh(f"gpulab shell isaaclab ext-dev sh -c '{write}'").split() == ["0", "root"]
    assert isaac.owner("root-own") == "1000"
    assert isaac.status()["mounts"] == {}
    isaac.sh("mv rsl elsewhere")
    assert "mounts.rsl_rl.source is '/home/trainer/rsl'" in isaac.sh("gpulab rollback isaaclab 2>&1", check=False)
    isaac.sh("mv elsewhere rsl; gpulab rollback isaaclab 0002")
    lab("reboot", HOST)
    until("healthy after the reboot", lambda: isaac.status()["state"] == "healthy", 120)
    stack = isaac.status()
    assert stack["release"] == "0002"
    assert {name for name, each in stack["mounts"].items() if each["enabled"]} == {"rsl_rl", "isaaclab", "own"}
    assert isaac.sh(WHERE.format("isaaclab")).strip().startswith("/mounts/isaaclab/")
    assert set(isaac.sh(f"ls {LOGS}").split()) >= {"preserve-own", "fixed-own", "custom-own", "root-own"}
