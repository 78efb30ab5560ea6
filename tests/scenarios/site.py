"""Runs the collection's verbs against lab hosts and reads what Ansible says of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
LAB = ROOT / "tests" / "lab" / "lab"


@dataclass
class Result:
    """One run of ansible-playbook."""

    rc: int
    stats: dict[str, dict[str, int]]
    tasks: list[dict[str, Any]]  # name, host, changed, failed, skipped, msg
    stderr: str
    raw: str = field(repr=False)

    @property
    def changed(self) -> list[str]:
        """Names of the tasks that reported a change, in order."""
        return [f"{t['host']}: {t['name']}" for t in self.tasks if t["changed"]]

    @property
    def failures(self) -> str:
        return "\n".join(f"{t['name']}: {t['msg']}" for t in self.tasks if t["failed"])

    def ok(self) -> Result:
        assert self.rc == 0, self.failures or self.stderr or self.raw[-4000:]
        return self


def lab(*args: str, check: bool = True) -> str:
    """Call the lab's own command."""
    run = subprocess.run([str(LAB), *args], capture_output=True, text=True, check=False)
    if check and run.returncode != 0:
        raise AssertionError(f"lab {' '.join(args)}: rc {run.returncode}\n{run.stdout}{run.stderr}")
    return run.stdout


def stack_in_lab(user: str = "trainer") -> dict[str, Any]:
    """A stack's entry in gpulab_stacks with what it needs to be built here: no registry, the lab's base image."""
    return {"user": user, **json.loads(lab("stack-variables"))}


class Site:
    """An inventory of lab hosts and the verbs to run on it."""

    def __init__(self, folder: Path, hosts: list[str], variables: dict[str, Any]) -> None:
        self.folder = folder
        self.hosts = hosts
        self.inventory = folder / "hosts.yml"
        folder.mkdir(parents=True, exist_ok=True)
        self.inventory.write_text(lab("inventory", *hosts), encoding="utf-8")
        self.set(variables)

    def set(self, variables: dict[str, Any]) -> None:
        """Replace the site's variables."""
        group = self.folder / "group_vars" / "gpu_hosts.yml"
        group.parent.mkdir(exist_ok=True)
        group.write_text(yaml.safe_dump(variables), encoding="utf-8")

    def command(self, playbook: str, *args: str) -> list[str]:
        tool = Path(sys.executable).parent / "ansible-playbook"
        return [str(tool), "-i", str(self.inventory), playbook, *args]

    def environment(self, **extra: str) -> dict[str, str]:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return {
            **os.environ,
            "PATH": path,
            "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
            "ANSIBLE_NOCOLOR": "1",
            **extra,
        }

    def run(self, playbook: str = "site.yml", *args: str, cwd: Path = ROOT, **env: str) -> Result:
        """Run a playbook to its end; the result is read from Ansible's JSON output."""
        run = subprocess.run(
            self.command(playbook, *args),
            capture_output=True,
            text=True,
            check=False,
            cwd=cwd,
            env=self.environment(**env),
        )
        return parse(run.returncode, run.stdout, run.stderr)

    def ad_hoc(self, *args: str) -> str:
        """Run one module on the hosts, as `ansible` does."""
        tool = Path(sys.executable).parent / "ansible"
        run = subprocess.run(
            [str(tool), "-i", str(self.inventory), *args],
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
            env={**self.environment(), "ANSIBLE_STDOUT_CALLBACK": "default"},
        )
        assert run.returncode == 0, run.stdout + run.stderr
        return run.stdout

    def ssh(self, command: str, host: str | None = None, check: bool = True) -> str:
        """Run a command on a host as root."""
        return lab("ssh", host or self.hosts[0], command, check=check)

    def login(self, user: str, command: str, host: str | None = None, check: bool = True) -> str:
        """Run a command as a user's login shell does."""
        quoted = command.replace("'", "'\\''")
        return self.ssh(f"su - {user} -c '{quoted}'", host, check)

    def probe(self, user: str = "trainer") -> tuple[str, str]:
        """The probe's image in a user's engine, and the Python in it (the host's own, under its real name)."""
        image = self.login(user, "docker images -q gpulab/probe").split()[0]
        return image, self.ssh("readlink -f /usr/bin/python3").strip()


def parse(rc: int, stdout: str, stderr: str) -> Result:
    """The JSON callback's document, flattened to one entry a task and host."""
    start = stdout.find("{\n")
    try:
        document = json.loads(stdout[start:]) if start >= 0 else {}
    except json.JSONDecodeError:
        document = {}
    tasks = []
    for play in document.get("plays", []):
        for task in play["tasks"]:
            for host, outcome in task["hosts"].items():
                tasks.append(
                    {
                        "name": task["task"]["name"],
                        "host": host,
                        "changed": bool(outcome.get("changed")),
                        "failed": bool(outcome.get("failed") or outcome.get("unreachable")),
                        "skipped": bool(outcome.get("skipped")),
                        "msg": "\n".join(str(part.get("msg", "")) for part in [outcome, *outcome.get("results", [])]),
                        "result": outcome,
                    }
                )
    return Result(rc, document.get("stats", {}), tasks, stderr, stdout)


def until(what: str, condition: Callable[[], Any], seconds: float) -> float:
    """Waits until it is so; returns how long that took."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < seconds, f"{what}: not within {seconds} s"
        time.sleep(0.5)
    return time.monotonic() - start
