"""The way back: one user leaves, a whole host goes back to what it was, and what is kept is kept.

What a host is, is in manifest.py, with the list of what may differ and why. Nothing else may.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from . import manifest
from .conftest import Hosts
from .site import Site, stack_in_lab
from .test_interrupted import kill_during

RESET = "playbooks/reset.yml"
PURGE_ALL = ("-e", json.dumps({"gpulab_reset_purge_data": ["all"]}))
USERS: dict[str, Any] = {
    "trainer": {"gpus": "all"},
    "guest": {"gpus": [1]},
    "mara": {"create": True, "daemon": {"data-root": "/scratch/mara/docker"}},
}


def take(site: Site) -> dict[str, Any]:
    """The host's manifest."""
    program = Path(manifest.__file__).read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(site.ssh(f"python3 - <<'END_OF_PROGRAM'\n{program}\nEND_OF_PROGRAM"))
    return found


def unexplained(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """What differs for no reason of the list; what differs for one is printed with it."""
    found, explained = manifest.split(manifest.difference(before, after), manifest.ALLOWED)
    reasons: dict[str, int] = {}
    for reason in explained.values():
        reasons[reason] = reasons.get(reason, 0) + 1
    for reason, count in reasons.items():
        print(f"differs and may: {count:4} {reason}")
    return found


def results(result: Any, task: str) -> list[dict[str, Any]]:
    """The results of a looped task."""
    outcome = next(each["result"] for each in result.tasks if task in each["name"])
    return list(outcome.get("results", [outcome]))


def test_one_user_leaves_then_the_host_goes_back(hosts: Hosts) -> None:
    site = hosts.site("scn-reset-u", {"gpulab_users": USERS, "gpulab_stacks": {"quickstart": stack_in_lab()}})
    before = take(site)
    site.run().ok()
    site.login(
        "guest",
        "docker volume create work >/dev/null; docker run -d --name mine -v work:/w gpulab/probe sleep 1",
        check=False,
    )

    # Guest goes, the data stay; trainer's containers do not notice.
    running = site.login("trainer", "docker ps -q | sort")
    assert running.strip()
    site.set(
        {
            "gpulab_users": {**USERS, "guest": {"gpus": [1], "state": "absent"}},
            "gpulab_stacks": {"quickstart": stack_in_lab()},
        }
    )
    site.run("site.yml", "--tags", "engine,toolkit").ok()
    assert site.run("site.yml", "--tags", "engine,toolkit").ok().changed == []
    assert site.login("trainer", "docker ps -q | sort") == running
    assert site.ssh("test -d ~guest/.local/share/docker/volumes/work && grep -c ^guest: /etc/subuid").strip() == "1"
    for gone in ("/home/guest/.config/docker", "/var/lib/gpulab/cdi/guest", "/var/lib/systemd/linger/guest"):
        assert site.ssh(f"test -e {gone} || echo gone").strip() == "gone", gone

    # Somebody who is in the inventory no more is named.
    site.set({"gpulab_users": {"trainer": USERS["trainer"]}})
    assert "USER_LEFT_OVER" in site.run("site.yml", "--tags", "preflight").ok().raw

    # A name that nobody knows is refused, before anything is touched.
    refused = site.run(RESET, "-e", json.dumps({"gpulab_reset_purge_data": ["guets"]}))
    assert refused.rc != 0 and "RESET_PURGE_UNKNOWN" in refused.failures and "guets" in refused.failures
    assert site.login("trainer", "docker ps -q | sort") == running

    # What --check lists is what then goes.
    listed = site.run(RESET, "--check", "--diff").ok()
    assert "docker-ce" in json.dumps(results(listed, "packages, sources"))
    assert site.login("trainer", "docker ps -q | sort") == running

    # Back, with the data kept.
    site.run(RESET).ok()
    assert site.ssh("test -s /home/trainer/.local/share/docker/engine-id && ls /home/trainer/gpulab/data").strip()
    kept = unexplained(before, take(site))
    homes = ("/home/trainer/", "/home/guest/", "/home/mara", "/scratch", "/var/lib/gpulab", "/var/spool/mail")
    others = [n for n in kept if not n.removeprefix("file:").startswith(homes) and not n.endswith(":mara")]
    assert [
        name
        for name in others
        if name not in ("file:/etc/passwd", "file:/etc/shadow", "file:/etc/subuid", "file:/etc/subgid")
    ] == []
    assert "package" not in {name.partition(":")[0] for name in kept}

    # And the data as well.
    shown = site.run(RESET, *PURGE_ALL).ok()
    assert "WILL BE DELETED" in shown.raw
    assert unexplained(before, take(site)) == {}
    assert site.run(RESET, *PURGE_ALL).ok().changed == []


@pytest.mark.chaos
def test_an_interrupted_reset_goes_on_where_it_was(hosts: Hosts) -> None:
    site = hosts.site("scn-reset-d", {"gpulab_users": {"trainer": {"gpus": "all"}}}, "--identity", "debian-12")
    site.ssh("mkdir -p /etc/docker && echo '{\"debug\": true}' > /etc/docker/daemon.json")
    site.login("trainer", 'mkdir -p .docker && echo \'{"detachKeys": "ctrl-x"}\' > .docker/config.json')
    before = take(site)
    site.run().ok()
    kill_during(site, "Take back packages", 1.5, RESET, *PURGE_ALL)
    site.run(RESET, *PURGE_ALL).ok()
    assert unexplained(before, take(site)) == {}


@pytest.mark.parametrize("change", ["file:/etc/motd", "package:docker-ce", "user:mara"])
def test_the_comparison_can_fail(change: str) -> None:
    section, _, name = change.partition(":")
    one: dict[str, Any] = {section: {}}
    assert unexplained(one, {section: {name: "new"}}) == {change: (None, "new")}
