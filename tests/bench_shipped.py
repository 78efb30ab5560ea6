"""What each shipped stack costs on a host: seconds until it is healthy, size of its images, memory at rest.

In the forms that run without a GPU; names as arguments choose some of them. Builds are not counted: they depend on the
package index more than on anything here.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.scenarios import torch_wheel
from tests.scenarios.site import ROOT, Site, lab, stack_in_lab

HOST = "bench2"
RUNS = 3
REST = 20  # seconds after which a healthy stack is at rest
WHEELS = "/home/trainer/wheels"
LAB = "the lab's own base image"
# What each stack is given to run on processors only, beside what every stack is given here.
FORMS: dict[str, dict[str, Any]] = {
    "quickstart": {"settings": {"GENERATIONS": 1}},
    "openpi": {},
    "browsergym": {},
    "gym_desktop": {"settings": {"FRAMEWORK": "none"}},
    "e2ead": {
        "gpus": dict.fromkeys(("training", "train", "carla", "evaluation", "jupyter"), 0),
        "settings": {
            "EVALUATION_BASE_IMAGE": LAB,
            "REQUIREMENTS": "requirements-cpu.txt",
            "WHEELS": WHEELS,
            "COMPOSE_PROFILES": "notebook",
        },
    },
    "isaaclab": {
        "gpus": dict.fromkeys(("ext-dev", "ext", "train"), 0),
        "settings": {
            "DEV_BASE_IMAGE": LAB,
            "REQUIREMENTS": "requirements-mujoco.txt",
            "WHEELS": WHEELS,
            "COMPOSE_PROFILES": "ext",
            "ACCEPT_EULA": "N",
        },
    },
}


def main(names: list[str]) -> int:
    unknown = sorted(set(names) - set(FORMS))
    if unknown:
        print(f"bench: no stack {', '.join(unknown)}; there are {', '.join(FORMS)}", file=sys.stderr)
        return 2
    print(f"bench: the shipped stacks without a GPU, medians of {RUNS}", flush=True)
    lab("mirror", "up")
    lab("destroy", "--missing-ok", HOST)
    lab("create", HOST)
    try:
        site = Site(Path(tempfile.mkdtemp(prefix="bench-")), [HOST], {})
        users: dict[str, Any] = {"gpulab_gpus_expected": 2, "gpulab_users": {"trainer": {"gpus": "all"}}}
        site.set(users)
        site.run().ok()
        for name in names or FORMS:
            site.set({**users, "gpulab_stacks": {name: entry(site, FORMS[name])}})
            site.run("playbooks/deploy.yml", "-e", f"gpulab_stack={name}").ok()
            measure(site, name)
            site.run("playbooks/undeploy.yml", "-e", f"gpulab_stack={name}").ok()
    finally:
        lab("destroy", "--missing-ok", HOST)
    return 0


def entry(site: Site, form: dict[str, Any]) -> dict[str, Any]:
    given = stack_in_lab()
    base = given["settings"]["BASE_IMAGE"]
    chosen = {name: base if value == LAB else value for name, value in form.get("settings", {}).items()}
    settings = {**given["settings"], **chosen}
    if settings.get("WHEELS") == WHEELS:
        torch_wheel.bring(site)
    return {**given, **form, "settings": settings}


def measure(site: Site, name: str) -> None:
    current = f"cd gpulab/stacks/{name}/current"
    times = []
    for _ in range(RUNS):
        site.login("trainer", f"{current} && docker compose down -t 5 2>&1")
        start = time.monotonic()
        site.login("trainer", f"{current} && docker compose up -d --wait 2>&1")
        times.append(time.monotonic() - start)
    time.sleep(REST)
    release = json.loads(site.login("trainer", f"cat gpulab/stacks/{name}/current/release.json"))
    ids = sorted({service["image_id"] for service in release["services"].values()})
    sizes = site.login("trainer", f"docker image inspect -f '{{{{.Size}}}}' {' '.join(ids)}").split()
    biggest = max(map(int, sizes)) / 2**20
    healthy = statistics.median(times)
    print(
        f"  {name:<14} healthy {healthy:6.1f} s   largest image {biggest:6.0f} MiB   {memory(site, name)}", flush=True
    )


def memory(site: Site, name: str) -> str:
    """Proportional memory of all processes of each container."""
    rows = site.login("trainer", f"docker ps -q --filter label=com.docker.compose.project={name}").split()
    said = []
    for row in rows:
        service = site.login(
            "trainer", f"docker inspect -f '{{{{index .Config.Labels \"com.docker.compose.service\"}}}}' {row}"
        ).strip()
        pids = re.findall(r"^\s*(\d+)\s*$", site.login("trainer", f"docker top {row} -eo pid"), re.MULTILINE)
        files = " ".join(f"/proc/{pid}/smaps_rollup" for pid in pids)
        total = site.ssh(f"cat {files} 2>/dev/null | awk '/^Pss:/ {{s += $2}} END {{print s + 0}}'")
        said.append(f"{service} {int(total) / 1024:.0f} MiB")
    return "at rest: " + ", ".join(sorted(said))


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(main(sys.argv[1:]))
