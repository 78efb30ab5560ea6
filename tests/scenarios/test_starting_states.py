"""Hosts on which somebody has been before: taken over where that is asked for or harmless, else refused untouched."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from . import starting_states as made
from .conftest import ONE_USER, Hosts
from .site import ROOT, Site
from .taken_over import Before
from .test_refusals import state
from .test_reset import RESET

OWN_SOURCES = ["docker.sources", "nvidia-container-toolkit.sources"]
ROOT_DATA = ("/var/lib/docker", "/var/lib/containerd")
USER_DATA = "/home/trainer/.local/share/docker"
REMOVE = {**ONE_USER, "rootless_docker_rootful": "remove"}


def active_sources(site: Site) -> str:
    """All that apt still reads of the vendors'."""
    return site.ssh("apt-get indextargets --format '$(SITE) $(SOURCESENTRY)' | grep -i 'docker\\|nvidia' | sort -u")


def journal(site: Site) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(site.ssh("cat /var/lib/gpulab/journal/journal.json"))
    return read


def converges(site: Site, variables: dict[str, Any]) -> list[str]:
    """Check mode names what then changes, the proof passes, a second run changes nothing."""
    site.set(variables)
    predicted = site.run("site.yml", "--check", "--diff").ok()
    done = site.run().ok()
    # The proof is not run in check mode.
    unforeseen = [task for task in done.changed if task not in predicted.changed and "gpu_verify :" not in task]
    assert unforeseen == [], predicted.changed
    assert set(predicted.changed) <= set(done.changed), done.changed
    record = json.loads(site.ssh("cat /var/lib/gpulab/proof.json"))
    assert record["users"]["trainer"]["verdict"] == "pass"
    assert site.run().ok().changed == []
    return done.changed


@pytest.fixture(scope="module")
def site(hosts: Hosts) -> Site:
    return hosts.site("states-one")


def test_what_openpis_scripts_leave_is_refused_then_taken_over(site: Site) -> None:
    made.openpi_scripts(site)
    site.ssh("usermod -aG docker trainer")
    made.rootful_work(site)
    theirs = Before(site, *ROOT_DATA, USER_DATA)
    before = state(site)
    refused = site.run()
    assert refused.rc != 0
    for part in ("ROOTFUL_ENGINE", "training", "/var/lib/docker", "rootless_docker_rootful: remove"):
        assert part in refused.failures
    assert state(site) == before
    assert site.ssh("docker ps --format '{{.Names}}'").split() == ["training"]

    converges(site, REMOVE)
    assert site.ssh("systemctl is-active docker.service docker.socket", check=False).split() == ["inactive"] * 2
    assert site.ssh("cat /var/lib/docker/volumes/results/_data/model") == "weights\n"
    sources = active_sources(site)
    assert all(own in sources for own in OWN_SOURCES), sources
    assert ".list:" not in sources
    assert "experimental" not in sources
    kept = journal(site)["file"]
    old = kept["/etc/apt/sources.list.d/docker.list"]["backup"]
    assert site.ssh(f"cat /var/lib/gpulab/journal/{old}").startswith("deb [arch=amd64 signed-by=")
    assert journal(site)["unit"]["docker.service"] == "enabled"

    # And back: root's engine runs again, and knows its container.
    reset = site.run(RESET).ok()
    assert theirs.unexplained(reset) == {}
    assert site.ssh("docker ps -a --format '{{.Names}}'").split() == ["training"]


def test_an_engine_set_up_by_hand_and_a_broken_apt(hosts: Hosts) -> None:
    site = hosts.site("states-two")
    made.old_source(site)
    made.rootless_by_hand(site)
    made.broken_apt(site)
    made.podman_docker(site)
    theirs = Before(site, USER_DATA)
    container = site.login("trainer", "docker ps -aq --filter name=mine")
    converges(site, ONE_USER)
    assert site.login("trainer", "docker ps -aq --filter name=mine") == container
    site.login("trainer", "docker cp mine:/results/model /tmp/back.txt")
    assert site.ssh("cat /tmp/back.txt") == "weights\n"
    daemon = json.loads(site.ssh("cat /home/trainer/.config/docker/daemon.json"))
    assert daemon["shutdown-timeout"] == 12
    assert daemon["runtimes"]["nvidia"]["path"] == "/usr/bin/env"
    assert "ExecStart" in site.ssh("cat /home/trainer/.config/systemd/user/docker.service.before-gpulab")
    assert "28.5.2" in site.login("trainer", "docker version --format '{{.Server.Version}}'")
    assert site.ssh("dpkg-query -Wf '${Status}' podman-docker 2>/dev/null", check=False) in (
        "",
        "unknown ok not-installed",
    )
    assert "nvidia-docker" not in active_sources(site)
    site.ssh("apt-get -qq update")

    # And back: the unit made by hand runs the user's containers again, and apt is as broken as it was.
    reset = site.run(RESET).ok()
    assert theirs.unexplained(reset) == {}
    assert site.login("trainer", "docker ps -aq --filter name=mine") == container
    assert "Signed-By" in site.ssh("apt-get -qq update 2>&1", check=False)


@pytest.mark.chaos
def test_the_distributions_engine_is_replaced_and_its_settings_are_there_again(hosts: Hosts) -> None:
    site = hosts.site("states-four", None, "--identity", "debian-12")
    site.ssh(f"{made.INSTALL} docker.io >&2; echo '# own' >> /etc/containerd/config.toml")
    made.rootful_work(site)
    theirs = Before(site, *ROOT_DATA, USER_DATA)
    converges(site, REMOVE)
    site.run(RESET, "--check", "--diff").ok()
    reset = site.run(RESET).ok()
    assert theirs.unexplained(reset) == {}
    assert site.ssh("tail -n 1 /etc/containerd/config.toml") == "# own\n"
    # What the reset has listed brings it all back.
    site.ssh(f"{made.INSTALL} docker.io >&2")
    assert site.ssh("docker ps -a --format '{{.Names}}'").split() == ["training"]


def test_a_root_engine_that_is_kept_has_the_gpus_too(hosts: Hosts) -> None:
    """Both engines on one host, each with the GPUs, and no switch that one of them has to pay for."""
    site = hosts.site("states-keep")
    made.old_source(site)
    made.vendor_engine(site, "28.5.2")
    made.rootful_work(site)
    started = site.ssh("docker inspect -f '{{.State.StartedAt}}' training")
    converges(site, {**ONE_USER, "rootless_docker_rootful": "keep"})
    assert site.ssh("docker inspect -f '{{.State.StartedAt}}' training") == started
    image, _ = site.probe()
    site.ssh(f"su - trainer -c 'docker save {image}' | docker load && docker tag {image} probe:1")
    smi = "docker run --rm --network none --entrypoint nvidia-smi --device nvidia.com/gpu=1 {} -L"
    for seen in (site.ssh(smi.format("probe:1")), site.login("trainer", smi.format(image))):
        assert seen.count("GPU-") == 1
        assert "GPU-12345678-1234-1234-1234-123456780001" in seen
    assert "no-cgroups = true" not in site.ssh("cat /etc/nvidia-container-runtime/config.toml 2>&1", check=False)
    assert site.ssh("systemctl is-enabled docker.service").strip() == "enabled"


def test_what_cannot_be_worked_beside_is_refused_by_name(hosts: Hosts) -> None:
    site = hosts.site("states-three")
    made.in_the_way(site)
    before = state(site)
    refused = site.run()
    assert refused.rc != 0
    for code in ("DOCKER_SNAP", "DOCKER_DESKTOP", "KUBERNETES_NODE"):
        assert f"{code}:" in refused.failures, refused.failures
    assert "snap remove docker" in refused.failures
    assert state(site) == before

    # The same without root, and without a password for it: the same is found, nothing is asked for.
    play = [{"hosts": "gpu_hosts", "become": False, "roles": ["gpulab.fleet.preflight"]}]
    (site.folder / "preflight.yml").write_text(yaml.safe_dump(play), encoding="utf-8")
    found = site.run(str(site.folder / "preflight.yml"), "-e", "ansible_user=guest", cwd=ROOT)
    assert found.rc != 0
    for code in ("DOCKER_SNAP", "DOCKER_DESKTOP", "KUBERNETES_NODE"):
        assert f"{code}:" in found.failures, found.failures
    assert state(site) == before


def test_a_hardened_host(hosts: Hosts) -> None:
    """Nothing may be executed in /tmp, there is no swap, and no IPv6."""
    site = hosts.site("states-hard")
    site.ssh(
        "mount -o remount,noexec,nosuid,nodev /tmp && sysctl -qw net.ipv6.conf.all.disable_ipv6=1 && "
        'test -z "$(swapon --show --noheadings)" && cp /bin/true /tmp/t && ! /tmp/t 2>/dev/null'
    )
    converges(site, ONE_USER)
