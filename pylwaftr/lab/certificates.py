"""Certificates for the lab's life: an authority, one certificate of it for each end of leasequery, and a stranger's."""

from __future__ import annotations

from pathlib import Path

from .commands import run

_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
_DAYS = ("-days", "2")


def make(folder: Path, address: str) -> None:
    """ca.pem; server.pem for `address` and router.pem, both of that CA; other.pem for `address`, of nobody's."""
    folder.mkdir(mode=0o700, exist_ok=True)
    _authority(folder, "ca")
    _authority(folder, "nobody")
    _signed(folder, "server", "ca", f"IP:{address}")
    _signed(folder, "router", "ca", "DNS:router.lab")
    _signed(folder, "other", "nobody", f"IP:{address}")


def _authority(folder: Path, name: str) -> None:
    extensions = ("basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign,cRLSign")
    _request(folder, name, *(word for one in extensions for word in ("-addext", one)))


def _signed(folder: Path, name: str, by: str, who: str) -> None:
    signer = ("-CA", str(folder / f"{by}.pem"), "-CAkey", str(folder / f"{by}.key"))
    _request(folder, name, *signer, "-addext", "basicConstraints=critical,CA:FALSE", "-addext", f"subjectAltName={who}")


def _request(folder: Path, name: str, *more: str) -> None:
    files = ("-keyout", str(folder / f"{name}.key"), "-out", str(folder / f"{name}.pem"))
    run("openssl", "req", "-x509", *_KEY, *_DAYS, "-subj", f"/CN=pylwaftr lab {name}", *files, *more)
