"""Signed orders: what a lane carries out, and every attack it refuses, by name."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from gated.wire import orders
from gated.wire.orders import Action, Order

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
STRANGER = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
PUBLIC = (KEY.public_key().public_bytes_raw(),)
NOON = datetime(2026, 11, 20, 12, 0, 0, tzinfo=UTC)
ORDER = Order(
    order="o-1",
    action=Action.OPEN,
    officer="chen.w",
    lane="tpe-t1-07",
    boot="9f2c",
    ticket=41,
    nonce="00112233445566778899aabbccddeeff",
    issued=NOON,
    expires=NOON + timedelta(seconds=60),
)


def believe(blob: bytes, at: datetime = NOON, lane: str = "tpe-t1-07", boot: str = "9f2c") -> Order:
    return orders.verify(PUBLIC, blob, lane, boot, at, orders.Seen())


def signed_body(fields: dict[str, object]) -> bytes:
    """A body that an insider with the key signed although `Order` would never have let it be made."""
    body = json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()
    return KEY.sign(orders.DOMAIN + body) + body


def fields(**changed: object) -> dict[str, object]:
    read: dict[str, object] = json.loads(orders.canonical(ORDER))
    return {**read, **changed}


def test_an_order_reaches_its_lane_unchanged() -> None:
    assert believe(orders.sign(KEY, ORDER)) == ORDER


def test_the_signed_text_is_pinned() -> None:
    """Golden: HQ and lane of different releases must agree on every byte."""
    assert orders.canonical(ORDER) == (
        b'{"action":"open","args":{},"boot":"9f2c","expires":"2026-11-20T12:01:00Z",'
        b'"issued":"2026-11-20T12:00:00Z","lane":"tpe-t1-07","nonce":"00112233445566778899aabbccddeeff",'
        b'"officer":"chen.w","order":"o-1","ticket":41,"v":1}'
    )


@pytest.mark.parametrize("action", Action)
def test_every_action_travels(action: Action) -> None:
    args = {name: sorted(values)[0] for name, values in orders.ARGUMENTS[action].items()}
    order = replace(ORDER, action=action, ticket=41 if action in orders.TICKETED else None, args=args)
    assert believe(orders.sign(KEY, order)) == order


@pytest.mark.parametrize("way", ["entry", "exit", "both", "schedule"])
def test_an_order_of_direction_says_which(way: str) -> None:
    order = replace(ORDER, action=Action.DIRECTION, ticket=None, args={"direction": way})
    assert believe(orders.sign(KEY, order)).args == {"direction": way}


def test_any_of_the_trusted_keys_will_do() -> None:
    keys = (STRANGER.public_key().public_bytes_raw(), *PUBLIC)
    assert orders.verify(keys, orders.sign(KEY, ORDER), ORDER.lane, ORDER.boot, NOON, ()) == ORDER


# -- attacks -------------------------------------------------------------------------------------------------


def test_signed_by_a_stranger() -> None:
    with pytest.raises(orders.BadSignature):
        believe(orders.sign(STRANGER, ORDER))


def test_no_trusted_key_means_no_order() -> None:
    with pytest.raises(orders.BadSignature):
        orders.verify((), orders.sign(KEY, ORDER), ORDER.lane, ORDER.boot, NOON, ())


def test_a_signature_made_for_something_else() -> None:
    body = orders.canonical(ORDER)
    with pytest.raises(orders.BadSignature):
        believe(KEY.sign(body) + body)


@settings(max_examples=120, deadline=None)
@given(st.data())
def test_any_flipped_bit(data: st.DataObject) -> None:
    blob = bytearray(orders.sign(KEY, ORDER))
    blob[data.draw(st.integers(0, len(blob) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(orders.BadSignature):
        believe(bytes(blob))


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=3000))
def test_noise(noise: bytes) -> None:
    with pytest.raises((orders.Malformed, orders.BadSignature)):
        believe(noise)


def test_another_lanes_order() -> None:
    with pytest.raises(orders.WrongLane):
        believe(orders.sign(KEY, ORDER), lane="tpe-t1-08")


def test_an_order_from_before_the_restart() -> None:
    with pytest.raises(orders.WrongBoot):
        believe(orders.sign(KEY, ORDER), boot="a000")


def test_held_back_until_it_expired() -> None:
    blob = orders.sign(KEY, ORDER)
    last = ORDER.expires + timedelta(seconds=orders.CLOCK_SKEW_S_MAX)
    assert believe(blob, at=last) == ORDER
    with pytest.raises(orders.Expired):
        believe(blob, at=last + timedelta(seconds=1))


def test_issued_in_the_future() -> None:
    blob = orders.sign(KEY, ORDER)
    first = NOON - timedelta(seconds=orders.CLOCK_SKEW_S_MAX)
    assert believe(blob, at=first) == ORDER
    with pytest.raises(orders.NotYetValid):
        believe(blob, at=first - timedelta(seconds=1))


def test_replayed() -> None:
    seen = orders.Seen()
    blob = orders.sign(KEY, ORDER)
    seen.remember(orders.verify(PUBLIC, blob, ORDER.lane, ORDER.boot, NOON, seen))
    with pytest.raises(orders.Replayed):
        orders.verify(PUBLIC, blob, ORDER.lane, ORDER.boot, NOON, seen)


def test_seen_forgets_only_what_can_no_longer_be_used() -> None:
    seen = orders.Seen()
    for k in range(1000):
        order = replace(
            ORDER,
            nonce=f"{k:032x}",
            issued=NOON + timedelta(seconds=10 * k),
            expires=NOON + timedelta(seconds=10 * k + orders.VALIDITY_S_MAX),
        )
        seen.remember(order)
        alive = [n for n in range(k + 1) if 10 * (k - n) <= orders.VALIDITY_S_MAX + 2 * orders.CLOCK_SKEW_S_MAX]
        assert all(f"{n:032x}" in seen for n in alive)
    assert len(seen) < 50


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param({"ticket": None}, id="open-without-a-passenger"),
        pytest.param({"ticket": 0}, id="ticket-zero"),
        pytest.param({"ticket": True}, id="ticket-is-a-bool"),
        pytest.param({"ticket": "41"}, id="ticket-is-text"),
        pytest.param({"ticket": 41.0}, id="ticket-is-a-float"),
        pytest.param({"action": "close_lane"}, id="lane-order-with-a-ticket"),
        pytest.param({"action": "open_all", "ticket": None}, id="fleet-wide-open"),
        pytest.param({"lane": "*"}, id="any-lane"),
        pytest.param({"lane": ""}, id="no-lane"),
        pytest.param({"officer": ""}, id="nobody"),
        pytest.param({"officer": "a\nb"}, id="officer-with-a-newline"),
        pytest.param({"nonce": "00"}, id="short-nonce"),
        pytest.param({"nonce": 5}, id="nonce-is-a-number"),
        pytest.param({"expires": "2026-11-20T12:02:01Z"}, id="valid-too-long"),
        pytest.param({"expires": "2026-11-20T12:00:00Z"}, id="never-valid"),
        pytest.param({"expires": "2026-11-20T11:59:00Z"}, id="ends-before-it-begins"),
        pytest.param({"expires": "2026-11-20T12:01:00+00:00"}, id="another-spelling-of-time"),
        pytest.param({"args": {"force": "1"}}, id="argument-that-nobody-reads"),
        pytest.param({"args": ["force"]}, id="args-is-a-list"),
        pytest.param({"args": {"direction": "entry"}}, id="direction-of-a-passenger"),
        pytest.param({"action": "direction", "ticket": None}, id="direction-without-one"),
        pytest.param({"action": "direction", "ticket": None, "args": {"direction": "up"}}, id="direction-unknown"),
        pytest.param({"action": "direction", "ticket": None, "args": {"direction": ""}}, id="direction-empty"),
        pytest.param({"action": "direction", "args": {"direction": "entry"}}, id="direction-with-a-ticket"),
        pytest.param(
            {"action": "direction", "ticket": None, "args": {"direction": "exit", "lanes": "*"}}, id="direction-of-all"
        ),
        pytest.param({"v": 2}, id="another-version"),
        pytest.param({"extra": 1}, id="another-field"),
    ],
)
def test_malformed_even_when_signed(changed: dict[str, object]) -> None:
    with pytest.raises(orders.Malformed):
        believe(signed_body(fields(**changed)))


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"{", b"\xff", b"[" * 1500, b'{"v":1}'])
def test_other_shapes_even_when_signed(body: bytes) -> None:
    with pytest.raises(orders.Malformed):
        believe(KEY.sign(orders.DOMAIN + body) + body)


def test_a_second_spelling_of_the_same_order_is_refused() -> None:
    body = json.dumps(fields(), sort_keys=True, indent=1).encode()
    with pytest.raises(orders.Malformed, match="canonical"):
        believe(KEY.sign(orders.DOMAIN + body) + body)


def test_a_doubled_key_is_refused() -> None:
    body = orders.canonical(ORDER).replace(b'"ticket":41', b'"ticket":40,"ticket":41')
    with pytest.raises(orders.Malformed):
        believe(KEY.sign(orders.DOMAIN + body) + body)


def test_an_unknown_action_cannot_be_made_at_hq() -> None:
    with pytest.raises(orders.Malformed):
        replace(ORDER, ticket=None)
    with pytest.raises(orders.Malformed):
        replace(ORDER, action=Action.RESET)
