# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A release is brought up in place of what runs, and judged: every service's health, then the stack's own checks."""

from __future__ import annotations

import contextlib
import http.client
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible_collections.gpulab.fleet.plugins.module_utils import _stack_graphics
from ansible_collections.gpulab.fleet.plugins.module_utils._compose import (
    POLL,
    Container,
    Project,
    classify,
    sorted_streams,
    tail,
)
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._files import make_folders
from ansible_collections.gpulab.fleet.plugins.module_utils._release import LOGS, Release
from ansible_collections.gpulab.fleet.plugins.module_utils._stack_schema import fill

GRACE = 30  # seconds that `up` may take beyond what the stack may take to be well
CHECK = 30  # seconds in which a check of the stack's own has to succeed
LOG_LINES = "2000"


def is_up(release: Release, containers: Sequence[Container]) -> bool:
    """Whether what runs is this release, and nothing else of its stack."""
    services = {each.service for each in containers}
    return set(release.started) <= services and all(as_released(each, release) for each in containers)


def as_released(container: Container, release: Release) -> bool:
    service = release.started.get(container.service)
    if service is None or container.config_hash != service.config_hash or container.image_id != service.image_id:
        return False
    return container.done or (container.status == "running" and not container.hopeless)


def bring_up(project: Project, release: Release) -> list[Container]:
    """Makes what runs this release and waits until it is well; the error says which service is not, and why."""
    clear(project, project.containers(), release)

    def up() -> None:
        _up(project, release.wait_timeout + GRACE)

    up()
    containers = project.settle(list(release.started), time.monotonic() + release.wait_timeout, again=up)
    _check_graphics(project, [each for each in containers if each.service in release.graphics])
    for check in release.checks:
        run_check(project, check, release.settings)
    return containers


def _check_graphics(project: Project, containers: Sequence[Container]) -> None:
    """What renders finds the driver's files where its container looks for them."""
    for each in containers:
        pid = project.api(f"/containers/{each.id}/json")["State"]["Pid"]
        missing = _stack_graphics.lacking(Path(f"/proc/{pid}/root"))
        if missing:
            raise FleetError("STACK_GRAPHICS_MISSING", f"{each.service}: the container lacks {', '.join(missing)}")


def clear(project: Project, containers: Sequence[Container], release: Release) -> None:
    """Takes away what `up` would stumble over or leave: dead containers, unhealthy ones, those of no service."""
    for each in containers:
        stuck = each.status in ("dead", "restarting") or (each.status == "running" and each.hopeless)
        if stuck or each.service not in release.started:
            if each.status == "running":
                project.docker("stop", each.id)
            project.docker("rm", "--force", each.id)


def _up(project: Project, limit: float) -> None:
    up = ["--progress", "plain", "up", "--detach", "--no-build", "--pull", "never", "--remove-orphans"]
    try:
        done = project.compose(*up, timeout=limit)
    except subprocess.TimeoutExpired:
        bad = [each for each in project.containers() if not each.well]
        project.explain(bad, [], timed_out=True)
        return
    if done.returncode != 0:
        said = "".join(sorted_streams(done))
        code = classify(said, "STACK_UNHEALTHY")
        bad = [each for each in project.containers() if each.hopeless]
        if code == "STACK_UNHEALTHY" and bad:
            project.explain(bad, [], timed_out=False)
        raise FleetError(code, f"docker compose up:\n{tail(said, 10)}")


def stop(project: Project) -> None:
    """Ends every service by its own grace period; the containers stay."""
    done = project.compose("stop")
    if done.returncode != 0:
        raise FleetError("STACK_DOWN_FAILED", f"docker compose stop:\n{tail(''.join(sorted_streams(done)), 10)}")


def take_down(project: Project) -> None:
    """Removes every container and network of the stack; volumes stay."""
    where = [] if project.folder.is_dir() else ["--project-name", project.name]
    done = project.compose("--progress", "plain", *where, "down", "--remove-orphans")
    for each in project.containers():  # also those of a profile that is off, which `down` leaves
        project.docker("rm", "--force", each.id)
    if done.returncode != 0 and project.containers():
        said = "".join(sorted_streams(done))
        raise FleetError("STACK_DOWN_FAILED", f"docker compose down:\n{tail(said, 10)}")


# --- the stack's own checks --------------------------------------------------------------------------------


def run_check(project: Project, check: Mapping[str, Any], settings: Mapping[str, str]) -> None:
    """Asks until it succeeds or its time is over: {service, command} or {url, expect}, and timeout in seconds."""
    deadline = time.monotonic() + float(check.get("timeout", CHECK))
    while True:
        said = _ask_url(check, settings) if "url" in check else _ask_service(project, check)
        if said is None:
            return
        if time.monotonic() > deadline:
            name = check.get("url") or f"{check['service']}: {' '.join(check['command'])}"
            raise FleetError("STACK_CHECK_FAILED", f"{name}:\n{tail(said, 10)}")
        time.sleep(POLL)


def _ask_service(project: Project, check: Mapping[str, Any]) -> str | None:
    timeout = float(check.get("timeout", CHECK))
    try:
        done = project.compose("exec", "-T", check["service"], *check["command"], timeout=timeout)
    except subprocess.TimeoutExpired:
        return "it did not end in time"
    return None if done.returncode == 0 else f"exit code {done.returncode}\n{''.join(sorted_streams(done))}"


def _ask_url(check: Mapping[str, Any], settings: Mapping[str, str]) -> str | None:
    """The answer is what counts: RootlessKit accepts connections to ports that nobody listens on."""
    url, expect = fill(str(check["url"]), settings), check.get("expect", 200)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=5) as answer:
            status, text = answer.status, answer.read(1 << 20).decode(errors="replace")
    except urllib.error.HTTPError as error:
        status, text = error.code, error.read(1 << 20).decode(errors="replace")
    except (OSError, ValueError, http.client.HTTPException) as error:
        return f"{url}: {error}"
    if status == expect or (isinstance(expect, str) and expect in text):
        return None
    return f"{url} answered {status}, not as expected ({expect}): {text[:200]}"


# --- evidence ----------------------------------------------------------------------------------------------


def save_logs(project: Project, release: Release) -> None:
    """Keeps what the containers of a failed release said, before they are replaced."""
    with contextlib.suppress(FleetError, OSError, subprocess.SubprocessError):
        for each in project.containers():
            done = project.docker("logs", "--timestamps", "--tail", LOG_LINES, each.id)
            text = f"{each.name}: {each.describe()}\n" + "".join(sorted_streams(done))
            make_folders(release.folder / LOGS, 0o700)
            path = release.folder / LOGS / f"{each.name}.log"
            path.write_text(text, encoding="utf-8")
            path.chmod(0o600)
