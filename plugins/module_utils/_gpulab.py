# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The researcher's command on the host: `gpulab`. Each verb loads what it needs and nothing more."""

from __future__ import annotations

import argparse
import json
import os
import pwd
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._gpulab_options import parser
from ansible_collections.gpulab.fleet.plugins.module_utils._userenv import Account, account

if TYPE_CHECKING:
    from ansible_collections.gpulab.fleet.plugins.module_utils._gpulab_stacks import Place

WRONG_USE, REFUSED, INTERRUPTED = 2, 3, 130


def me() -> Account:
    """Who calls. Root has no stacks: they are their users'."""
    try:
        return account(pwd.getpwuid(os.geteuid()).pw_name)
    except FleetError as error:
        raise FleetError("CLI_AS_ROOT", "gpulab was started as root") from error


def place(options: argparse.Namespace) -> Place:
    """The stack that was named, of whoever calls."""
    from ansible_collections.gpulab.fleet.plugins.module_utils._gpulab_stacks import pick

    return pick(me(), options.stack)


def show(options: argparse.Namespace, result: dict[str, Any], lines: Sequence[str]) -> None:
    print(json.dumps(result, indent=2) if options.json else "\n".join(lines))


def status(options: argparse.Namespace) -> int:
    from ansible_collections.gpulab.fleet.plugins.module_utils import _gpulab_status as part

    result = part.answer(me(), options.stack)
    show(options, result, part.lines(result))
    return part.status_code(result)


def gpus(options: argparse.Namespace) -> int:
    from ansible_collections.gpulab.fleet.plugins.module_utils import _gpulab_gpus as part

    result = part.answer(f"/run/user/{os.geteuid()}/docker.sock")
    show(options, result, part.lines(result))
    for found in result["findings"]:
        if found["severity"] == "error":
            explain(found)
    return part.status_code(result)


def verify(options: argparse.Namespace) -> int:
    from ansible_collections.gpulab.fleet.plugins.module_utils import _gpulab_verify as part

    result = part.recorded(me()) if options.recorded else part.prove(me())
    show(options, result, part.lines(result))
    return part.status_code(result)


def history(options: argparse.Namespace) -> int:
    from ansible_collections.gpulab.fleet.plugins.module_utils import _gpulab_inside as part

    print("\n".join(part.history(place(options)) or ["nothing was recorded"]))
    return 0


def logs(options: argparse.Namespace) -> int:
    from ansible_collections.gpulab.fleet.plugins.module_utils import _gpulab_inside as part

    chosen = place(options)
    if options.release:
        print("\n".join(part.release_logs(chosen, options.release, options.service) or ["no logs were kept"]))
        return 0
    return part.logs(chosen, options.service, options.follow, options.tail, options.since)


def shell(options: argparse.Namespace) -> int:
    from ansible_collections.gpulab.fleet.plugins.module_utils import _gpulab_inside as part

    return part.shell(place(options), options.service, options.command, options.root)


def run(options: argparse.Namespace) -> int:
    from ansible_collections.gpulab.fleet.plugins.module_utils import _gpulab_inside as part

    return part.run(place(options), options.service, options.arguments, options.detach)


def stacks(options: argparse.Namespace) -> int:
    from ansible_collections.gpulab.fleet.plugins.module_utils import _gpulab_catalogue as part
    from ansible_collections.gpulab.fleet.plugins.module_utils._gpulab_text import width

    result = part.answer()
    show(options, result, part.lines(result, width()))
    return 0


def deploy(options: argparse.Namespace) -> int:
    from ansible_collections.gpulab.fleet.plugins.module_utils import _gpulab_deploy, _gpulab_verbs

    result = _gpulab_deploy.deploy(me(), options)
    show(options, result, _gpulab_verbs.lines(result, options.check))
    return 0


def rollback(options: argparse.Namespace) -> int:
    from ansible_collections.gpulab.fleet.plugins.module_utils import _gpulab_verbs as part

    result = part.rollback(place(options), options.release, options.check)
    show(options, result, part.lines(result, options.check))
    return 0


def undeploy(options: argparse.Namespace) -> int:
    from ansible_collections.gpulab.fleet.plugins.module_utils import _gpulab_verbs as part

    result = part.undeploy(place(options), options.check)
    show(options, result, part.lines(result, options.check))
    return 0


def settle(options: argparse.Namespace) -> int:
    from ansible_collections.gpulab.fleet.plugins.module_utils import _gpulab_verbs as part

    result = part.settle(me())
    show(options, result, part.settled_lines(result))
    findings = [each["finding"] for each in result["stacks"] if each["finding"]]
    for found in findings:
        explain(found)
    return REFUSED if findings else 0


def repair(options: argparse.Namespace) -> int:
    from ansible_collections.gpulab.fleet.plugins.module_utils import _gpulab_data as part

    chosen = place(options)
    result = part.repair(chosen.user, chosen)
    show(options, result, part.repaired_lines(result))
    return 0


def free(options: argparse.Namespace) -> int:
    from ansible_collections.gpulab.fleet.plugins.module_utils import _gpulab_data as part

    result = part.free(me(), options.check)
    show(options, result, part.freed_lines(result, options.check))
    return 0


def snapshot(options: argparse.Namespace) -> int:
    from ansible_collections.gpulab.fleet.plugins.module_utils import _gpulab_copies as part

    chosen = place(options)
    result = part.listed(chosen) if options.list else part.snapshot(chosen, options.why, options.keep, options.check)
    show(options, result, part.lines(result))
    return 0


def restore(options: argparse.Namespace) -> int:
    from ansible_collections.gpulab.fleet.plugins.module_utils import _gpulab_copies as part

    result = part.restore(place(options), options.snapshot, options.check)
    show(options, result, part.done_lines(result, options.check))
    return 0


def purge(options: argparse.Namespace) -> int:
    from ansible_collections.gpulab.fleet.plugins.module_utils import _gpulab_copies as part

    result = part.purge(me(), options.stack, options.yes_delete, options.check)
    show(options, result, part.done_lines(result, options.check))
    return 0


VERBS = {
    "status": status,
    "gpus": gpus,
    "verify": verify,
    "history": history,
    "logs": logs,
    "shell": shell,
    "run": run,
    "stacks": stacks,
    "deploy": deploy,
    "rollback": rollback,
    "undeploy": undeploy,
    "settle": settle,
    "snapshot": snapshot,
    "restore": restore,
    "purge": purge,
    "repair": repair,
    "free": free,
}


def explain(found: dict[str, Any]) -> None:
    from ansible_collections.gpulab.fleet.plugins.module_utils._findings import message

    print(message(found), file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> int:
    words = parser()
    options = words.parse_args(arguments)
    if not options.verb:
        words.print_help()
        return WRONG_USE
    try:
        return VERBS[options.verb](options)
    except FleetError as error:
        from ansible_collections.gpulab.fleet.plugins.module_utils._findings import from_error

        user = pwd.getpwuid(os.geteuid()).pw_name
        found = from_error(
            error, user=user, stack=getattr(options, "stack", None) or getattr(options, "name", None) or "STACK"
        )
        if getattr(options, "json", False):
            print(json.dumps({"schema": 1, "finding": found}, indent=2))
        explain(found)
        return REFUSED
    except BrokenPipeError:
        # Whoever read along (head, less) has had enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return INTERRUPTED
