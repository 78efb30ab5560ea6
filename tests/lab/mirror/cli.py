"""lab mirror up | down | status [--json] | break MODE | mend"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from ..settings import LabError
from . import control
from .server import MODES


def main(argv: list[str]) -> int:
    """Run one command; the exit status is 0 when it is done."""
    parser = argparse.ArgumentParser(prog="lab mirror", description="The signed package repositories of the lab.")
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="build what is missing and serve it")
    up.add_argument("--refresh", action="store_true", help="download the distribution's packages anew")
    commands.add_parser("down", help="stop serving; what was built stays")
    status = commands.add_parser("status", help="address, key and versions")
    for command in (up, status):
        command.add_argument("--json", action="store_true", help="for programs")
    breaking = commands.add_parser("break", help="break every request; one URL only: put /broken/MODE before its path")
    breaking.add_argument("mode", choices=list(MODES), metavar="MODE", help=", ".join(MODES))
    commands.add_parser("mend", help="serve everything as it should be")
    chosen = parser.parse_args(argv)
    try:
        if chosen.command == "up":
            _show(control.up(refresh=chosen.refresh), chosen.json)
        elif chosen.command == "down":
            print("mirror stopped" if control.down() else "mirror was not running")
        elif chosen.command == "status":
            _show(control.status(), chosen.json)
        elif chosen.command == "break":
            control.break_(chosen.mode)
            print(f"mirror broken: {MODES[chosen.mode]}")
        else:
            control.mend()
            print("mirror mended")
    except LabError as error:
        print(f"lab mirror: {error}", file=sys.stderr)
        return 1
    return 0


def _show(status: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(status, indent=1))
        return
    print(f"{status['url']} {'answers' if status['running'] else 'is down'}")
    print(f"signed by {status['fingerprint'] or 'nobody: not built yet'}")
    for number, parts in status["versions"].items():
        others = (f"{name} {version}" for name, version in parts.items() if version != number)
        print(f"Docker {number}: {', '.join(others)}")
    if status["broken"]:
        print(f"broken: {status['broken']} ({status['modes'][status['broken']]})")
