"""What a transaction costs over plain Compose: deploy without change, cold deploy, rollback, downtime, kept releases."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.scenarios.site import Site
from tests.scenarios.small_stack import FOLDER, Small

RUNS = 5
NO_CHANGE = 0.6  # seconds that a deploy without change may add to a playbook that does nothing
COLD = 1.5  # times raw Compose
ROLLBACK = 3.0  # seconds beyond the service's own start
RAW = "raw"  # the same stack by hand, beside the one that is deployed
NOOP = """\
- hosts: gpu_hosts
  become: true
  gather_facts: false
  vars: {ansible_pipelining: true}
  tasks:
    - ansible.builtin.ping:
    - ansible.builtin.debug: {msg: done}
"""
# Asks 50 times a second, and prints the longest time without an answer, in milliseconds.
WATCH = """\
import sys, time, urllib.request
url, until = sys.argv[1], time.monotonic() + float(sys.argv[2])
last, worst = time.monotonic(), 0.0
while time.monotonic() < until:
    try:
        urllib.request.urlopen(url, timeout=1).read()
        worst, last = max(worst, time.monotonic() - last), time.monotonic()
    except OSError:
        pass
    time.sleep(0.02)
print(int(max(worst, time.monotonic() - last) * 1000))
"""

Row = Callable[..., None]
Report = Callable[[str, bool], int]
Median = Callable[..., tuple[float, list[float], object]]


def bench(site: Site, row: Row, report: Report, median: Median) -> int:
    small = Small(site, Path(tempfile.mkdtemp(prefix="bench-stack-")))
    noop = site.folder / "noop-stacks.yml"
    noop.write_text(NOOP, encoding="utf-8")
    small.deploy().ok()

    floor, _, _ = median(lambda: site.run(str(noop)).ok())
    again, _, result = median(lambda: site.run("playbooks/deploy.yml").ok())
    row("two small services: deploy without change", again, f"{again - floor:.2f} s over a playbook that does nothing")
    bad = report("a deploy without change changes nothing", getattr(result, "changed", None) == [])
    bad += report(f"and adds at most {NO_CHANGE} s ({again - floor:.2f} s)", again - floor <= NO_CHANGE)

    by_hand(small)
    base = small.entry["settings"]["BASE_IMAGE"]
    cold = f"gpulab deploy ~/{RAW} --name cold --set WEB_PORT=8090 --set BASE_IMAGE={base}"
    raw, ours = [], []
    for _ in range(RUNS):
        small.sh(f"cd {RAW} && docker compose down -t 1 2>&1")
        raw.append(seconds(small, f"cd {RAW} && docker compose up -d --build --wait"))
        small.sh(f"cd {RAW} && docker compose down -t 1 2>&1")
        ours.append(seconds(small, cold))
        small.sh("gpulab undeploy cold 2>&1")
    ratio = statistics.median(ours) / statistics.median(raw)
    row("cold deploy of two gated services (images cached)", statistics.median(ours), f"{ratio:.2f} x raw")
    bad += report(f"a cold deploy is within {COLD} x raw compose ({ratio:.2f})", ratio <= COLD)

    up = [seconds(small, f"cd {RAW} && WORD=w{n} docker compose up -d --wait") for n in range(RUNS)]
    own = statistics.median(up)
    back = []
    for n in range(RUNS):
        small.sh(f"gpulab deploy small --set WORD=r{n}")
        back.append(seconds(small, "gpulab rollback small"))
    row("rollback of one service", statistics.median(back), f"its own start with raw compose: {own:.2f} s")
    over = statistics.median(back) - own
    bad += report(f"a rollback adds at most {ROLLBACK} s to the service's own start ({over:.2f} s)", over <= ROLLBACK)

    small.sh(f"cat > watch.py <<'EOT'\n{WATCH}EOT")
    small.sh(f"cd {RAW} && WORD=a docker compose up -d --wait 2>&1")
    plain = [downtime(small, 8090, f"cd {RAW} && WORD=d{n} docker compose up -d --wait") for n in range(RUNS)]
    gated = [downtime(small, 8080, f"gpulab deploy small --set WORD=g{n}") for n in range(RUNS)]
    ratio = statistics.median(gated) / statistics.median(plain)
    row("downtime of a one-service upgrade", statistics.median(gated), f"{ratio:.2f} x raw compose")
    size = small.sh(f"du -sk {FOLDER}/releases/* | sort -n | tail -1").split()[0]
    print(f"  {'disk of a kept release besides its images':<58} {int(size):8d} KiB")
    small.sh(f"cd {RAW} && docker compose down -t 1 2>&1; gpulab undeploy small")
    return bad


def by_hand(small: Small) -> None:
    """The stack's folder on the host, as a person would have it there."""
    small.sh(f"rm -rf {RAW}; mkdir {RAW}")
    for path in sorted(small.source.iterdir()):
        small.sh(f"cat > {RAW}/{path.name} <<'EOT'\n{path.read_text(encoding='utf-8')}EOT")
    # A project of its own: compose.yml names the one that is deployed.
    small.sh(
        f"printf 'COMPOSE_PROJECT_NAME={RAW}\\nBASE_IMAGE={small.entry['settings']['BASE_IMAGE']}\\nWEB_PORT=8090\\n' > {RAW}/.env"
    )


def seconds(small: Small, command: str) -> float:
    said = small.sh(
        f"begin=$(date +%s%N); ({command}) >/dev/null 2>&1 || echo FAILED; echo $((($(date +%s%N)-begin)/1000000))"
    )
    assert "FAILED" not in said, command
    return int(said.split()[-1]) / 1000


def downtime(small: Small, port: int, command: str) -> float:
    said = small.sh(
        f"python3 watch.py http://127.0.0.1:{port}/ 12 & sleep 0.5; ({command}) >/dev/null 2>&1 || echo FAILED; wait"
    )
    assert "FAILED" not in said, command
    return int(said.split()[-1]) / 1000
