"""A disk that is full, or fills up in the middle of a deploy: what ran runs, and goes on when there is room again."""

from __future__ import annotations

import pytest

from . import own_disk
from .lives import SIZE, Host
from .site import Site, lab
from .small_stack import FOLDER, Small

MIB = 1 << 20
pytestmark = pytest.mark.chaos


@pytest.fixture(scope="module")
def host(main_host: Site, tmp_path_factory: pytest.TempPathFactory) -> Host:
    lab("restore", main_host.hosts[0], "converged")
    own_disk.give(main_host, SIZE)
    return Host(Small(main_host, tmp_path_factory.mktemp("stack")))


def ended(host: Host, command: str) -> str:
    """What a verb that is not to succeed says."""
    host.begin(command)
    assert host.wait() != 0, host.sh("cat said0; df -h ~")
    return host.sh("cat said0")


def test_below_the_floor_a_deploy_is_refused_before_anything_stops(host: Host) -> None:
    host.sh(host.deploy(WORD="two"))
    before, boxes = host.look(), host.small.containers()
    own_disk.fill(host.site, 40 * MIB)
    for command in (host.deploy(2, WORD="three"), host.deploy(1, WORD="three"), "gpulab rollback small"):
        said = ended(host, command)
        assert "not enough room on the disk" in said and "have to stay free" in said, said
        assert f"{own_disk.HOME}/" in said, "which disk"
    assert host.small.containers() == boxes
    after = host.settled(before["starts"])
    assert (after["history"], after["releases"].keys()) == (before["history"], before["releases"].keys())
    own_disk.make_room(host.site)
    host.sh("gpulab rollback small && gpulab rollback small 0002")
    assert "word two " in host.small.says()


def test_a_disk_that_a_build_fills(host: Host) -> None:
    before, boxes = host.look(), host.small.containers()
    own_disk.fill(host.site, 200 * MIB)
    host.sh("cp small/Dockerfile Dockerfile; echo 'RUN cat /dev/zero > /zero' >> small/Dockerfile")
    said = ended(host, host.deploy(3, WORD="three"))
    assert "no space left" in said.lower(), said
    assert host.small.containers() == boxes
    assert host.settled(before["starts"])["history"] == before["history"]
    own_disk.make_room(host.site)
    host.sh(f"mv Dockerfile small; {host.deploy(3, WORD='three')}")
    assert host.small.says().startswith("version 3 word three ")


@pytest.mark.parametrize("step", ["preparing", "switching"])
def test_a_disk_that_fills_while_a_release_is_made_and_brought_up(host: Host, step: str) -> None:
    """One that never becomes healthy has to be taken back on a full disk."""
    before, mode = host.look(), "serve" if step == "preparing" else "hang"
    host.begin(host.deploy(4 if step == "preparing" else 5, WORD=step, MODE=mode))
    host.sh(f"timeout 60 sh -c 'until grep -q {step} {FOLDER}/unfinished.json 2> /dev/null; do sleep 0.05; done'")
    own_disk.fill(host.site, 0)
    host.wait()
    own_disk.make_room(host.site)
    host.sh("gpulab settle")
    after = host.settled(before["starts"])
    assert after["current"] == before["current"] or mode == "serve"
    host.sh(host.deploy(6, WORD=f"after-{step}"))
    assert host.small.says().startswith(f"version 6 word after-{step} ")
