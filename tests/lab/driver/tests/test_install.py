"""The files of a host: put there, changed and taken away without a trace, and never half-written."""

import re
from pathlib import Path

import pytest

from .. import control, install, state, tree

LIBRARY = "usr/lib/x86_64-linux-gnu/libcuda.so.550.163.01"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "etc").mkdir()
    modules = tmp_path / tree.MODULES
    modules.mkdir(parents=True)
    (modules / "modules.builtin").write_text("kernel/net/ipv4/netfilter/ip_tables.ko\n")
    return tmp_path


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_again_changes_nothing(root: Path, cache: Path) -> None:
    install.install(root, 2, [], cache)
    before = {path: path.lstat().st_mtime_ns for path in root.rglob("*") if path.is_file() and "ld.so" not in path.name}
    install.install(root, 2, [], cache)
    changed = [path for path, stamp in before.items() if path.lstat().st_mtime_ns != stamp]
    assert [path.name for path in changed if path.name not in ("manifest.json", "nvidia-standin.json")] == []


def test_no_gpu_means_nothing_is_left(root: Path, cache: Path) -> None:
    before = files(root)
    install.install(root, 2, [], cache)
    assert len(files(root)) > len(before) + 30
    install.install(root, 0, [], cache)
    after = files(root)
    after.pop("etc/ld.so.cache", None)
    assert after == before


def test_a_running_process_keeps_the_library_it_has(root: Path, cache: Path) -> None:
    install.install(root, 2, [], cache)
    held = (root / LIBRARY).open("rb")
    old = held.read()
    install.install(root, 2, ["unknown"], cache)
    held.seek(0)
    assert held.read() == old  # a new file was renamed over it
    assert (root / LIBRARY).read_bytes() != old
    assert not list((root / LIBRARY).parent.glob(".*"))


def test_upgrade_replaces_the_old_version_and_touches_the_module_list(root: Path, cache: Path) -> None:
    install.install(root, 2, [], cache)
    modules = root / tree.MODULES / "modules.dep"
    before = modules.stat().st_ino
    assert control.main(root, ["set", "version=560.35.03"]) == 0
    names = {path.name for path in (root / tree.LIBRARIES).iterdir()}
    assert not [name for name in names if "550.163.01" in name]
    assert "libcuda.so.560.35.03" in names
    assert (root / "usr/lib/firmware/nvidia/560.35.03/gsp_ga10x.bin").exists()
    assert not (root / "usr/lib/firmware/nvidia/550.163.01").exists()
    assert modules.stat().st_ino != before


def test_module_list_names_the_driver_as_the_toolkit_looks_for_it(root: Path, cache: Path) -> None:
    install.install(root, 1, [], cache)
    assert re.search(r"/(nvidia|nvidia-current)[.]ko", (root / tree.MODULES / "modules.dep").read_text())
    assert (root / tree.MODULES / "modules.builtin").read_text() == "kernel/net/ipv4/netfilter/ip_tables.ko\n"


@pytest.mark.parametrize(
    ("fault", "absent", "present"),
    [
        ("uvm-missing", ["nvidia-uvm", "nvidia-uvm-tools"], ["nvidia0", "nvidia1", "nvidiactl"]),
        ("gpu-missing", ["nvidia1"], ["nvidia0"]),
        ("node-missing:0", ["nvidia0"], ["nvidia1"]),
        ("control-missing", ["nvidiactl"], ["nvidia0"]),
        ("not-loaded", ["nvidia0", "nvidiactl", "nvidia-uvm"], []),
        ("no-driver", ["nvidia0", "nvidiactl", "nvidia-uvm"], []),
    ],
)
def test_nodes(fault: str, absent: list[str], present: list[str]) -> None:
    names = tree.node_names(state.new(2, [fault]))
    assert not set(absent) & set(names)
    assert set(present) <= set(names)


def test_node_modes() -> None:
    text = tree.nodes(state.new(1, ["nodes-0660"]))["usr/lib/tmpfiles.d/nvidia-standin.conf"].content.decode()
    assert "c /dev/nvidia0 0660 root video - 1:3" in text


def test_without_a_driver_only_the_bus_shows_the_gpus(root: Path, cache: Path) -> None:
    install.install(root, 2, ["no-driver"], cache)
    paths = files(root)
    assert f"{tree.BASE}/sys/bus/pci/devices/0000:07:00.0/vendor" in paths
    assert not [path for path in paths if "libcuda" in path or "nvidia-smi" in path or "modules.dep" in path]


def test_old_module_is_told_as_the_loaded_one(root: Path, cache: Path) -> None:
    install.install(root, 1, ["library-mismatch"], cache)
    assert "550.90.07" in (root / tree.BASE / "proc/driver/nvidia/version").read_text()
    assert (root / tree.LIBRARIES / "libnvidia-ml.so.550.163.01").exists()


def test_missing_cuda_library(root: Path, cache: Path) -> None:
    install.install(root, 1, ["no-cuda-library"], cache)
    assert not list((root / tree.LIBRARIES).glob("libcuda.so*"))
    assert (root / tree.LIBRARIES / "libnvidia-ml.so.1").exists()


def test_commands(root: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    install.install(root, 2, [], cache)
    assert control.main(root, ["fault", "gpu-lost", "uvm-missing"]) == 0
    assert control.main(root, ["show"]) == 0
    assert '"error": 15' in capsys.readouterr().out
    assert control.main(root, ["fault", "rust"]) == 1
    assert "unknown fault" in capsys.readouterr().err
    assert control.main(root, ["mend"]) == 0
    assert state.load(root) == state.new(2)
