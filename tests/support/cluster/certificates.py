"""The certificates of one cluster: its own authority, and the certificates that it signs for servers and users.

A user's name and groups are the certificate's subject (CN and O), where Kubernetes reads them. Every cluster has new
certificates, which expire within days.
"""

from __future__ import annotations

import base64
import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

VALID = timedelta(days=7)
CLOCK_SKEW = timedelta(minutes=5)
MASTERS = "system:masters"
"""The group with every permission, independent of roles."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its private key, as PEM files."""

    certificate: Path
    key: Path


class Authority:
    """Signs the certificates of one cluster and stores them in `folder`, readable only by this user."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "llm-auction-cluster")])
        self._identifier = x509.SubjectKeyIdentifier.from_public_key(self._key.public_key())
        usage = x509.KeyUsage(
            digital_signature=True,
            key_cert_sign=True,
            crl_sign=True,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            encipher_only=False,
            decipher_only=False,
        )
        certificate = (
            self._draft(self._name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(self._identifier, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        self.pair = self._keep("authority", certificate, self._key)

    def server(self, name: str, hosts: Sequence[str]) -> Pair:
        """Issue a server's certificate for hosts; it is also a client's, because etcd connects to itself."""
        return self._issue(name, name, (), hosts)

    def client(self, user: str, groups: Sequence[str] = ()) -> Pair:
        """Issue a certificate that identifies `user` in `groups`."""
        return self._issue(user.replace(":", "-").replace("/", "-"), user, groups, ())

    def service_account_key(self) -> Path:
        """Create the private key with which the cluster signs and verifies service accounts' tokens."""
        path = self._folder / "service-accounts.key"
        _write(path, _private(ec.generate_private_key(ec.SECP256R1())))
        return path

    def kubeconfig(self, path: Path, server: str, user: str, groups: Sequence[str] = ()) -> Path:
        """Write the kubeconfig of `user` for the API server at the URL `server`, with the credentials inside."""
        pair = self.client(user, groups)
        access = {
            "client-certificate-data": _base64(pair.certificate.read_bytes()),
            "client-key-data": _base64(pair.key.read_bytes()),
        }
        cluster = {"server": server, "certificate-authority-data": _base64(self.pair.certificate.read_bytes())}
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "llm-auction", "cluster": cluster}],
            "users": [{"name": user, "user": access}],
            "contexts": [{"name": "llm-auction", "context": {"cluster": "llm-auction", "user": user}}],
            "current-context": "llm-auction",
        }
        _write(path, yaml.safe_dump(document, sort_keys=False).encode())
        return path

    def _issue(self, file: str, common_name: str, groups: Sequence[str], hosts: Sequence[str]) -> Pair:
        key = ec.generate_private_key(ec.SECP256R1())
        organisations = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
        subject = x509.Name([*organisations, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        purposes = [ExtendedKeyUsageOID.CLIENT_AUTH, *([ExtendedKeyUsageOID.SERVER_AUTH] if hosts else [])]
        draft = (
            self._draft(subject, key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(self._identifier), critical=False
            )
        )
        if hosts:
            draft = draft.add_extension(x509.SubjectAlternativeName([_host(host) for host in hosts]), critical=False)
        return self._keep(file, draft.sign(self._key, hashes.SHA256()), key)

    def _draft(self, subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - CLOCK_SKEW)
            .not_valid_after(now + VALID)
        )

    def _keep(self, file: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Pair:
        pair = Pair(self._folder / f"{file}.crt", self._folder / f"{file}.key")
        _write(pair.certificate, certificate.public_bytes(serialization.Encoding.PEM))
        _write(pair.key, _private(key))
        return pair


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )


def _host(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _write(path: Path, content: bytes) -> None:
    """Write a file that is never readable by other users, not even while it is created."""
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
