"""Versions on a host that is at work: left alone, held, upgraded with a proof, and put back where that fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from .conftest import ONE_USER, Hosts
from .site import Result, Site, lab

HOST = "scn-upgrade"
# The stand-in driver copies with the machine's processor, and these tests are about versions.
SITE = ONE_USER
OLD = {
    **SITE,
    "rootless_docker_engine_version": "26.1.5",
    "rootless_docker_containerd_version": "1.7.24",
    "rootless_docker_compose_version": "2.26.1",
    "rootless_docker_buildx_version": "0.13.1",
}
NEW = {
    **SITE,
    "rootless_docker_engine_version": "28.5.2",
    "rootless_docker_containerd_version": "2.1.9",
    "rootless_docker_compose_version": "2.40.3",
    "rootless_docker_buildx_version": "0.29.1",
}
ENGINE = {"containerd.io", "docker-ce", "docker-ce-cli", "docker-ce-rootless-extras"}
# Not run in check mode, so what it records cannot be promised.
PROOF = {f"{HOST}: gpulab.fleet.gpu_verify : Judge and record the proof"}
BARRED = "/etc/apt/apt.conf.d/52gpulab-unattended-upgrades"


@pytest.fixture(scope="module")
def site(hosts: Hosts) -> Site:
    """A host with the older engine, and somebody's work on it."""
    site = hosts.site(HOST, OLD)
    site.run().ok()
    image, python = site.probe()
    site.login(
        "trainer",
        f"docker run -d --name work --network none --restart unless-stopped --stop-timeout 3 -v kept:/kept "
        f"--device nvidia.com/gpu=1 --entrypoint {python} {image} "
        f'-c \'import _signal, sys, time; _signal.signal(15, lambda *_: (open("/kept/end", "ab").write(b"well "), '
        f"sys.exit(0))); time.sleep(1e6)'",
    )
    return site


def state(site: Site) -> dict[str, Any]:
    """The container: which it is, since when it runs, whether it has its GPU, and how often it was stopped in peace."""
    shown = json.loads(site.login("trainer", "docker inspect work"))[0]
    return {
        "id": shown["Id"],
        "since": shown["State"]["StartedAt"],
        "gpu": site.login("trainer", "docker exec work nvidia-smi -L", check=False).count("GPU-"),
        "ends": site.ssh("cat /home/trainer/.local/share/docker/volumes/kept/_data/end", check=False).count("well"),
    }


def engine(site: Site) -> str:
    return site.login("trainer", "docker version --format '{{.Server.Version}}'").partition("+")[0].strip()


def held(site: Site) -> set[str]:
    return set(site.ssh("apt-mark showhold").split())


def said(result: Result) -> str:
    return "\n".join(str(task["result"]) for task in result.tasks)


def upgrade(site: Site, *args: str) -> Result:
    return site.run("playbooks/upgrade.yml", *args)


def test_a_converge_leaves_the_engine_under_work_alone_and_says_so(site: Site) -> None:
    before = state(site)
    site.set(NEW)
    result = site.run().ok()
    assert "ENGINE_UPGRADE_PENDING" in said(result)
    assert "work (image" in said(result)
    assert result.changed == []
    assert engine(site) == "26.1.5"
    assert state(site) == before


def test_so_does_the_upgrade_unless_it_may_stop_it(site: Site) -> None:
    before = state(site)
    result = upgrade(site).ok()
    assert "Left as it is: 1 containers run" in said(result)
    assert result.changed == []
    assert state(site) == before


def test_upgrade_stops_it_in_peace_proves_the_gpus_and_starts_it_again(site: Site) -> None:
    before = state(site)
    promised = upgrade(site, "--check", "-e", "gpulab_when_busy=proceed").ok()
    assert state(site) == before
    done = upgrade(site, "-e", "gpulab_when_busy=proceed").ok()
    # What is started again was stopped by the same run: a prediction finds nothing to start.
    started = {f"{HOST}: gpulab.fleet.upgrade : Start what was stopped and wait until it is healthy"}
    assert set(promised.changed) - started == set(done.changed) - PROOF - started
    assert "s of downtime" in said(done)
    after = state(site)
    assert engine(site) == "28.5.2"
    assert (after["id"], after["gpu"], after["ends"]) == (before["id"], 1, before["ends"] + 1)
    assert held(site) >= ENGINE
    assert site.run().ok().changed == []


def test_versions_go_back_where_the_proof_fails(site: Site) -> None:
    site.set(OLD)
    before = state(site)
    lab("gpu", HOST, "fault", "wrong-result")
    result = upgrade(site, "-e", "gpulab_when_busy=proceed")
    assert result.rc != 0
    assert "CUDA_WRONG_RESULT" in result.failures
    assert "is on its previous versions again" in result.failures
    assert engine(site) == "28.5.2"
    after = state(site)
    assert (after["id"], after["ends"]) == (before["id"], before["ends"] + 1)
    assert held(site) >= ENGINE
    lab("gpu", HOST, "mend")
    site.set(NEW)
    site.run("playbooks/verify.yml").ok()


def test_a_canary_that_fails_ends_the_run_before_the_next_host(site: Site, hosts: Hosts) -> None:
    other = "scn-upgrade-next"
    next_one = hosts.site(other, NEW)
    next_one.run().ok()
    both = Site(site.folder.parent / "both", [HOST, other], OLD)

    def rest() -> str:
        """Of the host that comes after the canary: packages, what a reset would know, and the running engine."""
        return both.ssh(
            "dpkg-query -W && cat /var/lib/gpulab/journal/journal.json && apt-mark showhold && pgrep -u trainer -x dockerd",
            other,
        )

    before = rest()
    assert "docker-ce\t5:28.5.2" in before
    lab("gpu", HOST, "fault", "wrong-result")
    result = upgrade(both, "-e", "gpulab_when_busy=proceed")
    assert result.rc != 0
    assert f"Not upgraded: {HOST} is on its previous versions again" in result.failures
    assert "CUDA_WRONG_RESULT" in result.failures
    assert engine(site) == "28.5.2"
    assert {task["host"] for task in result.tasks} == {HOST}
    assert rest() == before
    lab("gpu", HOST, "mend")
    site.run("playbooks/verify.yml").ok()
    lab("destroy", other)


def test_downgrade_is_the_same_verb_and_waits_for_work_where_told_to(site: Site) -> None:
    site.set(OLD)
    left = upgrade(site, "-e", "gpulab_when_busy=wait", "-e", "gpulab_busy_timeout=3").ok()
    assert left.changed == [] and engine(site) == "28.5.2"
    site.login("trainer", "nohup sh -c 'sleep 12; docker stop work' >/dev/null 2>&1 &")
    upgrade(site, "-e", "gpulab_when_busy=wait", "-e", "gpulab_busy_timeout=300").ok()
    assert engine(site) == "26.1.5"
    site.login("trainer", "docker start work")
    assert state(site)["gpu"] == 1


def test_work_that_an_interrupted_run_has_stopped_is_started_by_the_next(site: Site) -> None:
    before = state(site)
    task = "gpulab.fleet.engine_work"
    stop = ["-m", task, "-a", '{"users": ["trainer"], "state": "stopped", "when_busy": "proceed"}', "-b", "all"]
    site.ad_hoc(*stop)
    assert site.login("trainer", "docker ps -q") == ""
    result = site.run().ok()
    assert result.changed == [f"{HOST}: gpulab.fleet.rootless_docker : Give every user a rootless engine"]
    after = state(site)
    assert (after["id"], after["gpu"]) == (before["id"], 1)


def test_a_setting_restarts_an_engine_under_work_only_when_told_to(site: Site) -> None:
    before = state(site)
    site.set({**OLD, "rootless_docker_daemon": {"max-concurrent-downloads": 4}})
    assert "ENGINE_RESTART_PENDING" in said(site.run().ok())
    assert state(site) == before
    site.run("site.yml", "-e", "gpulab_when_busy=proceed").ok()
    after = state(site)
    assert (after["id"], after["gpu"], after["ends"]) == (before["id"], 1, before["ends"] + 1)


def test_the_hold_is_taken_back_by_the_variable_that_sets_it(site: Site) -> None:
    site.set({**OLD, "rootless_docker_daemon": {"max-concurrent-downloads": 4}, "gpulab_hold": False})
    site.ssh("apt-mark hold uidmap")
    promised = site.run("site.yml", "--check").ok()
    assert len(promised.changed) >= 3  # what bars unattended-upgrades, and the holds of engine and toolkit
    assert set(promised.changed) == set(site.run().ok().changed) - PROOF
    assert held(site) == {"uidmap"}
    assert site.ssh(f"ls {BARRED}", check=False) == ""
    site.set({**OLD, "rootless_docker_daemon": {"max-concurrent-downloads": 4}})
    site.run().ok()
    assert held(site) > ENGINE
    # Without the hold this removes docker-ce, and says nothing of it.
    site.ssh("apt-get -qq install -y docker.io", check=False)
    assert "ok installed" in site.ssh("dpkg -s docker-ce | grep Status")
    assert site.ssh(f"apt-config -c {BARRED} dump").count('Package-Blacklist:: "docker-ce"') >= 1


def test_a_reboot_is_announced_done_when_allowed_and_never_of_the_controller(site: Site) -> None:
    allowed = ["-e", "gpulab_when_busy=proceed", "-e", "gpulab_reboot_allowed=true"]
    site.ssh("touch /run/reboot-required; echo linux-image-generic > /run/reboot-required.pkgs")
    announced = upgrade(site).ok()
    assert "REBOOT_NEEDED" in said(announced) and announced.changed == []
    own = site.ssh("cat /etc/machine-id")
    controller = Path("/etc/machine-id").read_text(encoding="ascii").strip()
    site.ssh(f"echo {controller} > /etc/machine-id")
    left = upgrade(site, *allowed).ok()
    assert "runs Ansible itself and is never rebooted" in said(left)
    assert site.ssh("ls /run/reboot-required")
    site.ssh(f"echo {own.strip()} > /etc/machine-id")
    upgrade(site, *allowed).ok()
    assert site.ssh("ls /run/reboot-required", check=False) == ""
    assert state(site)["gpu"] == 1


def test_an_engine_that_dpkg_left_half_way_is_mended(site: Site) -> None:
    site.ssh(
        "sed -i '/^Package: docker-ce$/,/^Status:/s/^Status: .*/Status: hold reinstreq half-installed/' /var/lib/dpkg/status"
    )
    assert "half-installed" in site.ssh("dpkg -s docker-ce | grep Status")
    site.run().ok()
    assert "hold ok installed" in site.ssh("dpkg -s docker-ce | grep Status")
