"""What the engine's words about a container mean."""

from __future__ import annotations

import subprocess
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpulab.fleet.plugins.module_utils import _docker_api, _stack_lock
from ansible_collections.gpulab.fleet.plugins.module_utils._compose import Container, Project, classify, compose_program
from ansible_collections.gpulab.fleet.plugins.module_utils._userenv import Account


def container(status: str, policy: str = "unless-stopped", seconds: float = 60, **state: Any) -> Container:
    health = state.pop("health", None)
    restarts = state.pop("restarts", 0)
    started = datetime.now(timezone.utc) - timedelta(seconds=seconds)
    return Container.read(
        {
            "Id": "1",
            "Name": "/s-a-1",
            "Image": "sha256:1",
            "RestartCount": restarts,
            "Config": {"Image": "a", "Labels": {"com.docker.compose.service": "a"}},
            "HostConfig": {"RestartPolicy": {"Name": policy}},
            "NetworkSettings": {"Ports": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8080"}], "81/tcp": None}},
            "State": {
                "Status": status,
                "StartedAt": started.strftime("%Y-%m-%dT%H:%M:%S.000000000Z"),
                **({"Health": {"Status": health, "Log": [{"Output": "said\n"}]}} if health else {}),
                **state,
            },
        }
    )


@pytest.mark.parametrize(
    ("status", "more", "well", "hopeless"),
    [
        ("running", {"health": "healthy"}, True, False),
        ("running", {"health": "starting"}, False, False),
        ("running", {"health": "unhealthy"}, False, True),
        ("running", {}, True, False),
        ("running", {"seconds": 0}, False, False),
        ("running", {"seconds": 5, "restarts": 1}, False, False),
        ("running", {"seconds": 5, "restarts": 3}, False, True),
        ("running", {"seconds": 3600, "restarts": 9}, True, False),
        ("restarting", {"restarts": 2}, False, False),
        ("restarting", {"restarts": 3}, False, True),
        ("exited", {"policy": "no", "ExitCode": 0}, True, False),
        ("exited", {"policy": "on-failure", "ExitCode": 0}, True, False),
        ("exited", {"policy": "no", "ExitCode": 1}, False, True),
        ("exited", {"ExitCode": 0}, False, False),
        ("created", {}, False, False),
        ("dead", {}, False, True),
    ],
)
def test_well_and_hopeless(status: str, more: dict[str, Any], well: bool, hopeless: bool) -> None:
    found = container(status, **more)
    assert (found.well, found.hopeless) == (well, hopeless)


def test_what_is_told_of_it() -> None:
    found = container("running", health="unhealthy", restarts=2)
    assert found.describe() == "running, unhealthy, restarted 2 times"
    assert found.said == "said"
    assert found.plain()["addresses"] == [{"address": "127.0.0.1:8080", "container_port": 80}]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("CDI device injection failed: unresolvable CDI devices nvidia.com/gpu=9", "STACK_GPU_UNRESOLVED"),
        ('could not select device driver "cdi" with capabilities: []', "STACK_GPU_UNRESOLVED"),
        (
            "RootlessKit PortManager.AddPort(): listen tcp4 127.0.0.1:8000: bind: address already in use",
            "STACK_PORT_TAKEN",
        ),
        ("cannot expose privileged port 80, you can add", "STACK_PORT_PRIVILEGED"),
        ("mkdir /x-init: no space left on device", "STACK_DISK_FULL"),
        ("cat: write error: No space left on device", "STACK_DISK_FULL"),
        ("dial tcp: lookup registry-1.docker.io on 10.0.2.3:53: no such host", "STACK_IMAGE_MISSING"),
        ("something else", "OTHER"),
    ],
)
def test_classify(text: str, code: str) -> None:
    assert classify(text, "OTHER") == code


class Seen(Project):
    """A project whose containers are as told, one time after the other."""

    def __init__(self, *seen: list[Container]) -> None:
        super().__init__(Account("a", 1, 1, Path("/nonexistent")), "s", Path("/"))
        self.seen = list(seen)

    def containers(self) -> list[Container]:
        return self.seen.pop(0)


@pytest.mark.parametrize(
    "meanwhile", [[], [container("exited", ExitCode=143)], [container("created")]], ids=["gone", "stopped", "made"]
)
def test_what_an_engine_ends_for_a_run_that_was_killed_is_started_again(meanwhile: list[Container]) -> None:
    well = container("running", health="healthy")
    project, called = Seen([container("running", health="starting")], meanwhile, [well]), []
    assert project.settle(["a"], time.monotonic() + 5, again=lambda: called.append(1)) == [well]
    assert called == [1]


def test_what_a_program_has_started_is_ended_with_it(tmp_path: Path) -> None:
    """As `docker compose up` that takes too long: what goes on to change containers is not `docker` itself."""
    path = tmp_path / "ended"
    inner = f"trap 'sleep 0.5; echo > {path}; exit' TERM; while :; do sleep 0.1; done"
    outer = f'sh -c "{inner}" & inner=$!; trap "kill $inner; exit" TERM; wait'
    with pytest.raises(subprocess.TimeoutExpired):
        Seen()._run(["sh", "-c", outer], timeout=0.5)
    assert path.exists(), "it was given the time to end"


def test_compose_inherits_the_stacks_lock(tmp_path: Path) -> None:
    """It may outlive the run that started it."""
    with _stack_lock.held(tmp_path, "s", "tester", "deploy", 0):
        said = Seen()._run(["sh", "-c", "ls -l /proc/self/fd"]).stdout
    assert f"{tmp_path}/.locks/s" in said
    assert str(tmp_path) not in Seen()._run(["sh", "-c", "ls -l /proc/self/fd"]).stdout


@pytest.mark.parametrize(
    ("places", "found"),
    [
        ([], ["docker", "compose"]),
        (["usr/libexec/docker"], ["usr/libexec/docker"]),
        (["usr/libexec/docker", "usr/local/lib/docker"], ["usr/local/lib/docker"]),
        (["usr/local/lib/docker", "home/.docker"], ["home/.docker"]),
    ],
)
def test_compose_is_taken_from_where_dockers_client_takes_it(
    tmp_path: Path, places: list[str], found: list[str]
) -> None:
    for place in places:
        program = tmp_path / place / "cli-plugins" / "docker-compose"
        program.parent.mkdir(parents=True)
        program.touch(0o755)
    wanted = [str(tmp_path / each / "cli-plugins" / "docker-compose") for each in found] if places else found
    assert compose_program(tmp_path / "home", tmp_path) == wanted
    if places:
        Path(wanted[0]).chmod(0o644)
        assert compose_program(tmp_path / "home", tmp_path) != wanted, "the client leaves out what it cannot run"


@pytest.mark.parametrize(
    ("name", "repository", "tag"),
    [
        ("gpulab/small-web:0123456789ab", "gpulab/small-web", "0123456789ab"),
        ("lab/base", "lab/base", "latest"),
        ("registry.example.org:5000/base", "registry.example.org%3A5000/base", "latest"),
        ("registry.example.org:5000/base:12", "registry.example.org%3A5000/base", "12"),
    ],
)
def test_a_name_for_an_image(monkeypatch: pytest.MonkeyPatch, name: str, repository: str, tag: str) -> None:
    asked: list[tuple[str, ...]] = []
    monkeypatch.setattr(_docker_api, "post", lambda *given: asked.append(given))
    project = Project(Account("a", 1, 1, Path("/nonexistent")), "s", Path("/"))
    project.tag("sha256:1", name)
    assert asked == [(str(project.user.socket), f"/images/sha256%3A1/tag?repo={repository}&tag={tag}")]
