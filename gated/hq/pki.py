"""Certificates for the brokers: two small authorities in one folder, what they issued, and what is revoked.

Two, because a broker gives each of its two listeners one of them: who holds a lane's certificate cannot even begin to
speak at the door of HQ's programs, and no lane's authority can vouch for a broker. A country that has an authority of
its own has it issue the same certificates (docs/broker.md); this one is for tests and small sites.

The index is written before a certificate is handed out, and a revocation before its list is signed: whatever happens
in between, nobody holds a certificate that cannot be revoked.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from gated.hq import certificates
from gated.hq.bundles import put_file
from gated.hq.certificates import Kind, PkiFault, Wanted
from gated.hq.keys import write_new
from gated.hq.metadata import sync

CA_DAYS: Final = 3650
DAYS: Final = 365
CRL_DAYS: Final = 30
"""How long a revocation list counts. With an expired one mosquitto refuses everybody."""
CRL_WARN_DAYS: Final = 10
OVERLAP_DAYS: Final = 7
AUTHORITIES: Final = {Kind.LANE: "lanes", Kind.CLIENT: "hq", Kind.SERVER: "hq"}
NAMES: Final = tuple(sorted(set(AUTHORITIES.values())))
_SCHEMA_SQL: Final = """
CREATE TABLE IF NOT EXISTS issued (
    serial TEXT PRIMARY KEY, name TEXT NOT NULL, kind TEXT NOT NULL, key TEXT NOT NULL, since TEXT NOT NULL,
    until TEXT NOT NULL, revoked TEXT, pem TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS issued_names ON issued (name);
CREATE INDEX IF NOT EXISTS issued_keys ON issued (key);
CREATE TABLE IF NOT EXISTS lists (authority TEXT PRIMARY KEY, number INTEGER NOT NULL) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate of the index. `revoked`: from when on; None: not."""

    serial: str
    name: str
    kind: Kind
    since: datetime
    until: datetime
    revoked: datetime | None

    def state(self, now: datetime) -> str:
        """`valid`, `replaced` (revoked later), `revoked`, `expired`."""
        if self.until <= now:
            return "expired"
        if self.revoked is None:
            return "valid"
        return "revoked" if self.revoked <= now else "replaced"


class Pki:
    """The folder: `lanes-ca` and `hq-ca` (`.key`, `.crt`, `.crl`) and `index.db`. Raises `PkiFault`, `OSError`,
    `sqlite3.Error`."""

    def __init__(self, folder: Path, passphrase: bytes | None = None) -> None:
        if not (folder / "index.db").exists():
            raise PkiFault(f"{folder} has no authority: gated-hq pki init {folder}")
        self.folder, self._passphrase = folder, passphrase
        self._sql = sqlite3.connect(folder / "index.db", isolation_level=None, timeout=30)
        self._sql.execute("PRAGMA synchronous = EXTRA")

    def close(self) -> None:
        """Close the index."""
        self._sql.close()

    # -- making

    @classmethod
    def make(cls, folder: Path, now: datetime, *, days: int = CA_DAYS, passphrase: bytes | None = None) -> "Pki":
        """Both authorities, with empty revocation lists, in a folder that has none. Without a passphrase their keys are
        protected by mode 0600 alone."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise PkiFault(f"{folder} is not empty, and no authority is ever overwritten: name another folder")
        encryption: KeySerializationEncryption = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
        for name in NAMES:
            key = ec.generate_private_key(ec.SECP256R1())
            made = certificates.authority(f"gated {name}", key, now, days)
            secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
            write_new(folder / f"{name}-ca.key", secret, 0o600)
            write_new(folder / f"{name}-ca.crt", made.public_bytes(Encoding.PEM), 0o644)
        new = folder / "index.db.new"
        sql = sqlite3.connect(new, isolation_level=None)
        sql.executescript(f"PRAGMA synchronous = EXTRA; {_SCHEMA_SQL}")
        sql.close()
        new.chmod(0o600)
        new.rename(folder / "index.db")
        sync(folder)
        pki = cls(folder, passphrase)
        pki.sign_lists(now)
        return pki

    def issue(self, wanted: Wanted, out: Path, now: datetime) -> Issued:
        """A certificate for a name that has none, in `out`: NAME.crt (`lane.crt` for a lane), NAME.key unless it was
        requested, and the certificates of the authorities that vouch for whoever is at the other end."""
        return self._issue(wanted, out, now, None)

    def rotate(self, wanted: Wanted, out: Path, now: datetime, overlap: timedelta) -> Issued:
        """The next certificate of a name, for a new key. Those before it are revoked after `overlap`, by the first
        list that is signed from then on."""
        return self._issue(wanted, out, now, overlap)

    def _issue(self, wanted: Wanted, out: Path, now: datetime, overlap: timedelta | None) -> Issued:
        key = None if wanted.csr is not None else ec.generate_private_key(ec.SECP256R1())
        public = wanted.request() if key is None else key.public_key()
        stem = out / ("lane" if wanted.kind is Kind.LANE else wanted.name)
        for taken in (stem.with_suffix(".crt"), *([stem.with_suffix(".key")] if key is not None else ())):
            if taken.exists():
                raise PkiFault(f"{taken} exists, and nothing is ever overwritten: name another folder")
        out.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._transaction():
            before = [each for each in self.issued(wanted.name) if each.state(now) in ("valid", "replaced")]
            self._check_before(wanted, before, public, now, rotating=overlap is not None)
            signed = certificates.certificate(wanted, public, *self._authority(AUTHORITIES[wanted.kind]), now)
            pem, serial = signed.public_bytes(Encoding.PEM), f"{signed.serial_number:040x}"
            since, until = signed.not_valid_before_utc, signed.not_valid_after_utc
            made = Issued(serial, wanted.name, wanted.kind, since, until, None)
            row = (serial, wanted.name, wanted.kind, certificates.fingerprint(public), _text(since), _text(until))
            self._sql.execute("INSERT INTO issued VALUES (?, ?, ?, ?, ?, ?, NULL, ?)", (*row, pem.decode()))
            for each in before:
                at = min(filter(None, (each.revoked, now + (overlap or timedelta(0)))))
                self._sql.execute("UPDATE issued SET revoked = ? WHERE serial = ?", (_text(at), each.serial))
        if key is not None:
            secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            write_new(stem.with_suffix(".key"), secret, 0o600)
        write_new(stem.with_suffix(".crt"), pem, 0o644)
        for name in NAMES if wanted.kind is Kind.SERVER else ("hq",):
            put_file(out / f"{name}-ca.crt", (self.folder / f"{name}-ca.crt").read_bytes())
        if overlap is not None:
            self.sign_lists(now)
        return made

    def _check_before(
        self, wanted: Wanted, before: Sequence[Issued], public: ec.EllipticCurvePublicKey, now: datetime, rotating: bool
    ) -> None:
        valid = [each for each in before if each.state(now) == "valid"]
        if valid and not rotating:
            raise PkiFault(f"{wanted.name} has a valid certificate, {valid[0].serial}: gated-hq pki rotate")
        if rotating and not before:
            raise PkiFault(f"{wanted.name} has no valid certificate to replace: gated-hq pki lane, or service")
        if any(each.kind is not wanted.kind for each in before):
            raise PkiFault(f"{wanted.name} is a {before[0].kind} and not a {wanted.kind}")
        key = certificates.fingerprint(public)
        row = self._sql.execute("SELECT name FROM issued WHERE key = ?", (key,)).fetchone()
        if row is not None:
            raise PkiFault(f"the request holds a key that {row[0]} has or had: make a new one for each certificate")

    # -- taking back

    def revoke(self, which: str, now: datetime) -> tuple[Issued, ...]:
        """Revoke a serial, or all that a name has, from now on, and sign the lists. Once more changes nothing."""
        with self._transaction():
            found = [each for each in self.issued() if which in (each.name, each.serial)]
            if not found:
                raise PkiFault(f"there is no certificate of {which!r}: gated-hq pki list")
            due = [each for each in found if each.state(now) in ("valid", "replaced")]
            for each in due:
                self._sql.execute("UPDATE issued SET revoked = ? WHERE serial = ?", (_text(now), each.serial))
        self.sign_lists(now)
        return tuple(due)

    def sign_lists(self, now: datetime, days: int = CRL_DAYS) -> None:
        """Sign both revocation lists anew: what is revoked by now and would still count."""
        for name in NAMES:
            with self._transaction():
                row = self._sql.execute("SELECT number FROM lists WHERE authority = ?", (name,)).fetchone()
                number = 1 + (row[0] if row else 0)
                self._sql.execute("INSERT OR REPLACE INTO lists VALUES (?, ?)", (name, number))
                mine = (each for each in self.issued() if AUTHORITIES[each.kind] == name and each.revoked is not None)
                taken = [(int(e.serial, 16), e.revoked) for e in mine if e.revoked and e.state(now) == "revoked"]
                signed = certificates.revocations(taken, number, *self._authority(name), now, days)
                put_file(self.folder / f"{name}-ca.crl", signed)

    # -- looking

    def issued(self, name: str | None = None) -> tuple[Issued, ...]:
        """Everything ever issued (to a name): by name, then the oldest first."""
        where, values = ("WHERE name = ?", (name,)) if name is not None else ("", ())
        rows = self._sql.execute(
            f"SELECT serial, name, kind, since, until, revoked FROM issued {where} ORDER BY name, since, serial", values
        )
        return tuple(
            Issued(serial, owner, Kind(kind), _time(since), _time(until), _time(revoked) if revoked else None)
            for serial, owner, kind, since, until, revoked in rows
        )

    def lists_end(self) -> datetime:
        """When the first of the revocation lists stops to count."""
        ends = [x509.load_pem_x509_crl((self.folder / f"{name}-ca.crl").read_bytes()).next_update_utc for name in NAMES]
        return min(filter(None, ends))

    def _authority(self, name: str) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
        path = self.folder / f"{name}-ca.key"
        if path.stat().st_mode & 0o077:
            raise PkiFault(f"{path} may be used by others than its owner: chmod 600 {path}")
        try:
            key = load_pem_private_key(path.read_bytes(), self._passphrase)
        except TypeError:
            why = "give --passphrase-file" if self._passphrase is None else "it has no passphrase, and one was given"
            raise PkiFault(f"{path}: {why}") from None
        except (ValueError, UnsupportedAlgorithm):
            raise PkiFault(f"{path} cannot be opened: the passphrase is another one, or it is damaged") from None
        assert isinstance(key, ec.EllipticCurvePrivateKey), "`make` makes no other"
        return x509.load_pem_x509_certificate((self.folder / f"{name}-ca.crt").read_bytes()), key

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._sql.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._sql.execute("ROLLBACK")
            raise
        self._sql.execute("COMMIT")


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds")


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
