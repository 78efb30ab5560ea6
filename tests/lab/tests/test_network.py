"""Bridge, rules and links, in a network namespace of the test's own: the machine's own lab may be in use."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.host

PRELUDE = """
import subprocess, sys
sys.path.insert(0, sys.argv[1])
from lab import network
def rules():
    saved = subprocess.run(["iptables-save"], capture_output=True, text=True, check=True).stdout
    return [line for line in saved.splitlines() if "gpulab-lab" in line]
def links():
    return subprocess.run(["ip", "-br", "link"], capture_output=True, text=True, check=True).stdout
def forward():
    return network.FORWARD.read_text().strip()
"""


def apart(program: str) -> None:
    """Run Python in fresh network and mount namespaces, with /run and /sys of their own."""
    own = 'mount -t tmpfs none /run && mount -t sysfs none /sys && exec "$@"'
    path = str(Path(__file__).resolve().parents[2])
    argv = ["unshare", "--net", "--mount", "sh", "-ec", own, "sh", sys.executable, "-c", PRELUDE + program, path]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_rules_are_there_once_and_go_with_the_bridge() -> None:
    apart("""
subprocess.run(["iptables", "-A", "FORWARD", "-i", "other0", "-j", "DROP"], check=True)
network.FORWARD.write_text("0")
network.up(); network.up()
assert len(rules()) == 3, rules()
assert forward() == "1"
assert network.down_if_unused()
assert rules() == [] and "gpulab0" not in links() and forward() == "0"
saved = subprocess.run(["iptables-save"], capture_output=True, text=True, check=True).stdout
assert "other0" in saved, "somebody else's rule has gone"
""")


def test_forwarding_that_was_on_stays_on() -> None:
    apart("""
network.FORWARD.write_text("1")
network.up()
assert network.down_if_unused() and forward() == "1"
""")


def test_the_bridge_stays_while_a_host_is_plugged_in() -> None:
    apart("""
network.plug("a", 10); network.plug("b", 11)
assert network.taken() == {10, 11}
network.unplug("a", 10)
assert not network.down_if_unused() and len(rules()) == 3
network.unplug("b", 11)
assert network.down_if_unused() and "gl-" not in links()
""")


def test_a_host_has_the_same_hardware_address_at_every_boot() -> None:
    apart("""
def seen():
    shown = subprocess.run(["ip", "-n", "gl-a", "link", "show", "host0"], capture_output=True, text=True, check=True)
    return shown.stdout.split("link/ether ")[1].split()[0]
network.plug("a", 10); first = seen()
network.plug("a", 10)
assert seen() == first
""")


def test_a_link_with_another_hosts_name_is_left_alone() -> None:
    apart("""
network.plug("a", 10)
network.unplug("b", 10)
assert "gl-10" in links()
""")


def test_two_hosts_cannot_have_one_address() -> None:
    apart("""
network.plug("a", 10)
try:
    network.plug("b", 10)
except network.LabError:
    pass
else:
    raise AssertionError("a second host got the address")
""")
