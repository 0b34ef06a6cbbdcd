"""The production broker's configuration with throw-away certificates: who may connect, and who may say what."""

import ipaddress
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from queue import SimpleQueue

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from gated.mqtt import Broker, Connected, Gone, Happening, Publication, Received, Refused, Session
from gated.wire import link
from tests.broker import RunningBroker, free_port
from tests.uplink_rig import LANE, ROOT, SITE, Rig, eventually

CONFIG = ROOT / "config" / "mosquitto"
DAY = timedelta(days=1)


class Authority:
    """A certificate authority that lives as long as a test."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "throw-away CA")])
        made = self._builder(self.name, self.key).add_extension(x509.BasicConstraints(True, None), True)
        self.certificate = made.sign(self.key, hashes.SHA256())
        (folder / "ca.crt").write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))
        self.revoke()

    def _builder(self, name: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder(self.name, name, key.public_key(), x509.random_serial_number())
        return builder.not_valid_before(now - DAY).not_valid_after(now + DAY)

    def issue(self, common_name: str, file: str) -> tuple[Path, Path]:
        """(certificate, key) files."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        where = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        made = self._builder(name, key).add_extension(where, False).sign(self.key, hashes.SHA256())
        paths = self.folder / f"{file}.crt", self.folder / f"{file}.key"
        paths[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
        paths[1].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return paths

    def revoke(self, *certificates: Path) -> None:
        """Write the revocation list."""
        now = datetime.now(UTC)
        crl = x509.CertificateRevocationListBuilder(self.name, now - DAY, now + DAY)
        for path in certificates:
            serial = x509.load_pem_x509_certificate(path.read_bytes()).serial_number
            crl = crl.add_revoked_certificate(
                x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now - DAY).build()
            )
        (self.folder / "ca.crl").write_bytes(
            crl.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        )


class ProductionBroker(RunningBroker):
    """mosquitto with config/mosquitto/gated.conf as it stands, paths and port apart."""

    def __init__(self, folder: Path, authority: Authority) -> None:
        super().__init__(folder)
        authority.issue("broker", "broker")
        shutil.copy(CONFIG / "acl", folder / "acl")
        (folder / "acl").chmod(0o600)
        text = (CONFIG / "gated.conf").read_text()
        changes = {
            "listener 8883": f"listener {self.port} 127.0.0.1",
            "/etc/mosquitto/certs": str(authority.folder),
            "/etc/mosquitto/conf.d": str(folder),
            "log_dest syslog": "log_dest stderr",
        }
        for old, new in changes.items():
            assert old in text
            text = text.replace(old, new)
        for mode in (folder, folder.parent, authority.folder):
            mode.chmod(0o755)
        # mosquitto gives up root for a user that may not read the test's folders
        self._conf.write_text(f"user root\n{text}")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca")


@pytest.fixture
def broker(tmp_path: Path, authority: Authority) -> Iterator[ProductionBroker]:
    with ProductionBroker(tmp_path / "mosquitto", authority) as running:
        assert isinstance(running, ProductionBroker)
        yield running


def identity(broker: RunningBroker, authority: Authority, common_name: str, file: str) -> Broker:
    certificate, key = authority.issue(common_name, file)
    return Broker("127.0.0.1", broker.port, ca=authority.folder / "ca.crt", certificate=certificate, key=key)


def first(broker: Broker, *topics: str) -> tuple[Session, Happening, "SimpleQueue[Happening]"]:
    inbox: SimpleQueue[Happening] = SimpleQueue()
    session = Session(broker, f"test-{id(inbox)}", inbox, subscribe=[(topic, 1) for topic in topics])
    session.start()
    return session, inbox.get(timeout=5), inbox


def test_records_travel_over_mutual_tls(tmp_path: Path, broker: ProductionBroker, authority: Authority) -> None:
    (tmp_path / "rig").mkdir()
    rig = Rig(tmp_path / "rig")
    try:
        certificate, key = authority.issue(f"{SITE}/{LANE}", "lane")
        rig.connection = (
            f'host = "127.0.0.1"\nport = {broker.port}\nca = "{authority.folder / "ca.crt"}"\n'
            f'certificate = "{certificate}"\nkey = "{key}"\n'
        )
        rig.configure()
        rig.hq_broker = identity(broker, authority, "hq-ingest", "ingest")
        rig.ingest()
        rig.uplink()
        rig.lane.passengers(10)
        eventually(rig.all_acked)
        rig.assert_exactly_once()
        assert rig.archive().lanes()[0]["up"]
    finally:
        rig.close()


def test_a_lane_speaks_for_itself_alone(broker: ProductionBroker, authority: Authority) -> None:
    lane = identity(broker, authority, f"{SITE}/{LANE}", "lane")
    session, happened, inbox = first(lane)
    assert isinstance(happened, Connected)
    for forbidden in (
        link.topic(SITE, "lane-08", "event"),
        link.topic(SITE, LANE, "ack"),
        link.topic(SITE, LANE, "cmd"),
    ):
        session.publish(Publication(forbidden, b"x"))
        told = inbox.get(timeout=5)
        assert isinstance(told, Refused) and "not authorized" in told.reason, forbidden
    session.publish(Publication(link.topic(SITE, LANE, "event"), b"x"))
    session.stop()
    assert isinstance(inbox.get(timeout=5), Gone), "what it may say is not refused"


def test_news_for_all_lanes_come_from_the_publisher_alone(broker: ProductionBroker, authority: Authority) -> None:
    topic = link.announce_topic()
    lane, connected, heard = first(identity(broker, authority, f"{SITE}/{LANE}", "lane"), topic)
    assert isinstance(connected, Connected)
    lane.publish(Publication(topic, b"forged"))
    told = heard.get(timeout=5)
    assert isinstance(told, Refused) and "not authorized" in told.reason
    publisher, connected, _ = first(identity(broker, authority, "hq-publisher", "publisher"))
    assert isinstance(connected, Connected)
    publisher.publish(Publication(topic, b"news"))
    received = heard.get(timeout=5)
    assert isinstance(received, Received) and received.payload == b"news"
    for session in (publisher, lane):
        session.stop()


@pytest.mark.parametrize("who", ["nobody", "stranger", "revoked"])
def test_without_a_good_certificate_nobody_connects(
    tmp_path: Path, broker: ProductionBroker, authority: Authority, who: str
) -> None:
    ca = authority.folder / "ca.crt"
    if who == "nobody":
        asked = Broker("127.0.0.1", broker.port, ca=ca)
    elif who == "stranger":
        certificate, key = Authority(tmp_path / "other").issue(f"{SITE}/{LANE}", "lane")
        asked = Broker("127.0.0.1", broker.port, ca=ca, certificate=certificate, key=key)
    else:
        asked = identity(broker, authority, f"{SITE}/{LANE}", "lane")
        assert asked.certificate is not None
        authority.revoke(asked.certificate)
        broker.restart()
    _, happened, _ = first(asked)
    assert isinstance(happened, Gone)


def test_a_broker_that_nobody_vouches_for_is_refused(
    tmp_path: Path, broker: ProductionBroker, authority: Authority
) -> None:
    other = Authority(tmp_path / "other")
    certificate, key = authority.issue(f"{SITE}/{LANE}", "lane")
    asked = Broker("127.0.0.1", broker.port, ca=other.folder / "ca.crt", certificate=certificate, key=key)
    _, happened, _ = first(asked)
    assert isinstance(happened, Gone) and "certificate_verify_failed" in happened.why


def test_a_broker_of_another_name_is_refused(broker: ProductionBroker, authority: Authority) -> None:
    certificate, key = authority.issue(f"{SITE}/{LANE}", "lane")
    ca = authority.folder / "ca.crt"
    _, happened, _ = first(Broker("localhost", broker.port, ca=ca, certificate=certificate, key=key))
    assert isinstance(happened, Gone) and "tls" in happened.why


def test_a_broker_that_knows_us_not_says_so(tmp_path: Path) -> None:
    (tmp_path / "users").write_text("")
    (tmp_path / "users").chmod(0o600)
    extra = ("allow_anonymous false", f"password_file {tmp_path / 'users'}")
    with RunningBroker(tmp_path / "broker", extra=extra) as broker:
        asked = Broker("127.0.0.1", broker.port, tls=False, username="lane", password="wrong")
        assert "wrong" not in repr(asked)
        _, happened, _ = first(asked)
        assert isinstance(happened, Gone) and happened.why == "refused by the broker: not authorized"


def test_nobody_listens_there() -> None:
    _, happened, _ = first(Broker("127.0.0.1", free_port(), tls=False))
    assert isinstance(happened, Gone) and happened.why == "connection refused"
