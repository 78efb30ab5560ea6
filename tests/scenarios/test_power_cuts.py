"""The power goes in the middle of a deploy, again and again: after boot, and without Ansible, one release runs whole."""

from __future__ import annotations

import json
import time

import pytest

from .site import Site, lab
from .small_stack import FOLDER, Small

CUTS = 12
NOTES = "gpulab/data/small/notes/starts"
BOOT = 120  # seconds until everything is as it was before, on a busy machine
pytestmark = pytest.mark.chaos


@pytest.fixture(scope="module")
def small(main_host: Site, tmp_path_factory: pytest.TempPathFactory) -> Small:
    lab("restore", main_host.hosts[0], "converged")
    stack = Small(main_host, tmp_path_factory.mktemp("stack"))
    stack.deploy().ok()
    return stack


def begin(small: Small, *settings: str) -> None:
    """A deploy on the host itself, which goes on after this returns."""
    chosen = " ".join(f"--set {each}" for each in settings)
    small.sh(f"rm -f ended; (gpulab deploy small {chosen} > said 2>&1; echo $? > ended) > /dev/null 2>&1 < /dev/null &")


def wait(small: Small, condition: str, seconds: float) -> None:
    small.sh(f"for n in $(seq {int(seconds * 5)}); do {condition} && exit; sleep 0.2; done; exit 1")


def cut(small: Small) -> None:
    lab("power-cut", small.site.hosts[0])
    lab("start", small.site.hosts[0])


def wrong(small: Small) -> list[str]:
    """What is not as it should be on a host on which nothing is under way."""
    found = []
    current = small.current()
    rows = small.sh("docker ps -a --filter label=com.docker.compose.project=small --format '{{json .}}'").splitlines()
    boxes = {each["Names"]: each["Status"] for each in (json.loads(row) for row in rows)}
    if sorted(boxes) != ["small-side-1", "small-web-1"] or not all("(healthy)" in each for each in boxes.values()):
        found.append(f"containers: {boxes}")
    settings = json.loads(small.sh(f"cat {FOLDER}/releases/{current}/release.json"))["settings"]
    if f"word {settings['WORD']}" not in small.says():
        found.append(f"web says {small.says()!r}, release {current} has {settings}")
    left = small.sh(f"ls -A {FOLDER} {FOLDER}/releases; ls -A {FOLDER}/..").split()
    found += [f"{name} is left" for name in left if name.startswith(".") or name == "unfinished.json"]
    failed = small.sh(f"ls -d {FOLDER}/releases/*/failed.json 2>/dev/null", check=False).split()
    if len(failed) > 1:
        found.append(f"more than one failed release is kept: {failed}")
    runs = [line.split("  ")[1] for line in small.history() if any(word in line for word in RUNS)][-1]
    if runs != current:
        found.append(f"the history says {runs}, current is {current}")
    return found


RUNS = ("  deployed  ", "  rolled back to  ", "  runs again  ", "  repaired  ")


def settled(small: Small, seconds: float = BOOT) -> None:
    deadline = time.monotonic() + seconds
    while True:
        found = wrong(small)
        if not found:
            return
        assert time.monotonic() < deadline, "\n".join([*found, *small.history()[-6:]])
        time.sleep(1)


def seconds_of_a_deploy(small: Small) -> float:
    """Seconds that a deploy takes now."""
    began = time.monotonic()
    begin(small, "WORD=first", "SIDE_WORD=first")
    wait(small, "test -e ended", BOOT)
    assert small.sh("cat ended").strip() == "0", small.sh("cat said")
    return time.monotonic() - began


def test_a_power_cut_at_each_moment_of_a_deploy(small: Small) -> None:
    whole, kept = seconds_of_a_deploy(small), {"old": 0, "new": 0}
    for number in range(CUTS):
        before, word, data = small.current(), f"w{number}", small.sh(f"cat {NOTES}")
        begin(small, f"WORD={word}", f"SIDE_WORD={word}")
        time.sleep(whole * (number + 1) / (CUTS + 1))
        cut(small)
        settled(small)
        is_new = f"word {word}" in small.says()
        assert is_new or small.current() == before
        kept["new" if is_new else "old"] += 1
        assert small.sh(f"cat {NOTES}").startswith(data), "data only grow"
    assert kept["old"], f"every cut came too late: {kept}"
