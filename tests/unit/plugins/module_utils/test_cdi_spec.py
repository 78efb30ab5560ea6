"""Reading CDI specs as far as the proof needs them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ansible_collections.gpulab.fleet.plugins.module_utils import _cdi_spec

YAML = """---
cdiVersion: 0.5.0
kind: nvidia.com/gpu
devices:
    - name: "0"
      containerEdits:
        deviceNodes:
            - path: /dev/nvidia0
              major: 195
              fileMode: 438
        hooks:
            - hookName: createContainer
              path: /usr/bin/nvidia-cdi-hook
    - name: GPU-12345678-1234-1234-1234-123456780001
      containerEdits:
        deviceNodes:
            - path: /dev/nvidia1
            - path: /dev/dri/card1
    - name: all
      containerEdits:
        deviceNodes:
            - path: /dev/nvidia0
            - path: /dev/nvidia1
containerEdits:
    deviceNodes:
        - path: /dev/nvidiactl
    mounts:
        - hostPath: /usr/bin/nvidia-smi
"""
DEVICES = {
    "0": ["/dev/nvidia0"],
    "GPU-12345678-1234-1234-1234-123456780001": ["/dev/nvidia1", "/dev/dri/card1"],
    "all": ["/dev/nvidia0", "/dev/nvidia1"],
}
JSON = json.dumps(
    {
        "kind": "nvidia.com/gpu",
        "devices": [
            {"name": name, "containerEdits": {"deviceNodes": [{"path": path} for path in paths]}}
            for name, paths in DEVICES.items()
        ],
    }
)


@pytest.mark.parametrize(
    ("text", "devices"),
    [
        (YAML, DEVICES),
        (JSON, DEVICES),
        (YAML.replace("nvidia.com/gpu", "intel.com/gpu"), {}),
        (YAML.replace("kind: nvidia.com/gpu", 'kind: "nvidia.com/gpu"'), DEVICES),
        ('{"kind": "nvidia.com/gpu", "devices": [{}]}', {}),
        ("{broken", {}),
        ("", {}),
        ("not: [a, spec", {}),
    ],
    ids=["yaml", "json", "other kind", "quoted kind", "nameless", "broken json", "empty", "broken yaml"],
)
def test_parse(text: str, devices: dict[str, list[str]]) -> None:
    assert _cdi_spec.parse(text) == devices


def test_read(tmp_path: Path) -> None:
    (tmp_path / "nvidia.yaml").write_text(YAML)
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "notes.txt").write_text(YAML)
    files, devices = _cdi_spec.read([str(tmp_path), str(tmp_path / "absent")])
    assert files == [str(tmp_path / "nvidia.yaml")]
    assert devices == DEVICES


def test_gpu_uuids() -> None:
    assert _cdi_spec.gpu_uuids({"0": [], "all": [], "MIG-b": [], "GPU-a": []}) == ["GPU-a", "MIG-b"]
