"""What a converged host must be, whichever scenario made it: run by Molecule and by `make demo`."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest


@pytest.fixture
def users(host: Any) -> dict[str, Any]:
    return dict(host.ansible.get_variables().get("gpulab_users", {}))


@pytest.fixture
def gpus(host: Any) -> list[str]:
    """UUIDs of the host's GPUs, from the driver's own tool."""
    if not host.exists("nvidia-smi"):
        return []
    out = host.check_output("nvidia-smi --query-gpu=uuid --format=csv,noheader")
    return [line.strip() for line in out.splitlines()]


def assigned(entry: dict[str, Any], gpus: list[str]) -> list[str]:
    wish = (entry or {}).get("gpus", "none")
    if wish == "all":
        return gpus
    if wish == "none":
        return []
    return [gpus[int(w)] if str(w).isdigit() else w for w in wish]


def login(host: Any, user: str, command: str) -> Any:
    """Run a command as a login shell of the user would, the way `ssh user@host` does."""
    return host.run(f"su - {user} -c %s", command)


def test_every_user_has_a_rootless_engine_in_a_login_shell(host: Any, users: dict[str, Any]) -> None:
    assert users
    for user in users:
        ps = login(host, user, "docker ps --format '{{.ID}}'")
        assert ps.rc == 0, ps.stderr
        security = json.loads(login(host, user, "docker info --format '{{json .SecurityOptions}}'").stdout)
        assert any("rootless" in option for option in security), security
        # By its context for the CLI, by DOCKER_HOST for all else; the variable is what `context show` then speaks of.
        assert login(host, user, "env -u DOCKER_HOST docker context show").stdout.strip() == "rootless"


def test_engines_come_up_by_themselves(host: Any, users: dict[str, Any]) -> None:
    for user in users:
        uid = host.user(user).uid
        assert host.file(f"/var/lib/systemd/linger/{user}").exists
        enabled = host.run(
            f"runuser -u {user} -- env XDG_RUNTIME_DIR=/run/user/{uid} systemctl --user is-enabled docker"
        )
        assert enabled.stdout.strip() == "enabled", enabled.stderr


def test_no_rootful_engine_runs_and_nobody_is_in_its_group(host: Any, users: dict[str, Any]) -> None:
    assert not host.file("/run/docker.sock").exists
    assert host.run("pgrep -u root -x dockerd").rc == 1
    for user in users:
        assert "docker" not in host.user(user).groups


def test_subordinate_ids_do_not_overlap(host: Any, users: dict[str, Any]) -> None:
    for path in ("/etc/subuid", "/etc/subgid"):
        ranges = []
        for line in host.file(path).content_string.splitlines():
            name, start, count = line.split(":")
            ranges.append((int(start), int(start) + int(count), name))
        ranges.sort()
        for low, high in itertools.pairwise(ranges):
            assert low[1] <= high[0], f"{path}: {low} overlaps {high}"
        assert set(users) <= {name for _, _, name in ranges}


def test_cgroup_controllers_are_delegated(host: Any) -> None:
    shown = host.check_output("systemctl show user@1000.service -p DelegateControllers --value")
    assert {"cpu", "cpuset", "io", "memory", "pids"} <= set(shown.split())


def test_proof_names_exactly_the_assigned_gpus(host: Any, users: dict[str, Any], gpus: list[str]) -> None:
    if not gpus:
        pytest.skip("a host without GPUs has no proof")
    record = json.loads(host.file("/var/lib/gpulab/proof.json").content_string)
    with_gpus = {user for user, entry in users.items() if assigned(entry, gpus)}
    assert set(record["users"]) == with_gpus
    for user in with_gpus:
        assert record["users"][user]["verdict"] == "pass"
        assert sorted(record["users"][user]["gpus"]) == sorted(assigned(users[user], gpus))


def test_containers_see_their_gpu_and_no_other(host: Any, users: dict[str, Any], gpus: list[str]) -> None:
    """Asked with docker run, as a person does; nvidia-smi comes from the host through CDI."""
    if not gpus:
        pytest.skip("no GPUs")
    for user, entry in users.items():
        mine = assigned(entry, gpus)
        if not mine:
            continue
        image = login(host, user, "docker images -q gpulab/probe").stdout.split()[0]
        for uuid in mine:
            run = login(
                host,
                user,
                f"docker run --rm --network none --entrypoint nvidia-smi --device nvidia.com/gpu={uuid} {image} -L",
            )
            assert run.rc == 0, run.stderr
            assert run.stdout.count("UUID") == 1, run.stdout
            assert uuid in run.stdout, run.stdout
        for other in set(gpus) - set(mine):
            run = login(host, user, f"docker run --rm --network none --device nvidia.com/gpu={other} {image} true")
            assert run.rc != 0, f"{user} was given {other}"
            assert "unresolvable CDI devices" in run.stderr


def test_a_host_without_gpus_got_no_toolkit_and_no_proof(host: Any, gpus: list[str]) -> None:
    if gpus:
        pytest.skip("this host has GPUs")
    assert not host.package("nvidia-container-toolkit-base").is_installed
    assert not host.file("/var/lib/gpulab/proof.json").exists
    assert not host.file("/var/lib/gpulab/cdi").exists


def test_nobody_upgrades_engine_and_toolkit_by_the_way(host: Any) -> None:
    held = set(host.check_output("apt-mark showhold").split())
    guarded = {"docker-ce", "docker.io", "containerd", "containerd.io", "nvidia-container-toolkit-base"}
    assert {name for name in guarded if host.package(name).is_installed} <= held
    barred = host.check_output("apt-config dump Unattended-Upgrade::Package-Blacklist")
    assert "docker-ce" in barred and "libnvidia-" in barred


def test_where_shares_are_enforced_nobody_opens_anothers_gpu(host: Any, users: dict[str, Any], gpus: list[str]) -> None:
    """Asked of the device itself, past engine and spec."""
    if host.ansible.get_variables().get("gpulab_gpu_shares") != "enforced":
        pytest.skip("shares are cooperative")
    for user, entry in users.items():
        for index, gpu in enumerate(gpus):
            opened = login(host, user, f"python3 -c \"open('/dev/nvidia{index}', 'r+b')\"")
            assert (opened.rc == 0) == (gpu in assigned(entry, gpus)), f"{user}, GPU {index}: {opened.stderr}"
