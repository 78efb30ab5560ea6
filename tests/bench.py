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
        bad += deploy(site, users)
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
        lambda: site.login("trainer", "cd gpulab/stacks/quickstart && docker compose up -d --wait 2>&1")
    )
    row("deploy, no change", again, f"{executed(result)} tasks; {again / raw:.2f} x raw compose; {spread(agains)}")
    row("raw docker compose up -d --wait, no change", raw, spread(raws))
    return bad


def resources(site: Site) -> None:
    """Resident memory of an idle engine, and what the probe image takes."""
    rss = site.ssh(
        "for p in $(pgrep -u trainer -x 'dockerd|containerd|rootlesskit|slirp4netns|exe'); do "
        "awk '/^Rss:/ {s += $2} END {print s}' /proc/$p/smaps_rollup; done"
    )
    total = sum(int(line) for line in rss.split()) / 1024
    print(f"  {'resident memory of one user engine (idle processes)':<58} {total:8.0f} MiB")
    size = site.login("trainer", "docker image inspect -f '{{.Size}}' $(docker images -q gpulab/probe | head -1)")
    print(f"  {'probe image':<58} {int(size) / 2**20:8.1f} MiB")


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(main())
