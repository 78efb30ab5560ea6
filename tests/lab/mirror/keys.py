"""The lab's signing key, and a second one that nobody should trust. Both are made once and kept."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..system import run

GOOD, EVIL = "Lab mirror <good@lab.example>", "Somebody else <evil@lab.example>"


@dataclass(frozen=True)
class Keys:
    """A GnuPG home with the two keys, and their fingerprints."""

    home: Path
    good: str
    evil: str

    def public(self, fingerprint: str) -> bytes:
        """The public key, armored, as a vendor serves it."""
        return run([*self._gpg(), "--armor", "--export", fingerprint]).stdout.encode()

    def clearsign(self, release: Path, signer: str, into: Path) -> None:
        """Sign as InRelease does."""
        run([*self._gpg(), "--local-user", signer, "--clearsign", "--output", into, release])

    def detach(self, release: Path, signer: str, into: Path) -> None:
        """Sign as Release.gpg does."""
        run([*self._gpg(), "--local-user", signer, "--armor", "--detach-sign", "--output", into, release])

    def _gpg(self) -> list[str | Path]:
        return _gpg(self.home)


def _gpg(home: Path) -> list[str | Path]:
    return ["gpg", "--homedir", home, "--batch", "--yes", "--quiet", "--no-tty", "--digest-algo", "SHA512"]


@contextlib.contextmanager
def opened(home: Path) -> Iterator[Keys]:
    """The keys, made if they are not there; the agent that gpg starts for them ends with the block."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        yield Keys(home, _fingerprint(home, GOOD), _fingerprint(home, EVIL))
    finally:
        run(["gpgconf", "--homedir", home, "--kill", "all"], check=False)


def _fingerprint(home: Path, name: str) -> str:
    shown = run([*_gpg(home), "--with-colons", "--list-keys", f"={name}"], check=False)
    if shown.returncode:
        make = ["--pinentry-mode", "loopback", "--passphrase", "", "--quick-gen-key", name, "rsa3072", "sign", "never"]
        run([*_gpg(home), *make])
        return _fingerprint(home, name)
    fields = [line.split(":") for line in shown.stdout.splitlines()]
    return next(f[9] for f in fields if f[0] == "fpr")
