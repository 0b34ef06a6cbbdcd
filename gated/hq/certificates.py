"""What the certificates of lanes, HQ's programs and brokers say (X.509 by cryptography). No files, no index."""

import hashlib
import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from gated.wire import link

SKEW: Final = timedelta(minutes=10)
"""A certificate and a revocation list count from this much earlier: a lane's clock may be behind."""
COMMON_NAME_MAX: Final = 64
"""Of RFC 5280."""
_SERVICE: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_LABEL: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


class PkiFault(Exception):
    """What was asked cannot be done. The text says why and what to do."""


class Kind(StrEnum):
    """What a certificate is for."""

    LANE = "lane"
    CLIENT = "client"
    """One of HQ's programs."""
    SERVER = "server"
    """A broker. It cannot be used to log in."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a certificate shall say. `csr`: the bytes of a request (PEM), where the key is made elsewhere. Raises
    `PkiFault` for a name that could stand for more than itself in a broker's access list."""

    name: str
    kind: Kind
    days: int
    sans: tuple[str, ...] = ()
    csr: bytes | None = None

    def __post_init__(self) -> None:
        site, slash, lane = self.name.partition("/")
        if bool(slash) != (self.kind is Kind.LANE):
            raise PkiFault(f"{self.name!r} is no name of a {self.kind}: a lane is SITE/LANE, all others have no '/'")
        if self.kind is not Kind.LANE:
            if not _SERVICE.fullmatch(self.name):
                raise PkiFault(f"{self.name!r} is no name: 1 to 32 lower-case letters, digits and '-'")
        else:
            try:
                link.topic(site, lane, "event")
            except ValueError as bad:
                raise PkiFault(f"{self.name!r} is no lane: {bad}") from None
            if len(self.name) > COMMON_NAME_MAX:
                raise PkiFault(f"{self.name} is too long for a certificate: {COMMON_NAME_MAX} characters together")
        if (self.kind is Kind.SERVER) != bool(self.sans):
            raise PkiFault(f"{self.name}: a broker, and nobody else, has host names or addresses: --san")

    def request(self) -> ec.EllipticCurvePublicKey:
        """The key of the request. What else it asks for counts for nothing, but another name is a mix-up. Raises
        `PkiFault`."""
        assert self.csr is not None
        try:
            request = x509.load_pem_x509_csr(self.csr)
            public, names = request.public_key(), request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
            good = request.is_signature_valid
        except (ValueError, UnsupportedAlgorithm):
            raise PkiFault("--csr holds no certificate request in PEM") from None
        if not good:
            raise PkiFault("the request is not signed by its own key")
        curves = (ec.SECP256R1, ec.SECP384R1)
        if not isinstance(public, ec.EllipticCurvePublicKey) or not isinstance(public.curve, curves):
            raise PkiFault("the request's key is not on P-256 or P-384: openssl ecparam -genkey -name prime256v1")
        if [each.value for each in names] not in ([], [self.name]):
            raise PkiFault(f"the request is for another name than {self.name}")
        return public


def authority(title: str, key: ec.EllipticCurvePrivateKey, now: datetime, days: int) -> x509.Certificate:
    """A certificate that issues others and stands on itself."""
    name = _name(title)
    made = _builder(name, name, key.public_key(), now, days)
    made = made.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    return made.add_extension(_usage(issues=True), critical=True).sign(key, hashes.SHA256())


def certificate(
    wanted: Wanted,
    public: ec.EllipticCurvePublicKey,
    issuer: x509.Certificate,
    key: ec.EllipticCurvePrivateKey,
    now: datetime,
) -> x509.Certificate:
    """What `issuer` says of `public`: its name, and one purpose alone. Raises `PkiFault`."""
    if now + timedelta(days=wanted.days) > issuer.not_valid_after_utc:
        raise PkiFault(f"the authority ends {issuer.not_valid_after_utc:%Y-%m-%d}, before the certificate: fewer days")
    purpose = ExtendedKeyUsageOID.SERVER_AUTH if wanted.kind is Kind.SERVER else ExtendedKeyUsageOID.CLIENT_AUTH
    made = (
        _builder(issuer.subject, _name(wanted.name), public, now, wanted.days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(issues=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .add_extension(_issued_by(issuer), critical=False)
    )
    if wanted.sans:
        made = made.add_extension(x509.SubjectAlternativeName([_san(each) for each in wanted.sans]), critical=False)
    return made.sign(key, hashes.SHA256())


def revocations(
    revoked: Iterable[tuple[int, datetime]],
    number: int,
    issuer: x509.Certificate,
    key: ec.EllipticCurvePrivateKey,
    now: datetime,
    days: int,
) -> bytes:
    """The list (PEM) of what `issuer` takes back: serials, and since when."""
    made = x509.CertificateRevocationListBuilder(issuer.subject, now - SKEW, now + timedelta(days=days))
    made = made.add_extension(_issued_by(issuer), critical=False)
    made = made.add_extension(x509.CRLNumber(number), critical=False)
    for serial, since in revoked:
        made = made.add_revoked_certificate(x509.RevokedCertificateBuilder(serial, since).build())
    return made.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


def ends(pem: bytes) -> datetime:
    """When the first of the certificates, or the revocation list, in a file (PEM) stops to count. Raises `PkiFault`."""
    try:
        if b"BEGIN X509 CRL" in pem:
            until = x509.load_pem_x509_crl(pem).next_update_utc
        else:
            until = min(each.not_valid_after_utc for each in x509.load_pem_x509_certificates(pem))
    except ValueError:
        until = None
    if until is None:
        raise PkiFault("neither a certificate nor a revocation list that ends, in PEM")
    return until


def fingerprint(public: ec.EllipticCurvePublicKey) -> str:
    """Names a key."""
    return hashlib.sha256(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _builder(
    issuer: x509.Name, name: x509.Name, public: ec.EllipticCurvePublicKey, now: datetime, days: int
) -> x509.CertificateBuilder:
    made = x509.CertificateBuilder(issuer, name, public, x509.random_serial_number())
    made = made.not_valid_before(now - SKEW).not_valid_after(now + timedelta(days=days))
    return made.add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)


def _usage(*, issues: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not issues,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=issues,
        crl_sign=issues,
        encipher_only=False,
        decipher_only=False,
    )


def _issued_by(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(
        issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    )


def _san(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        if len(text) > 253 or not all(_LABEL.fullmatch(label) for label in text.split(".")):
            raise PkiFault(f"--san {text!r} is neither an address nor a host's name in lower case") from None
        return x509.DNSName(text)
