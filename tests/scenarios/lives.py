"""What may befall a host that the stack `small` is deployed on, and what has to be true when it is over."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

from . import own_disk
from .site import lab
from .small_stack import Small

SIZE = "1400M"  # the images that are needed, twice, and some room
BOOT = 120  # seconds until everything is as it should be, on a busy machine
VERB = 400  # and in which every verb ends: a release that is not well in its time, and the one before in its
KEEP = 3
RUNS = ("deployed", "rolled back to", "runs again", "repaired")
KNOWN = {"current", "releases", "files", "mounts", "secrets", "history", "salt"}
WORTH = "weights that took a week"


class Host:
    """A host whose user has a disk of its own, with the stack and its folder on it."""

    def __init__(self, small: Small) -> None:
        self.small, self.site = small, small.site
        self.site.ssh("cat > /opt/look.py <<'EOT'\n" + Path(__file__).with_name("look.py").read_text("utf-8") + "\nEOT")
        small.deploy().ok()
        self.base = small.entry["settings"]["BASE_IMAGE"]
        self.send_source()
        self.sh(f'echo "{WORTH}" > gpulab/data/small/notes/precious')

    def send_source(self) -> None:
        for path in self.small.source.iterdir():
            content = path.read_text(encoding="utf-8")
            self.site.ssh(f"mkdir -p /opt/small; cat > /opt/small/{path.name} <<'EOT'\n{content}EOT")
        self.sh("cp -r /opt/small ~/small")

    def sh(self, command: str, check: bool = True) -> str:
        return self.small.sh(command, check)

    def look(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.sh("python3 /opt/look.py"))
        return found

    # --- doing -------------------------------------------------------------------------------------------

    def begin(self, command: str, number: int = 0) -> None:
        """A verb on the host itself, which goes on after this returns."""
        self.sh(
            f"rm -f ended{number}; ({command} > said{number} 2>&1; echo $? > ended{number}) > /dev/null 2>&1 < /dev/null &"
        )

    def wait(self, number: int = 0) -> int:
        """Until it has ended; its exit status."""
        done = self.sh(
            f"timeout {VERB} sh -c 'until test -s ended{number}; do sleep 0.2; done'; cat ended{number}", False
        )
        assert done, self.sh(f"cat said{number}; ps -fu trainer; df -h ~", check=False)
        return int(done)

    def deploy(self, version: int = 0, **settings: str) -> str:
        """A command that deploys the folder; with another version, its image is built anew."""
        chosen = " ".join(f"--set {key}={value}" for key, value in {**settings, "BASE_IMAGE": self.base}.items())
        write = f"echo {version} > ~/small/version; " if version else ""
        return f"{write}gpulab deploy ./small {chosen}"

    def power_cut(self) -> None:
        lab("power-cut", self.site.hosts[0])
        lab("start", self.site.hosts[0])

    def lose_power(self) -> None:
        own_disk.lose_power(self.site)

    def kill(self) -> None:
        self.sh("for each in $(pgrep -u trainer -f gpulab.pyz); do kill -KILL $each; done", check=False)

    # --- judging -----------------------------------------------------------------------------------------

    def journal(self) -> str:
        """What the units of the user said last."""
        return self.site.ssh("journalctl --no-pager --boot --lines 60 _UID=1000", check=False)

    def settled(self, data: str, seconds: float = BOOT) -> dict[str, Any]:
        """What there is, as soon as nothing about it is wrong; an error when it stays so."""
        deadline = time.monotonic() + seconds
        while True:
            found = self.look()
            bad = wrong(found, data)
            if not bad:
                return found
            assert time.monotonic() < deadline, "\n".join([*bad, *found["history"][-8:], self.journal()])
            time.sleep(1)


def wrong(found: dict[str, Any], data: str) -> list[str]:
    """What is not as it should be on a host on which nothing is under way; data is what `starts` had before."""
    bad = [f"a process is left: {line}" for line in found["processes"].splitlines()]
    current, releases = found["current"], found["releases"]
    boxes = found["containers"]
    wanted = ["small-side-1", "small-web-1"] if current else []
    if sorted(boxes) != wanted or not all("(healthy)" in status for status in boxes.values()):
        bad.append(f"containers: {boxes}")
    if found["networks"] != (["small_default"] if current else []):
        bad.append(f"networks: {found['networks']}")
    if current:
        settings = releases.get(current, {}).get("settings", {})
        if f"word {settings.get('WORD', 'one')} " not in found["says"]:
            bad.append(f"web says {found['says']!r}, release {current} has {settings}")
    bad += [f"release {name} is not whole" for name, record in releases.items() if not record]
    good = [name for name in releases if name not in found["failed"]]
    if len(good) > KEEP or len(found["failed"]) > 1:
        bad.append(f"kept: {good}, failed: {found['failed']}")
    needed = {
        "files": {record.get("files") for record in releases.values()},
        "mounts": {digest for record in releases.values() for digest in record.get("mounts", [])},
        "secrets": {
            f"{name}.{value}" for record in releases.values() for name, value in record.get("secrets", {}).items()
        },
    }
    bad += [
        f"{part}: {found['kept'][part]}, needed: {names}"
        for part, names in needed.items()
        if set(found["kept"][part]) != names
    ]
    bad += [f"{path} is left" for path in found["hidden"]]
    bad += [f"{name} is left" for name in found["stacks"] if name.startswith(".")]
    bad += [f"{name} is left" for name in set(found["folder"]) - KNOWN]
    tags = {service["tag"] for record in releases.values() for service in record.get("services", {}).values()}
    there = {name for name in found["images"] if name.startswith("gpulab/small-")}
    if there != tags:
        bad.append(f"images: {sorted(there)} are there, {sorted(tags)} are needed")
    bad += ["an image without a name is left" for name in found["images"] if name.startswith("<none>")]
    runs = ""
    for line in found["history"]:
        _when, release, event = line.split("  ")[:3]
        runs = release if event in RUNS else runs
    if runs != current and found["history"]:
        bad.append(f"the history says {runs}, current is {current}")
    if not found["starts"].startswith(data) or found["precious"] != f"{WORTH}\n":
        bad.append(f"data: {found['starts'][:200]!r}, {found['precious']!r}; before: {data[:200]!r}")
    return bad


FATES = ["", "kill", "kill", "power cut", "power lost", "power lost", "disk full", "disk full", "engine restart", "two"]


class Life:
    """A random sequence of verbs, and what befalls them, told as it goes."""

    def __init__(self, host: Host, seed: int) -> None:
        self.host, self.seed, self.rng = host, seed, random.Random(seed)
        self.told: list[str] = []

    def live(self, length: int) -> None:
        for number in range(length):
            try:
                self.one(number)
            except AssertionError as error:
                raise AssertionError("\n".join([f"seed {self.seed}", *self.told, str(error)])) from None

    def verb(self, number: int, current: str) -> tuple[str, str]:
        """What to do, and the command for it."""
        word = f"s{self.seed}n{number}"
        verb = self.rng.choice(["deploy"] * 5 + ["build"] * 2 + ["bad deploy"] * 2 + ["rollback"] * 3 + ["undeploy"])
        if verb == "build" or not current:
            return verb, self.host.deploy(self.seed * 10 + number + 1, WORD=word)
        if verb == "rollback" or verb == "undeploy":
            return verb, f"gpulab {verb} small"
        mode = "serve" if verb == "deploy" else self.rng.choice(["exit", "sick"])
        return verb, self.host.deploy(WORD=word, MODE=mode, SIDE_WORD=self.rng.choice("pq"))

    def one(self, number: int) -> None:
        host, rng = self.host, self.rng
        own_disk.sync(host.site)
        before = host.look()
        verb, command = self.verb(number, before["current"])
        fate = rng.choice(FATES)
        began = time.monotonic()
        self.told.append(f"{verb}, {fate or 'nothing'}")
        host.begin(command)
        if fate == "two":
            host.begin(self.verb(number + 5, before["current"])[1], 1)
            host.wait(1)
        elif fate:
            moment = rng.uniform(0.2, 4.5)
            self.told[-1] += f" after {moment:.1f} s"
            time.sleep(moment)
        self.befall(fate)
        found = host.settled(before["starts"])
        self.told[-1] += f": {found['current'] or 'nothing'} runs ({time.monotonic() - began:.0f} s)"
        is_new = found["current"] != before["current"]
        assert not (is_new and verb == "bad deploy" and fate != "two"), "a release that is not well became current"
        assert is_new or fate or verb not in ("deploy", "build"), host.sh("cat said0")

    def befall(self, fate: str) -> None:
        host = self.host
        if fate == "power cut":
            host.power_cut()
        elif fate == "power lost":
            host.lose_power()
        elif fate == "kill":
            host.kill()
            host.sh("gpulab settle")
        elif fate == "engine restart":
            host.sh("systemctl --user restart docker", check=False)
            host.wait()
            host.sh("gpulab settle", check=False)
        elif fate == "disk full":
            own_disk.fill(host.site, self.rng.choice([0, 0, 8 << 10, 100 << 10, 1 << 20]))
            try:
                host.wait()
            finally:
                own_disk.make_room(host.site)
            host.sh("gpulab settle", check=False)
        else:
            host.wait()
