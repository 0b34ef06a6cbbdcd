"""An officer's order over a real broker to the lane's process, and what becomes of it."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from gated import control
from gated.hq import cli_orders
from gated.hq.cli import gated_hq
from gated.hq.orders import Asked, NoAnswer, carry
from gated.mqtt import Publication
from gated.wire import link
from gated.wire.orders import ARGUMENTS, Action, read
from tests.test_uplink import Spy
from tests.uplink_rig import LANE, SITE, Rig, eventually


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    made.broker.start()
    made.uplink()
    asked = made.control.asked
    eventually(lambda: any(isinstance(request, control.Status) for request in asked), what="the uplink is connected")
    yield made
    made.close()


def private(rig: Rig, name: str = "orders.key") -> bytes:
    return (rig.folder / "keys" / name).read_bytes()


def relayed(rig: Rig) -> list[bytes]:
    return [request.signed for request in list(rig.control.asked) if isinstance(request, control.RelayOrder)]


def test_an_order_reaches_the_lane_and_is_answered(rig: Rig) -> None:
    asked = Asked(SITE, LANE, Action.OPEN, "chen.w", ticket=41)
    answer = carry(rig.hq_broker, private(rig), asked, 5)
    assert answer.taken and not answer.why
    [blob] = relayed(rig)
    order = read(blob)
    assert (order.order, order.ticket, order.boot, order.officer) == (answer.order, 41, "boot-1", "chen.w")


@pytest.mark.parametrize("way", ["entry", "schedule"])
def test_an_order_of_direction_says_which(rig: Rig, way: str) -> None:
    asked = Asked(SITE, LANE, Action.DIRECTION, "chen.w", args={"direction": way})
    assert carry(rig.hq_broker, private(rig), asked, 5).taken
    [blob] = relayed(rig)
    order = read(blob)
    assert (order.action, order.ticket, order.args) == (Action.DIRECTION, None, {"direction": way})


def test_the_lane_refuses_and_says_why(rig: Rig) -> None:
    stale = Asked(SITE, LANE, Action.CLOSE_LANE, "chen.w", boot="boot-0")
    answer = carry(rig.hq_broker, private(rig), stale, 5)
    assert (answer.taken, answer.why) == (False, "wrong_boot")
    stranger = Asked(SITE, LANE, Action.CLOSE_LANE, "chen.w")
    answer = carry(rig.hq_broker, private(rig, "data.key"), stranger, 5)
    assert (answer.taken, answer.why) == (False, "bad_signature")


def test_a_replayed_order_is_refused_and_noise_never_reaches_the_lane(rig: Rig) -> None:
    with Spy(rig.hq_broker, link.topic(SITE, LANE, "cmd"), link.topic(SITE, LANE, "answer")) as spy:
        assert carry(rig.hq_broker, private(rig), Asked(SITE, LANE, Action.RETRY, "chen.w", 7), 5).taken
        heard = [spy.heard(), spy.heard()]
        blob = next(h.payload for h in heard if h.topic.endswith("cmd"))
        spy.session.publish(Publication(link.topic(SITE, LANE, "cmd"), blob, correlation=b"again"))
        answer = link.decode(next(h.payload for h in (spy.heard(), spy.heard()) if h.topic.endswith("answer")))
        assert isinstance(answer, link.OrderAnswer) and (answer.taken, answer.why) == (False, "replayed")
        before = len(relayed(rig))
        spy.session.publish(Publication(link.topic(SITE, LANE, "cmd"), b"open everything", correlation=b"x"))
        answer = link.decode(next(h.payload for h in (spy.heard(), spy.heard()) if h.topic.endswith("answer")))
        assert isinstance(answer, link.OrderAnswer) and answer.why == "malformed"
        assert len(relayed(rig)) == before


def test_nobody_answers(rig: Rig) -> None:
    with pytest.raises(NoAnswer, match="announced no run"):
        carry(rig.hq_broker, private(rig), Asked(SITE, "lane-99", Action.RESET, "chen.w"), 0.7)
    rig.end("uplink")
    with pytest.raises(NoAnswer, match="does not answer"):
        carry(rig.hq_broker, private(rig), Asked(SITE, LANE, Action.RESET, "chen.w"), 0.7)
    rig.broker.kill()
    with pytest.raises(NoAnswer, match="no connection"):
        carry(rig.hq_broker, private(rig), Asked(SITE, LANE, Action.RESET, "chen.w"), 0.7)


def test_the_lanes_daemon_is_away(rig: Rig) -> None:
    (rig.folder / "control.sock").unlink()
    told = carry(rig.hq_broker, private(rig), Asked(SITE, LANE, Action.RESET, "c", boot="boot-1"), 5)
    assert (told.taken, told.why) == (False, "lane_unreachable")


def test_an_order_does_not_wait_for_a_lane_that_was_away(rig: Rig) -> None:
    """The officer was told that nobody answered; then nothing may happen later."""
    rig.end("uplink")
    with pytest.raises(NoAnswer):
        carry(rig.hq_broker, private(rig), Asked(SITE, LANE, Action.OPEN, "c", 5, boot="boot-1"), 0.5)
    rig.uplink()
    time.sleep(0.7)
    assert relayed(rig) == []


def test_the_command_knows_every_action() -> None:
    assert set(cli_orders.ACTIONS) == {action.value for action in Action}
    assert set(cli_orders.DIRECTIONS) == ARGUMENTS[Action.DIRECTION]["direction"]


def test_the_command(rig: Rig) -> None:
    run = CliRunner()
    where = ["--host", "127.0.0.1", "--port", str(rig.broker.port), "--plain"]
    key = ["--key", str(rig.folder / "keys" / "orders.key"), "--officer", "chen.w"]
    done = run.invoke(gated_hq, ["order", f"{SITE}/{LANE}", "open", "--ticket", "3", *key, *where, "--json"])
    assert done.exit_code == 0 and json.loads(done.output.splitlines()[-1])["taken"] is True
    done = run.invoke(gated_hq, ["order", f"{SITE}/{LANE}", "open", *key, *where])
    assert done.exit_code == 2 and "ticket" in done.output
    done = run.invoke(gated_hq, ["order", f"{SITE}/{LANE}", "reset", "--boot", "old", *key, *where])
    assert done.exit_code == 1 and "wrong_boot" in done.output
    done = run.invoke(gated_hq, ["order", f"{SITE}/lane-99", "reset", *key, *where, "--wait", "1"])
    assert done.exit_code == 69
    turn = ["order", f"{SITE}/{LANE}", "direction", *key, *where]
    done = run.invoke(gated_hq, [*turn, "--way", "exit"])
    assert done.exit_code == 0 and read(relayed(rig)[-1]).args == {"direction": "exit"}
    done = run.invoke(gated_hq, turn)
    assert done.exit_code == 2 and "direction needs --way" in done.output
    done = run.invoke(gated_hq, ["order", f"{SITE}/{LANE}", "open", "--ticket", "3", "--way", "exit", *key, *where])
    assert done.exit_code == 2 and "nothing else takes it" in done.output
    public = ["--key", str(rig.folder / "keys" / "orders.pub"), "--officer", "chen.w"]
    done = run.invoke(gated_hq, ["order", f"{SITE}/{LANE}", "reset", *public, *where])
    assert done.exit_code == 1 and "chmod 600" in done.output
