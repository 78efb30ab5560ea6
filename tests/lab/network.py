"""One bridge for the lab, one network namespace and one pair of links for each host.

A host never shares the machine's own namespace: a rootful engine in it would set FORWARD to DROP for everybody.
"""

from pathlib import Path

from .settings import BRIDGE, GATEWAY, PREFIX, SUBNET, LabError, address
from .system import lock, run

# The network belongs to the machine, not to a state folder: so do its lock and what it changed.
LOCK = Path("/run/gpulab-lab.network.lock")
FORWARD_WAS = Path("/run/gpulab-lab.ip_forward")
FORWARD = Path("/proc/sys/net/ipv4/ip_forward")
TAG = ["-m", "comment", "--comment", "gpulab-lab"]
RULES = [
    ("nat", "POSTROUTING", ["-s", SUBNET, "!", "-o", BRIDGE, *TAG, "-j", "MASQUERADE"]),
    ("filter", "FORWARD", ["-i", BRIDGE, *TAG, "-j", "ACCEPT"]),
    ("filter", "FORWARD", ["-o", BRIDGE, *TAG, "-j", "ACCEPT"]),
]


def namespace(name: str) -> str:
    return f"{PREFIX}{name}"


def link(number: int) -> str:
    """Named for the address: the kernel then refuses a second host with the same one."""
    return f"{PREFIX}{number}"


def hardware_address(number: int) -> str:
    """The same at every boot: the machine remembers which one belongs to an address, for half a minute."""
    return f"02:67:6c:4d:00:{number:02x}"


def _exists(interface: str) -> bool:
    return Path("/sys/class/net", interface).exists()


def taken() -> set[int]:
    """Addresses whose link is there, whoever made it."""
    names = [path.name.removeprefix(PREFIX) for path in Path("/sys/class/net").glob(f"{PREFIX}*")]
    return {int(name) for name in names if name.isdigit()}


def _rule(action: str, table: str, chain: str, rule: list[str]) -> bool:
    return run(["iptables", "-w", "-t", table, action, chain, *rule], check=False).returncode == 0


def _up() -> None:
    if not _exists(BRIDGE):
        steps = [f"link add {BRIDGE} type bridge", f"addr add {GATEWAY}/24 dev {BRIDGE}", f"link set {BRIDGE} up"]
        run(["ip", "-batch", "-"], stdin="\n".join(steps) + "\n")
    if FORWARD.read_text().strip() == "0":
        FORWARD_WAS.write_text("0\n")
        FORWARD.write_text("1\n")
    for table, chain, rule in RULES:
        if not _rule("-C", table, chain, rule) and not _rule("-I", table, chain, rule):
            raise LabError(f"iptables -t {table} -I {chain} {' '.join(rule)} failed: no forwarding for the hosts")


def up() -> None:
    with lock(LOCK):
        _up()


def plug(name: str, number: int) -> None:
    """Give a host its namespace and link, fresh: what an earlier boot did to them is gone."""
    with lock(LOCK):
        _up()
        _unplug(name, number)
        net, end = namespace(name), link(number)
        run(["ip", "netns", "add", net])
        steps = [
            f"link add {end} type veth peer name host0 address {hardware_address(number)} netns {net}",
            f"link set {end} alias {name}",
            f"link set {end} master {BRIDGE} up",
        ]
        run(["ip", "-batch", "-"], stdin="\n".join(steps) + "\n")
        inside = [
            "link set lo up",
            f"addr add {address(number)}/24 dev host0",
            "link set host0 up",
            f"route add default via {GATEWAY}",
        ]
        run(["ip", "-n", net, "-batch", "-"], stdin="\n".join(inside) + "\n")


def _unplug(name: str, number: int) -> None:
    alias = Path("/sys/class/net", link(number), "ifalias")
    # Only our own link: another state folder's host may have this address.
    if alias.exists() and alias.read_text().strip() in ("", name):
        run(["ip", "link", "del", link(number)], check=False)
    if Path("/run/netns", namespace(name)).exists():
        run(["ip", "netns", "del", namespace(name)])


def unplug(name: str, number: int) -> None:
    with lock(LOCK):
        _unplug(name, number)


def down_if_unused() -> bool:
    """Remove bridge and rules once no host is plugged in; true when nothing of the network is left."""
    with lock(LOCK):
        ports = Path("/sys/class/net", BRIDGE, "brif")
        if ports.exists() and any(ports.iterdir()):
            return False
        for table, chain, rule in RULES:
            while _rule("-D", table, chain, rule):
                pass
        if _exists(BRIDGE):
            run(["ip", "link", "del", BRIDGE])
        if FORWARD_WAS.exists():
            FORWARD.write_text(FORWARD_WAS.read_text())
            FORWARD_WAS.unlink()
        LOCK.unlink(missing_ok=True)
        return True
