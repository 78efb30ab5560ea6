"""What other instructions leave behind on a host, made as they make it."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from .site import Site, lab

# A program and what it needs to run, as an image: no registry is in reach.
IMAGE = "tar -ch /bin/sleep /bin/sh /lib64/ld-linux-x86-64.so.2 /lib/x86_64-linux-gnu/libc.so.6 2>/dev/null"
INSTALL = "DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends"
PACKAGES = ("docker-ce", "docker-ce-cli", "docker-ce-rootless-extras")


def mirror() -> dict[str, str]:
    status: dict[str, str] = json.loads(lab("mirror", "status", "--json"))
    return status


def old_source(site: Site, key: str = "/usr/share/keyrings/docker-archive-keyring.gpg") -> None:
    """Docker's source in the one-line form, with a key in the place where old instructions put it."""
    url = f"{mirror()['url']}/docker/linux/ubuntu"
    site.ssh(
        f"mkdir -p {key.rpartition('/')[0]} && python3 -c 'import urllib.request as u; "
        f'open("{key.replace(".gpg", ".asc")}", "wb").write(u.urlopen("{url}/gpg").read())\'\n'
        f"echo 'deb [arch=amd64 signed-by={key.replace('.gpg', '.asc')}] {url} jammy stable' "
        "> /etc/apt/sources.list.d/docker.list; apt-get -qq update"
    )


def vendor_engine(site: Site, version: str) -> None:
    """The vendor's packages, which start an engine of root's."""
    names = " ".join(f"{name}=5:{version}-1~ubuntu.22.04~jammy" for name in PACKAGES)
    site.ssh(
        f"{INSTALL} {names} containerd.io docker-buildx-plugin docker-compose-plugin uidmap dbus-user-session slirp4netns iptables >&2"
    )


def openpi_scripts(site: Site) -> None:
    """Engine of root's, the toolkit's full package as its runtime (they also put the user into the group docker)."""
    old_source(site)
    vendor_engine(site, "28.5.2")
    url = f"{mirror()['url']}/libnvidia-container"
    keyring = "/usr/share/keyrings/nvidia-container-toolkit-keyring.asc"
    site.ssh(
        f"cp /usr/share/keyrings/docker-archive-keyring.asc {keyring}\n"
        f"printf 'deb [signed-by={keyring}] {url}/stable/deb/$(ARCH) /\\n"
        f"deb [signed-by={keyring}] https://nvidia.github.io/libnvidia-container/experimental/deb/$(ARCH) /\\n' "
        "> /etc/apt/sources.list.d/nvidia-container-toolkit.list; apt-get -qq update 2>/dev/null\n"
        f"{INSTALL} nvidia-container-toolkit=1.19.1-1 nvidia-container-toolkit-base=1.19.1-1 "
        "libnvidia-container-tools=1.19.1-1 libnvidia-container1=1.19.1-1 >&2\n"
        "nvidia-ctk runtime configure --runtime=docker >&2 && systemctl restart docker\n"
    )


def rootful_work(site: Site) -> None:
    """A container of root's engine with a volume."""
    site.ssh(
        f"{IMAGE} | docker import - work:1 >/dev/null && docker run -d --init --name training -v results:/results work:1 "
        "sleep 1d >/dev/null && echo weights > /var/lib/docker/volumes/results/_data/model"
    )


def rootless_by_hand(site: Site) -> None:
    """The vendor's set-up tool, run by the user, and what NVIDIA's page adds for rootless engines."""
    vendor_engine(site, "26.1.5")
    site.ssh(
        "systemctl disable --now docker.service docker.socket >&2; rm -f /run/docker.sock; loginctl enable-linger trainer\n"
        "for i in 1 2 3 4 5 6 7 8 9; do test -S /run/user/1000/bus && break; sleep 0.5; done\n"
        "mkdir -p /etc/nvidia-container-runtime\n"
        "printf '[nvidia-container-cli]\\nno-cgroups = true\\n' > /etc/nvidia-container-runtime/config.toml"
    )
    site.login(
        "trainer",
        "export XDG_RUNTIME_DIR=/run/user/1000 DBUS_SESSION_BUS_ADDRESS=unix:path=/run/user/1000/bus PATH=/usr/bin:/usr/sbin:/bin:/sbin; "
        "dockerd-rootless-setuptool.sh install >&2; mkdir -p ~/.config/docker; "
        'echo {\\"runtimes\\": {\\"nvidia\\": {\\"args\\": [], \\"path\\": \\"nvidia-container-runtime\\"}}, '
        '\\"shutdown-timeout\\": 12} > ~/.config/docker/daemon.json; systemctl --user restart docker',
    )
    site.login(
        "trainer",
        f"{IMAGE} | docker import - work:1 >/dev/null && docker run --name mine -v results:/results work:1 "
        "sh -c echo >/dev/null; echo weights > ~/model.txt && docker cp -q ~/model.txt mine:/results/model",
    )


def broken_apt(site: Site) -> None:
    """Two keys for one source, so that apt refuses every command; and a repository that is gone."""
    url = f"{mirror()['url']}/docker/linux/ubuntu"
    site.ssh(
        "cp /usr/share/keyrings/docker-archive-keyring.asc /usr/share/keyrings/other.asc\n"
        f"printf 'Types: deb\\nURIs: {url}/\\nSuites: jammy\\nComponents: stable\\nSigned-By: /usr/share/keyrings/other.asc\\n' "
        "> /etc/apt/sources.list.d/download_docker_com.sources\n"
        "echo 'deb https://nvidia.github.io/nvidia-docker/ubuntu18.04/$(ARCH) /' >> /etc/apt/sources.list\n"
        "! apt-get -qq update 2>/dev/null"
    )


def podman_docker(site: Site) -> None:
    """A package of that name; the real one brings all of podman."""
    site.ssh(
        "mkdir -p /root/p/DEBIAN && printf 'Package: podman-docker\\nVersion: 4.3\\nArchitecture: all\\n"
        "Maintainer: nobody <n@example.org>\\nDescription: stand-in\\n' > /root/p/DEBIAN/control\n"
        "dpkg-deb -b /root/p /root/podman-docker.deb >/dev/null && dpkg -i /root/podman-docker.deb >/dev/null"
    )


def in_the_way(site: Site) -> None:
    """Engines that cannot be worked beside: a snap's, Docker Desktop's, a kubelet's."""
    site.ssh(
        "mkdir -p /snap/docker/2932 && ln -s 2932 /snap/docker/current\n"
        f'python3 -c \'import urllib.request as u; u.urlretrieve("{mirror()["desktop_url"]}", "/root/desktop.deb")\'\n'
        "dpkg -i --force-depends /root/desktop.deb >/dev/null 2>&1\n"
        "printf '[Service]\\nExecStart=/bin/sleep 1d\\n' > /etc/systemd/system/kubelet.service; systemctl start kubelet"
    )


STATES = {
    each.__name__: each
    for each in (openpi_scripts, rootful_work, old_source, rootless_by_hand, broken_apt, podman_docker)
}


def main() -> None:
    """Bring a host of the lab into states by name: HOST STATE..."""
    host, *names = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        site = Site(Path(folder), [host], {})
        for name in names:
            STATES[name](site)


if __name__ == "__main__":
    main()
