#!/usr/bin/python
# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: gpu_info
short_description: What NVML says of the host's NVIDIA GPUs
version_added: "0.1.0"
description:
  - Identity, versions, memory, MIG, health and topology of every NVIDIA GPU, keyed by UUID.
  - Never fails because something is missing or broken. A missing driver, a GPU that is lost or a
    driver that hangs is a finding with a code, its cause and a remedy, and shows in the verdict.
  - Reads through nvidia-ml-py, which the M(gpulab.fleet.target_python) module brings to the host.
author:
  - gpulab.fleet contributors
attributes:
  check_mode:
    support: full
    description: Reads only.
  diff_mode:
    support: none
    description: Changes nothing.
options:
  python_path:
    description: Folder with nvidia-ml-py. Used when it exists; otherwise the system's Python has to have it.
    type: path
    default: /var/lib/gpulab/python/current
  timeout:
    description: Seconds after which a driver that does not answer is reported as hanging.
    type: int
    default: 30
seealso:
  - module: gpulab.fleet.gpu_passthrough
"""

EXAMPLES = r"""
- name: Look at the GPUs
  gpulab.fleet.gpu_info:
  register: gpus

- name: Name them
  ansible.builtin.debug:
    msg: "{{ gpus.gpus | map(attribute='uuid') }}"
"""

RETURN = r"""
verdict:
  description: >-
    V(pass), at least one GPU is there and nothing is wrong with any; V(fail), there is an error among the
    findings; V(unknown), there is no GPU or it could not be looked at.
  type: str
  returned: always
driver_version:
  description: Version of the NVIDIA driver, null when it cannot be asked.
  type: str
  returned: always
  sample: 550.163.01
cuda_driver_version:
  description: The newest CUDA version that the driver supports.
  type: str
  returned: always
  sample: "12.4"
gpus:
  description: The GPUs in NVML's order. What a GPU or driver does not report is null.
  type: list
  elements: dict
  returned: always
  contains:
    index: {description: "NVML's index; it can change at boot.", type: int, returned: always}
    uuid: {description: Stable identity; null when the GPU is lost., type: str, returned: always}
    name: {description: Product name., type: str, returned: always}
    status:
      description: "V(ok), or V(failed) when a finding of severity error names this GPU."
      type: str
      returned: always
    minor:
      description: Number of its device node, C(/dev/nvidia<minor>).
      type: int
      returned: success
    pci_bus_id: {description: PCI address., type: str, returned: success}
    compute_capability: {description: "For example V(8.0).", type: str, returned: success}
    memory_total_bytes: {description: Memory., type: int, returned: success}
    memory_used_bytes: {description: Memory in use., type: int, returned: success}
    persistence_mode:
      description: Whether the driver keeps the GPU initialised.
      type: bool
      returned: success
    compute_mode:
      description: "V(default), V(exclusive_process), V(exclusive_thread) or V(prohibited)."
      type: str
      returned: success
    ecc:
      description: enabled; uncorrected and corrected errors since the driver was loaded.
      type: dict
      returned: success
    remapped_rows:
      description: corrected, uncorrected (counts); pending, failed.
      type: dict
      returned: success
    clock_reasons:
      description: What holds the clocks down.
      type: list
      elements: str
      returned: success
    pcie:
      description: generation, generation_max, width, width_max (lanes).
      type: dict
      returned: success
    temperature_celsius: {description: Temperature., type: int, returned: success}
    power_draw_watts: {description: Power being drawn., type: float, returned: success}
    power_limit_watts: {description: Power limit in force., type: float, returned: success}
    processes:
      description: "Compute processes: pid, memory_used_bytes."
      type: list
      elements: dict
      returned: success
    fabric_state:
      description: "NVSwitch fabric: V(completed), V(in_progress), V(not_started); null without one."
      type: str
      returned: success
    mig:
      description: >-
        supported, enabled, pending; instances as a list of index, uuid, name, gpu_instance, compute_instance
        and memory_total_bytes.
      type: dict
      returned: success
topology:
  description: For each two GPUs their UUIDs (gpus) and the longest way that data takes between them (path).
  type: list
  elements: dict
  returned: always
findings:
  description: What is wrong, as code, layer, severity, title, evidence, cause and remedy; errors first.
  type: list
  elements: dict
  returned: always
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpulab.fleet.plugins.module_utils._findings import sort_findings
from ansible_collections.gpulab.fleet.plugins.module_utils._nvml import query


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "python_path": {"type": "path", "default": "/var/lib/gpulab/python/current"},
            "timeout": {"type": "int", "default": 30},
        },
        supports_check_mode=True,
    )
    answer = query(module.params["python_path"], module.params["timeout"])
    answer["findings"] = sort_findings(answer["findings"])
    module.exit_json(changed=False, **answer)


if __name__ == "__main__":
    main()
