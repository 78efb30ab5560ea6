"""Several users on one host: made by us, a system account, and one of a directory service with a large uid."""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import pytest

from .conftest import Hosts
from .site import Site, lab

PASSWORD = "s3cr3t-of-mara"
SITE: dict[str, Any] = {
    "gpulab_gpus_expected": 2,
    "gpulab_users": {
        "mara": {
            "create": True,
            "gpus": [0],
            "daemon": {"data-root": "/scratch/mara/docker"},
            "registries": {"registry.example.org": {"username": "lab", "password": PASSWORD}},
            "container_ids": [1000],
        },
        "simsvc": {"create": True, "system": True, "gpus": [1]},
        "ldap.user": {"create": True},
    },
}
LARGE_UID = 1987654321
OPEN = "open('{}', 'r+b').close()"


@pytest.fixture(scope="module")
def host(hosts: Hosts) -> Iterator[Site]:
    """A converged host; tests that change variables set them back."""
    site = hosts.site("users-1", SITE)
    # A real NSS source beside /etc/passwd, as SSSD is one: no local entry, no home yet.
    site.ssh("DEBIAN_FRONTEND=noninteractive apt-get -qq install -y libnss-extrausers cron >/dev/null")
    site.ssh("sed -i -E 's/^(passwd|group|shadow):.*/& extrausers/' /etc/nsswitch.conf")
    site.ssh(f"echo 'ldap.user:x:{LARGE_UID}:{LARGE_UID}::/home/ldap.user:/bin/bash' >> /var/lib/extrausers/passwd")
    site.ssh(f"echo 'ldap.user:x:{LARGE_UID}:' >> /var/lib/extrausers/group")
    site.ssh("echo 'ldap.user:*:19000:0:99999:7:::' >> /var/lib/extrausers/shadow")
    site.run().ok()
    yield site


def changed(**of_mara: Any) -> dict[str, Any]:
    """The site with other values for mara; None takes a key away."""
    variables = deepcopy(SITE)
    mara = variables["gpulab_users"]["mara"]
    for key, value in of_mara.items():
        mara[key] = value
        if value is None:
            del mara[key]
    return variables


def can_open(site: Site, user: str, node: str) -> bool:
    said = site.login(user, f'python3 -c "{OPEN.format(node)}" 2>&1 || true')
    assert said.strip() == "" or "PermissionError" in said, said
    return not said.strip()


def can_open_in_container(site: Site, user: str, node: str, uid: int = 0) -> bool:
    """With the node mounted by hand, as nothing keeps a user from doing; root in there is the user."""
    image, python = site.probe(user)
    run = f"docker run --rm --network none -u {uid} -v {node}:/node --entrypoint {python} {image}"
    said = site.login(user, f'{run} -c "{OPEN.format("/node")}" 2>&1 || true')
    assert said.strip() == "" or "PermissionError" in said, said
    return not said.strip()


def test_a_second_run_changes_nothing(host: Site) -> None:
    result = host.run().ok()
    assert result.changed == []
    assert host.run("site.yml", "--check", "--diff").ok().changed == []
    assert max(stats["ok"] for stats in result.stats.values()) <= 20


def test_each_account_is_what_was_asked_for(host: Site) -> None:
    assert int(host.ssh("id -u simsvc")) < 1000 <= int(host.ssh("id -u mara"))
    assert int(host.login("ldap.user", "id -u")) == LARGE_UID
    assert host.ssh("stat -c '%U %a' /home/ldap.user /scratch/mara/docker").split() == [
        "ldap.user",
        "755",
        "mara",
        "710",
    ]
    assert "/etc/passwd" not in host.ssh("grep -l ldap.user /etc/passwd || true")
    for user in SITE["gpulab_users"]:
        assert "rootless" in host.login(user, "docker info -f '{{json .SecurityOptions}}'")
        assert "docker" not in host.ssh(f"id -nG {user}").split()
    assert host.login("mara", "docker info -f '{{.DockerRootDir}}'").strip() == "/scratch/mara/docker"


def test_ids_of_all_users_are_their_own(host: Site) -> None:
    lines = [line.split(":") for line in host.ssh("cat /etc/subuid").splitlines()]
    spans = sorted((int(start), int(start) + int(count), name) for name, start, count in lines)
    assert {"mara", "simsvc", "ldap.user"} <= {name for _, _, name in spans}
    for (_, end, name), (start, _, other) in itertools.pairwise(spans):
        assert end <= start, f"{name} and {other}"


def test_no_container_reads_anothers_files_or_gets_anothers_gpu(host: Site) -> None:
    host.login("mara", "mkdir -p private && chmod 700 private && echo hers > private/notes")
    volume = host.login(
        "mara", "docker volume create notes && docker volume inspect -f '{{.Mountpoint}}' notes"
    ).split()[-1]
    host.ssh(f"echo hers > {volume}/notes && chown mara: {volume}/notes && chmod 644 {volume}/notes")
    image, python = host.probe("simsvc")
    for folder in ("/home/mara/private", volume, "/scratch/mara/docker"):
        run = f"docker run --rm --network none -v {folder}:/theirs --entrypoint {python} {image}"
        said = host.login("simsvc", f"{run} -c \"import os; print(os.listdir('/theirs'))\" 2>&1 || true")
        assert "denied" in said and "['notes']" not in said, said
    assert "notes" in host.login("mara", f"ls {volume}")
    uuids = host.ssh("nvidia-smi --query-gpu=uuid --format=csv,noheader").split()
    for user, theirs in (("simsvc", uuids[0]), ("mara", uuids[1])):
        image, _ = host.probe(user)
        said = host.login(
            user, f"docker run --rm --network none --device nvidia.com/gpu={theirs} {image} true 2>&1 || true"
        )
        assert "unresolvable CDI devices" in said


# --- everyday access --------------------------------------------------------------------------------

SDK = (
    "PYTHONPATH=/var/lib/gpulab/python/current python3 -c "
    "\"import docker; print(docker.from_env().info()['DockerRootDir'])\""
)
CLI = "docker info -f {{.DockerRootDir}}"


def program(host: Site, text: str) -> None:
    coded = base64.b64encode(f"#!/bin/sh\n{text}\n".encode()).decode()
    host.ssh(f"echo {coded} | base64 -d > /tmp/ask && chmod 755 /tmp/ask")


@pytest.mark.parametrize("way", ["login shell", "ssh command", "cron", "user service"])
def test_the_engine_is_found_from(host: Site, way: str) -> None:
    program(host, f"({CLI}; {SDK}) 2>&1")
    if way == "login shell":
        said = host.login("mara", "/tmp/ask")
    elif way == "ssh command":
        host.ssh("install -d -m 700 -o mara ~mara/.ssh && install -m 600 -o mara ~/.ssh/authorized_keys ~mara/.ssh/")
        said = lab("ssh", "--user", "mara", host.hosts[0], "/tmp/ask")
    elif way == "user service":
        said = host.ssh("systemd-run --quiet --user -M mara@ --wait --pipe /tmp/ask")
    else:
        job = "* * * * * mara /tmp/ask > /tmp/said.new && mv /tmp/said.new /tmp/said"
        host.ssh(f"rm -f /tmp/said; echo '{job}' > /etc/cron.d/ask; systemctl start cron")
        wait = "for i in $(seq 70); do [ -s /tmp/said ] && break; sleep 1; done"
        said = host.ssh(f"{wait}; cat /tmp/said; rm -f /etc/cron.d/ask /tmp/said")
    assert said.split() == ["/scratch/mara/docker"] * 2


def test_others_have_no_docker_host(host: Site) -> None:
    assert host.login("trainer", "echo $DOCKER_HOST").strip() == ""
    assert host.login("mara", "echo $DOCKER_HOST").strip() == "unix:///home/mara/.docker/run/docker.sock"


def test_docker_host_goes_with_its_variable(host: Site) -> None:
    host.set({**SITE, "rootless_docker_docker_host": False})
    host.run("site.yml", "--tags", "engine").ok()
    assert host.login("mara", "echo $DOCKER_HOST").strip() == ""
    assert "gpulab" not in host.ssh("cat /etc/pam.d/common-session /etc/pam.d/common-session-noninteractive")
    assert host.login("mara", CLI).strip() == "/scratch/mara/docker"
    host.set(SITE)
    host.run("site.yml", "--tags", "engine").ok()


# --- registries, limits ------------------------------------------------------------------------------


def test_a_registry_login_comes_and_goes_and_is_seen_nowhere(host: Site) -> None:
    path = "/home/mara/.docker/config.json"
    assert host.ssh(f"stat -c '%U %a' {path}").split() == ["mara", "600"]
    assert set(json.loads(host.ssh(f"cat {path}"))["auths"]) == {"registry.example.org"}
    # One more login of the user's own, which is to stay.
    host.ssh(f'sed -i \'s/"auths": {{/&"ghcr.io": {{"auth": "bWU6eA=="}},/\' {path}')
    new = changed(registries={"registry.example.org": {"username": "lab", "password": f"{PASSWORD}-new"}})
    host.set(new)
    told = host.run("site.yml", "--diff", "-vvv", "--tags", "engine").ok()
    assert told.changed, "a new password is a change"
    assert PASSWORD not in told.raw + told.stderr
    assert PASSWORD not in host.ssh(
        "journalctl --no-pager; cat /var/lib/gpulab/proof.json /var/lib/gpulab/journal/*.json"
    )
    host.set(changed(registries=None))
    host.run("site.yml", "--tags", "engine").ok()
    assert set(json.loads(host.ssh(f"cat {path}"))["auths"]) == {"ghcr.io"}
    host.set(SITE)
    host.run("site.yml", "--tags", "engine").ok()


def test_limits_are_refused_by_name_where_the_host_has_no_controllers(host: Site) -> None:
    host.set(changed(limits={"memory": "3G", "disk": "50G"}))
    result = host.run()
    host.set(SITE)
    assert result.rc != 0 and result.changed == []
    assert "gpulab_users.mara.limits.memory = 3G" in result.failures
    assert "gpulab_users.mara.limits.disk = 50G" in result.failures


def test_limits_come_and_go_where_the_host_has_controllers(host: Site) -> None:
    """The lab's kernel has none: what it says is replaced. That systemd took the limits over is seen, not that they bind."""
    host.ssh("echo 'cpuset cpu io memory pids' > /run/controllers")
    host.ssh("mount --bind /run/controllers /sys/fs/cgroup/cgroup.controllers")
    shown = "systemctl show -p CPUQuotaPerSecUSec -p MemoryMax user-$(id -u mara).slice"
    try:
        host.set(changed(limits={"cpus": 2.5, "memory": "3G"}))
        assert host.run("site.yml", "--check", "--tags", "engine").ok().changed
        host.run("site.yml", "--tags", "engine").ok()
        assert set(host.ssh(shown).split()) == {"CPUQuotaPerSecUSec=2.500000s", f"MemoryMax={3 << 30}"}
        assert host.run("site.yml", "--tags", "engine").ok().changed == []
    finally:
        host.set(SITE)
        host.ssh("umount /sys/fs/cgroup/cgroup.controllers")
    host.run("site.yml", "--tags", "engine").ok()
    assert set(host.ssh(shown).split()) == {"CPUQuotaPerSecUSec=infinity", "MemoryMax=infinity"}


# --- refused before any change --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"gpulab_users": {"www-data": {}}}, "gpulab_users.www-data: uid 33"),
        ({"gpulab_users": {"nobody": {"system": True}}}, "gpulab_users.nobody: uid 65534"),
        (changed(daemon={"data-root": "/root"}), "/root belongs to uid 0, not mara"),
        (changed(registries={"ghcr.io": {"username": "lab"}}), "gpulab_users.mara.registries = (secret)"),
    ],
    ids=["a service's account", "nobody", "root's folder", "half a login"],
)
def test_refused(host: Site, variables: dict[str, Any], said: str) -> None:
    host.set(variables)
    result = host.run()
    host.set(SITE)
    assert result.rc != 0 and result.changed == []
    assert said in result.failures


def test_a_user_in_the_group_docker_is_warned_of(host: Site) -> None:
    host.ssh("gpasswd -a mara docker")
    result = host.run("site.yml", "--tags", "preflight")
    host.ssh("gpasswd -d mara docker")
    assert "USER_IN_DOCKER_GROUP" in result.raw
    assert "USER_IN_DOCKER_GROUP" not in host.run("site.yml", "--tags", "preflight").raw


# --- shares -----------------------------------------------------------------------------------------------


def test_enforced_shares_close_the_nodes_and_open_them_again(host: Site) -> None:
    # Cooperative: nothing but good manners keeps simsvc from mara's GPU.
    assert can_open(host, "simsvc", "/dev/nvidia0") and can_open_in_container(host, "simsvc", "/dev/nvidia0")
    host.set({**SITE, "gpulab_gpu_shares": "enforced"})
    result = host.run().ok()
    assert "GPU_SHARES_PENDING" in result.raw, "the driver still repairs its nodes"
    check_closed(host)
    assert host.run().ok().changed == []
    # The driver's own setuid program opens a node; the units close it again.
    host.ssh("chmod 0666 /dev/nvidia0")
    assert can_open(host, "simsvc", "/dev/nvidia0")
    host.ssh("systemctl start gpulab-cdi-poll.service")
    check_closed(host)
    # A start of the driver, which then knows: /proc says so, and nodes that are missing are made by us.
    host.ssh("sed -i s/^ModifyDeviceFiles:.*/ModifyDeviceFiles:\\ 0/ /usr/lib/nvidia-standin/proc/driver/nvidia/params")
    lab("reboot", host.hosts[0])
    host.ssh("for i in $(seq 40); do systemctl is-active -q gpulab-cdi.service || break; sleep 0.5; done")
    check_closed(host)
    assert "GPU_SHARES_PENDING" not in host.run().ok().raw
    host.set(SITE)
    host.run().ok()
    assert can_open(host, "simsvc", "/dev/nvidia0") and can_open_in_container(host, "simsvc", "/dev/nvidia0")
    assert host.ssh("stat -c %a /dev/nvidia0 /dev/nvidiactl").split() == ["666", "666"]
    assert host.ssh("ls -d /etc/gpulab/shares.json /etc/modprobe.d/gpulab-nvidia.conf 2>/dev/null || true") == ""


def check_closed(site: Site) -> None:
    assert can_open(site, "mara", "/dev/nvidia0") and can_open(site, "simsvc", "/dev/nvidia1")
    assert not can_open(site, "simsvc", "/dev/nvidia0") and not can_open(site, "mara", "/dev/nvidia1")
    assert not can_open(site, "trainer", "/dev/nvidiactl"), "an account without GPUs"
    assert not can_open_in_container(site, "simsvc", "/dev/nvidia0")
    assert can_open_in_container(site, "mara", "/dev/nvidia0")
    assert can_open_in_container(site, "mara", "/dev/nvidia0", 1000), "named in container_ids"
    assert not can_open_in_container(site, "mara", "/dev/nvidia0", 1001)
