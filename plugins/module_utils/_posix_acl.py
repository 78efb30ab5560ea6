# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""POSIX access control lists as Linux keeps them with a file: read, changed and written without setfacl.

Ids are those of the user namespace that this runs in.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Iterable
from pathlib import Path

ACCESS = "system.posix_acl_access"
DEFAULT = "system.posix_acl_default"

OWNER, USER, GROUP, NAMED_GROUP, MASK, OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
NOBODY = 0xFFFFFFFF  # the id of an entry that names none
READ, WRITE, EXECUTE = 4, 2, 1

# (kind, id) -> permissions; in the kernel's order when sorted.
Acl = dict[tuple[int, int], int]

_HEAD = struct.Struct("<I")
_ENTRY = struct.Struct("<HHI")
_VERSION = 2
# What a file system without such lists says.
UNSUPPORTED = (errno.ENOTSUP, errno.EOPNOTSUPP)


def decode(data: bytes) -> Acl:
    found = {}
    for tag, permissions, number in _ENTRY.iter_unpack(data[_HEAD.size :]):
        found[(tag, number if tag in (USER, NAMED_GROUP) else NOBODY)] = permissions
    return found


def encode(acl: Acl) -> bytes:
    entries = (_ENTRY.pack(tag, permissions, number) for (tag, number), permissions in sorted(acl.items()))
    return _HEAD.pack(_VERSION) + b"".join(entries)


def of_mode(mode: int) -> Acl:
    """What plain permission bits mean."""
    return {(OWNER, NOBODY): mode >> 6 & 7, (GROUP, NOBODY): mode >> 3 & 7, (OTHER, NOBODY): mode & 7}


def read(path: str, kind: str) -> Acl:
    """A file's list; empty where there is none."""
    try:
        return decode(os.getxattr(path, kind))
    except OSError as error:
        if error.errno in (errno.ENODATA, *UNSUPPORTED):
            return {}
        raise


def allows(acl: Acl, uid: int, permissions: int) -> bool:
    """Whether a named user gets all of these, the mask considered."""
    return acl.get((USER, uid), 0) & acl.get((MASK, NOBODY), 7) & permissions == permissions


def granting(acl: Acl, uids: Iterable[int], permissions: int) -> Acl:
    """The list with these users added, and a mask that lets them have what they are given.

    A wider mask gives nobody else more: what it kept from the others is taken out of their own entries.
    """
    mask = acl.get((MASK, NOBODY), 7)
    wanted = {
        key: given & mask if key[0] in (USER, GROUP, NAMED_GROUP) else given
        for key, given in acl.items()
        if key[0] != MASK
    }
    for uid in uids:
        wanted[(USER, uid)] = permissions
    classes = [given for (tag, _), given in wanted.items() if tag in (USER, GROUP, NAMED_GROUP)]
    combined = 0
    for given in classes:
        combined |= given
    wanted[(MASK, NOBODY)] = combined
    return wanted


def share(path: str, uids: Iterable[int]) -> bool:
    """Let these users read and write a file or folder, and what will be made in the folder; says whether that was new.

    A file can be executed by them when its owner can.
    """
    users = list(uids)
    status = Path(path).stat()
    folder = stat.S_ISDIR(status.st_mode)
    permissions = READ | WRITE | (EXECUTE if folder or status.st_mode & stat.S_IXUSR else 0)
    listed = read(path, ACCESS)
    now = listed or of_mode(status.st_mode)
    others = [uid for uid in users if uid != status.st_uid]
    changed = False
    if not all(allows(now, uid, permissions) for uid in others):
        os.setxattr(path, ACCESS, encode(granting(now, others, permissions)))
        changed = True
    if folder:
        inherited = read(path, DEFAULT)
        if not all(allows(inherited, uid, permissions) for uid in users):
            plain = {(tag, NOBODY): now[(tag, NOBODY)] for tag in (GROUP, OTHER)}
            plain[(GROUP, NOBODY)] &= now.get((MASK, NOBODY), 7)
            base = inherited or {**plain, (OWNER, NOBODY): permissions}
            os.setxattr(path, DEFAULT, encode(granting(base, users, permissions)))
            changed = True
    return changed
