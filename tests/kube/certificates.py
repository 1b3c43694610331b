"""Keys and certificates of one control plane, made when it starts by openssl, gone with its folder."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

_DAYS = "2"


@dataclass(frozen=True)
class Credentials:
    """A client certificate and its key."""

    certificate: Path
    key: Path


@dataclass(frozen=True)
class Authority:
    """Signs for servers and clients alike; one folder holds all that it makes."""

    folder: Path

    @property
    def certificate(self) -> Path:
        """What clients and servers trust."""
        return self.folder / "ca.crt"

    @classmethod
    def found(cls, folder: Path) -> Authority:
        """Make a new authority in a folder of its own."""
        folder.mkdir(parents=True, mode=0o700)
        authority = cls(folder)
        _openssl(
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-noenc",
            "-days",
            _DAYS,
            "-subj",
            "/CN=routed-tests",
            "-keyout",
            folder / "ca.key",
            "-out",
            authority.certificate,
        )
        return authority

    def signing_key(self, name: str) -> Path:
        """Return a new private key without a certificate, for service-account tokens."""
        key = self.folder / f"{name}.key"
        _openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", key)  # the API server reads no PKCS 8
        return key

    def server(self, name: str, addresses: Sequence[IPv4Address | IPv6Address]) -> Credentials:
        """Return what a server of these addresses shows."""
        names = ",".join(["DNS:localhost", *(f"IP:{address}" for address in addresses)])
        return self._sign(name, f"/CN={name}", "serverAuth", f"subjectAltName={names}")

    def client(self, user: str, groups: Sequence[str] = ()) -> Credentials:
        """Return what a user of these groups shows."""
        subject = "".join(f"/O={group}" for group in groups) + f"/CN={user}"
        return self._sign(user.replace("/", "_"), subject, "clientAuth")

    def _sign(self, name: str, subject: str, use: str, *extensions: str) -> Credentials:
        made = Credentials(self.folder / f"{name}.crt", self.folder / f"{name}.key")
        added = [word for extension in (f"extendedKeyUsage={use}", *extensions) for word in ("-addext", extension)]
        _openssl(
            "req",
            "-x509",
            "-CA",
            self.certificate,
            "-CAkey",
            self.folder / "ca.key",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-noenc",
            "-days",
            _DAYS,
            "-subj",
            subject,
            *added,
            "-addext",
            "basicConstraints=critical,CA:FALSE",
            "-keyout",
            made.key,
            "-out",
            made.certificate,
        )
        return made


def _openssl(*words: str | Path) -> None:
    done = subprocess.run(["openssl", *words], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, f"openssl {words[0]}: {done.stderr.strip()}"
