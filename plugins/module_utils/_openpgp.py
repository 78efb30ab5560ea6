# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Just enough of OpenPGP to know which keys a file holds, without gpg on the target."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterator

from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError

PUBLIC_KEY = 6  # packet tag of a primary public key
_BLOCK = re.compile(
    rb"-----BEGIN PGP PUBLIC KEY BLOCK-----[ \t]*\r?\n(?P<body>.*?)-----END PGP PUBLIC KEY BLOCK-----", re.DOTALL
)


def dearmor(data: bytes) -> bytes:
    """The binary packets of an armored key file; binary input is returned as it is."""
    blocks = list(_BLOCK.finditer(data))
    if not blocks:
        if data[:1] and data[0] & 0x80:  # every packet header has its top bit set
            return data
        raise FleetError("KEY_INVALID", f"no public key block; it starts with {data[:60]!r}")
    binary = b""
    for block in blocks:
        # Headers ("Version: ..."), an empty line, base64, and a checksum line that starts with "=".
        lines = [line.strip() for line in block["body"].split(b"\n")]
        body = [line for line in lines if line and b":" not in line and not line.startswith(b"=")]
        try:
            binary += base64.b64decode(b"".join(body), validate=True)
        except binascii.Error as error:
            raise FleetError("KEY_INVALID", f"damaged base64 in the key block: {error}") from error
    return binary


def armor(binary: bytes) -> bytes:
    """Binary packets as the text form that apt wants in a file named .asc."""
    text = base64.b64encode(binary)
    lines = [text[i : i + 64] for i in range(0, len(text), 64)]
    checksum = b"=" + base64.b64encode(_crc24(binary).to_bytes(3, "big"))
    head, tail = b"-----BEGIN PGP PUBLIC KEY BLOCK-----", b"-----END PGP PUBLIC KEY BLOCK-----"
    return b"\n".join([head, b"", *lines, checksum, tail, b""])


def _crc24(data: bytes) -> int:
    crc = 0xB704CE
    for byte in data:
        crc ^= byte << 16
        for _ in range(8):
            crc <<= 1
            if crc & 0x1000000:
                crc ^= 0x1864CFB
    return crc & 0xFFFFFF


def packets(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Tag and body of each packet (RFC 9580, section 4.2; both header formats)."""
    at = 0
    while at < len(data):
        head = data[at]
        if not head & 0x80:
            raise FleetError("KEY_INVALID", f"no packet header at byte {at}")
        at += 1
        try:
            if head & 0x40:  # new format
                tag = head & 0x3F
                first = data[at]
                if first < 192:
                    length, at = first, at + 1
                elif first < 224:
                    length, at = ((first - 192) << 8) + data[at + 1] + 192, at + 2
                elif first == 255:
                    length, at = int.from_bytes(data[at + 1 : at + 5], "big"), at + 5
                else:
                    raise FleetError("KEY_INVALID", "a packet of partial length, which a key never has")
            else:
                tag = (head >> 2) & 0x0F
                size = (1, 2, 4, 0)[head & 0x03]
                if not size:
                    raise FleetError("KEY_INVALID", "a packet of unknown length, which a key never has")
                length, at = int.from_bytes(data[at : at + size], "big"), at + size
        except IndexError as error:
            raise FleetError("KEY_INVALID", "the key ends in the middle of a packet") from error
        body = data[at : at + length]
        if len(body) != length:
            raise FleetError("KEY_INVALID", "the key ends in the middle of a packet")
        yield tag, body
        at += length


def fingerprints(data: bytes) -> list[str]:
    """Fingerprints of the primary keys in a file, in its order (upper-case hexadecimal)."""
    found = []
    for tag, body in packets(dearmor(data)):
        if tag != PUBLIC_KEY:
            continue
        version = body[0] if body else 0
        if version != 4:
            raise FleetError("KEY_INVALID", f"a public key of version {version}; only version 4 is understood")
        framed = b"\x99" + len(body).to_bytes(2, "big") + body
        found.append(hashlib.sha1(framed, usedforsecurity=False).hexdigest().upper())
    if not found:
        raise FleetError("KEY_INVALID", "it holds no public key")
    return found


def normalize(fingerprint: str) -> str:
    """A fingerprint as people write it (spaces, colons, 0x, lower case) in its plain form."""
    plain = re.sub(r"[\s:]", "", fingerprint).upper().removeprefix("0X")
    if not re.fullmatch(r"[0-9A-F]{40}", plain):
        raise FleetError("KEY_FINGERPRINT_MISMATCH", f"{fingerprint!r} is not a fingerprint of 40 hexadecimal digits")
    return plain
