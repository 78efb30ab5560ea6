#!/usr/bin/python
# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: gpu_proof
short_description: Judges and records what gpu_info and gpu_passthrough found
version_added: "0.1.0"
description:
  - Folds the host's and the users' results into one verdict, keeps it on the host, and fails when it is V(fail),
    with every cause and remedy.
  - The record in O(path) and the local fact C(ansible_local.gpulab.proof) change only when a verdict changes or
    what was proven does (GPUs, driver, toolkit, engines, specs), not with the times of a run.
  - The last result in full, with times and the boot it belongs to, is in O(runtime_path), which a reboot clears.
  - A host without a GPU has no record, unless GPUs are expected.
author:
  - gpulab.fleet contributors
attributes:
  check_mode:
    support: partial
    description: There is no result to judge in check mode; nothing is recorded and nothing fails.
  diff_mode:
    support: full
    description: Shows the record without the times.
options:
  info:
    description: The result of M(gpulab.fleet.gpu_info).
    type: dict
    required: true
  proofs:
    description: The results of M(gpulab.fleet.gpu_passthrough), one a user.
    type: list
    elements: dict
    default: []
  expected:
    description: How many usable GPUs the host must have. Without it any number will do.
    type: int
  path:
    description: Where the record is kept.
    type: path
    default: /var/lib/gpulab/proof.json
  facts_path:
    description: The local fact file that gets the record as C(proof); other keys in it stay.
    type: path
    default: /etc/ansible/facts.d/gpulab.fact
  runtime_path:
    description: Where the last result in full is kept until the next boot.
    type: path
    default: /run/gpulab/proof.json
"""

EXAMPLES = r"""
- name: Judge and record the proof
  gpulab.fleet.gpu_proof:
    info: "{{ gpus }}"
    proofs: "{{ [proof] }}"
    expected: 2
"""

RETURN = r"""
record:
  description: >-
    The record, with schema, verdict, driver, cuda, toolkit, gpus (uuid, name, status), users (by name, with verdict,
    gpus, engine, specs, findings and steps) and findings (codes). Empty on a host without a GPU.
  type: dict
  returned: always
verdict:
  description: V(pass), V(fail) or V(unknown).
  type: str
  returned: always
recorded:
  description: Whether the record was written, because it differs from the one that was there.
  type: bool
  returned: always
lines:
  description: The proof as a person reads it.
  type: list
  elements: str
  returned: always
findings:
  description: Everything that was found wrong, errors first.
  type: list
  elements: dict
  returned: always
ansible_facts:
  description: The record as C(gpulab_proof), for what comes later in the play.
  type: dict
  returned: always
"""

import json
import subprocess
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpulab.fleet.plugins.module_utils import _record
from ansible_collections.gpulab.fleet.plugins.module_utils._findings import message, sort_findings
from ansible_collections.gpulab.fleet.plugins.module_utils._journal import Journal
from ansible_collections.gpulab.fleet.plugins.module_utils._proof import gathered

TOOLKIT = "nvidia-container-toolkit-base"


def toolkit_version() -> str | None:
    """The installed toolkit package's version; None where there is none."""
    command = ["dpkg-query", "--show", "--showformat=${db:Status-Abbrev}${Version}", TOOLKIT]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    state, version = done.stdout[:3], done.stdout[3:].strip()
    # The first letter is what is wanted of it: i, or h for a package on hold.
    return version if state[1:2] == "i" and version else None


def load(path: Path) -> dict[str, Any]:
    """A JSON object from a file; empty when there is none or it is damaged."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def dump(value: Any) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()


class Keeper:
    """The record on disk: as it was, as it is to be, and the difference."""

    def __init__(self, path: Path, facts: Path) -> None:
        self.path, self.facts = path, facts
        self.journal = Journal()
        self.before = load(path)
        self.facts_before = load(facts)

    def differs(self, record: dict[str, Any]) -> bool:
        known = [self.before, self.facts_before.get("proof") or {}]
        return any(_record.compared(each) != _record.compared(record) for each in known)

    def keep(self, record: dict[str, Any]) -> None:
        facts = {key: value for key, value in self.facts_before.items() if key != "proof"}
        if record:
            self.journal.write(self.path, dump(record), 0o644)
            facts["proof"] = record
        else:
            self.path.unlink(missing_ok=True)
        if facts:
            self.journal.write(self.facts, dump(facts), 0o644)
        else:
            self.facts.unlink(missing_ok=True)

    def diff(self, record: dict[str, Any]) -> dict[str, str]:
        def text(value: dict[str, Any]) -> str:
            return dump(_record.compared(value)).decode() if value else ""

        return {
            "before": text(self.before),
            "after": text(record),
            "before_header": str(self.path),
            "after_header": str(self.path),
        }


def now() -> dict[str, str]:
    """When, and in which boot."""
    return {
        "boot_id": Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def explain(findings: list[dict[str, Any]], lines: list[str]) -> str:
    """The failed task's message: what is wrong and what to do, then the whole proof."""
    wrong = [message(found) for found in findings if found["severity"] == "error"]
    return "\n\n".join(["The GPUs of this host are not proven.", *wrong, "\n".join(lines)])


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "info": {"type": "dict", "required": True},
            "proofs": {"type": "list", "elements": "dict", "default": []},
            "expected": {"type": "int"},
            "path": {"type": "path", "default": "/var/lib/gpulab/proof.json"},
            "facts_path": {"type": "path", "default": "/etc/ansible/facts.d/gpulab.fact"},
            "runtime_path": {"type": "path", "default": "/run/gpulab/proof.json"},
        },
        supports_check_mode=True,
    )
    params = module.params
    info, proofs = params["info"], [proof for proof in params["proofs"] if "verdict" in proof]
    keeper = Keeper(Path(params["path"]), Path(params["facts_path"]))
    if module.check_mode:
        text = "the proof is not run in check mode"
        module.exit_json(
            changed=False,
            recorded=False,
            skipped=True,
            msg=text,
            verdict="unknown",
            record=keeper.before,
            lines=[text],
            findings=[],
        )
    nothing = _record.has_no_gpu(info) and not params["expected"]
    record, findings = _record.make(info, proofs, params["expected"], None if nothing else toolkit_version())
    lines = _record.host_lines(info) + [line for proof in proofs for line in proof["lines"]]
    if not proofs and not nothing:
        lines.append("UNKNOWN nobody in gpulab_users is given GPUs of this host: nothing was proven in a container")
    findings = sort_findings(gathered(findings))
    result: dict[str, Any] = {"verdict": record["verdict"], "lines": lines, "findings": findings}
    if nothing:
        record = {}
    changed = keeper.differs(record)
    if changed:
        keeper.keep(record)
    latest = {**now(), "record": record, "info": info, "proofs": proofs}
    keeper.journal.write(Path(params["runtime_path"]), dump(latest), 0o644)
    result.update(changed=changed, recorded=changed, record=record, ansible_facts={"gpulab_proof": record})
    if module._diff and changed:
        result["diff"] = keeper.diff(record)
    if result["verdict"] == "fail":
        module.fail_json(msg=explain(findings, lines), **result)
    if result["verdict"] == "unknown" and not nothing:
        module.warn("The GPUs of this host are not fully proven:\n" + "\n".join(lines))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
