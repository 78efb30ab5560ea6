"""The command line of the lab."""

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from typing import Any

from . import api, base, hosts, identity, image, inventory, machine, parts, records, snapshots, supervisor
from .settings import LabError, NotPossible, say


def show(value: Any) -> None:
    print(json.dumps(value, indent=1))


def row(name: str) -> dict[str, Any]:
    """A host for programs; `instance`, `address` and `identity_file` are what Molecule calls them."""
    record = records.load(name)
    if record is None:
        return {"name": name, "status": records.status(name)}
    return {
        "name": name,
        "status": records.status(name),
        "ip": record.address,
        "identity": record.identity,
        "suite": record.suite,
        "gpus": record.gpus,
        "faults": record.faults,
        "snapshots": snapshots.listed(record),
        "created": record.created,
        "instance": name,
        "address": record.address,
        "identity_file": str(hosts.ssh_key()),
        "console": str(record.console),
        "root": str(record.root),
    }


def check(asked: argparse.Namespace) -> int:
    found = machine.lacks()
    if asked.json:
        show([{"what": lack.what, "remedy": lack.remedy, "package": lack.package} for lack in found])
    elif found:
        print("this machine cannot run the lab:\n" + machine.describe(found))
    else:
        print("this machine can run the lab")
    return 2 if found else 0


def make_base(asked: argparse.Namespace) -> int:
    print(base.host_base(asked.suite))
    return 0


def image_base(asked: argparse.Namespace) -> int:
    print(base.image_base(asked.suite))
    return 0


def image_archive(asked: argparse.Namespace) -> int:
    print(image.archive(asked.suite))
    return 0


def stack_variables(_: argparse.Namespace) -> int:
    show(image.stack_variables())
    return 0


def create(asked: argparse.Namespace) -> int:
    started = time.monotonic()
    host = api.create(asked.name, asked.suite, asked.identity, asked.gpus, asked.fault)
    if asked.json:
        show(row(host.name))
    else:
        gpus = f"{host.gpus} GPU{'' if host.gpus == 1 else 's'}"
        print(f"{host.name} {host.ip} {host.identity} on {host.suite}, {gpus}: {time.monotonic() - started:.1f} s")
    return 0


def listing(asked: argparse.Namespace) -> int:
    rows = [row(name) for name in records.names()]
    if asked.json:
        show(rows)
        return 0
    columns = ("name", "status", "address", "identity", "suite", "gpus", "faults", "snapshots")
    texts = [[column.upper() for column in columns]]
    for entry in rows:
        cells = [entry.get(column, "") for column in columns]
        texts.append([",".join(cell) if isinstance(cell, list) else str(cell) for cell in cells])
    widths = [max(len(line[index]) for line in texts) for index in range(len(columns))]
    for line in texts if rows else []:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    return 0


def ssh(asked: argparse.Namespace) -> int:
    argv = hosts.ssh_command(records.get(asked.name), asked.command, user=asked.user, batch=False)
    if not asked.command and sys.stdin.isatty():
        argv.insert(1, "-t")
    sys.stdout.flush()
    os.execvp(argv[0], argv)


def start(asked: argparse.Namespace) -> int:
    hosts.start(asked.name)
    return 0


def stop(asked: argparse.Namespace) -> int:
    hosts.stop(asked.name)
    return 0


def reboot(asked: argparse.Namespace) -> int:
    hosts.reboot(asked.name)
    return 0


def power_cut(asked: argparse.Namespace) -> int:
    hosts.power_cut(asked.name)
    return 0


def snapshot(asked: argparse.Namespace) -> int:
    snapshots.take(asked.name, asked.snapshot)
    return 0


def restore(asked: argparse.Namespace) -> int:
    snapshots.restore(asked.name, asked.snapshot)
    return 0


def destroy(asked: argparse.Namespace) -> int:
    if bool(asked.names) == asked.all:
        raise LabError("destroy wants names, or --all")
    for name in asked.names:
        if not asked.missing_ok or name in records.names():
            hosts.destroy(name)
    if asked.all:
        api.destroy_all()
    return 0


def down(_: argparse.Namespace) -> int:
    api.down()
    return 0


def show_inventory(asked: argparse.Namespace) -> int:
    print(inventory.to_yaml(inventory.build(asked.names, asked.user)), end="")
    return 0


def gpu(asked: argparse.Namespace) -> int:
    return parts.gpu_command(records.get(asked.name).root, asked.words)


def mirror(asked: argparse.Namespace) -> int:
    return parts.mirror_command(asked.words)


def supervise(asked: argparse.Namespace) -> int:
    return supervisor.main(asked.name)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="lab", description="Throwaway hosts for the tests and the demo.")
    commands = top.add_subparsers(dest="command_name", required=True, metavar="COMMAND")

    def command(name: str, function: Any, about: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=about, description=about)
        made.set_defaults(function=function)
        return made

    made = command("check", check, "say what this machine lacks to run the lab (exit 2 if anything)")
    made.add_argument("--json", action="store_true")
    made = command("base", make_base, "make the base of a suite now, and print its path")
    made.add_argument("suite", choices=base.SUITES)
    made = command("image-base", image_base, "make a tar for `docker import`, and print its path")
    made.add_argument("suite", choices=base.SUITES, nargs="?", default="bookworm")
    made = command("image-archive", image_archive, "the same for `docker load`, tagged lab/base:SUITE")
    made.add_argument("suite", choices=base.SUITES, nargs="?", default="bookworm")
    made = command("stack-variables", stack_variables, "what a stack is given so that its images build here, as JSON")
    made.add_argument("stack", nargs="?", help="any: they are the same for all")
    made = command("create", create, "make a host and boot it")
    made.add_argument("name")
    made.add_argument("--suite", choices=base.SUITES, help="default: what the identity is made of")
    made.add_argument("--identity", choices=list(identity.IDENTITIES), help=f"default: {identity.DEFAULT}")
    made.add_argument("--gpus", type=int, default=2, metavar="N", help="0: no driver at all (default 2)")
    made.add_argument("--fault", action="append", default=[], metavar="F", help="state of the driver (repeatable)")
    made.add_argument("--json", action="store_true")
    made = command("list", listing, "the hosts and how they are")
    made.add_argument("--json", action="store_true")
    made = command("ssh", ssh, "log in to a host, or run a command there")
    made.add_argument("--user", default="root")
    made.add_argument("name")
    made.add_argument("command", nargs=argparse.REMAINDER)
    for name, function, about in (
        ("start", start, "boot a host that is off"),
        ("stop", stop, "power off a host, orderly"),
        ("reboot", reboot, "reboot a host and wait until it answers"),
        ("power-cut", power_cut, "everything in the host dies at once; it is off then"),
    ):
        command(name, function, about).add_argument("name")
    for name, function, about in (
        ("snapshot", snapshot, "keep a copy of a host's files"),
        ("restore", restore, "bring a host's files back to a copy, and boot it if it ran"),
    ):
        made = command(name, function, about)
        made.add_argument("name")
        made.add_argument("snapshot")
    made = command("destroy", destroy, "remove hosts and all that was made for them")
    made.add_argument("names", nargs="*", metavar="name")
    made.add_argument("--all", action="store_true")
    made.add_argument("--missing-ok", action="store_true", help="no error for names that do not exist")
    command("down", down, "remove all hosts, the mirror's server and the network")
    made = command("inventory", show_inventory, "an Ansible inventory of the hosts, in YAML")
    made.add_argument("--user", default="root", help="user that Ansible logs in as (root; trainer has sudo)")
    made.add_argument("names", nargs="*", metavar="name")
    made = command("gpu", gpu, "show or change the stand-in driver of a host: show, set KEY=VALUE, fault F, mend")
    made.add_argument("name")
    made.add_argument("words", nargs=argparse.REMAINDER)
    made = command("mirror", mirror, "the package mirror: up, down, status, break MODE, mend")
    made.add_argument("words", nargs=argparse.REMAINDER)
    made = commands.add_parser("_supervise")
    made.set_defaults(function=supervise)
    made.add_argument("name")
    return top


def on_term(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def main(words: Sequence[str]) -> int:
    asked = parser().parse_args(words)
    # Asked to end, a command cleans up what it was making, as with Ctrl-C.
    signal.signal(signal.SIGTERM, on_term)
    # A command started in the background of a script inherits an ignored SIGINT; whoever sends one means it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        if asked.function is not check:
            machine.require()
        result = asked.function(asked)
        return int(result)
    except NotPossible as problem:
        print(problem, file=sys.stderr)
        return 2
    except LabError as problem:
        print(f"lab: {problem}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    except BrokenPipeError:
        # The reader has gone (`lab list | head`).
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
