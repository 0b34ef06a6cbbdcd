"""Attacks on the broker as production configures it, with real certificates: each is refused, or costs nobody else
anything. docs/broker.md has the table."""

import re
import socket
import ssl
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gated.hq.receipts import Signer
from gated.mqtt import Broker, Gone, Publication
from gated.wire import link, record
from tests.broker import Peer, Pki, ProductionBroker, Raw, packet, text
from tests.uplink_rig import eventually

SITE, LANE, OTHER = "tpe-t1", "lane-07", "lane-08"
HERE, THERE = f"{SITE}/{LANE}", f"{SITE}/{OTHER}"
DAY = timedelta(days=1)
OFFERED = (b"peer did not return a certificate", b"certificate verify failed")


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProductionBroker]:
    folder = tmp_path_factory.mktemp("attacks")
    with ProductionBroker(folder / "mosquitto", Pki(folder / "pki")) as running:
        assert isinstance(running, ProductionBroker)
        yield running


def topic(leaf: str, lane: str = LANE, site: str = SITE) -> str:
    return link.topic(site, lane, leaf)


# -- speaking for somebody else ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "foreign",
    [
        *(topic(leaf, OTHER) for leaf in sorted(link.LEAVES)),
        *(topic(leaf, site="khh-t1") for leaf in sorted(link.LEAVES)),
        *(topic(leaf) for leaf in ("ack", "cmd", "desired", "announce")),
        link.announce_topic(),
        f"gate/v1/{SITE}/{LANE}",
        f"gate/v1/{SITE}/{LANE}/event/more",
        f"gate/v1/{SITE}/{LANE}/../{OTHER}/event",
        f"gate/v1//{SITE}/{LANE}/event",
        f"GATE/v1/{SITE}/{LANE}/event",
        "$SYS/broker/uptime",
        "$CONTROL/dynamic-security/v1",
    ],
)
def test_a_lane_speaks_in_its_own_corner_alone(broker: ProductionBroker, foreign: str) -> None:
    with Peer(broker.as_(HERE)) as lane:
        lane.say(foreign)
        lane.refused()


def test_what_a_lane_may_say_arrives(broker: ProductionBroker) -> None:
    """The control of all the refusals."""
    leaves = (*link.FROM_LANES, "answer")
    with (
        Peer(broker.as_("hq-ingest"), *(topic(leaf) for leaf in link.FROM_LANES)) as ingest,
        Peer(broker.as_("hq-orders"), topic("answer")) as orders,
        Peer(broker.as_(HERE)) as lane,
    ):
        for leaf in leaves:
            lane.say(topic(leaf), leaf.encode())
        assert [ingest.heard().payload.decode() for _ in link.FROM_LANES] == list(link.FROM_LANES)
        assert orders.heard().payload == b"answer"


@pytest.mark.parametrize("leaf", ["event", "birth", "death", "telemetry", "reported", "answer"])
def test_a_foreign_retained_message_is_refused(broker: ProductionBroker, leaf: str) -> None:
    with Peer(broker.as_(THERE)) as evil:
        evil.say(topic(leaf), b"forged", retain=True)
        evil.refused()
    who = "hq-orders" if leaf == "answer" else "hq-ingest"
    with Peer(broker.as_(who), topic(leaf)) as reader, Peer(broker.as_(HERE)) as lane:
        lane.say(topic(leaf), b"true")
        assert reader.heard().payload == b"true", "nothing was kept for who comes later"


def test_a_foreign_will_is_never_told(broker: ProductionBroker) -> None:
    with Peer(broker.as_("hq-ingest"), "gate/v1/+/+/death") as ingest:
        for mine, lane in ((b"forged", LANE), (b"own", OTHER)):
            will = Publication(topic("death", lane), mine, retain=True)
            peer = Peer(broker.as_(THERE), will=will)
            assert peer.connected
            peer.drop()
            assert isinstance(peer.next(), Gone)
        assert ingest.heard().payload == b"own", "the control; the forged one came before it"


@pytest.mark.parametrize(
    "user", ["hq-publisher", "hq-orders", "hq-desk", "hq-fence", "hq-nobody", "broker-2", "hq-ingest"]
)
def test_hqs_programs_may_do_their_own_work_alone(broker: ProductionBroker, user: str) -> None:
    may = {"hq-publisher": set(), "hq-orders": {"cmd"}, "hq-desk": {"desired"}, "hq-ingest": {"ack"}}.get(user, set())
    with Peer(broker.as_(user)) as program:
        for leaf in sorted(link.LEAVES - may):
            program.say(topic(leaf))
            program.refused()


def test_desired_and_reported_go_their_way(broker: ProductionBroker) -> None:
    with (
        Peer(broker.as_(HERE), topic("desired")) as lane,
        Peer(broker.as_("hq-desk"), topic("reported")) as desk,
    ):
        desk.say(topic("desired"), b"wanted")
        assert lane.heard().payload == b"wanted"
        lane.say(topic("reported"), b"have")
        assert desk.heard().payload == b"have"


# -- hearing what is not for it ---------------------------------------------------------------------------------------

_GREEDY = (
    "#",
    "gate/#",
    "+/+/+/+/+",
    "$SYS/#",
    "$share/ingest/#",
    "$share/x/gate/v1/+/+/event",
    topic("ack", OTHER),
    topic("cmd", OTHER),
    topic("desired", OTHER),
    topic("event"),
    "gate/v1/+/+/ack",
)


@pytest.mark.parametrize("greedy", _GREEDY)
def test_a_lane_hears_nothing_that_is_for_others(broker: ProductionBroker, greedy: str) -> None:
    with (
        Peer(broker.as_(HERE), greedy, topic("ack")) as evil,
        Peer(broker.as_("hq-ingest")) as ingest,
        Peer(broker.as_("hq-orders")) as orders,
        Peer(broker.as_("hq-desk")) as desk,
        Peer(broker.as_(THERE), topic("ack", OTHER), topic("cmd", OTHER), topic("desired", OTHER)) as honest,
    ):
        honest.say(topic("event", OTHER), b"secret")
        for speaker, leaf in ((ingest, "ack"), (orders, "cmd"), (desk, "desired")):
            speaker.say(topic(leaf, OTHER), b"secret")
            assert honest.heard().payload == b"secret"
        ingest.say(topic("ack"), b"the end")
        assert evil.heard().payload == b"the end"


def _events(group: str) -> str:
    """What a worker reads of lanes' records."""
    [found] = (each for each in link.ingest_filters(group) if each.endswith("/event"))
    return found


def test_a_lane_takes_no_share_of_the_workers_messages(broker: ProductionBroker) -> None:
    """mosquitto lets anybody into any shared subscription and throws away what it deals to one who may not read. So the
    group's name is HQ's secret; a lane that guesses one takes nothing from it."""
    group = Signer(bytes(range(32))).group
    with (
        Peer(broker.as_("hq-ingest"), _events(group)) as worker,
        Peer(broker.as_(THERE), "$share/ingest/gate/v1/+/+/event", f"$share/{group[:-1]}/#") as evil,
        Peer(broker.as_(HERE)) as lane,
    ):
        assert evil.connected
        for k in range(50):
            lane.say(topic("event"), b"%d" % k)
        assert [worker.heard().payload for _ in range(50)] == [b"%d" % k for k in range(50)]


def test_two_workers_share_the_messages(broker: ProductionBroker) -> None:
    """The control: the access list does let HQ's own workers share, each message once."""
    filters = _events(Signer(bytes(32)).group)
    with (
        Peer(broker.as_("hq-ingest"), filters) as one,
        Peer(broker.as_("hq-ingest"), filters) as two,
        Peer(broker.as_(HERE)) as lane,
    ):
        for k in range(20):
            lane.say(topic("event"), b"%d" % k)
        got = [worker.heard().payload for _ in range(10) for worker in (one, two)]
        assert sorted(got) == sorted(b"%d" % k for k in range(20))


# -- another's session ------------------------------------------------------------------------------------------------


def test_nobody_takes_over_another_lanes_session(broker: ProductionBroker) -> None:
    with Peer(broker.as_(HERE), topic("ack"), client_id="gated-tpe-t1-lane-07") as victim:
        for stolen in ("gated-tpe-t1-lane-07", HERE):
            with Peer(broker.as_(THERE), topic("ack"), client_id=stolen) as evil:
                assert evil.connected
                with Peer(broker.as_("hq-ingest")) as ingest:
                    ingest.say(topic("ack"), b"still here")
                assert victim.heard().payload == b"still here"
                assert evil.inbox.empty()


def test_a_certificate_is_one_connection(broker: ProductionBroker) -> None:
    """So one stolen certificate holds one place, and tells one will, however often it connects."""
    peers = []
    for k in range(20):
        peers.append(Peer(broker.as_(THERE), client_id=f"storm-{k}"))
        if k:
            assert isinstance(peers[k - 1].next(), Gone)
    assert peers[-1].connected
    peers[-1].session.stop()


# -- certificates -----------------------------------------------------------------------------------------------------


def _nobody(broker: ProductionBroker, other: Pki) -> Broker:
    return Broker("127.0.0.1", broker.port, ca=broker.pki.hq_ca)


def _of(pki: Pki, name: str, broker: ProductionBroker, port: int, now: datetime | None = None) -> Broker:
    certificate, key = pki.issue(name, now=now)
    return Broker("127.0.0.1", port, ca=broker.pki.hq_ca, certificate=certificate, key=key)


WHO: dict[str, Callable[[ProductionBroker, Pki], Broker]] = {
    "nobody": _nobody,
    "unknown authority": lambda broker, other: _of(other, HERE, broker, broker.port),
    "unknown authority as hq": lambda broker, other: _of(other, "hq-ingest", broker, broker.hq_port),
    "expired": lambda b, _: _of(b.pki, f"{SITE}/old", b, b.port, now=datetime.now(UTC) - 9 * DAY),
    "not yet valid": lambda b, _: _of(b.pki, f"{SITE}/new", b, b.port, now=datetime.now(UTC) + DAY),
    "a lane at the door of hq": lambda b, _: _of(b.pki, HERE, b, b.hq_port),
    "one of hq's at the door of lanes": lambda b, _: _of(b.pki, "hq-ingest", b, b.port),
    "the broker at the door of hq": lambda b, _: _of(b.pki, "broker", b, b.hq_port),
    "the broker at the door of lanes": lambda b, _: _of(b.pki, "broker", b, b.port),
}


@pytest.mark.parametrize("who", WHO)
def test_without_a_good_certificate_nobody_comes_in(broker: ProductionBroker, tmp_path: Path, who: str) -> None:
    asked = WHO[who](broker, Pki(tmp_path / "other"))
    known = len(broker.log.read_bytes())
    peer = Peer(asked)
    assert isinstance(peer.begun, Gone)
    try:  # the broker closes the connection before it says why
        eventually(lambda: any(why in broker.log.read_bytes()[known:] for why in OFFERED), 5.0)
    except AssertionError:
        raise AssertionError(broker.log.read_bytes()[known:]) from None


def test_a_self_signed_certificate_is_refused(broker: ProductionBroker, tmp_path: Path) -> None:
    other = Pki(tmp_path / "other")  # an authority is its own issuer: the best that can be made alone
    key = other.folder / "lanes-ca.key"
    asked = Broker("127.0.0.1", broker.port, ca=broker.pki.hq_ca, certificate=other.lanes_ca, key=key)
    assert isinstance(Peer(asked).begun, Gone)


def test_a_revoked_certificate_is_refused(broker: ProductionBroker) -> None:
    """After a reload nobody comes in with it; who is in already stays until the broker restarts."""
    stolen, honest = broker.as_(f"{SITE}/stolen"), broker.as_(HERE)
    with Peer(stolen) as before, Peer(honest) as other:
        broker.pki.revoke(f"{SITE}/stolen")
        broker.reload()
        before.say(topic("event", "stolen"))
        assert isinstance(Peer(stolen).begun, Gone)
        assert before.inbox.empty(), "it was neither refused nor disconnected"
        broker.restart()
        assert isinstance(other.next(), Gone)
    assert isinstance(Peer(stolen).begun, Gone)
    with Peer(honest) as again:
        assert again.connected


@pytest.mark.parametrize("version", ["TLSv1_1", "TLSv1_2"])
def test_old_tls_is_refused(broker: ProductionBroker, version: str) -> None:
    context = broker.as_(HERE).context()
    assert context is not None
    context.set_ciphers("DEFAULT:@SECLEVEL=0")  # else our own side would refuse it
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion[version]
    with socket.create_connection(("127.0.0.1", broker.port), 5) as line:
        if version == "TLSv1_2":
            with context.wrap_socket(line, server_hostname="127.0.0.1") as tls:
                assert tls.version() == "TLSv1.2"
        else:
            with pytest.raises(ssl.SSLError, match=r"(?i)protocol version|unsupported protocol|internal error"):
                context.wrap_socket(line, server_hostname="127.0.0.1")


# -- what is too large, too deep, too many ----------------------------------------------------------------------------


def test_a_packet_that_is_too_large_ends_the_connection(broker: ProductionBroker) -> None:
    [limit] = re.findall(r"^max_packet_size (\d+)$", (broker.folder / "mosquitto.conf").read_text(), re.MULTILINE)
    assert int(limit) > record.RECORD_MAX * 4
    with Peer(broker.as_("hq-ingest"), topic("event")) as ingest:
        with Peer(broker.as_(HERE)) as lane:
            lane.say(topic("event"), bytes(int(limit)))
            assert isinstance(lane.next(), Gone)
        with Peer(broker.as_(HERE)) as lane:
            lane.say(topic("event"), bytes(int(limit) - 200))
            assert len(ingest.heard().payload) == int(limit) - 200, "the control; and nothing came before it"


@pytest.mark.parametrize("depth", [50, 1000, 100_000])
@pytest.mark.parametrize("opening", [b"[", b'{"kind":', b'{"a":[{"b":'])
def test_a_deeply_nested_message_is_refused_by_the_codec(depth: int, opening: bytes) -> None:
    with pytest.raises(link.WireError):
        link.decode(opening * depth)
    with pytest.raises(link.WireError):
        record.Record.decode(opening * depth)


EVENT = topic("event").encode()
TRICKS = {
    "a topic alias": packet(0x30, text(EVENT) + b"\x03\x23\x00\x01" + b"x"),
    "an alias and no topic": packet(0x30, text(b"") + b"\x03\x23\x00\x01" + b"x"),
    "a wildcard for a topic": packet(0x30, text(b"gate/v1/+/+/event") + b"\x00x"),
    "all topics": packet(0x30, text(b"#") + b"\x00x"),
    "no topic": packet(0x30, text(b"") + b"\x00x"),
    "a topic with NUL": packet(0x30, text(EVENT + b"\0") + b"\x00x"),
    "a topic that is no UTF-8": packet(0x30, text(EVENT + b"\xff") + b"\x00x"),
    "a topic of many levels": packet(0x30, text(b"/" * 60_000) + b"\x00x"),
    "QoS 2": packet(0x34, text(EVENT) + b"\x00\x01" + b"\x00x"),
    "QoS 3": packet(0x36, text(EVENT) + b"\x00\x01" + b"\x00x"),
    "a length of 256 MiB": b"\x30\xff\xff\xff\x7f" + text(EVENT) + b"\x00x",
    "a length that never ends": b"\x30\xff\xff\xff\xff\xff",
    "a second CONNECT": packet(0x10, text(b"MQTT") + b"\x05\x02\x00\x3c\x00" + text(b"again")),
}


@pytest.mark.parametrize("trick", TRICKS)
def test_malformed_packets_end_the_connection(broker: ProductionBroker, trick: str) -> None:
    with Peer(broker.as_("hq-ingest"), "gate/v1/+/+/event") as ingest, Peer(broker.as_(THERE)) as honest:
        evil = Raw(broker.as_(HERE))
        evil.line.sendall(TRICKS[trick])
        assert evil.ended()
        evil.close()
        honest.say(topic("event", OTHER), b"after it")
        assert ingest.heard().payload == b"after it"


def test_a_topic_that_is_too_long_reaches_nobody(broker: ProductionBroker) -> None:
    with Peer(broker.as_(HERE)) as lane:
        lane.say(topic("event") + "/" + "x" * 60_000)
        lane.refused()


def test_the_table_names_tests_that_exist() -> None:
    """docs/broker.md: attack, defence, test."""
    root = Path(__file__).resolve().parents[1]
    page = (root / "docs" / "broker.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/test_\w+\.py)::(test_\w+)`", page)
    assert len(named) > 25
    for file, name in named:
        source = (root / file).read_text(encoding="utf-8")
        assert re.search(rf"^(async )?def {name}\(", source, re.MULTILINE), f"docs/broker.md names {file}::{name}"
