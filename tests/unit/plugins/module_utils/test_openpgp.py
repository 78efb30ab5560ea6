"""Fingerprints of key files, as GnuPG gives them."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._openpgp import armor, dearmor, fingerprints, normalize

from .openpgp_keys import ONE, ONE_FINGERPRINT, TWO, TWO_FINGERPRINT

BINARY = dearmor(ONE.encode())


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (ONE.encode(), [ONE_FINGERPRINT]),  # its subkey is not a key that signs on its own
        (BINARY, [ONE_FINGERPRINT]),
        ((ONE + TWO).encode(), [ONE_FINGERPRINT, TWO_FINGERPRINT]),
        (BINARY + dearmor(TWO.encode()), [ONE_FINGERPRINT, TWO_FINGERPRINT]),
        (ONE.replace("\n", "\r\n").encode(), [ONE_FINGERPRINT]),
        (ONE.replace("BLOCK-----\n", "BLOCK-----\nVersion: GnuPG v1\nComment: x\n", 1).encode(), [ONE_FINGERPRINT]),
        (b"some words before\n" + ONE.encode(), [ONE_FINGERPRINT]),
        (armor(BINARY), [ONE_FINGERPRINT]),
    ],
)
def test_fingerprints(data: bytes, expected: list[str]) -> None:
    assert fingerprints(data) == expected


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<html><body>Please log in</body></html>",
        ONE.encode()[:200],
        BINARY[:20],
        BINARY[:1],
        ONE.replace("A", "*", 3).encode(),
        b"\xb4\x03abc",  # a user id alone
        b"\x9b\x00",  # a length that is not given
        b"\xc6\xe1abc",  # a partial length
        b"\xc6\x02\x06\x00",  # a key of version 6
    ],
)
def test_what_is_no_key(data: bytes) -> None:
    with pytest.raises(FleetError) as caught:
        fingerprints(data)
    assert caught.value.code == "KEY_INVALID"


@pytest.mark.parametrize("length", [5, 200, 9000], ids=["one octet", "two octets", "five octets"])
def test_new_packet_format(length: int) -> None:
    body = b"\x04" + bytes(length - 1)
    if length < 192:
        head = bytes([0xC6, length])
    elif length < 8384:
        head = bytes([0xC6, 192 + ((length - 192) >> 8), (length - 192) & 0xFF])
    else:
        head = b"\xc6\xff" + length.to_bytes(4, "big")
    expected = hashlib.sha1(b"\x99" + length.to_bytes(2, "big") + body).hexdigest().upper()
    assert fingerprints(head + body) == [expected]


def test_armor_is_what_gnupg_writes() -> None:
    assert armor(BINARY) == ONE.encode()


@pytest.mark.parametrize(
    "written",
    [ONE_FINGERPRINT.lower(), "0x" + ONE_FINGERPRINT, "A464 B72C 18D5 673F 40FA  0036 DCA9 A5E6 F0A1 1AD2"],
)
def test_normalize(written: str) -> None:
    assert normalize(written) == ONE_FINGERPRINT


@pytest.mark.parametrize("written", ["", "F0A11AD2", ONE_FINGERPRINT + "00", "G" * 40])
def test_a_short_id_is_no_fingerprint(written: str) -> None:
    with pytest.raises(FleetError, match="KEY_FINGERPRINT_MISMATCH"):
        normalize(written)


@pytest.mark.skipif(shutil.which("gpg") is None, reason="no gpg to compare with")
@pytest.mark.parametrize("kind", ["rsa2048", "nistp256", "ed25519"])
def test_gnupg_agrees(tmp_path: Path, kind: str) -> None:
    home = ["gpg", "--homedir", str(tmp_path), "--batch", "--quiet"]
    tmp_path.chmod(0o700)
    subprocess.run([*home, "--passphrase", "", "--quick-gen-key", "x@example.org", kind, "sign"], check=True)
    listing = subprocess.run([*home, "--with-colons", "--list-keys"], check=True, capture_output=True, text=True).stdout
    expected = next(line.split(":")[9] for line in listing.splitlines() if line.startswith("fpr"))
    for form in (["--armor"], []):
        exported = subprocess.run([*home, *form, "--export"], check=True, capture_output=True).stdout
        assert fingerprints(exported) == [expected]
    subprocess.run(["gpgconf", "--homedir", str(tmp_path), "--kill", "all"], check=False)
