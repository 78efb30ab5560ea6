"""dpkg's and apt's output as data, and which packages have to change."""

from __future__ import annotations

import pytest
from ansible_collections.gpulab.fleet.plugins.module_utils._apt import (
    Installed,
    Offer,
    Wanted,
    below,
    choose,
    complaints,
    matches,
    numbers,
    outstanding,
    parse_dpkg,
    parse_policy,
    upstream,
)
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError

JAMMY = "5:28.5.2-1~ubuntu.22.04~jammy"
OLD = "5:26.1.5-1~ubuntu.22.04~jammy"

POLICY = f"""\
docker-ce:
  Installed: {OLD}
  Candidate: {JAMMY}
  Version table:
     {JAMMY} 500
        500 http://mirror/docker/linux/ubuntu jammy/stable amd64 Packages
 *** {OLD} 500
        500 http://mirror/docker/linux/ubuntu jammy/stable amd64 Packages
        100 /var/lib/dpkg/status
gone:
  Installed: 1.0-1
  Candidate: 1.0-1
  Version table:
 *** 1.0-1 100
        100 /var/lib/dpkg/status
virtual:
  Installed: (none)
  Candidate: (none)
  Version table:
pinned:
  Installed: (none)
  Candidate: 1.0-1
  Version table:
     2.0-1 -1
        500 http://mirror stable/main amd64 Packages
     1.0-1 990
        990 http://mirror stable/main amd64 Packages
"""


def test_policy() -> None:
    offers = parse_policy(POLICY)
    assert offers["docker-ce"].candidate == JAMMY
    assert offers["docker-ce"].versions == [JAMMY, OLD]
    assert offers["docker-ce"].sources[0] == "http://mirror/docker/linux/ubuntu jammy/stable amd64 Packages"
    assert offers["gone"] == Offer()  # only dpkg knows it: no source offers it
    assert offers["virtual"] == Offer()
    assert offers["pinned"].candidate == "1.0-1"
    assert parse_policy("") == {}


def test_dpkg() -> None:
    text = (
        f"docker-ce\tii \t{JAMMY}\nheld\thi \t1-1\nconfig\trc \t1-1\nunknown\tun \t\nbroken\tiHR\t1-1\nhalf\tiU \t1-1\n"
    )
    assert parse_dpkg(text) == {
        "docker-ce": Installed(JAMMY),
        "held": Installed("1-1", held=True),
        "broken": Installed("1-1", whole=False),
        "half": Installed("1-1", whole=False),
    }


@pytest.mark.parametrize(
    ("debian", "publisher"),
    [
        (JAMMY, "28.5.2"),
        ("2.1.9-1~ubuntu.22.04~jammy", "2.1.9"),
        ("26.1.5+dfsg1-9+deb13u1", "26.1.5"),
        ("27.5.1-0ubuntu3~22.04.2", "27.5.1"),
        ("1.20.0-1", "1.20.0"),
        ("1.20.0", "1.20.0"),
        ("1.7.24~ds1-6", "1.7.24~ds1"),
    ],
)
def test_upstream(debian: str, publisher: str) -> None:
    assert upstream(debian) == publisher
    assert matches(publisher, debian)
    assert matches(debian, debian)
    assert matches("", debian)
    assert not matches(publisher + "1", debian)


@pytest.mark.parametrize(
    ("version", "minimum", "expected"),
    [
        (JAMMY, "26.1", False),
        ("26.1.5+dfsg1-9", "26.1", False),
        ("26.1", "26.1", False),
        ("26.0.9", "26.1", True),
        ("20.10.24+dfsg1-1", "26.1", True),
        ("29", "28.2", False),
        ("9.0", "28.2", True),
        ("1.19.0-1", "1.19.1", True),
        ("anything", "", False),
        ("28.5.2-rc.1", "28.2", False),
    ],
)
def test_below(version: str, minimum: str, expected: bool) -> None:
    assert below(version, minimum) is expected


def test_numbers() -> None:
    assert numbers("1.20.0~rc.1-1") == (1, 20, 0)
    assert numbers("x") == ()


@pytest.mark.parametrize(
    ("wanted", "installed", "todo"),
    [
        (Wanted("a", "1.0"), {}, True),
        (Wanted("a"), {}, True),
        (Wanted("a"), {"a": Installed("9-1")}, False),
        (Wanted("a", "1.0"), {"a": Installed("1.0-3")}, False),
        (Wanted("a", "1.0"), {"a": Installed("1.1-1")}, True),
        (Wanted("a", "1.0"), {"a": Installed("1.0-3", whole=False)}, True),
        (Wanted("a", "1.0"), {"a": Installed("1.0-3", held=True)}, False),
    ],
)
def test_outstanding(wanted: Wanted, installed: dict[str, Installed], todo: bool) -> None:
    assert outstanding([wanted], installed) == ([wanted] if todo else [])


def test_what_is_kept_is_only_completed() -> None:
    wanted = [Wanted("a", "2.0", "1.0"), Wanted("b", "2.0")]
    assert outstanding(wanted, {"a": Installed("1.5-1")}, keep_installed=True) == [wanted[1]]


@pytest.mark.parametrize(
    ("wanted", "installed", "code"),
    [
        (Wanted("a", "2.0"), Installed("1.0-1", held=True), "PACKAGE_HELD"),
        (Wanted("a", "", "2.0"), Installed("1.0-1"), "PACKAGE_TOO_OLD"),
    ],
)
def test_refused(wanted: Wanted, installed: Installed, code: str) -> None:
    with pytest.raises(FleetError) as caught:
        outstanding([wanted], {"a": installed}, keep_installed=code == "PACKAGE_TOO_OLD")
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("wanted", "version"),
    [
        (Wanted("docker-ce", "28.5.2"), JAMMY),
        (Wanted("docker-ce", OLD), OLD),
        (Wanted("docker-ce"), JAMMY),
        (Wanted("docker-ce", "28.5"), ""),
        (Wanted("virtual"), ""),
        (Wanted("pinned"), "1.0-1"),
        (Wanted("pinned", "2.0"), "2.0-1"),
    ],
)
def test_choose(wanted: Wanted, version: str) -> None:
    assert choose(wanted, parse_policy(POLICY)[wanted.name]) == version


def test_an_offer_below_the_minimum_is_refused() -> None:
    with pytest.raises(FleetError, match="PACKAGE_TOO_OLD"):
        choose(Wanted("pinned", "", "1.5"), parse_policy(POLICY)["pinned"])


def test_complaints() -> None:
    output = "Hit:1 x\nE: Unable to fetch\nW: Failed to fetch y\n dpkg: error processing\nReading package lists...\nErr:2 z\n"
    assert complaints(output) == ["E: Unable to fetch", "W: Failed to fetch y", "dpkg: error processing", "Err:2 z"]
