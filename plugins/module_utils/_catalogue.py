# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Everything this collection can find wrong with a host: one entry a condition.

This is data. The detector (host_health_info), the GPU modules and the documentation
(docs/findings.md is generated from it) all read it; nothing else describes a fault.

Each entry:
  layer     inventory | host | packages | engine | users | driver | toolkit | proof | stacks
  severity  error (stops an installation or a GPU), warning (will hurt later), info
  title     one line, what is wrong, without values
  cause     why it happens, one or two sentences
  remedy    what to do: a command or a setting; may name {placeholders} that evidence data fills
"""

from __future__ import annotations

from typing import Any

CATALOGUE: dict[str, dict[str, Any]] = {
    # --- inventory -----------------------------------------------------------------------------
    # --- host ----------------------------------------------------------------------------------
    # --- packages ------------------------------------------------------------------------------
    # --- engine --------------------------------------------------------------------------------
    # --- users ---------------------------------------------------------------------------------
    # --- driver --------------------------------------------------------------------------------
    "NVML_LIBRARY_MISMATCH": {
        "layer": "driver",
        "severity": "error",
        "title": "The NVIDIA library is newer or older than the loaded kernel module",
        "cause": "The driver packages were upgraded (often by unattended-upgrades) while the old kernel module stayed loaded; NVML answers with code 18.",
        "remedy": "Reboot the host, or unload and reload the nvidia modules with no process using the GPUs; then hold the nvidia packages.",
    },
    # --- toolkit -------------------------------------------------------------------------------
    # --- proof ---------------------------------------------------------------------------------
    # --- stacks --------------------------------------------------------------------------------
}
