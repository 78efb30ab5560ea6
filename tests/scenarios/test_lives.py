"""Whatever happens to a real host while a stack is deployed on it: one release runs whole, data are whole, nothing is left."""

from __future__ import annotations

import subprocess
import time

import pytest

from . import own_disk
from .lives import SIZE, Host, Life
from .site import Site, lab
from .small_stack import Small

SEEDS = 30
CUTS = 8
pytestmark = pytest.mark.chaos


@pytest.fixture(scope="module")
def small(main_host: Site, tmp_path_factory: pytest.TempPathFactory) -> Small:
    """Not deployed yet, on a disk of its own."""
    lab("restore", main_host.hosts[0], "converged")
    own_disk.give(main_host, SIZE)
    return Small(main_host, tmp_path_factory.mktemp("stack"))


@pytest.fixture(scope="module")
def host(small: Small) -> Host:
    return Host(small)


def intact(small: Small) -> None:
    """Every file of every image is what it was made of: the engine's own checksums say so."""
    small.sh("for each in $(docker images -q | sort -u); do docker save $each > /dev/null || exit 1; done")


@pytest.mark.parametrize("moment", ["loading", "loaded", "deployed"])
def test_the_power_goes_around_the_load_of_an_image_with_all_that_was_not_synced(small: Small, moment: str) -> None:
    """Seen without a sync: an image that is listed, has files that end half-way, and is not mended by a second load."""
    small.sh("gpulab undeploy small; docker rmi -f $(docker images -q lab/base); docker image prune -af", check=False)
    small.set()
    run = subprocess.Popen(
        small.site.command("playbooks/deploy.yml"), env=small.site.environment(),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    look = {"loading": "pgrep -f 'docker load'", "loaded": "docker images -q lab/base | grep .", "deployed": "false"}
    deadline = time.monotonic() + 120
    while not small.sh(look[moment], check=False) and run.poll() is None:
        assert time.monotonic() < deadline
    own_disk.lose_power(small.site)
    run.wait(timeout=120)
    small.deploy().ok()
    assert small.says().startswith("version 1 word one ")
    intact(small)


def test_a_power_cut_at_each_moment_of_a_deploy_loses_what_was_not_synced(host: Host) -> None:
    """After boot, and without Ansible, the old release or the new one runs, with images and data whole."""
    began = time.monotonic()
    host.begin(host.deploy(100, WORD="w"))
    assert host.wait() == 0
    whole, kept = time.monotonic() - began, {"old": 0, "new": 0}
    for number in range(CUTS):
        own_disk.sync(host.site)
        before = host.look()
        host.begin(host.deploy(101 + number, WORD=f"w{number}"))
        time.sleep(whole * (number + 0.5) / CUTS)
        host.lose_power()
        after = host.settled(before["starts"])
        is_new = f"version {101 + number} word w{number} " in after["says"]
        assert is_new or after["current"] == before["current"]
        kept["new" if is_new else "old"] += 1
        intact(host.small)
    print(kept)
    assert kept["old"], f"every cut came too late: {kept}"


@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_random_life(host: Host, seed: int) -> None:
    Life(host, seed).live(3)
