"""`lab gpu NAME show|set|fault|mend`: what a host's stand-in driver is, and changing it under a running host."""

import argparse
import json
import sys
from pathlib import Path

from . import install, state


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="lab gpu", description="Show or change the stand-in driver of a host.")
    verbs = top.add_subparsers(dest="verb", required=True)
    verbs.add_parser("show", help="the state as JSON, with its faults in force")
    change = verbs.add_parser(
        "set", help="KEY=VALUE: version, kernel_version, topology, gpus, gpu.N.PROPERTY, gpu.N.mig=off|on|PROFILE,..."
    )
    change.add_argument("settings", nargs="+", metavar="KEY=VALUE")
    fault = verbs.add_parser("fault", help="add faults: " + ", ".join(sorted(state.FAULTS)))
    fault.add_argument("faults", nargs="+", metavar="FAULT[:GPU]")
    verbs.add_parser("mend", help="remove all faults")
    return top


def main(root: Path, argv: list[str]) -> int:
    asked = parser().parse_args(argv)
    now = state.load(root)
    try:
        if asked.verb == "show":
            print(json.dumps(state.effective(now), indent=2))
            return 0
        if asked.verb == "mend":
            now["faults"] = []
        for setting in getattr(asked, "settings", []):
            state.change(now, setting)
        for fault in getattr(asked, "faults", []):
            state.add_fault(now, fault)
    except state.StateError as error:
        print(f"lab gpu: {error}", file=sys.stderr)
        return 1
    install.apply(root, now)
    return 0
