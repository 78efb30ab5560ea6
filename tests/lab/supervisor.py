"""The process that keeps one host running: nspawn's parent.

A reboot from inside ends nspawn with a code of its own; the supervisor then starts it again, with a fresh network.
A power-off, or the death of the host's init, ends the supervisor too. SIGTERM to it pulls the plug.
"""

import os
import signal
import subprocess
from types import FrameType

from . import cgroup, network, records
from .settings import PROGRAM, LabError, say
from .system import children, send, write_json

REBOOT = 133


def command(record: records.Record) -> list[str]:
    return [
        "systemd-nspawn",
        "--quiet",
        "--boot",
        f"--directory={record.root}",
        f"--machine={record.name}",
        f"--network-namespace-path=/run/netns/{network.namespace(record.name)}",
        # Not known to this machine's systemd: it may not be running at all, and must not stop hosts of its own accord.
        "--register=no",
        "--keep-unit",
        # A host runs engines of its own, rootful ones too.
        "--capability=all",
        "--system-call-filter=@keyring bpf",
        "--resolv-conf=off",
        "--timezone=off",
        "--link-journal=no",
    ]


class Supervisor:
    def __init__(self, record: records.Record) -> None:
        self.record = record
        self.nspawn: subprocess.Popen[bytes] | None = None
        self.boots = 0
        self.ending = False

    def pull_the_plug(self) -> None:
        if self.nspawn is None:
            return
        inits = children(self.nspawn.pid)
        # Killing nspawn itself would leave the host running without a parent. Without the host's init it tidies up.
        for init in inits:
            send(init)
        if not inits:
            send(self.nspawn.pid)

    def on_term(self, _number: int, _frame: FrameType | None) -> None:
        self.ending = True
        self.pull_the_plug()

    def boot(self) -> int:
        record = self.record
        network.plug(record.name, record.number)
        group = cgroup.make(record.name)

        def enter() -> None:
            (group / "cgroup.procs").write_text(str(os.getpid()))

        environment = {
            **os.environ,
            "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1",
            "SYSTEMD_NSPAWN_API_VFS_WRITABLE": "network",
        }
        self.nspawn = subprocess.Popen(
            command(record), stdin=subprocess.DEVNULL, env=environment, preexec_fn=enter, start_new_session=True
        )
        self.boots += 1
        self.note()
        if self.ending:
            self.pull_the_plug()
        return self.nspawn.wait()

    def note(self) -> None:
        nspawn = self.nspawn.pid if self.nspawn else 0
        write_json(self.record.folder / "running.json", {"pid": os.getpid(), "boots": self.boots, "nspawn": nspawn})

    def run(self) -> None:
        while not self.ending:
            returned = self.boot()
            self.nspawn = None
            say(f"{self.record.name}: nspawn ended with {returned}")
            cgroup.remove(self.record.name)
            network.unplug(self.record.name, self.record.number)
            if returned != REBOOT:
                break
        (self.record.folder / "running.json").unlink(missing_ok=True)


def main(name: str) -> int:
    """Run as a process without parent: it returns here at once, and the child has noted itself by then."""
    record = records.get(name)
    noted, note = os.pipe()
    if os.fork():
        os.close(note)
        return 0 if os.read(noted, 1) else 1
    os.close(noted)
    os.chdir("/")
    keeper = Supervisor(record)
    signal.signal(signal.SIGTERM, keeper.on_term)
    keeper.note()
    os.write(note, b".")
    os.close(note)
    keeper.run()
    return 0


def start(record: records.Record) -> None:
    """Start the supervisor of a host, free of this command and its terminal."""
    with record.console.open("ab") as log:
        argv = ["/usr/bin/python3", str(PROGRAM), "_supervise", record.name]
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, check=False
        )
    if done.returncode:
        raise LabError(f"the supervisor of {record.name} did not start; see {record.console}")
