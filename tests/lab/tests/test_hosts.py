"""A host from its making to its removal, for real."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from .. import api, base, cgroup, network, records, system
from ..settings import LabError
from .conftest import LAB, lab

pytestmark = pytest.mark.host


def leftovers(name: str, number: int) -> list[str]:
    """Everything of a host that a removal could have forgotten."""
    files = [records.folder(name), records.lock_path(name), *records.unplaced(name)]
    found = [f"file {path}" for path in files if path.exists()]
    if Path("/run/netns", network.namespace(name)).exists():
        found.append("network namespace")
    alias = Path("/sys/class/net", network.link(number), "ifalias")
    if alias.exists() and alias.read_text().strip() == name:
        found.append("link")
    if cgroup.path(name).exists():
        found.append("control group")
    if Path("/run/systemd/nspawn/propagate", name).exists():
        found.append("nspawn's folder")
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            # A dead process that the machine's init has not yet taken note of does not run.
            if not process.name.isdigit() or not system.process_runs(int(process.name)):
                continue
            if f"/gl-{name}/" in (process / "cgroup").read_text().replace("\n", "/"):
                found.append(f"process {process.name}")
            words = (process / "cmdline").read_bytes().split(b"\0")
            if name.encode() in words and b"_supervise" in words:
                found.append(f"supervisor {process.name}")
    return found


def until(done: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "it does not happen"
        time.sleep(0.005)


# --- a host as it is made ---------------------------------------------------------------------------------------------


def test_it_is_a_booted_machine(host: api.Host) -> None:
    assert host.status == "running"
    assert host.run("systemctl is-system-running").stdout.strip() == "running"
    assert host.run("hostname").stdout.strip() == "labtest"
    assert host.run("cat /proc/1/comm").stdout.strip() == "systemd"


def test_it_says_that_it_is_ubuntu(host: api.Host) -> None:
    release = host.run(". /etc/os-release; . /etc/lsb-release; echo $ID $VERSION_CODENAME $DISTRIB_CODENAME").stdout
    assert release.split() == ["ubuntu", "jammy", "jammy"]
    assert host.run("cat /etc/debian_version").stdout.strip() == "bookworm/sid"


def test_people_can_log_in(host: api.Host) -> None:
    assert host.run("id -u; sudo -n id -u", user="trainer").stdout.split() == ["1000", "0"]
    assert host.run("id -u", user="guest").stdout.strip() == "1001"
    assert host.run("sudo -n true", user="guest", check=False).returncode != 0
    assert lab("ssh", "labtest", "hostname").stdout.strip() == "labtest"


def test_a_failed_command_is_an_error_with_its_words(host: api.Host) -> None:
    with pytest.raises(LabError, match="no such thing"):
        host.run("echo no such thing >&2; exit 3")
    assert lab("ssh", "labtest", "exit", "3", check=False).returncode == 3


def test_it_has_a_network_and_packages_without_an_update(host: api.Host) -> None:
    host.run("DEBIAN_FRONTEND=noninteractive apt-get install -y -q acl && getfacl --version")


def test_it_has_what_rootless_engines_need(host: api.Host) -> None:
    host.run("test -c /dev/fuse && test -c /dev/net/tun && : < /dev/fuse")
    host.run("grep -q ip_tables /lib/modules/$(uname -r)/modules.builtin")
    host.run("unshare --user --map-root-user true", user="trainer")
    assert "trainer:" in host.run("cat /etc/subuid").stdout


def test_its_processes_and_network_are_its_own(host: api.Host) -> None:
    assert "labtest" in cgroup.path("labtest").name and cgroup.populated("labtest")
    assert host.run("ip -o -4 address show dev host0").stdout.count(f"{host.ip}/24") == 1
    first = host.run("cat /etc/machine-id").stdout
    assert len(first.strip()) == 32


def test_it_stands_in_list_and_inventory(host: api.Host) -> None:
    row = next(entry for entry in json.loads(lab("list", "--json").stdout) if entry["name"] == "labtest")
    assert (row["status"], row["ip"], row["address"], row["instance"]) == ("running", host.ip, host.ip, "labtest")
    inventory = lab("inventory", "labtest").stdout
    assert f'ansible_host: "{host.ip}"' in inventory and "rootless_docker_repository_url" in inventory
    assert lab("inventory", "labtest-none", check=False).returncode == 1


def test_a_name_is_given_once(host: api.Host) -> None:
    refused = lab("create", host.name, check=False)
    assert refused.returncode == 1 and "already" in refused.stderr
    assert host.status == "running"


# --- off and on -------------------------------------------------------------------------------------------------------


def test_a_reboot_from_inside_comes_back(host: api.Host) -> None:
    boots = host.boots
    host.run("touch /run/before /root/before; systemctl reboot", check=False)
    host.wait(boots=boots + 1)
    assert host.run("ls /run/before /root/before", check=False).stdout.strip() == "/root/before"


def test_reboot_and_stop_and_start(host: api.Host) -> None:
    host.run("touch /run/before")
    lab("reboot", host.name)
    host.run("! test -e /run/before")
    lab("stop", host.name)
    assert host.status == "stopped" and not cgroup.path(host.name).exists()
    assert lab("reboot", host.name, check=False).returncode == 1
    lab("start", host.name)
    assert host.run("systemctl is-system-running").stdout.strip() == "running"


def test_poweroff_from_inside_is_a_stop(host: api.Host) -> None:
    host.run("systemctl poweroff", check=False)
    until(lambda: host.status == "stopped")
    lab("start", host.name)


def test_a_power_cut_lets_nobody_say_goodbye(host: api.Host) -> None:
    host.run("systemd-run --unit=polite --property=ExecStop='/bin/touch /root/goodbye' sleep 1000")
    lab("power-cut", host.name)
    assert host.status == "stopped" and not cgroup.path(host.name).exists()
    assert not (host.root / "root/goodbye").exists()
    lab("start", host.name)
    host.run("systemd-run --unit=polite --property=ExecStop='/bin/touch /root/goodbye' sleep 1000")
    lab("stop", host.name)
    assert (host.root / "root/goodbye").exists(), "the check above cannot fail"
    lab("start", host.name)


# --- snapshots --------------------------------------------------------------------------------------------------------

ODD_FILES = """
import os
os.makedirs("/srv/odd"); os.chdir("/srv/odd")
open("plain", "w").write("one"); os.link("plain", "second-name"); os.symlink("nowhere", "link")
os.chown("plain", 1000, 165536); os.chmod("plain", 0o4711); os.utime("plain", (1, 2))
os.mknod("whiteout", 0o020000, os.makedev(0, 0)); os.mkfifo("pipe")
with open("holes", "wb") as f: f.truncate(50_000_000)
os.setxattr("plain", "user.note", b"kept"); os.setxattr(".", "trusted.overlay.opaque", b"y")
os.setxattr("plain", "security.capability", bytes.fromhex("0100000200040000000000000000000000000000"))
"""


# Writes a number to one file and then to the other: they never differ by more than one.
COUNT = """
import itertools, os
for number in itertools.count(1):
    for leaf in "ab":
        open("/root/new", "w").write(str(number))
        os.replace("/root/new", f"/root/{leaf}")
"""


def manifest(root: Path) -> dict[str, tuple[object, ...]]:
    """Every file of a tree with all that can be known of it from outside."""
    found: dict[str, tuple[object, ...]] = {}
    inodes: dict[int, str] = {}
    for folder, folders, files in os.walk(root):
        for entry in [*folders, *files]:
            path = Path(folder, entry)
            status = path.lstat()
            kind = status.st_mode & 0o170000
            regular = kind == 0o100000
            first = inodes.setdefault(status.st_ino, str(path.relative_to(root)))
            xattrs = {
                key: os.getxattr(path, key, follow_symlinks=False) for key in os.listxattr(path, follow_symlinks=False)
            }
            content = path.read_bytes() if regular and status.st_size < 100_000 else b""
            link = str(path.readlink()) if kind == 0o120000 else ""
            size = status.st_size if regular else 0
            sparse = regular and status.st_size > 10_000_000 and status.st_blocks * 512 < status.st_size // 2
            owner = (status.st_uid, status.st_gid, status.st_mode, status.st_rdev, status.st_mtime_ns)
            name = str(path.relative_to(root))
            found[name] = (*owner, size, link, first if not path.is_dir() else "", xattrs, hash(content), sparse)
    return found


def test_a_snapshot_brings_every_file_back(name: str) -> None:
    host = api.create(name, gpus=0)
    host.run("python3 -", check=False)
    subprocess.run(["python3", "-c", ODD_FILES.replace("/srv", f"{host.root}/srv")], check=True)
    host.stop()
    before = manifest(host.root)
    assert before["srv/odd/holes"][-1] and before["srv/odd/plain"][8]
    lab("snapshot", name, "clean")
    host.start()
    host.run("rm -r /srv/odd/plain /etc/hostname; echo more >> /etc/passwd; touch /root/new")
    host.stop()
    assert manifest(host.root) != before
    lab("restore", name, "clean")
    after = manifest(host.root)
    assert {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)} == set()
    assert host.status == "stopped"
    lab("restore", name, "clean")  # as often as one likes
    assert lab("restore", name, "other", check=False).returncode == 1


def test_a_running_host_stands_still_for_its_snapshot_and_runs_after_a_restore(name: str) -> None:
    host = api.create(name, gpus=0)
    host.run("cat > /root/count.py <<'E'\n" + COUNT + "E\nsystemd-run --unit=count python3 /root/count.py")
    until(lambda: (host.root / "root/b").exists())
    lab("snapshot", name, "s1")
    kept = records.get(name).folder / "snapshots/s1/root"
    first, second = (int((kept / leaf).read_text()) for leaf in "ab")
    assert 0 <= first - second <= 1, f"it ran on while it was copied: {first}, {second}"
    now = int(host.run("cat /root/a").stdout)
    time.sleep(0.2)
    assert int(host.run("cat /root/a").stdout) > now, "it does not run on after the snapshot"
    host.run("touch /root/later")
    lab("restore", name, "s1")
    assert host.status == "running"
    host.run("! test -e /root/later")


# --- the end ----------------------------------------------------------------------------------------------------------


def test_destroy_leaves_nothing(name: str) -> None:
    host = api.create(name, gpus=0)
    number = records.get(name).number
    assert len(leftovers(name, number)) >= 5, "the check below cannot fail"
    host.snapshot("one")
    lab("destroy", name)
    assert leftovers(name, number) == []
    assert lab("destroy", name, check=False).returncode == 1
    assert lab("destroy", "--missing-ok", name).returncode == 0


STAGES = {
    "unpacking": lambda name: (records.folder(name) / "root/usr").exists(),
    "booting": lambda name: (records.folder(name) / "running.json").exists(),
}


def interrupted(name: str, stage: str, number: int) -> int:
    """Start to create a host, send the signal when it has come that far; its address."""
    lab("base", "bookworm")
    with subprocess.Popen([str(LAB / "lab"), "create", name, "--gpus", "0"], stderr=subprocess.DEVNULL) as command:
        until(lambda: STAGES[stage](name) or command.poll() is not None)
        address = records.get(name).number
        system.send(command.pid, number)
        assert command.wait(30) != 0, "it was quicker than the signal"
    return address


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_create_cleans_up(name: str, stage: str, number: int) -> None:
    address = interrupted(name, stage, number)
    assert leftovers(name, address) == []


@pytest.mark.parametrize("stage", STAGES)
def test_a_killed_create_is_seen_and_cleaned(name: str, stage: str) -> None:
    address = interrupted(name, stage, signal.SIGKILL)
    assert records.status(name) == "broken"
    assert f"{name}  broken" in lab("list").stdout
    for command in ("start", "stop", "reboot", "power-cut"):
        assert lab(command, name, check=False).returncode == 1
    lab("destroy", name)
    assert leftovers(name, address) == []


def test_the_next_create_cleans_what_a_killed_one_left(name: str) -> None:
    address = interrupted(name, "booting", signal.SIGKILL)
    lab("create", name, "--gpus", "0")
    assert records.status(name) == "running"
    assert records.get(name).number != address


def test_a_host_without_its_supervisor_is_broken_and_can_be_destroyed(name: str) -> None:
    api.create(name, gpus=0)
    number = records.get(name).number
    running = records.supervisor(name)
    assert running is not None
    system.send(running["pid"])
    until(lambda: records.status(name) == "broken")
    lab("destroy", name)
    assert leftovers(name, number) == []


def test_what_others_made_is_left_alone(name: str) -> None:
    subprocess.run(["ip", "netns", "add", network.namespace(name)], check=True)
    try:
        refused = lab("create", name, "--gpus", "0", check=False)
        assert refused.returncode == 1 and "not of this lab" in refused.stderr
        assert Path("/run/netns", network.namespace(name)).exists()
        assert not records.folder(name).exists() and not records.lock_path(name).exists()
    finally:
        subprocess.run(["ip", "netns", "del", network.namespace(name)], check=True)


def test_a_killed_snapshot_leaves_the_host_and_goes_with_it(name: str) -> None:
    host = api.create(name, gpus=0)
    number = records.get(name).number
    with subprocess.Popen([str(LAB / "lab"), "snapshot", name, "half"]) as command:
        until(lambda: any((folder / "usr").exists() for folder in records.unplaced(name)))
        system.send(command.pid)
    assert records.unplaced(name), "it was quicker than the signal"
    assert host.run("echo runs on", timeout=10).stdout
    assert lab("restore", name, "half", check=False).returncode == 1
    lab("snapshot", name, "whole")
    assert not records.unplaced(name)
    lab("destroy", name)
    assert leftovers(name, number) == []


def test_hosts_lie_apart_on_the_disk(host: api.Host) -> None:
    if subprocess.run(["stat", "-f", "-c", "%T", host.root], capture_output=True, text=True).stdout != "ext2/ext3\n":
        pytest.skip("only ext4 needs it")
    first, second = (records.fresh_folder("labtest-none") for _ in range(2))
    try:
        assert abs(first.stat().st_ino - second.stat().st_ino) > 1000
    finally:
        first.rmdir()
        second.rmdir()


# --- several, and what they share -------------------------------------------------------------------------------------


def test_two_at_a_time(name: str) -> None:
    names = [f"{name}-1", f"{name}-2"]
    lab("destroy", "--missing-ok", *names)
    made: dict[str, api.Host] = {}

    def make(one: str) -> None:
        made[one] = api.create(one, gpus=0)

    threads = [threading.Thread(target=make, args=(one,)) for one in names]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        first, second = (made[one] for one in names)
        assert first.ip != second.ip
        assert first.run("cat /etc/machine-id").stdout != second.run("cat /etc/machine-id").stdout
        first.run(f"bash -c ': </dev/tcp/{second.ip}/22'")
    finally:
        lab("destroy", "--missing-ok", *names)


def test_a_package_is_fetched_once(name: str) -> None:
    host = api.create(name, gpus=0)
    kept = base.archives(Path(records.get(name).base))
    archives = host.root / "var/cache/apt/archives"
    for old in kept.glob("tree_*.deb"):
        old.unlink()
    for seeded in archives.glob("tree_*.deb"):
        seeded.unlink()
    host.run("apt-get install -y -q --download-only tree")
    (archives / "docker-ce_1_amd64.deb").write_text("the vendor's, from a mirror that may be broken on purpose")
    host.destroy()
    assert len(list(kept.glob("tree_*.deb"))) == 1 and not list(kept.glob("docker-ce_*"))
    again = api.create(name, gpus=0)
    again.run("ls /var/cache/apt/archives/tree_*.deb")
    said = again.run("apt-get install -y tree").stdout
    assert "Need to get 0 B" in said, said


def test_no_gpu_means_no_driver(name: str) -> None:
    host = api.create(name, gpus=0)
    host.run("! command -v nvidia-smi && ! ls /dev/nvidia*")


@pytest.mark.parametrize(
    "words", [["--gpus", "9"], ["--gpus", "0", "--fault", "gpu-lost"], ["--fault", "none-such"]], ids=" ".join
)
def test_a_driver_that_cannot_be_is_refused_in_a_line(name: str, words: list[str]) -> None:
    refused = lab("create", name, *words, check=False)
    assert refused.returncode == 1 and len(refused.stderr.splitlines()) == 1, refused.stderr
    assert not records.folder(name).exists()


# --- what is missing --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["check"], ["create", "labtest-none"], ["list"]])
def test_somebody_who_is_not_root_is_told_so(words: list[str]) -> None:
    nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
    with tempfile.TemporaryDirectory() as folder:  # a checkout may lie where only root can read
        Path(folder).chmod(0o755)
        copy = shutil.copytree(LAB, Path(folder, "tests/lab"))
        done = subprocess.run([*nobody, str(copy / "lab"), *words], capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 2, said
    assert "not root" in said and "Traceback" not in said


def test_a_machine_that_can_run_it_is_told_so() -> None:
    assert lab("check").stdout.strip() == "this machine can run the lab"
    assert json.loads(lab("check", "--json").stdout) == []
