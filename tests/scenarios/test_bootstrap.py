"""./bootstrap on one workstation, as its user."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests import python310

from .conftest import Hosts
from .site import LAB, ROOT, Site, lab
from .test_reset import PURGE_ALL, take, unexplained

PASSWORD = "correct horse"
# A whole one of its own; the system's could not be taken along.
PYTHON_310 = python310.prefix() if python310.prefix() != Path("/usr") else None


def give_python310(site: Site, prefix: Path) -> None:
    """Make it the host's /usr/bin/python3."""
    leave_out = [f"--exclude={name}" for name in ("test", "__pycache__", "site-packages", "*.a", "idlelib", "share")]
    tree = subprocess.run(["tar", "-C", prefix, *leave_out, "-c", "."], check=True, capture_output=True).stdout
    site.ssh("mkdir /opt/python3.10")
    subprocess.run([str(LAB), "ssh", site.hosts[0], "tar -x -C /opt/python3.10"], input=tree, check=True)
    site.ssh(
        "cp /opt/python3.10/lib/libpython3.10.so* /usr/lib/$(uname -m)-linux-gnu/; "
        "ln -sf /opt/python3.10/bin/python3.10 /usr/bin/python3; python3 -c 'import ssl, ctypes, json'"
    )


@pytest.fixture(scope="module")
def workstation(hosts: Hosts) -> Site:
    """A bare host whose user has the committed tree, the lab's mirror as settings, and must type a password for sudo."""
    site = hosts.site("scn-boot")
    if PYTHON_310:
        give_python310(site, PYTHON_310)
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
    (site.folder / "before.json").write_text(json.dumps(take(site)), encoding="utf-8")
    return site


def bootstrap(site: Site, password: str, *options: str) -> str:
    """Run it on a terminal, as a person does, and type the password."""
    command = f"cd fleet && ./bootstrap -e @$HOME/site.json {' '.join(options)}"
    return site.login(
        "trainer", f"(sleep 2; printf '%s\\n' '{password}') | script -qefc '{command}' /dev/null", check=False
    )


def home(site: Site) -> set[str]:
    """What lies in the user's home, without the engine's data."""
    return set(
        site.login("trainer", "find . -path ./.local/share/docker -prune -o -path ./fleet -prune -o -print").split()
    )


def test_without_a_terminal_it_says_why_it_cannot_ask(workstation: Site) -> None:
    out = workstation.login("trainer", "cd fleet && ./bootstrap </dev/null 2>&1", check=False)
    assert "sudo needs a password and there is no terminal to ask on" in out


def test_a_wrong_password_changes_nothing(workstation: Site) -> None:
    out = bootstrap(workstation, "wrong")
    assert "sudo did not accept that password" in out
    assert workstation.ssh("ls /etc/gpulab 2>&1", check=False).count("No such file") == 1


@pytest.mark.parametrize("moment", ["pip install", "ansible-playbook"])
def test_killed_half_way_it_goes_on_when_started_again(workstation: Site, moment: str) -> None:
    kill = f"until pgrep -u trainer -f '{moment}'; do sleep 0.1; done; sleep 2; pkill -KILL -u trainer -f '{moment}'"
    workstation.ssh(f'systemd-run -q --collect sh -c "{kill}"')
    assert "failed=0" not in bootstrap(workstation, PASSWORD)


def test_it_ends_with_the_proof_and_the_second_run_changes_nothing(workstation: Site) -> None:
    out = bootstrap(workstation, PASSWORD)
    assert "failed=0" in out, out[-3000:]
    assert PASSWORD not in out
    assert json.loads(workstation.ssh("cat /var/lib/gpulab/proof.json"))["users"]["trainer"]["verdict"] == "pass"
    assert "run --rm --device nvidia.com/gpu=0" in out
    assert "changed=0" in bootstrap(workstation, PASSWORD)
    lab("snapshot", "scn-boot", "made")


@pytest.mark.skipif(PYTHON_310 is None, reason="no Python 3.10 on this machine: it ran on Debian's")
def test_all_of_it_ran_on_python_310(workstation: Site) -> None:
    environment = workstation.login("trainer", "ls -d .local/share/gpulab/ansible-*").strip()
    assert "Python 3.10" in workstation.login("trainer", f"{environment}/bin/python --version")
    assert workstation.probe()[1] == "/opt/python3.10/bin/python3.10"


def test_what_it_ran_from_is_removed_without_trace(workstation: Site) -> None:
    assert ".local/share/gpulab" in "".join(home(workstation))
    workstation.login("trainer", "cd fleet && ./bootstrap --remove-environment 2>&1")
    assert not [path for path in home(workstation) if any(word in path for word in ("ansible", "pip", "share/gpulab"))]
    assert "Server:" in workstation.login("trainer", "docker version")


def test_after_a_reset_and_without_what_it_ran_from_nothing_is_left(workstation: Site) -> None:
    lab("restore", "scn-boot", "made")
    workstation.ssh(f"cat > /tmp/purge.json <<'E'\n{PURGE_ALL[1]}\nE")
    out = bootstrap(workstation, PASSWORD, "--reset", "-e", "@/tmp/purge.json")
    assert "failed=0" in out, out[-3000:]
    workstation.login("trainer", "cd fleet && ./bootstrap --remove-environment 2>&1")
    before = json.loads((workstation.folder / "before.json").read_text(encoding="utf-8"))
    # The test's own Python came without the byte code that a package makes when it is installed.
    found = unexplained(before, take(workstation))
    assert [name for name in found if not ("/opt/python3.10/" in name and "__pycache__" in name)] == []
