# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The shape of a check, and how checks become findings, unknowns and a verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._findings import from_error, sort_findings
from ansible_collections.gpulab.fleet.plugins.module_utils._health_facts import wants_gpu
from ansible_collections.gpulab.fleet.plugins.module_utils._health_view import HostView, Unreadable

# What a check yields: a finding, or what it could not look at (and goes on).
Seen = Iterator[dict[str, Any] | Unreadable]


class Check(NamedTuple):
    """One check.

    look       reads the host and yields findings and unreadable facts
    codes      every code it can yield
    preflight  whether what it finds stops an installation, so that preflight runs it
    needed     whether it has a meaning on this host at all
    for_gpus   it stops only who wants GPUs: preflight leaves it out where the inventory gives nobody one
    """

    name: str
    look: Callable[[HostView], Seen]
    codes: tuple[str, ...]
    preflight: bool = False
    needed: Callable[[HostView], bool] = lambda host: True
    for_gpus: bool = False


def examine(host: HostView, checks: Iterable[Check], scope: str) -> dict[str, Any]:
    """Run the checks of a scope: {findings, unknown, checks, verdict}.

    A check that breaks is an unknown with its name, never a pass and never a crash.
    """
    findings: list[dict[str, Any]] = []
    unread: dict[str, list[str]] = {}  # reason -> checks: several may want the same fact
    ran: list[str] = []
    for check in checks:
        try:
            if scope == "preflight" and not (check.preflight and (wants_gpu(host) or not check.for_gpus)):
                continue
            if not check.needed(host):
                continue
            ran.append(check.name)
            for seen in check.look(host):
                if isinstance(seen, Unreadable):
                    unread.setdefault(str(seen), []).append(check.name)
                else:
                    findings.append(seen)
        except Unreadable as error:
            unread.setdefault(str(error), []).append(check.name)
        except FleetError as error:
            findings.append(from_error(error))
        except Exception as error:  # whatever a strange host provokes must not hide the other findings
            unread.setdefault(f"{type(error).__name__}: {error}", []).append(check.name)
    unknown = [{"reason": reason, "checks": list(dict.fromkeys(names))} for reason, names in unread.items()]
    return {
        "findings": sort_findings(findings),
        "unknown": unknown,
        "checks": ran,
        "verdict": verdict(findings, unknown),
    }


def verdict(findings: list[dict[str, Any]], unknown: list[Any]) -> str:
    """fail with any error; unknown when something could not be looked at; else pass."""
    if any(found["severity"] == "error" for found in findings):
        return "fail"
    return "unknown" if unknown else "pass"
