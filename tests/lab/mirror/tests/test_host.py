"""On a host: the packages install, run, go up and down a version, and obey a mask."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest

from ... import api
from .. import control
from .test_build import ENGINES, versions_of

UNITS = "docker.service docker.socket containerd.service"
INSTALL = "DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends"

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("systemd-nspawn") is None, reason="the lab needs root and systemd-nspawn"
)


@pytest.fixture(params=[("ubuntu-22.04", "ubuntu jammy"), ("debian-13", "debian trixie")], ids=lambda p: p[0])
def host(request: pytest.FixtureRequest) -> Iterator[api.Host]:
    """A host that knows the vendor repository of its distribution."""
    identity, repository = request.param
    distribution, codename = repository.split()
    root = f"{control.up()['url']}/docker/linux/{distribution}"
    made = api.create(f"mirror-{codename}", identity=identity, gpus=0)
    try:
        fetch = f"import urllib.request as u; print(u.urlopen('{root}/gpg').read().decode())"
        made.run(f'install -d /etc/apt/keyrings && python3 -c "{fetch}" > /etc/apt/keyrings/docker.asc')
        fields = f"Types: deb\\nURIs: {root}\\nSuites: {codename}\\nComponents: stable\\n"
        fields += "Signed-By: /etc/apt/keyrings/docker.asc\\n"
        made.run(f"printf '{fields}' > /etc/apt/sources.list.d/docker.sources && apt-get update")
        yield made
    finally:
        made.destroy()


def pins(host: api.Host, engine: str) -> str:
    offered = host.run("apt-cache madison docker-ce").stdout
    ending = offered.split("5:28.5.2", 1)[1].split()[0]
    versions = versions_of(engine)
    return " ".join(f"{n}={'5:' if v == engine else ''}{v}{ending}" for n, v in versions.items())


def running(host: api.Host) -> str:
    return host.run("docker version --format '{{.Server.Version}}'").stdout


def test_install_upgrade_downgrade_purge_mask(host: api.Host) -> None:
    old, new = (pins(host, engine) for engine in ENGINES)
    names = " ".join(versions_of("28.5.2"))
    host.run(f"{INSTALL} {old}")
    assert host.run(f"systemctl is-active {UNITS}").stdout.split() == ["active"] * 3
    assert host.run(f"systemctl is-enabled {UNITS}").stdout.split() == ["enabled"] * 3
    assert running(host).startswith("26.1.5")
    assert host.run("stat -c %G /run/docker.sock").stdout.strip() == "docker"

    host.run(f"{INSTALL} {new}")
    assert running(host).startswith("28.5.2"), "an upgrade restarts what runs"
    assert "2.40.3" in host.run("docker compose version --short").stdout
    assert host.run(f"dpkg --verify {names}").stdout == ""

    refused = host.run(f"{INSTALL} {old}", check=False)
    assert refused.returncode == 100
    assert "--allow-downgrades" in refused.stderr
    host.run(f"{INSTALL} --allow-downgrades {old}")
    assert running(host).startswith("26.1.5")

    host.run(f"apt-get purge -qq -y {names}")
    assert host.run("ls /etc/containerd /usr/bin/dockerd", check=False).returncode == 2
    host.run(f"systemctl mask {UNITS}; rm -rf /var/lib/docker /run/docker.sock")
    host.run(f"{INSTALL} {new}")
    assert host.run(f"systemctl is-active {UNITS}", check=False).stdout.split() == ["inactive"] * 3
    assert host.run("ls -d /var/lib/docker /run/docker.sock", check=False).stdout == ""
    assert host.run("systemctl is-system-running", check=False).stdout.strip() == "running"
