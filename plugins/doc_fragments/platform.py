# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Where a module works: `platform` for any Debian or Ubuntu, `platform.systemd` for those that run systemd."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
attributes:
  platform:
    description: Debian and Ubuntu.
    support: full
    platforms: debian
"""

    SYSTEMD = r"""
attributes:
  platform:
    description: Debian and Ubuntu with systemd.
    support: full
    platforms: debian
"""
