"""The lab for Python: what the command line, pytest and Molecule use.

from lab import api
host = api.create("mine", identity="debian-13", gpus=2)
host.run("systemctl is-system-running").stdout
host.destroy()
"""

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import base, hosts, inventory, machine, network, parts, records, snapshots
from .settings import LabError, NotPossible, say

__all__ = ["Host", "LabError", "NotPossible", "create", "destroy_all", "down", "get", "image_base", "listed"]


@dataclass(frozen=True)
class Host:
    name: str
    ip: str
    ssh_key: Path
    root: Path
    suite: str
    identity: str
    gpus: int
    faults: tuple[str, ...]

    @property
    def status(self) -> str:
        return records.status(self.name)

    def run(
        self, command: str | Sequence[str], user: str = "root", check: bool = True, timeout: float | None = 600
    ) -> subprocess.CompletedProcess[str]:
        """Run a shell command line (a list: words as ssh joins them) in the host, over ssh."""
        words = [command] if isinstance(command, str) else list(command)
        argv = hosts.ssh_command(records.get(self.name), words, user=user)
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
        )
        if check and done.returncode:
            raise LabError(f"{self.name}: {' '.join(words)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def start(self) -> None:
        hosts.start(self.name)

    def stop(self) -> None:
        hosts.stop(self.name)

    def reboot(self) -> None:
        hosts.reboot(self.name)

    def power_cut(self) -> None:
        hosts.power_cut(self.name)

    def wait(self, boots: int = 1) -> None:
        """Until the host has booted (so many times since it was started) and answers."""
        hosts.wait_for_ssh(records.get(self.name), boots=boots)

    @property
    def boots(self) -> int:
        """How often it booted since it was started."""
        running = records.supervisor(self.name)
        return running["boots"] if running else 0

    def snapshot(self, snapshot: str) -> None:
        snapshots.take(self.name, snapshot)

    def restore(self, snapshot: str) -> None:
        snapshots.restore(self.name, snapshot)

    def destroy(self) -> None:
        hosts.destroy(self.name)

    def variables(self, user: str = "root") -> dict[str, Any]:
        """Its variables in an Ansible inventory, those that name the mirror among them."""
        return inventory.mirror_variables() | inventory.variables(records.get(self.name), user)


def _host(record: records.Record) -> Host:
    return Host(
        name=record.name,
        ip=record.address,
        ssh_key=hosts.ssh_key(),
        root=record.root,
        suite=record.suite,
        identity=record.identity,
        gpus=record.gpus,
        faults=tuple(record.faults),
    )


def create(
    name: str,
    suite: str | None = None,
    identity: str | None = None,
    gpus: int = 2,
    faults: Sequence[str] = (),
) -> Host:
    """Make a host and boot it; it answers ssh when this returns. Interrupted, it leaves nothing."""
    machine.require(space=True)
    return _host(hosts.create(name, suite, identity, gpus, list(faults)))


def get(name: str) -> Host:
    machine.require()
    return _host(records.get(name))


def listed() -> list[Host]:
    return [_host(record) for record in map(records.load, records.names()) if record is not None]


def image_base(suite: str = "bookworm") -> Path:
    machine.require(space=True)
    return base.image_base(suite)


def destroy_all() -> list[str]:
    """Every host of this state folder."""
    machine.require()
    gone = records.names()
    for name in gone:
        hosts.destroy(name)
    return gone


def down() -> None:
    """Every host, the mirror and the network."""
    destroy_all()
    parts.mirror_down()
    if not network.down_if_unused():
        say("the bridge stays: hosts of another state folder are plugged into it")
