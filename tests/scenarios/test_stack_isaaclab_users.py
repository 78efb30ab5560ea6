"""isaaclab's user modes, told by who owns on the host what its containers write; the base image is all it needs."""

from __future__ import annotations

import os
from typing import Any

import pytest

from .conftest import ONE_USER, Hosts
from .site import Result, Site, stack_in_lab

HOST = f"{os.environ.get('PYTEST_XDIST_WORKER', 'scn')}-isaac"
# Nothing is drawn here, and these hosts' driver could not: it would be refused.
NO_GPU = {"ext": 0, "ext-dev": 0, "train": 0}
LOGS = "/home/trainer/gpulab/data/isaaclab/logs"
# A file of the container's own user, and one that another user of the container has.
WRITE = "touch logs/{0}-own; touch logs/{0}-other; chown 1000 logs/{0}-other 2>/dev/null; id -u; id -un"


class Isaac:
    """The stack isaaclab of user trainer, on a base that has a Python and nothing else."""

    def __init__(self, site: Site) -> None:
        self.site = site

    def deploy(self, *args: str, **settings: Any) -> Result:
        entry = stack_in_lab()
        base = entry["settings"]["BASE_IMAGE"]
        entry["settings"].update({"DEV_BASE_IMAGE": base, "ACCEPT_EULA": "N", **settings})
        self.site.set({**ONE_USER, "gpulab_stacks": {"isaaclab": {**entry, "gpus": NO_GPU}}})
        return self.site.run("playbooks/deploy.yml", *args)

    def sh(self, command: str, check: bool = True) -> str:
        return self.site.login("trainer", command, check=check)

    def owner(self, name: str) -> str:
        return self.sh(f"stat -c %u {LOGS}/{name}").strip()


@pytest.fixture(scope="module")
def isaac(hosts: Hosts) -> Isaac:
    site = hosts.site(HOST)
    site.set(ONE_USER)
    site.run().ok()
    return Isaac(site)


def test_nobody_accepts_a_licence_for_a_site(isaac: Isaac) -> None:
    entry = stack_in_lab()
    isaac.site.set({**ONE_USER, "gpulab_stacks": {"isaaclab": entry}})
    refused = isaac.site.run("playbooks/deploy.yml", "--check")
    assert refused.rc != 0
    assert "ACCEPT_EULA has no default and is not set" in refused.failures


def test_where_nothing_can_be_drawn_it_is_refused(isaac: Isaac) -> None:
    entry = stack_in_lab()
    entry["settings"].update({"ACCEPT_EULA": "N", "DEV_BASE_IMAGE": entry["settings"]["BASE_IMAGE"]})
    isaac.site.set({**ONE_USER, "gpulab_stacks": {"isaaclab": entry}})
    refused = isaac.site.run("playbooks/deploy.yml", "--check")
    assert refused.rc != 0
    assert "nvidia_icd.json (Vulkan)" in refused.failures


def test_preserve_what_the_containers_write_is_the_hosts_users(isaac: Isaac) -> None:
    isaac.sh("mkdir -p mine/source/mine/mine mine/logs mine/outputs; touch mine/source/mine/mine/__init__.py")
    isaac.deploy(EXTENSION_SOURCE="/home/trainer/mine", EXTENSION_NAME="mine").ok()
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


def test_fix_perms_gives_everything_to_the_hosts_user_at_the_end(isaac: Isaac) -> None:
    isaac.deploy(USER_MODE="fix-perms").ok()
    write = WRITE.format("fixed")
    assert isaac.sh(f"gpulab run isaaclab ext-dev sh -c '{write}; exit 7' 2>/dev/null; echo $?").split()[-1] == "7"
    assert isaac.owner("fixed-own") == isaac.owner("fixed-other") == "1000"
    assert isaac.owner("preserve-other") == "1000", "what lay there before, too"


def test_a_custom_user_is_a_subordinate_id_and_both_sides_write(isaac: Isaac) -> None:
    wrong = isaac.deploy(USER_MODE="custom")
    assert wrong.rc != 0
    assert "USER_MODE is custom and USER_UID is 0" in wrong.failures
    assert "ext-dev" in isaac.sh("docker ps --format '{{.Names}}'"), "what ran goes on running"
    isaac.deploy(USER_MODE="custom", USER_UID=2000, USER_GID=2000, USER_NAME="mara").ok()
    write = WRITE.format("custom")
    assert isaac.sh(f"gpulab shell isaaclab ext-dev sh -c '{write}'").split() == ["2000", "mara"]
    assert isaac.owner("custom-own") == "101999"
    isaac.sh(f"echo of the host >> {LOGS}/custom-own; rm {LOGS}/custom-other")


def test_root_in_the_container_and_a_mount_that_replaces_what_the_image_has(isaac: Isaac) -> None:
    isaac.sh("mkdir -p rsl/rsl_rl; echo 'here = 1' > rsl/rsl_rl/__init__.py")
    isaac.deploy(USER_MODE="root", MOUNT_RSL_RL="/home/trainer/rsl", MOUNTS="rsl_rl").ok()
    write = WRITE.format("root")
    assert isaac.sh(f"gpulab shell isaaclab ext-dev sh -c '{write}'").split() == ["0", "root"]
    assert isaac.owner("root-own") == "1000"
    ask = 'python -c "import rsl_rl; print(rsl_rl.__file__)"'
    assert isaac.sh(f"gpulab shell isaaclab ext-dev {ask}").strip() == "/mounts/rsl_rl/rsl_rl/__init__.py"
    shown = {line.split()[0]: line.split()[1] for line in isaac.sh("gpulab shell isaaclab ext-dev mounts").splitlines()}
    assert shown == {"isaaclab": "off", "other": "off", "rsl_rl": "on"}
    isaac.deploy(USER_MODE="root", MOUNT_RSL_RL="/home/trainer/rsl").ok()
    assert "ModuleNotFoundError" in isaac.sh(f"gpulab shell isaaclab ext-dev {ask} 2>&1", check=False)
