"""A user's home on a disk of its own, so that the disk can fill up, and lose what was not synced when the power goes.

An ext4 file system in a file of the host's, by a loop device: with the user's stacks, data and engine on it.
"""

from __future__ import annotations

from .site import Site, lab

LOOPS = 32  # nodes for as many loop devices as the machine may have in use
IMAGE = "/var/home.img"
HOME = "/home/trainer"
FILLER = f"{HOME}/filler"

_MAKE = f"""set -e
systemctl stop user@1000.service
for n in $(seq 0 {LOOPS - 1}); do echo "b /dev/loop$n 0660 root disk - 7:$n"; done > /etc/tmpfiles.d/loop.conf
echo "c /dev/loop-control 0660 root disk - 10:237" >> /etc/tmpfiles.d/loop.conf
systemd-tmpfiles --create /etc/tmpfiles.d/loop.conf
truncate -s %s {IMAGE}
mkfs.ext4 -q -F -m 0 {IMAGE}
mount -o loop {IMAGE} /mnt
cp -a {HOME}/. /mnt/
chown trainer: /mnt
chmod 700 /mnt
rmdir /mnt/lost+found
umount /mnt
echo "{IMAGE} {HOME} ext4 loop 0 0" >> /etc/fstab
systemctl daemon-reload
mount {HOME}
if test -e /var/lib/systemd/linger/trainer; then
  systemctl start user@1000.service
  timeout 120 sh -c 'until su - trainer -c "docker info" > /dev/null 2>&1; do sleep 0.5; done'
fi"""

# EXT4_IOC_SHUTDOWN with NOLOGFLUSH: from here on nothing reaches the disk any more, the journal's open part neither.
_GO_DOWN = f"""python3 -c '
import fcntl, os, struct
fcntl.ioctl(os.open("{HOME}", os.O_RDONLY), 0x8004587D, struct.pack("I", 2))'"""


def give(site: Site, size: str) -> None:
    """The host is booted with it from now on. Whatever runs of the user's is stopped for it."""
    site.ssh(_MAKE % size)


def sync(site: Site) -> None:
    """What there is is on the disk."""
    site.ssh(f"sync -f {HOME}")


def lose_power(site: Site) -> None:
    """The power goes, and with it all that was not synced; then the host boots."""
    site.ssh(_GO_DOWN)
    lab("power-cut", site.hosts[0])
    lab("start", site.hosts[0])


def fill(site: Site, leave: int) -> None:
    """The disk is full but for so many bytes."""
    most = f"$(( $(df -B1 --output=avail {HOME} | tail -n 1) * 99 / 100 ))"
    site.ssh(
        f"rm -f {FILLER}; fallocate -l {most} {FILLER}; cat /dev/zero >> {FILLER} 2> /dev/null; "
        f"truncate -s -{leave} {FILLER}; true"
    )


def make_room(site: Site) -> None:
    site.ssh(f"rm -f {FILLER}")
