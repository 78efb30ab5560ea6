"""The state file, its faults and changes."""

import pytest

from .. import state


def test_default_is_two_gpus_with_the_known_identities() -> None:
    made = state.new(2)
    assert [one["uuid"] for one in made["gpus"]] == [f"GPU-12345678-1234-1234-1234-12345678000{n}" for n in (0, 1)]
    assert [one["pci"] for one in made["gpus"]] == ["00000000:07:00.0", "00000000:0F:00.0"]
    assert all(one["memory_mib"] == 40960 for one in made["gpus"])


def test_eight_gpus_are_eight_different_ones() -> None:
    gpus = state.new(8)["gpus"]
    for key in ("uuid", "pci", "minor", "serial"):
        assert len({one[key] for one in gpus}) == 8


@pytest.mark.parametrize("gpus", [-1, 9])
def test_no_other_number_of_gpus(gpus: int) -> None:
    with pytest.raises(state.StateError, match="0 to 8"):
        state.new(gpus)


@pytest.mark.parametrize("fault", sorted(state.FAULTS))
def test_every_fault_changes_something_and_mends(fault: str) -> None:
    whole, broken = state.new(2), state.new(2, [fault])
    assert state.effective(broken) | {"faults": []} != state.effective(whole)
    broken["faults"] = []
    assert state.effective(broken) == state.effective(whole)


@pytest.mark.parametrize(
    ("wish", "told"),
    [
        ("nonsense", "is not KEY=VALUE"),
        ("color=red", "unknown key"),
        ("version=new", "no driver version"),
        ("gpu.5.temperature=40", "no such GPU"),
        ("gpu.0.colour=red", "unknown property"),
        ("gpu.0.mig=9g.90gb", "unknown MIG profile"),
        ("gpu.0.mig=4g.20gb,4g.20gb", "more than the seven slices"),
    ],
)
def test_impossible_wishes_are_refused(wish: str, told: str) -> None:
    with pytest.raises(state.StateError, match=told):
        state.change(state.new(2), wish)


@pytest.mark.parametrize(("fault", "told"), [("rust", "unknown fault"), ("gpu-lost:4", "no such GPU")])
def test_impossible_faults_are_refused(fault: str, told: str) -> None:
    with pytest.raises(state.StateError, match=told):
        state.new(2, [fault])


def test_a_fault_needs_a_gpu() -> None:
    with pytest.raises(state.StateError, match="no GPU"):
        state.new(0, ["not-loaded"])


def test_old_module_under_a_new_library_is_a_mismatch_until_the_reboot() -> None:
    made = state.new(1)
    state.change(made, "kernel_version=550.163.01")
    state.change(made, "version=560.35.03")
    assert state.effective(made)["nvml_init"] == 18
    state.change(made, "kernel_version=")
    assert "nvml_init" not in state.effective(made)


def test_growing_keeps_what_was_set() -> None:
    made = state.new(1)
    state.change(made, "gpu.0.temperature=77")
    state.change(made, "gpus=3")
    assert [one["temperature"] for one in made["gpus"]] == [77, 31, 31]
    assert [one["minor"] for one in made["gpus"]] == [0, 1, 2]
