"""make bench: what a converge, a proof and a deploy cost, as ratios against floors measured in the same run.

Everything runs on one throwaway host. Medians of five; the machine's noise is in both sides of every ratio.
"""

from __future__ import annotations

import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests import bench_stacks
from tests.scenarios.site import ROOT, Result, Site, lab, stack_in_lab

HOST = "bench1"
RUNS = 5
# Seconds on the machine where the limits were set: ten no-op tasks with pipelining, and the best-known
# rootless role's converged run (engine only). The limit is scaled by today's floor over that floor.
REFERENCE_FLOOR = 2.17
REFERENCE_ROLE = 10.2
LIMIT = 0.7

NOOP = "\n".join(
    [
        "- hosts: gpu_hosts",
        "  gather_facts: false",
        "  vars: {ansible_pipelining: true}",
        "  tasks:",
        *(f"    - {{name: nothing {i}, ansible.builtin.command: 'true', changed_when: false}}" for i in range(10)),
    ]
)


def timed(action: Callable[[], Any]) -> tuple[float, Any]:
    start = time.monotonic()
    value = action()
    return time.monotonic() - start, value


def median(action: Callable[[], Any]) -> tuple[float, list[float], Any]:
    times, value = [], None
    for _ in range(RUNS):
        seconds, value = timed(action)
        times.append(seconds)
    return statistics.median(times), times, value


def executed(result: Result) -> int:
    return result.stats[HOST]["ok"]


def row(what: str, seconds: float, note: str = "") -> None:
    print(f"  {what:<58} {seconds:8.2f} s  {note}", flush=True)


def main() -> int:
    print("bench: one host, medians of", RUNS, flush=True)
    lab("mirror", "up")
    lab("destroy", "--missing-ok", HOST)
    create, _ = timed(lambda: lab("create", HOST))
    row("create a host (cached base)", create)
    bad = 0
    try:
        folder = Path(tempfile.mkdtemp(prefix="bench-"))
        users: dict[str, Any] = {"gpulab_gpus_expected": 2, "gpulab_users": {"trainer": {"gpus": "all"}}}
        site = Site(folder, [HOST], users)
        noop = folder / "noop.yml"
        noop.write_text(NOOP, encoding="utf-8")

        first, result = timed(lambda: site.run().ok())
        row("first run: engine, toolkit, proof", first, f"{executed(result)} tasks")
        floor, floors, _ = median(lambda: site.run(str(noop)).ok())
        row("floor: ten no-op tasks", floor, spread(floors))
        again, agains, result = median(lambda: site.run().ok())
        tasks = executed(result)
        limit = LIMIT * REFERENCE_ROLE * floor / REFERENCE_FLOOR
        row(
            "converged run: engine, toolkit, proof",
            again,
            f"{tasks} tasks; {again / floor:.2f} x floor; {spread(agains)}",
        )
        row("  limit: 0.7 x the best-known engine-only role, scaled", limit, f"ratio {again / limit:.2f}")
        bad += report("converged run changes nothing", result.changed == [])
        bad += report(f"at most 20 executed tasks ({tasks})", tasks <= 20)
        bad += report(f"converged run within the limit ({again:.1f} of {limit:.1f} s)", again <= limit)

        proof = prove(site)
        bad += report(f"proof of two GPUs within 2.0 s ({proof:.2f} s)", proof <= 2.0)
        bad += further_user(site, users, again)
        bad += deploy(site, users)
        bad += bench_stacks.bench(site, row, report, median)
        resources(site)
    finally:
        lab("destroy", "--missing-ok", HOST)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"  {'controller: peak memory of one process':<58} {peak:8.0f} MiB")
    return 1 if bad else 0


def spread(times: list[float]) -> str:
    return f"{min(times):.2f} to {max(times):.2f}"


def report(what: str, good: bool) -> int:
    print(f"  {'ok  ' if good else 'MISS'} {what}", flush=True)
    return 0 if good else 1


def prove(site: Site) -> float:
    """The proof alone, with the probe image there: median of its own seconds, and each step."""
    totals, steps = [], {}  # type: list[float], dict[str, list[float]]
    for _ in range(RUNS):
        result = site.run("playbooks/verify.yml").ok()
        proofs = [t["result"] for t in result.tasks if "steps" in str(t["result"].get("results", t["result"]))]
        for outcome in proofs:
            for item in outcome.get("results", [outcome]):
                if "steps" not in item:
                    continue
                totals.append(item["seconds"])
                for step in item["steps"]:
                    name = step["name"] + (f" {step['gpu'][-4:]}" if step.get("gpu") else "")
                    steps.setdefault(name, []).append(step["seconds"] or 0.0)
    total = statistics.median(totals)
    row("proof, two GPUs, cached image", total, spread(totals))
    for name, times in steps.items():
        row(f"  step: {name}", statistics.median(times))
    return total


def deploy(site: Site, users: dict[str, Any]) -> int:
    """A stack deployed again with no change, against Compose asked directly."""
    site.set({**users, "gpulab_stacks": {"quickstart": stack_in_lab()}})
    first, _ = timed(lambda: site.run("playbooks/deploy.yml").ok())
    row("first deploy of quickstart (build included)", first)
    again, agains, result = median(lambda: site.run("playbooks/deploy.yml").ok())
    bad = report("deploy without change changes nothing", result.changed == [])
    raw, raws, _ = median(
        lambda: site.login("trainer", "cd gpulab/stacks/quickstart/current && docker compose up -d --wait 2>&1")
    )
    row("deploy, no change", again, f"{executed(result)} tasks; {again / raw:.2f} x raw compose; {spread(agains)}")
    row("raw docker compose up -d --wait, no change", raw, spread(raws))
    return bad


def further_user(site: Site, users: dict[str, Any], one: float) -> int:
    """What a second user costs: seconds of a converged run over those of one user's, memory and disk."""
    site.set({**users, "gpulab_users": {**users["gpulab_users"], "guest": {"gpus": [1]}}})
    site.run().ok()
    proofs: list[float] = []

    def again() -> Result:
        result = site.run().ok()
        items = [item for task in result.tasks for item in task["result"].get("results", [])]
        proofs.extend(item["seconds"] for item in items if item.get("user") == "guest" and "steps" in item)
        return result

    two, twos, result = median(again)
    own = statistics.median(proofs)
    row("converged run with a second user", two, f"{two - one:.2f} s more, {own:.2f} s of it proof; {spread(twos)}")
    bad = report("a second user changes nothing in a second run", result.changed == [])
    bad += report(f"a second user adds at most its proof and 1 s ({two - one - own:.2f} s)", two - one - own <= 1)
    memory(site, "guest")
    disk = int(site.ssh("du -sxm --total ~guest /var/lib/gpulab/cdi/guest | tail -1").split()[0])
    print(f"  {'disk of a further user (home with probe image)':<58} {disk:8.0f} MiB")
    site.set(users)
    site.run().ok()
    return bad


def memory(site: Site, user: str) -> None:
    """Resident memory of an idle engine."""
    rss = site.ssh(
        f"for p in $(pgrep -u {user} -x 'dockerd|containerd|rootlesskit|slirp4netns|exe'); do "
        "awk '/^Rss:/ {s += $2} END {print s}' /proc/$p/smaps_rollup; done"
    )
    total = sum(int(line) for line in rss.split()) / 1024
    print(f"  {f'resident memory of the engine of {user} (idle processes)':<58} {total:8.0f} MiB")


def resources(site: Site) -> None:
    """What an engine and the probe image take."""
    memory(site, "trainer")
    size = site.login("trainer", "docker image inspect -f '{{.Size}}' $(docker images -q gpulab/probe | head -1)")
    print(f"  {'probe image':<58} {int(size) / 2**20:8.1f} MiB")


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(main())
