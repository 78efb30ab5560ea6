"""The probe: its arithmetic, its kernel's text, and how it behaves where there is no driver."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpulab.fleet.plugins.module_utils import _cuda

PROBE = Path(_cuda.__file__)


def run(request: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(PROBE), json.dumps(request)], capture_output=True, text=True, check=False
    )
    assert done.stdout.count("\n") == 1, "one line, whatever happens"
    return done.returncode, json.loads(done.stdout)


def test_the_kernel_is_ptx_that_old_and_new_gpus_load() -> None:
    text = _cuda.PTX.decode()
    assert re.search(r"^\.version 6\.0$", text, re.M)
    assert re.search(r"^\.target sm_52$", text, re.M)
    assert f".visible .entry {_cuda.KERNEL.decode()}(" in text


def test_constants_of_the_kernel_are_those_of_the_reference() -> None:
    found = re.search(r"mul\.lo\.u32 %r12, %r11, (-?\d+);", _cuda.PTX.decode())
    assert found
    multiplier = int(found.group(1))
    assert multiplier & _cuda.MASK == 2246822519
    assert "1664525" in _cuda.PTX.decode()


@pytest.mark.parametrize(
    ("word", "index", "seed", "expected"),
    [(0, 0, 0, 0), (1, 0, 0, 0xAD5457C0), (0xFFFFFFFF, 16380, 0xFFFFFFFF, 0x365E2559)],
)
def test_reference(word: int, index: int, seed: int, expected: int) -> None:
    assert _cuda.mix(word, index, seed) == expected


def test_data_differ_by_seed_and_repeat_by_seed() -> None:
    assert _cuda.pseudo_random_words(7, 100) == _cuda.pseudo_random_words(7, 100)
    assert _cuda.pseudo_random_words(7, 100) != _cuda.pseudo_random_words(8, 100)
    words = _cuda.pseudo_random_words(7)
    assert len(set(words)) > 0.99 * len(words)


@pytest.mark.parametrize("uuid", ["GPU-ABCD", "gpu-abcd", "MIG-abcd", "abcd"])
def test_bare(uuid: str) -> None:
    assert _cuda.bare(uuid) == "abcd"


def test_without_a_driver_it_says_so_and_ends() -> None:
    status, answer = run({"look": True, "gpu": "GPU-x"})
    assert status == 1
    assert (answer["ok"], answer["library"]) == (False, False)
    assert (answer["error"]["step"], answer["error"]["name"]) == ("library", "LIBRARY_NOT_FOUND")


def test_forbidden_nodes_are_tried() -> None:
    # Number 1:3 is /dev/null, which is openable wherever it can be made.
    node = {"path": "/dev/no-such-node", "major": 1, "minor": 3}
    _status, answer = run({"look": True, "forbidden": [node]})
    tried = answer["forbidden"]["/dev/no-such-node"]
    assert tried["open"] == "ENOENT"
    assert tried["make"] in ("ok", "EPERM", "no writable folder")
    if tried["make"] == "ok":
        assert tried["open_made"] == "ok"
    assert not list(Path("/dev/shm").glob("gpulab-probe-*"))


def test_a_call_that_hangs_is_left() -> None:
    code = f"""
import sys; sys.path.insert(0, {str(PROBE.parent)!r})
import time, _cuda
_cuda.Probe.load = lambda self: time.sleep(60)
_cuda.os._exit(_cuda.main(['{{"timeout": 0.3}}']))
"""
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=False, timeout=20)
    answer = json.loads(done.stdout)
    assert done.returncode == 3
    assert (answer["error"]["name"], answer["error"]["step"]) == ("TIMEOUT", "library")
