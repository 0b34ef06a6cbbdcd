"""A lane and HQ at the production broker: records and orders over mutual TLS, and a lane that floods it."""

import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gated import control
from gated.hq.fence import AccessList
from gated.mqtt import Broker, Gone
from gated.wire import link, orders
from tests.broker import Peer, Pki, ProductionBroker, Raw, RunningBroker, free_port, publish_packet
from tests.uplink_rig import LANE, ROOT, SITE, Rig, eventually

HERE, THERE = f"{SITE}/{LANE}", f"{SITE}/lane-08"


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProductionBroker]:
    folder = tmp_path_factory.mktemp("tls")
    with ProductionBroker(folder / "mosquitto", Pki(folder / "pki")) as running:
        assert isinstance(running, ProductionBroker)
        yield running


@pytest.fixture
def rig(tmp_path: Path, broker: ProductionBroker) -> Iterator[Rig]:
    made = Rig(tmp_path)
    lane = broker.as_(HERE)
    made.connection = (
        f'host = "{lane.host}"\nport = {lane.port}\nca = "{lane.ca}"\n'
        f'certificate = "{lane.certificate}"\nkey = "{lane.key}"\n'
    )
    made.configure()
    made.hq_broker = broker.as_("hq-ingest")
    yield made
    made.close()


def test_records_travel_over_mutual_tls(rig: Rig) -> None:
    rig.ingest()
    rig.uplink()
    rig.lane.passengers(10)
    eventually(rig.all_acked)
    rig.assert_exactly_once()
    assert rig.archive().lanes()[0]["up"]


# -- orders -----------------------------------------------------------------------------------------------------------


def _signed(rig: Rig, **changes: object) -> bytes:
    now = datetime.now(UTC).replace(microsecond=0)
    fields = {
        "order": "o-1",
        "action": orders.Action.CLOSE_LANE,
        "officer": "chen.w",
        "lane": LANE,
        "boot": "boot-1",
        "ticket": None,
        "nonce": "0" * 32,
        "issued": now,
        "expires": now + timedelta(seconds=30),
    }
    private = (rig.folder / "keys" / "orders.key").read_bytes()
    order = orders.Order(**{**fields, **changes})  # type: ignore[arg-type]  # fields of one dataclass by name
    return orders.sign(Ed25519PrivateKey.from_private_bytes(private), order)


def test_only_hqs_orders_reach_a_lane(rig: Rig, broker: ProductionBroker) -> None:
    """Who may write to `cmd` is still not believed: the signature is."""
    rig.uplink()
    eventually(lambda: any(isinstance(each, control.Status) for each in rig.control.asked), what="the uplink is there")
    old = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)
    good = _signed(rig)
    stranger = orders.sign(Ed25519PrivateKey.from_private_bytes(bytes(32)), orders.read(good))
    tried = [
        (bytes(64) + good[64:], "bad_signature"),
        (stranger, "bad_signature"),
        (good[:64] + good[64:].replace(b"close_lane", b"open_lane"), "bad_signature"),
        (_signed(rig, issued=old, expires=old + timedelta(seconds=30)), "expired"),
        (_signed(rig, issued=old + timedelta(hours=2), expires=old + timedelta(hours=2, seconds=9)), "not_yet_valid"),
        (_signed(rig, boot="boot-0"), "wrong_boot"),
        (_signed(rig, lane="lane-08"), "wrong_lane"),
        (b"[" * 4000, "malformed"),
        (good + b"x" * 20_000, "malformed"),
        (good, ""),
        (good, "replayed"),
    ]
    cmd, answer = link.topic(SITE, LANE, "cmd"), link.topic(SITE, LANE, "answer")
    with Peer(broker.as_("hq-orders"), answer) as desk:
        for blob, why in tried:
            desk.say(cmd, blob)
            told = link.decode(desk.heard().payload)
            assert isinstance(told, link.OrderAnswer)
            assert (told.taken, told.why) == (not why, why)
    assert len(rig.control.seen) == 1
    with Peer(broker.as_(THERE)) as evil:
        evil.say(cmd, _signed(rig, nonce="1" * 32))
        evil.refused()


# -- a client that floods ---------------------------------------------------------------------------------------------


class Flood:
    """A lane with a valid certificate that says as much as the line takes, and reads what the broker answers."""

    def __init__(self, broker: Broker, topic: str, qos: int, size: int) -> None:
        self.sent, self._stop = 0, threading.Event()
        self._raw = Raw(broker)
        self._count = max(1, 60_000 // size)
        self._bytes = b"".join(publish_packet(topic, bytes(size), qos, k + 1) for k in range(self._count))
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        line = self._raw.line
        line.settimeout(0.02)
        left = memoryview(self._bytes)
        while not self._stop.is_set():
            try:
                left = left[line.send(left) :]
                if not left:
                    left, self.sent = memoryview(self._bytes), self.sent + self._count
                line.settimeout(0.0)
                while line.recv(65536):
                    continue
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError, TimeoutError):
                line.settimeout(0.02)
            except OSError:
                return

    def end(self) -> None:
        self._stop.set()
        self._thread.join(5)
        self._raw.close()


@pytest.mark.parametrize(("qos", "size"), [(0, 100), (1, 100), (0, 200_000)])
def test_a_flood_is_fenced_off_and_loses_nobody_elses_records(
    rig: Rig, broker: ProductionBroker, qos: int, size: int
) -> None:
    acl = AccessList(broker.acl, broker.pid_file)
    watch = _watch(rig, broker)
    rig.ingest()
    rig.uplink()
    rig.lane.passengers(5)
    eventually(rig.all_acked)
    flood = Flood(broker.as_(THERE), link.topic(SITE, "lane-08", "event"), qos, size)
    try:
        rig.lane.passengers(20)
        eventually(lambda: acl.fenced() == (THERE,), 20, "the fence is up")
        assert flood.sent > 0
        eventually(rig.all_acked, 30)
        with Peer(broker.as_("hq-ingest"), "gate/v1/+/+/event") as reader:
            sent = flood.sent
            eventually(lambda: flood.sent > sent, what="it goes on")
            rig.lane.passengers(1)
            assert {reader.heard().topic for _ in range(4)} == {link.topic(SITE, LANE, "event")}
    finally:
        flood.end()
        watch.terminate()
        assert watch.wait(10) == 0
    rig.assert_exactly_once()
    acl.lift(THERE)
    eventually(lambda: _may_speak(broker), what="the fence is lifted")


def _watch(rig: Rig, broker: ProductionBroker) -> "subprocess.Popen[bytes]":
    """`gated-hq fence watch`, once it reads. Its rate is low: a busy machine lets it read less than a flood has."""
    fence, log = broker.as_("hq-fence"), rig.folder / "fence.log"
    at = ["--acl", broker.acl, "--pid-file", broker.pid_file, "--rate", "300", "--host", fence.host]
    at += ["--port", fence.port, "--ca", fence.ca, "--certificate", fence.certificate, "--certificate-key", fence.key]
    with log.open("wb") as out:
        command = [sys.executable, "-m", "gated.hq.cli", "fence", "watch", *map(str, at)]
        running = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=out)
    eventually(lambda: b"connected" in log.read_bytes() or running.poll() is not None, what="the fence reads")
    assert running.poll() is None, log.read_text()
    return running


def _may_speak(broker: ProductionBroker) -> bool:
    with Peer(broker.as_("hq-ingest"), link.topic(SITE, "lane-08", "event")) as reader, Peer(broker.as_(THERE)) as lane:
        lane.say(link.topic(SITE, "lane-08", "event"), b"again")
        time.sleep(0.1)
        return not reader.inbox.empty()


def test_a_storm_of_wills_leaves_one(broker: ProductionBroker) -> None:
    """Each connection puts an end to the one before it, so a storm of them costs handshakes and nothing that stays."""
    with Peer(broker.as_("hq-ingest"), link.topic(SITE, "lane-08", "death")) as ingest:
        for k in range(100):
            Raw(broker.as_(THERE), will=(link.topic(SITE, "lane-08", "death"), b"%d" % k)).close()
        with Peer(broker.as_(HERE)) as honest:
            assert honest.connected
        heard = [ingest.heard().payload for _ in range(100)]
        assert sorted(heard) == sorted(b"%d" % k for k in range(100))
        with Peer(broker.as_("hq-ingest"), link.topic(SITE, "lane-08", "death")) as later:
            assert later.heard().payload in heard
            assert later.inbox.empty(), "one is kept"


# -- the broker's own certificate -------------------------------------------------------------------------------------


def test_a_broker_that_nobody_vouches_for_is_refused(tmp_path: Path, broker: ProductionBroker) -> None:
    lane = broker.as_(HERE)
    asked = Broker("127.0.0.1", broker.port, ca=Pki(tmp_path / "o").hq_ca, certificate=lane.certificate, key=lane.key)
    begun = Peer(asked).begun
    assert isinstance(begun, Gone) and "certificate_verify_failed" in begun.why


def test_a_lane_is_no_broker(broker: ProductionBroker) -> None:
    """What vouches for lanes vouches for no broker, so a stolen lane cannot stand in for one."""
    lane = broker.as_(HERE)
    asked = Broker("127.0.0.1", broker.port, ca=broker.pki.lanes_ca, certificate=lane.certificate, key=lane.key)
    begun = Peer(asked).begun
    assert isinstance(begun, Gone) and "certificate_verify_failed" in begun.why


def test_a_broker_of_another_name_is_refused(broker: ProductionBroker) -> None:
    lane = broker.as_(HERE)
    begun = Peer(Broker("localhost", broker.port, ca=lane.ca, certificate=lane.certificate, key=lane.key)).begun
    assert isinstance(begun, Gone) and "tls" in begun.why


def test_a_broker_that_knows_us_not_says_so(tmp_path: Path) -> None:
    (tmp_path / "users").write_text("")
    (tmp_path / "users").chmod(0o600)
    extra = ("allow_anonymous false", f"password_file {tmp_path / 'users'}")
    with RunningBroker(tmp_path / "broker", extra=extra) as broker:
        asked = Broker("127.0.0.1", broker.port, tls=False, username="lane", password="wrong")
        assert "wrong" not in repr(asked)
        begun = Peer(asked).begun
        assert isinstance(begun, Gone) and begun.why == "refused by the broker: not authorized"


def test_nobody_listens_there() -> None:
    begun = Peer(Broker("127.0.0.1", free_port(), tls=False)).begun
    assert isinstance(begun, Gone) and begun.why == "connection refused"
