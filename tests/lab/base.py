"""Base trees, made once a week for each suite and kept as a tar.

A plain tar: unpacking a compressed one took half as long again on the machine where this was measured.
"""

import contextlib
import datetime
import hashlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from . import carry
from .settings import CACHE, LabError, say
from .system import lock, remove_tree, spread

SUITES = ("bookworm", "trixie", "forky")
HOST_PACKAGES = (
    "systemd,systemd-sysv,dbus,dbus-user-session,libpam-systemd,python3,python3-apt,sudo,openssh-server,iproute2,"
    "iptables,kmod,ca-certificates,procps,gpg"
)
IMAGE_PACKAGES = "python3,python3-venv,ca-certificates"
# A third of a small tree that nothing reads; every host is spared the time to write it.
LEFT_OUT = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")
# dpkg then does not wait for the disk after every file: what a process has written outlives a power cut here anyway.
NO_WAITING = "force-unsafe-io"
# apt then keeps its lists as lz4: 18 MB instead of 50, and no slower to read.
SMALL_LISTS = 'Acquire::GzipIndexes "true";'

# Runs in the finished tree ($1), after the packages: what is the same on every host.
HOST_RECIPE = r"""
set -eu
root=$1 carried=$2
rm -f "$root"/etc/apt/apt.conf.d/99mmdebstrap
cp "$carried"/apt.conf "$root"/etc/apt/apt.conf.d/99lab
if [ -d "$carried"/ca ]; then
    mkdir -p "$root"/usr/local/share/ca-certificates
    cp "$carried"/ca/*.crt "$root"/usr/local/share/ca-certificates/
    chroot "$root" update-ca-certificates >/dev/null
fi
[ ! -f "$carried"/pip.conf ] || cp "$carried"/pip.conf "$root"/etc/pip.conf

chroot "$root" useradd --uid 1000 --create-home --shell /bin/bash --comment 'Runs the stacks' trainer
chroot "$root" useradd --uid 1001 --create-home --shell /bin/bash --comment 'Another person' guest
echo 'trainer ALL=(ALL) NOPASSWD: ALL' > "$root"/etc/sudoers.d/trainer
chmod 0440 "$root"/etc/sudoers.d/trainer

printf 'PermitRootLogin prohibit-password\nUseDNS no\nMaxStartups 100\n' > "$root"/etc/ssh/sshd_config.d/lab.conf
chroot "$root" systemctl --quiet enable ssh.service
# Jobs that take apt's lock or the disk at a time of their own choosing.
chroot "$root" systemctl --quiet mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer \
    e2scrub_all.timer e2scrub_reap.service fstrim.timer
# A session that does not end must not hold up a power-off for a minute and a half.
for manager in system user; do
    mkdir -p "$root"/etc/systemd/$manager.conf.d
    printf '[Manager]\nDefaultTimeoutStopSec=10s\n' > "$root"/etc/systemd/$manager.conf.d/lab.conf
done
# A journal that survives a reboot, as servers have.
mkdir -p "$root"/var/log/journal
# nspawn's /dev has only the basics; a real host has these two.
mkdir -p "$root"/etc/tmpfiles.d
printf 'c /dev/fuse 0666 root root - 10:229\nd /dev/net 0755\nc /dev/net/tun 0666 root root - 10:200\n' \
    > "$root"/etc/tmpfiles.d/lab.conf
"""

IMAGE_RECIPE = r"""
set -eu
rm -f "$1"/etc/apt/apt.conf.d/99mmdebstrap
"""


def week(today: datetime.date | None = None) -> str:
    year, number, _ = (today or datetime.datetime.now(tz=datetime.timezone.utc).date()).isocalendar()
    return f"{year}W{number:02d}"


def cache_name(kind: str, suite: str, packages: str, recipe: str, carried: str, of_week: str) -> str:
    """Another package list, another recipe or other settings of the machine make another base."""
    key = hashlib.sha256("\0".join((packages, recipe, carried)).encode()).hexdigest()[:12]
    return f"{kind}-{suite}-{of_week}-{key}.tar"


def host_base(suite: str) -> Path:
    """The tar that hosts of this suite are unpacked from, made now when it is not there."""
    # With the lists kept, a host can install packages without fetching them first.
    kept = ["--skip=cleanup/apt/lists", f"--aptopt={SMALL_LISTS}"]
    options = [*kept, f"--dpkgopt={NO_WAITING}", *_without(LEFT_OUT)]
    return _cached("base", suite, HOST_PACKAGES, HOST_RECIPE, options)


def image_base(suite: str) -> Path:
    """A tar for `docker import`: small, with Python, and nothing of this machine's settings in it."""
    return _cached("image", suite, IMAGE_PACKAGES, IMAGE_RECIPE, ["--skip=output/dev", *_without(LEFT_OUT)])


def _without(patterns: tuple[str, ...]) -> list[str]:
    return [f"--dpkgopt=path-exclude={pattern}" for pattern in patterns]


def _cached(kind: str, suite: str, packages: str, recipe: str, options: list[str]) -> Path:
    if suite not in SUITES:
        raise LabError(f"no suite {suite}: one of {', '.join(SUITES)}")
    name = cache_name(kind, suite, packages + " ".join(options), recipe, carry.digest(), week())
    path = CACHE / name
    if path.exists():
        return path
    with lock(CACHE / f"{kind}-{suite}.lock") as handle:
        if not path.exists():  # somebody else may have made it while we waited
            _build(path, suite, packages, recipe, options, handle)
            _forget_old(kind, suite, path)
    return path


def _forget_old(kind: str, suite: str, current: Path) -> None:
    """Bases of earlier weeks, and what was made from them; a fresh one may be in use by another checkout."""
    for path in CACHE.glob(f"{kind}-{suite}-*"):
        with contextlib.suppress(FileNotFoundError):
            if not path.name.startswith(current.stem) and time.time() - path.stat().st_mtime > 7 * 86400:
                remove_tree(path)


def archives(base: Path) -> Path:
    """Packages that hosts made from this base have fetched."""
    return base.with_suffix(".archives")


def _carried(folder: Path) -> Path:
    folder.mkdir()
    (folder / "apt.conf").write_text("".join(f"{line}\n" for line in (*carry.apt_settings(), SMALL_LISTS)))
    certificates = carry.local_certificates()
    if certificates:
        (folder / "ca").mkdir()
        for certificate in certificates:
            shutil.copy(certificate, folder / "ca" / certificate.name)
    if carry.PIP_CONF.exists():
        shutil.copy(carry.PIP_CONF, folder / "pip.conf")
    return folder


def _build(path: Path, suite: str, packages: str, recipe: str, options: list[str], handle: int) -> None:
    # Only the holder of the lock is here, so what lies there is of a build that was killed.
    for stale in CACHE.glob(f"{path.name.split('-')[0]}-{suite}-*.work"):
        remove_tree(stale)
    spread(CACHE)
    work = path.with_suffix(f".{os.urandom(6).hex()}.work")
    work.mkdir(parents=True)
    try:
        carried = _carried(work / "carried")
        hook = work / "recipe.sh"
        hook.write_text(recipe)
        mirror = carry.mirror()
        (work / "tmp").mkdir(mode=0o755)
        argv = [
            "mmdebstrap",
            "--variant=minbase",
            f"--include={packages}",
            *options,
            *(f"--aptopt={line}" for line in carry.apt_settings()),
            f'--customize-hook=sh {hook} "$1" {carried}',
            suite,
            str(work / "tree.tar"),
            *([f"deb {mirror} {suite} main"] if mirror else []),
        ]
        say(f"{path.name}: building from {mirror or 'the default mirror'}, about half a minute, once a week")
        _follow(argv, work / "tmp", handle)
        (work / "tree.tar").rename(path)
        say(f"{path.name}: {path.stat().st_size / 1e6:.0f} MB")
    finally:
        remove_tree(work)


def _follow(argv: list[str], scratch: Path, handle: int) -> None:
    """Run mmdebstrap and pass on the stages it names; it inherits the lock, which so outlives a killed parent."""
    environment = {**os.environ, "TMPDIR": str(scratch), "LC_ALL": "C.UTF-8"}
    lines: list[str] = []
    with subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env=environment,
        pass_fds=[handle],
        start_new_session=True,
    ) as process:
        try:
            for line in _lines(process):
                lines.append(line)
                if line.startswith("I: ") and line.endswith("..."):
                    say(f"    {line[3:]}")
            returned = process.wait()
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)  # lets it unmount and remove its tree
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
    if returned:
        raise LabError("mmdebstrap failed:\n" + "\n".join(lines[-15:]))


def _lines(process: subprocess.Popen[str]) -> Iterator[str]:
    assert process.stderr is not None
    for line in process.stderr:
        yield line.strip()
