"""A host whose only way out is a proxy that opens TLS with an authority of the site's own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from . import starting_states as made
from .conftest import ONE_USER, Hosts
from .site import Site
from .site_proxy import DOMAIN, SiteProxy
from .test_reset import PURGE_ALL, RESET, take, unexplained

PACKAGES = f"https://packages.{DOMAIN}"
FILES = "/etc/apt/apt.conf.d/95gpulab-proxy /usr/local/share/ca-certificates/gpulab-1.crt /etc/ssl/certs/gpulab-1.pem"
TRY = "python3 -c 'import urllib.request as u; print(u.urlopen(\"{}\", timeout=3).status)' 2>&1 || true"


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SiteProxy]:
    running = SiteProxy(tmp_path_factory.mktemp("proxy"), made.mirror()["url"])
    yield running
    running.close()


@pytest.fixture(scope="module")
def site(hosts: Hosts, proxy: SiteProxy) -> Site:
    """A fresh host that reaches nothing but the proxy."""
    site = hosts.site("states-proxy")
    (site.folder / "before.json").write_text(json.dumps(take(site)), encoding="utf-8")
    site.ssh(
        f"iptables -A OUTPUT -o lo -j ACCEPT; iptables -A OUTPUT -p tcp --sport 22 -j ACCEPT; "
        f"iptables -A OUTPUT -d 10.77.0.1 -p tcp --dport {proxy.port} -j ACCEPT; iptables -A OUTPUT -j REJECT"
    )
    return site


def variables(proxy: SiteProxy, ca: str | Path) -> dict[str, Any]:
    return {
        **ONE_USER,
        "gpulab_proxy": {"http": proxy.url, "no_proxy": ["10.0.2.0/24", "intern.example.org"], "ca": str(ca)},
        "rootless_docker_repository_url": f"{PACKAGES}/docker/linux/ubuntu",
        "nvidia_container_toolkit_repository_url": f"{PACKAGES}/libnvidia-container/stable/deb",
        "nvidia_container_toolkit_repository_key_url": f"{PACKAGES}/libnvidia-container/gpgkey",
    }


def test_a_host_with_no_other_way_out(site: Site, proxy: SiteProxy) -> None:
    assert "200" not in site.ssh(TRY.format(f"{made.mirror()['url']}/docker/linux/ubuntu/gpg"))

    # Without the authority the proxy's certificates are refused, by the preflight and before any change.
    site.set(variables(proxy, ""))
    refused = site.run()
    assert refused.rc != 0
    assert "KEY_UNREACHABLE" in refused.failures
    assert "certificate verify failed" in refused.failures
    assert site.ssh(f"ls {FILES} 2>/dev/null", check=False) == ""

    site.set(variables(proxy, proxy.ca))
    predicted = site.run("site.yml", "--check", "--diff").ok()
    done = site.run().ok()
    assert set(predicted.changed) <= set(done.changed)
    record = json.loads(site.ssh("cat /var/lib/gpulab/proof.json"))
    assert record["users"]["trainer"]["verdict"] == "pass"
    # Keys, indexes and packages came through the proxy, opened by it.
    for part in ("docker/linux/ubuntu/gpg", "dists/jammy/InRelease", "docker-ce_", "nvidia-container-toolkit-base_"):
        assert any(f"{PACKAGES}/" in line and part in line for line in proxy.asked), part
    assert site.run().ok().changed == []


def test_engine_and_containers_have_it_too(site: Site, proxy: SiteProxy) -> None:
    proxy.asked.clear()
    site.login("trainer", f"docker pull registry.{DOMAIN}/tools:1", check=False)
    assert any(f"https://registry.{DOMAIN}/v2/" in line for line in proxy.asked), proxy.asked
    site.login("trainer", f"{made.IMAGE} | docker import - work:1")
    seen = site.login("trainer", "docker run --rm work:1 sh -c 'echo $HTTPS_PROXY $no_proxy'")
    assert seen.split()[0] == proxy.url
    assert "intern.example.org" in seen


def test_without_the_variable_all_of_it_goes(site: Site, proxy: SiteProxy) -> None:
    before = site.ssh("sha256sum /etc/ssl/certs/ca-certificates.crt")
    settings = variables(proxy, proxy.ca)
    del settings["gpulab_proxy"]
    site.set(settings)
    predicted = site.run("site.yml", "--check", "--diff").ok()
    done = site.run().ok()
    assert predicted.changed == done.changed
    assert site.ssh(f"ls {FILES} 2>/dev/null", check=False) == ""
    assert site.ssh("sha256sum /etc/ssl/certs/ca-certificates.crt") != before
    assert "proxies" not in site.ssh("cat /home/trainer/.docker/config.json /home/trainer/.config/docker/daemon.json")
    assert site.run().ok().changed == []


def test_a_reset_takes_it_away_too(site: Site, proxy: SiteProxy) -> None:
    site.set(variables(proxy, proxy.ca))
    site.run().ok()
    site.run(RESET, *PURGE_ALL).ok()
    assert unexplained(json.loads((site.folder / "before.json").read_text(encoding="utf-8")), take(site)) == {}
