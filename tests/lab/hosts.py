"""Make, start, stop and remove hosts."""

import contextlib
import datetime
import os
import platform
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from . import base, carry, cgroup, identity, network, parts, records, supervisor
from .records import Record
from .settings import STATE, LabError, say
from .system import WITH_US, Busy, children, is_locked, lock, process_runs, read_json, remove_tree, run, send

POWEROFF, REBOOT = signal.SIGRTMIN + 4, signal.SIGRTMIN + 5  # what systemd makes of these as process 1

# The vendor's packages come from the lab's own mirror, where the same version may be made anew with other content,
# and a mirror that is down must look down: they are never kept.
NOT_KEPT = ("docker-", "containerd.io", "nvidia-", "libnvidia-")


def ssh_key() -> Path:
    key = STATE / "id_ed25519"
    if not key.exists():
        with lock(STATE / "key.lock"):
            if not key.exists():
                fresh = STATE / "id_ed25519.new"
                fresh.unlink(missing_ok=True)
                run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f", fresh])
                fresh.with_suffix(".new.pub").rename(key.with_suffix(".pub"))
                fresh.rename(key)
    return key


def ssh_options() -> list[str]:
    """Addresses are used again by other hosts, so their host keys are not worth remembering."""
    return ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]


def ssh_command(record: Record, command: Sequence[str] = (), user: str = "root", batch: bool = True) -> list[str]:
    argv = ["ssh", "-i", str(ssh_key()), *ssh_options(), "-o", "ConnectTimeout=5"]
    if batch:
        argv += ["-o", "BatchMode=yes"]
    return [*argv, f"{user}@{record.address}", *command]


def create(name: str, suite: str | None, posed: str | None, gpus: int, faults: list[str]) -> Record:
    records.check_name(name)
    posed, suite = identity.resolve(posed, suite)
    parts.check_driver(gpus, faults)
    network.up()
    parts.mirror_up()
    tar = base.host_base(suite)
    key = ssh_key()
    sweep()
    with records.held(name):
        found = records.load(name)
        if found is not None and found.phase == "ready":
            raise LabError(f"there is a host {name} already (lab destroy {name} removes it)")
        _remove(name)  # what a killed command left
        if Path("/run/netns", network.namespace(name)).exists():
            raise LabError(f"network namespace {network.namespace(name)} is there already, and not of this lab")
        now = datetime.datetime.now(tz=datetime.timezone.utc).isoformat(timespec="seconds")
        record = Record(name, 0, suite, posed, gpus, faults, str(tar), created=now)
        try:
            records.claim(record)
            _unpack(record, tar)
            _furnish(record, key)
            seed_archives(record)
            parts.install_driver(record.root, gpus, faults)
            boot(record)
            record.phase = "ready"
            record.save()
        except BaseException:
            # Interrupted or failed: nothing stays. (After SIGKILL the record tells the next command what to remove.)
            say(f"{name}: not finished, removing it")
            _remove(name)
            raise
    return record


def _unpack(record: Record, tar: Path) -> None:
    record.root.mkdir()
    kept = ["--numeric-owner", "--xattrs", "--xattrs-include=*"]
    run([*WITH_US, "tar", "-xf", tar, "-C", record.root, *kept, "--exclude=./dev/*"])


def _furnish(record: Record, key: Path) -> None:
    """What makes this host different from the others of its base."""
    root = record.root
    (root / "etc/machine-id").write_text(os.urandom(16).hex() + "\n")
    (root / "etc/hostname").write_text(f"{record.name}\n")
    (root / "etc/hosts").write_text(f"127.0.0.1 localhost\n{record.address} {record.name}\n")
    resolv = root / "etc/resolv.conf"
    resolv.unlink(missing_ok=True)
    resolv.write_text(carry.resolver())
    public = key.with_suffix(".pub").read_text()
    for home, owner in (("root", 0), ("home/trainer", 1000), ("home/guest", 1001)):
        folder = root / home / ".ssh"
        folder.mkdir(mode=0o700, exist_ok=True)
        (folder / "authorized_keys").write_text(public)
        for path in (folder, folder / "authorized_keys"):
            os.chown(path, owner, owner)
    # There are no kernel modules to load here; what the engine's setup tool asks for is built in, and is so named.
    modules = root / "lib/modules" / platform.release()
    modules.mkdir(parents=True, exist_ok=True)
    (modules / "modules.builtin").write_text(
        "kernel/net/ipv4/netfilter/ip_tables.ko\nkernel/net/netfilter/nf_tables.ko\n"
    )
    identity.pose(root, record.identity)


def seed_archives(record: Record) -> None:
    """Packages that hosts of this base have fetched are there at once; apt checks their hashes and fetches the rest.

    Hard links, not a shared folder: apt locks its folder, and hosts install at the same time.
    """
    for other in map(records.load, records.names()):
        if other is not None and other.base == record.base:
            keep_archives(other)
    target = record.root / "var/cache/apt/archives"
    for path in base.archives(Path(record.base)).glob("*.deb"):
        _link_or_copy(path, target / path.name)


def keep_archives(record: Record) -> None:
    """Take over what this host fetched."""
    kept = base.archives(Path(record.base))
    if not Path(record.base).exists():
        return
    for path in (record.root / "var/cache/apt/archives").glob("*.deb"):
        if not path.name.startswith(NOT_KEPT) and not (kept / path.name).exists():
            kept.mkdir(parents=True, exist_ok=True)
            _link_or_copy(path, kept / path.name)


def _link_or_copy(source: Path, target: Path) -> None:
    """Whole or not at all; the two may lie on different disks, and another command may have been quicker."""
    with contextlib.suppress(FileExistsError, FileNotFoundError):
        try:
            os.link(source, target)
        except OSError as error:
            if isinstance(error, (FileExistsError, FileNotFoundError)):
                raise
            temporary = target.with_name(f".{target.name}.{os.getpid()}")
            shutil.copy2(source, temporary)
            temporary.rename(target)


def boot(record: Record) -> None:
    supervisor.start(record)
    wait_for_ssh(record)


def console_tail(record: Record, lines: int = 15) -> str:
    try:
        return "\n".join(record.console.read_text(errors="replace").splitlines()[-lines:])
    except FileNotFoundError:
        return ""


def _wait(seconds: float, done: Callable[[], bool], step: float = 0.05) -> bool:
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            return False
        time.sleep(step)
    return True


def answers(record: Record) -> bool:
    """Whether root can log in and the system has finished booting (with or without a failed unit)."""
    question = ["systemctl", "is-system-running", "--wait"]
    with contextlib.suppress(subprocess.TimeoutExpired):
        asked = subprocess.run(ssh_command(record, question), capture_output=True, text=True, timeout=60, check=False)
        return asked.stdout.strip() in ("running", "degraded")
    return False


def wait_for_ssh(record: Record, seconds: float = 60, boots: int = 1) -> None:
    def up() -> bool:
        running = records.supervisor(record.name)
        if running is None:
            raise LabError(f"{record.name} does not boot; the end of {record.console}:\n{console_tail(record)}")
        return running["boots"] >= boots and _port_open(record) and answers(record)

    if not _wait(seconds, up):
        raise LabError(f"{record.name} does not answer ssh; the end of {record.console}:\n{console_tail(record)}")


def _port_open(record: Record) -> bool:
    try:
        with socket.create_connection((record.address, 22), timeout=0.5):
            return True
    except OSError:
        return False


def init_of(record: Record) -> int | None:
    """Process id of the host's own process 1, as this machine sees it."""
    running = records.supervisor(record.name)
    inits = children(running["nspawn"]) if running and running["nspawn"] else []
    return inits[0] if inits else None


def start(name: str) -> Record:
    with records.held(name):
        record = ready(name)
        if records.status(name) == "running":
            raise LabError(f"{name} runs already")
        clear_runtime(record)
        boot(record)
    return record


def ready(name: str) -> Record:
    record = records.get(name)
    if record.phase != "ready":
        raise LabError(f"{name} is broken: its making or removal was interrupted (lab destroy {name} removes it)")
    return record


def stop(name: str) -> None:
    """An orderly power-off; the plug is pulled on a host that does not come to an end."""
    with records.held(name):
        record = ready(name)
        init = init_of(record)
        if init:
            send(init, POWEROFF)
            _wait(30, lambda: records.supervisor(name) is None)
        clear_runtime(record)
        keep_archives(record)


def reboot(name: str) -> Record:
    with records.held(name):
        record = ready(name)
        running, init = records.supervisor(name), init_of(record)
        if running is None or init is None:
            raise LabError(f"{name} does not run (lab start {name})")
        send(init, REBOOT)
        wait_for_ssh(record, seconds=90, boots=running["boots"] + 1)
    return record


def power_cut(name: str) -> None:
    """Everything in the host dies at once, as when the power goes. What it had written stays written."""
    with records.held(name):
        record = ready(name)
        init = init_of(record)
        if init is None:
            raise LabError(f"{name} does not run")
        send(init)
        _wait(10, lambda: records.supervisor(name) is None)
        clear_runtime(record)


def clear_runtime(record: Record) -> None:
    """End whatever of the host still runs, by the ids and names that are its own."""
    running = records.supervisor(record.name)
    if running:
        send(running["pid"], signal.SIGTERM)
        if not _wait(10, lambda: not process_runs(running["pid"], "_supervise", record.name), step=0.02):
            send(running["pid"])
    _end_orphan(record)
    cgroup.remove(record.name)
    network.unplug(record.name, record.number)
    (record.folder / "running.json").unlink(missing_ok=True)


def _end_orphan(record: Record) -> None:
    """A host whose supervisor was killed: without its init nspawn tidies up and ends, as it does for a supervisor."""
    noted = read_json(record.folder / "running.json")
    nspawn = noted["nspawn"] if noted else 0
    if nspawn and process_runs(nspawn, f"--machine={record.name}"):
        for init in children(nspawn):
            send(init)
        _wait(10, lambda: not process_runs(nspawn), step=0.02)


def _remove(name: str) -> None:
    """Remove all of a host, in whatever state; the record goes last, so that this can be repeated."""
    record = records.load(name)
    if record is not None:
        record.phase = "destroying"
        record.save()
        clear_runtime(record)
        keep_archives(record)
    folder = records.folder(name)
    if folder.is_dir():
        for path in folder.iterdir():
            if path.name != "host.json":
                remove_tree(path)
        remove_tree(folder)
    for unplaced in records.unplaced(name):
        remove_tree(unplaced)


def destroy(name: str) -> None:
    if name not in records.names():
        records.get(name)  # says which there are
    with records.held(name):
        _remove(name)
    network.down_if_unused()


def sweep() -> None:
    """Remove what interrupted commands left: no command holds it, and it never became a host or is none any more."""
    for name in {*records.names(), *(path.name.split(".")[1] for path in records.unplaced())}:
        record = records.load(name)
        if (record is None or record.phase != "ready") and not is_locked(records.lock_path(name)):
            with contextlib.suppress(LabError, Busy), records.held(name):
                say(f"{name}: left by an interrupted command, removing it")
                _remove(name)
