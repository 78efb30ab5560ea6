#!/usr/bin/python
# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: gpu_passthrough
short_description: Proves that GPUs work inside a user's rootless containers
version_added: "0.1.0"
description:
  - Runs a probe in containers of the user's rootless engine. With one GPU each it must see that GPU and no
    other, must not reach the device nodes of the others, and computes on it, with memory, copies both ways and a
    kernel whose every result is compared with the CPU's. Copies are compared with the same probe run on the host.
  - Two controls guard against a proof that cannot fail. A container that was given no GPU must find none, and
    C(nvidia.com/gpu=all) must be exactly the assigned GPUs.
  - The probe's image is made on the host from the host's own Python and libraries, so nothing is pulled and no
    compiler is needed. It is made once, and again when the probe, the Python or the driver changes.
  - Containers run without capabilities, without network and with a read-only file system, and are removed by the
    engine itself when they end, also when this module is killed.
  - What could not be looked at is V(unknown), never V(pass).
author:
  - gpulab.fleet contributors
attributes:
  check_mode:
    support: partial
    description: Nothing is run in check mode; the verdict is V(unknown).
  diff_mode:
    support: none
    description: The only thing that can change is the probe image.
options:
  user:
    description: Whose containers to prove.
    type: str
    required: true
  gpus:
    description:
      - UUIDs of the GPUs, or MIG instances, that the user's CDI spec must offer.
      - With an empty list only the negative control is run.
    type: list
    elements: str
    default: []
  python_path:
    description: Folder with the Docker SDK. Used when it exists; otherwise the system's Python has to have it.
    type: path
    default: /var/lib/gpulab/python/current
  bandwidth_ratio_min:
    description: Copies in the container must reach this part of what the host reaches.
    type: float
    default: 0.5
  timeout:
    description: Seconds that the whole proof may take.
    type: int
    default: 60
seealso:
  - module: gpulab.fleet.gpu_info
  - module: gpulab.fleet.gpu_proof
notes:
  - Runs as root or as the user.
  - >-
    Fails when the options do not fit the host (no such user, GPU or engine, a dead socket). A proof that fails does
    not fail the task; look at RV(verdict), or let M(gpulab.fleet.gpu_proof) judge it.
"""

EXAMPLES = r"""
- name: Prove trainer's GPUs
  gpulab.fleet.gpu_passthrough:
    user: trainer
    gpus: "{{ gpus.gpus | map(attribute='uuid') }}"
  register: proof

- name: Stop here unless they work
  ansible.builtin.assert:
    that: proof.verdict == 'pass'
    fail_msg: "{{ proof.lines | join('\n') }}"
"""

RETURN = r"""
verdict:
  description: V(pass) when every step passed, V(fail) when one failed, V(unknown) otherwise.
  type: str
  returned: always
steps:
  description: The steps in order.
  type: list
  elements: dict
  returned: always
  contains:
    name:
      description:
        - V(engine), V(spec) and V(image) prepare.
        - V(visible), V(isolated), V(compute) and V(bandwidth) are about one GPU each; V(isolated) is left out on a host
          with a single GPU.
        - V(none) and V(all) are the two controls.
      type: str
      returned: always
    gpu: {description: UUID of the GPU that the step is about, type: str, returned: always}
    verdict: {description: "V(pass), V(fail) or V(unknown).", type: str, returned: always}
    seconds: {description: How long it took., type: float, returned: always}
    detail: {description: What was seen., type: str, returned: always}
lines:
  description: The proof as a person reads it.
  type: list
  elements: str
  returned: always
bandwidth:
  description: >-
    By UUID the speed of copies in the container and on the host (bytes, pinned, host_to_device_bytes_per_second,
    device_to_host_bytes_per_second), and their ratio in the worse direction.
  type: dict
  returned: always
image:
  description: The probe image, with id, tag, bytes and whether it was built by this run.
  type: dict
  returned: when the proof came that far
engine:
  description: The user's engine, with version, socket, storage_driver and rootless.
  type: dict
  returned: when it was reached
spec:
  description: The CDI folders that the engine reads, the spec files in them and the devices these offer.
  type: dict
  returned: when the engine was reached
seconds:
  description: How long the whole proof took.
  type: float
  returned: always
findings:
  description: What is wrong, as code, layer, severity, title, evidence, cause and remedy; errors first.
  type: list
  elements: dict
  returned: always
finding:
  description: The finding that the task failed with.
  type: dict
  returned: when options do not fit the host
"""

import signal
import sys
import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpulab.fleet.plugins.module_utils import _proof
from ansible_collections.gpulab.fleet.plugins.module_utils._findings import message, sort_findings
from ansible_collections.gpulab.fleet.plugins.module_utils._passthrough import Passthrough, Settings

# The options name something that is not there: the task fails instead of only saying so.
BAD_OPTIONS = {
    "PROOF_USER_UNKNOWN",
    "PROOF_ENGINE_ABSENT",
    "PROOF_ENGINE_DEAD",
    "GPU_UNKNOWN",
    "PYTHON_PARTS_MISSING",
}


def prove(settings: Settings) -> dict[str, Any]:
    """The proof as the module returns it."""
    started = time.monotonic()
    answer = Passthrough(settings).run()
    judged = answer.judged
    verdict = _proof.fold(step["verdict"] for step in judged.steps)
    return {
        "user": settings.user,
        "gpus": settings.gpus,
        "verdict": verdict,
        "steps": judged.steps,
        "lines": _proof.lines(settings.user, verdict, judged.steps),
        "bandwidth": answer.bandwidth,
        "image": answer.image,
        "engine": answer.engine,
        "spec": answer.spec,
        "findings": sort_findings(_proof.gathered(judged.findings)),
        "seconds": round(time.monotonic() - started, 3),
        "changed": bool(answer.image.get("built")),
    }


def stop_orderly(number: int, _frame: Any) -> None:
    """Leaves through every finally, so that no container stays."""
    sys.exit(128 + number)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "user": {"type": "str", "required": True},
            "gpus": {"type": "list", "elements": "str", "default": []},
            "python_path": {"type": "path", "default": "/var/lib/gpulab/python/current"},
            "bandwidth_ratio_min": {"type": "float", "default": 0.5},
            "timeout": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    settings = Settings(**module.params)
    if module.check_mode:
        text = "the proof is not run in check mode"
        module.exit_json(
            changed=False, skipped=True, msg=text, user=settings.user, gpus=settings.gpus, verdict="unknown",
            steps=[], lines=[f"UNKNOWN containers of {settings.user}: {text}"], findings=[], bandwidth={}, seconds=0.0,
        )  # fmt: skip
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop_orderly)
    result = prove(settings)
    bad = next((found for found in result["findings"] if found["code"] in BAD_OPTIONS), None)
    if bad:
        module.fail_json(msg=message(bad), finding=bad, **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
