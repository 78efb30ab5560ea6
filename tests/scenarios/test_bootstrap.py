"""./bootstrap on one workstation, as its user."""

from __future__ import annotations

import json
import subprocess

import pytest

from .conftest import Hosts
from .site import LAB, ROOT, Site

PASSWORD = "correct horse"


@pytest.fixture(scope="module")
def workstation(hosts: Hosts) -> Site:
    """A bare host whose user has the committed tree, the lab's mirror as settings, and must type a password for sudo."""
    site = hosts.site("scn-boot")
    tree = subprocess.run(["git", "-C", str(ROOT), "archive", "HEAD"], check=True, capture_output=True).stdout
    site.login("trainer", "mkdir fleet")
    subprocess.run([str(LAB), "ssh", "scn-boot", "su - trainer -c 'tar -xf - -C fleet'"], input=tree, check=True)
    listing = subprocess.run(
        ["ansible-inventory", "-i", str(site.inventory), "--host", "scn-boot"],
        check=True,
        capture_output=True,
        text=True,
        env=site.environment(),
    ).stdout
    mirror = {name: value for name, value in json.loads(listing).items() if "_repository_" in name}
    assert mirror, "the lab's inventory names its mirror"
    site.ssh(f"cat > /home/trainer/site.json <<'E'\n{json.dumps(mirror)}\nE")
    site.ssh(f"echo 'trainer:{PASSWORD}' | chpasswd; sed -i 's/NOPASSWD: *//' /etc/sudoers.d/*; sudo -l -U trainer")
    assert site.login("trainer", "sudo -n true 2>&1", check=False).count("password is required") == 1
    return site


def bootstrap(site: Site, password: str, *options: str) -> str:
    """Run it on a terminal, as a person does, and type the password."""
    command = f"cd fleet && ./bootstrap -e @$HOME/site.json {' '.join(options)}"
    return site.login(
        "trainer", f"(sleep 2; printf '%s\\n' '{password}') | script -qefc '{command}' /dev/null", check=False
    )


def test_without_a_terminal_it_says_why_it_cannot_ask(workstation: Site) -> None:
    out = workstation.login("trainer", "cd fleet && ./bootstrap </dev/null 2>&1", check=False)
    assert "sudo needs a password and there is no terminal to ask on" in out


def test_a_wrong_password_changes_nothing(workstation: Site) -> None:
    out = bootstrap(workstation, "wrong")
    assert "sudo did not accept that password" in out
    assert workstation.ssh("ls /etc/gpulab 2>&1", check=False).count("No such file") == 1


def test_it_ends_with_the_proof_and_the_second_run_changes_nothing(workstation: Site) -> None:
    out = bootstrap(workstation, PASSWORD)
    assert "failed=0" in out, out[-3000:]
    assert PASSWORD not in out
    assert json.loads(workstation.ssh("cat /var/lib/gpulab/proof.json"))["users"]["trainer"]["verdict"] == "pass"
    assert "changed=0" in bootstrap(workstation, PASSWORD)
