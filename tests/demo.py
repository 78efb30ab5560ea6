"""make demo: a throwaway host with a simulated two-GPU driver, converged, proven, with a stack running on it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from rich import box
from rich.console import Console
from rich.table import Table

from tests.scenarios.site import LAB, ROOT, Site, lab, stack_in_lab

HOST = "demo1"
STEPS = 6
console = Console(highlight=False)
started = time.monotonic()


def step(number: int, what: str) -> None:
    console.print(f"\n[bold cyan]\\[{number}/{STEPS}][/] [bold]{what}[/]  [dim]({time.monotonic() - started:.0f} s)[/]")


def stream(*command: str, env: dict[str, str] | None = None) -> None:
    """Run a command and let the person see its output as it comes."""
    run = subprocess.run(command, cwd=ROOT, env=env, check=False)
    if run.returncode != 0:
        console.print(f"[bold red]failed[/]: {' '.join(command)} (exit code {run.returncode})")
        console.print("Mend what it names and run `make demo` again; it goes on from where it was.")
        sys.exit(1)


def prepare() -> None:
    """The package mirror, the base system and the base image: slow the first time, cached afterwards."""
    step(1, "What hosts are made of: package mirror, base system, base image (minutes the first time, then cached)")
    stream(str(LAB), "check")
    jobs = [
        threading.Thread(target=stream, args=(str(LAB), *args)) for args in (("mirror", "up"), ("base", "bookworm"))
    ]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    stream(str(LAB), "image-base")


def site_variables() -> dict[str, Any]:
    return {
        "gpulab_gpus_expected": 2,
        "gpulab_users": {"trainer": {"gpus": "all"}},
        "gpulab_stacks": {"quickstart": stack_in_lab()},
    }


def main() -> int:
    if os.geteuid() != 0:
        console.print("make demo makes network namespaces and containers for its hosts: it needs root.")
        return 2
    prepare()
    step(2, f"A throwaway host, {HOST}: real systemd, posing as Ubuntu 22.04, two simulated GPUs")
    if HOST not in lab("list"):
        stream(str(LAB), "create", HOST)
    site = Site(ROOT / ".cache" / "demo", [HOST], site_variables())
    step(3, "What doctor.yml says of the bare host")
    env = {**os.environ, "ANSIBLE_FORCE_COLOR": "1"}
    stream(*site.command("playbooks/doctor.yml"), env=env)
    step(4, "site.yml: engine, toolkit, proof, stack")
    stream(*site.command("site.yml"), env=env)
    step(5, "The checks that Molecule runs too")
    stream(
        sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider", "molecule/shared/tests",
        "--hosts=ansible://gpu_hosts", f"--ansible-inventory={site.inventory}",
    )  # fmt: skip
    step(6, "What you have now")
    show(site)
    return 0


def show(site: Site) -> None:
    host = json.loads(lab("list", "--json"))
    address = next(h["ip"] for h in host if h["name"] == HOST)
    record = json.loads(site.ssh("cat /var/lib/gpulab/proof.json"))
    show_gpus(site)
    console.print(proof_table(record))
    console.print(service_table(site))
    console.rule(f"[bold]{HOST}[/] at {address}", align="left")
    console.print("Posing as Ubuntu 22.04; the driver is simulated, everything else is real.\n")
    console.print(next_steps(site))
    console.print(f"[bold green]Done[/] in {time.monotonic() - started:.0f} s.")


def next_steps(site: Site) -> Table:
    """What to type now: one line each, so that it can be copied."""
    inventory = site.inventory.relative_to(ROOT)
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for what, how in {
        "Log in as the user": f"tests/lab/lab ssh --user trainer {HOST}",
        "Look around": "docker ps; nvidia-smi -L",
        "Its data": "ls gpulab/data/quickstart/*",
        "Watch it train": "docker logs -f quickstart-training-1",
        "Prove again": f".venv/bin/ansible-playbook -i {inventory} playbooks/verify.yml",
        "Break a GPU": f"tests/lab/lab gpu {HOST} fault uvm-missing",
        "Mend it": f"tests/lab/lab gpu {HOST} mend",
        "Remove the host": "make demo-clean",
    }.items():
        table.add_row(what, how)
    return table


def show_gpus(site: Site) -> None:
    """A line each, so that a UUID can be copied whole."""
    query = "nvidia-smi --query-gpu=index,uuid,name,memory.total,driver_version --format=csv,noheader"
    gpus = [[part.strip() for part in line.split(",")] for line in site.ssh(query).splitlines()]
    console.print(f"[italic]GPUs of the host, simulated driver {gpus[0][4]}[/]")
    for index, uuid, name, memory, _driver in gpus:
        console.print(f"  {index}  {uuid}  {name}  {memory}", soft_wrap=True)
    console.print()


def proof_table(record: dict[str, Any]) -> Table:
    table = Table(title="The proof, from inside rootless containers", title_justify="left", box=box.SIMPLE_HEAD)
    for column in ("user", "what was proven", "GPU", "verdict", "seconds"):
        table.add_column(column)
    for user, proof in record["users"].items():
        for line in proof["steps"]:
            colour = {"pass": "green", "fail": "red"}.get(line["verdict"], "yellow")
            table.add_row(
                user, line["name"], "…" + line["gpu"][-4:] if line.get("gpu") else "", f"[{colour}]{line['verdict']}[/]",
                f"{line.get('seconds') or 0:.2f}",
            )  # fmt: skip
    return table


def service_table(site: Site) -> Table:
    table = Table(title="The stack `quickstart`", title_justify="left", box=box.SIMPLE_HEAD)
    for column in ("service", "state", "health", "address"):
        table.add_column(column)
    out = site.login("trainer", "docker compose -p quickstart ps --format json")
    for line in out.splitlines():
        service = json.loads(line)
        ports = ", ".join(
            f"{p['URL']}:{p['PublishedPort']}" for p in service.get("Publishers") or [] if p.get("PublishedPort")
        )
        table.add_row(
            service["Service"], service["State"], service.get("Health") or "-", ports or "inside the stack only"
        )
    return table


if __name__ == "__main__":
    sys.exit(main())
