# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The option of every module that reaches past the host (its argument spec: module_utils/_proxy.py, OPTION)."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  proxy:
    description:
      - What lies between the host and everything outside it, the variable C(gpulab_proxy) through the filter
        P(gpulab.fleet.proxy_settings#filter).
    type: dict
    default: {}
    suboptions:
      http:
        description: Address of the proxy for http.
        type: str
        default: ""
      https:
        description: Address of the proxy for https; the other's when empty.
        type: str
        default: ""
      no_proxy:
        description: Names that are reached without a proxy, a list or one text with commas.
        type: raw
      ca:
        description: Certificates of authorities to trust, as PEM text.
        type: str
        default: ""
"""
