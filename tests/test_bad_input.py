"""Bad input on every wire of a running lane: it closes or goes on, says why, loses nothing, and comes back by itself.

One real lane process with an ELYCTIS reader lives through all of it; a second one has the two other readers."""

import asyncio
import json
import random
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from gated.biometrics.finger import OnnxFingerEngine
from gated.biometrics.template import FingerTemplate, encode
from gated.hq.registers import EnrolledFinger
from gated.icao.fingers import Finger
from gated.wire.facts import VerdictReached
from tests.canaries import Canary, found
from tests.hw_sim.cast import INDEX_FINGERS
from tests.hw_sim.fingers import FingerBook
from tests.hw_sim.happenings import Topology
from tests.hw_sim.papers import smudged
from tests.hw_sim.picture import Cut
from tests.hw_sim.pty import Pty
from tests.hw_sim.readers import Fault as ReaderFault
from tests.hw_sim.touch import Picture
from tests.hw_sim.video import Fault as CameraFault
from tests.hw_sim.zfm_sensor import ZfmSensor
from tests.lane_bench import face
from tests.lane_rig import Rig
from tests.networks import networks

NOISE = random.Random(5).randbytes(3000)
SHREDS = (
    b"I",
    b"I\x00",
    b"I\x00\x5aP<TWN",
    b"I\xff\xff" + b"A" * 40,
    b"V\x00\x00",
    b"C\x00\x01",
    b"\x01\x5e\x00OU\x02 \rP<TWN",
    b"\x02P<TWNCHEN<<MEI",
    b"P<" * 200,
    b"\r\n" * 300,
    b"\x06\x15\x05",
)
"""Beginnings of frames of every reader, and things that look like them."""


PACKETS = (
    b"\xef\x01",
    b"\xef\x01\xff\xff\xff\xff\x07\x00\x03\x00",
    b"\xef\x01\xff\xff\xff\xff\x07\xff\xff\x00\x00",
    b"\xef\x01\xff\xff\xff\xff\x07\x00\x00",
    b"\xef\x01\xff\xff\xff\xff\x07\x00\x03\x00\x00\x0b",
    b"\xef\x01\x00\x00\x00\x00\x07\x00\x03\x00\x00\x0a",
    b"\xef\x01\xff\xff\xff\xff\x02" + b"\x00\x82" + bytes(40),
)
"""The same of a fingerprint module: cut short, longer than any, of no length, with a wrong sum, of another address."""


class Fingered:
    """A rig whose lane also has a serial fingerprint module in image mode, and people who have fingers enrolled."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.book, self.engine = FingerBook(9), OnnxFingerEngine(networks(), threads=1)
        self.cable = rig.bench.now(lambda: Pty(link=rig.folder / "fingerprint"))
        self.module = ZfmSensor(self.cable, random.Random(4))
        self.listen()
        rig.options["fingerprint"] = {
            "driver": "zfm",
            "port": str(rig.folder / "fingerprint"),
            "answer_s_max": 0.5,
            "alive_every_s": 0.3,
        }
        rig.options["finger"] = {"threshold": "fmr_1e-3"}
        rig.options["timing"] |= {"finger_s": 3.0, "fingers_s": 9.0, "finger_tries": 2}
        self.whole, self.spoilt = rig.passport(), rig.passport()
        rig.enrol(self.whole, fingers=tuple(EnrolledFinger(name, ISO, self.template(name)) for name in INDEX_FINGERS))
        rig.enrol(self.spoilt, fingers=tuple(EnrolledFinger(name, ISO, NO_TEMPLATE) for name in INDEX_FINGERS))
        self.plain = rig.enrol(rig.passport())
        rig.publish()
        rig.start()
        self.ready()

    def template(self, name: str) -> bytes:
        return encode(FingerTemplate.of(self.engine.extract(self.picture(0, name, 0), 500), Finger(name), 60))

    def picture(self, person: int, name: str, take: int) -> Picture:
        return self.book.impression(person, Finger(name), take)

    def listen(self) -> None:
        self.rig.bench.now(lambda: asyncio.ensure_future(self.module.run()))

    def ready(self, within_s: float = 25.0) -> None:
        self.rig.until(lambda now: now["devices"]["fingerprint"] == "ready", within_s)

    def lost(self) -> None:
        self.rig.until(lambda now: now["devices"]["fingerprint"] == "lost")

    def place(self, person: int, name: str) -> None:
        """When the display asks for this finger, somebody lays on theirs, and takes it off once it asks otherwise."""
        asked = f"place_{name}"
        self.rig.until(lambda now: now["prompt"] == asked)
        self.rig.bench.do(self.module.touch(self.picture(person, name, 1)))
        self.rig.until(lambda now: now["prompt"] != asked or now["state"] != "fingering")
        self.rig.bench.do(self.module.lift())
        time.sleep(OFF_S)

    def verdict(self) -> VerdictReached:
        """The newest passenger's."""
        self.rig.wait("idle", within_s=25.0)
        self.rig.assert_nothing_lost()
        tickets = self.rig.tickets()
        (reached,), _ = tickets[max(tickets)]
        return reached

    def passes(self) -> None:
        """Whose fingers these are is granted."""
        body = self.rig.enters(self.whole)
        for name in INDEX_FINGERS:
            self.place(0, name)
        assert self.rig.leaves(body) == "b"
        reached = self.verdict()
        assert (reached.decision, reached.fingers_matched) == ("grant", 2)


ISO = "iso19794-2"
OFF_S = 0.6
"""Nobody takes a finger off and lays one on in less: the module has to see its bare glass in between."""
NO_TEMPLATE = b"FMR CANARY-IN-PLACE-OF-A-TEMPLATE " * 9


class Served:
    """A rig whose lane runs, and the document of somebody whom it knows."""

    def __init__(self, rig: Rig, template: bytes | None = None) -> None:
        self.rig = rig
        self.paper = rig.enrol(rig.passport(), template)
        rig.publish()
        rig.start()


@pytest.fixture(scope="module")
def somebody() -> tuple[bytes, Cut] | None:
    """A real face, where there are test data."""
    try:
        return face()
    except pytest.skip.Exception:
        return None


@pytest.fixture(scope="module")
def lane(somebody: tuple[bytes, Cut] | None) -> Iterator[Served]:
    rig = Rig()
    try:
        yield Served(rig, somebody and somebody[0])
        assert "Traceback" not in rig.log() and "crashed" not in rig.log()
        assert rig.end() == 0
    finally:
        rig.close()


@pytest.fixture(scope="module")
def two_readers() -> Iterator[Served]:
    rig = Rig(readers={"a": "rte", "b": "lines"}, topology=Topology.BIDIRECTIONAL)
    try:
        yield Served(rig)
        assert "Traceback" not in rig.log() and "crashed" not in rig.log()
        assert rig.end() == 0
    finally:
        rig.close()


@pytest.fixture(scope="module")
def fingered() -> Iterator[Fingered]:
    rig = Rig()
    try:
        made = Fingered(rig)
        yield made
        assert "Traceback" not in rig.log() and "crashed" not in rig.log()
        assert "CANARY" not in rig.log()
        assert rig.end() == 0
        rig.bench.now(made.cable.unplug)
    finally:
        rig.close()


def shout(rig: Rig, side: str) -> None:
    """Noise and half frames on a reader's line; the lane never takes a ticket for it."""
    before = rig.ask()["counters"]
    for shred in (*SHREDS, NOISE, *SHREDS):
        rig.bench.say(shred, side)
        time.sleep(0.02)
    seen = rig.until(lambda now: now["devices"]["passport"] == "ready", 10.0)
    assert seen["ticket"] is None
    assert seen["counters"].get("refers") == before.get("refers")


# -- readers ---------------------------------------------------------------------------------------------------


def test_noise_and_half_frames_on_the_readers_line(lane: Served) -> None:
    shout(lane.rig, "a")
    lane.rig.serves(lane.paper)


@pytest.mark.parametrize("fault", ReaderFault)
def test_a_spoilt_message_about_a_document_is_asked_for_again(lane: Served, fault: ReaderFault) -> None:
    reader = lane.rig.bench.readers["a"]
    lane.rig.bench.now(reader.spoil_next, fault)
    lane.rig.reads(lane.rig.passport())


@pytest.mark.parametrize("side", ["a", "b"])
def test_noise_and_spoilt_messages_of_the_other_readers(two_readers: Served, side: str) -> None:
    """These cannot be asked again: the document has to be laid down again."""
    rig, paper = two_readers.rig, two_readers.paper
    shout(rig, side)
    stranger, earlier = rig.passport(), rig.tickets().keys()
    rig.reads(stranger, side)
    for fault in ReaderFault:
        rig.bench.now(rig.bench.readers[side].spoil_next, fault)
        rig.bench.insert(paper.lines, side)
        rig.bench.remove(side)
        time.sleep(0.4)
        rig.wait("idle")
    verdicts = [
        verdict for ticket, (reached, _) in rig.tickets().items() for verdict in reached if ticket not in earlier
    ]
    numbers = {verdict.holder.number for verdict in verdicts if verdict.holder is not None}
    assert numbers <= {stranger.number, paper.number}, "what was not on any document was taken for one"
    rig.serves(paper, side)
    rig.assert_nothing_lost()


def test_a_reader_that_is_pulled_out_in_the_middle_of_a_word(lane: Served) -> None:
    rig = lane.rig
    rig.bench.say(b"I\x00\x5aP<TWNCHEN<<")
    rig.bench.now(rig.bench.cables["a"].unplug)
    rig.wait("closed")
    assert rig.alarmed("device_lost", "passport:unplugged")["devices"]["passport"] == "lost"
    rig.bench.now(rig.bench.cables["a"].plug)
    rig.bench.now(rig.bench.listen)
    rig.serves(lane.paper)


def test_a_document_whose_check_digits_are_wrong_opens_nothing(lane: Served) -> None:
    rig = lane.rig
    lines = smudged(random.Random(2), lane.paper.lines)
    before = rig.ask()["counters"].get("alarms", 0)
    rig.bench.insert(lines)
    seen = rig.until(lambda now: now["counters"].get("alarms", 0) > before)
    rig.bench.remove()
    alarm = seen["last_alarms"][-1]
    assert alarm["code"] == "document_misread" and alarm["detail"].startswith("check_digit:")
    assert seen["state"] == "idle" and seen["prompt"] == "document_unreadable" and seen["ticket"] is None
    assert not any(door["requested"] for door in seen["doors"].values())
    written = json.dumps([seen, rig.log()])
    assert lines[1] not in written and lane.paper.number not in written and lane.paper.surname not in written
    rig.serves(lane.paper)


# -- camera ------------------------------------------------------------------------------------------------------


def broken_camera(rig: Rig, fault: CameraFault, why: str) -> None:
    """The camera fails: the lane closes and says why; it recovers: the lane opens."""
    rig.bench.do(rig.bench.camera.fault(fault))
    try:
        seen = rig.until(lambda now: now["devices"]["camera"] == "lost" and now["state"] == "closed")
        rig.alarmed("device_lost", f"camera:{why}")
        assert "camera" in seen["faults"]
        # a document is not taken while nobody could be recognised
        assert seen["ticket"] is None
    finally:
        rig.bench.do(rig.bench.camera.fault(None))
    rig.wait("idle", within_s=25.0)


def test_a_camera_that_is_black_or_frozen(lane: Served) -> None:
    broken_camera(lane.rig, CameraFault.BLACK, "black")
    broken_camera(lane.rig, CameraFault.FREEZE, "frozen")
    lane.rig.serves(lane.paper)


def test_a_camera_that_goes_while_somebody_is_inside(lane: Served) -> None:
    rig = lane.rig
    body = rig.enters(lane.paper)
    rig.wait("matching")
    rig.bench.do(rig.bench.camera.fault(CameraFault.DISCONNECT))
    try:
        rig.wait("referred", "returning")
        assert rig.leaves(body) == "a", "nobody is let through unseen"
        seen = rig.wait("closed")
        assert seen["devices"]["camera"] == "lost"
    finally:
        rig.bench.do(rig.bench.camera.fault(None))
    rig.wait("idle", within_s=25.0)
    rig.assert_nothing_lost()
    (verdict,), (end,) = rig.tickets()[max(rig.tickets())]
    assert (verdict.decision, verdict.reason, end.outcome) == ("refer", "lane_fault", "not_crossed")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (CameraFault.STALL, "read_timeout"),
        (CameraFault.BLACK_HOLE, "read_timeout"),
    ],
)
def test_a_camera_with_another_fault(lane: Served, fault: CameraFault, why: str) -> None:
    broken_camera(lane.rig, fault, why)


@pytest.mark.slow
def test_a_camera_that_comes_back_with_another_size(lane: Served) -> None:
    rig, camera = lane.rig, lane.rig.bench.camera
    whole = camera._image
    rig.bench.do(camera.fault(CameraFault.DISCONNECT))
    rig.wait("closed")
    rig.bench.now(camera.show, whole[::2, ::2])
    rig.bench.do(camera.fault(None))
    rig.alarmed("device_lost", "camera:wrong_size", 25.0)
    rig.bench.now(camera.show, whole)
    rig.wait("idle", within_s=40.0)


def test_pictures_that_are_cut_short(lane: Served) -> None:
    """The decoder may make something of them or give up: the lane serves on, or closes until they are whole."""
    rig = lane.rig
    rig.bench.do(rig.bench.camera.fault(CameraFault.GARBAGE))
    time.sleep(1.0)
    assert rig.ask()["state"] in ("idle", "closed")
    rig.bench.do(rig.bench.camera.fault(None))
    rig.wait("idle", within_s=25.0)
    rig.serves(lane.paper)


# -- pins ----------------------------------------------------------------------------------------------------------


def test_pins_that_are_unplugged_and_back(lane: Served) -> None:
    rig = lane.rig
    rig.bench.unplug_pins()
    seen = rig.wait("stopped")
    assert seen["devices"]["door"] == seen["devices"]["indicator"] == "lost"
    rig.alarmed("device_lost", "door:pins_gone")
    rig.bench.plug_pins()
    rig.serves(lane.paper)


def test_pins_that_go_while_somebody_is_inside(lane: Served) -> None:
    rig = lane.rig
    body = rig.enters(lane.paper)
    rig.bench.unplug_pins()
    rig.wait("stopped")
    rig.bench.plug_pins()
    assert rig.leaves(body) == "a"
    rig.wait("idle", within_s=25.0)
    rig.assert_nothing_lost()


def test_contacts_that_contradict_each_other_and_spikes(lane: Served) -> None:
    rig, board = lane.rig, lane.rig.bench.board
    for name in ("a_closed", "b_closed", "presence_one", "helper", "a_outer", "mains"):
        level = board.input(name)
        for flip in (not level, level):
            rig.bench.now(board.set_input, name, flip)
    time.sleep(0.3)
    seen = rig.ask()
    assert seen["state"] == "idle" and not seen["faults"], "what is too short to be true is nothing"
    rig.bench.now(board.set_input, "b_open", True)
    rig.wait("stopped")
    rig.alarmed("device_lost", "door:contacts_contradict")
    rig.bench.now(board.set_input, "b_open", False)
    rig.serves(lane.paper)


# -- fingers ----------------------------------------------------------------------------------------------------------


def test_whose_fingers_these_are_passes_and_anybody_else_does_not(fingered: Fingered) -> None:
    """What all the rest is held against."""
    fingered.passes()
    body = fingered.rig.enters(fingered.whole)
    for _ in range(2):
        fingered.place(1, INDEX_FINGERS[0])
    assert fingered.rig.leaves(body) == "a"
    reached = fingered.verdict()
    assert (reached.decision, reached.reason, reached.finger, reached.finger_tries) == (
        "refer",
        "face_matches",
        "failed",
        2,
    )


def test_noise_and_half_packets_on_the_modules_line(fingered: Fingered) -> None:
    rig = fingered.rig
    for shred in (*PACKETS, NOISE, *PACKETS):
        rig.bench.do(fingered.module.babble(shred))
        time.sleep(0.02)
    time.sleep(1.0)  # it has been spoken to since then
    assert rig.ask()["state"] == "idle"
    fingered.ready()


def test_a_module_that_answers_nonsense(fingered: Fingered, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole packets that no manual knows: the reader is lost, and with it whoever needs it; nobody else."""
    rig, module = fingered.rig, fingered.module
    dice = random.Random(8)

    async def nonsense(command: int, rest: bytes) -> None:
        await module._say(dice.choice((2, 7, 8)), dice.randbytes(dice.randint(1, 20)))

    with monkeypatch.context() as patch:
        patch.setattr(module, "_obey", nonsense)
        fingered.lost()
        rig.serves(fingered.plain)
        rig.reads(fingered.whole)
        assert fingered.verdict().reason == "fingers_can_be_taken"
        assert "fingerprint" in json.dumps(rig.ask()["faults"])
    fingered.ready()


def test_noise_while_somebody_is_asked_for_a_finger(fingered: Fingered) -> None:
    rig, module = fingered.rig, fingered.module
    body = rig.enters(fingered.whole)
    rig.wait("fingering")
    rig.bench.do(module.touch(fingered.picture(1, INDEX_FINGERS[0], 1)))

    def over() -> bool:
        return rig.ask()["state"] not in ("fingering", "confirming")

    until = time.monotonic() + 20.0
    while not over() and time.monotonic() < until:
        rig.bench.do(module.babble(NOISE[:400]))
    rig.bench.do(module.lift())
    assert rig.leaves(body) == "a"
    reached = fingered.verdict()
    assert (reached.decision, reached.fingers_matched) == ("refer", 0)
    fingered.ready()


def test_the_modules_cable_is_out_while_somebody_is_asked_for_a_finger(fingered: Fingered) -> None:
    rig = fingered.rig
    body = rig.enters(fingered.whole)
    rig.wait("fingering")
    rig.bench.now(fingered.cable.unplug)
    assert rig.leaves(body) == "a"
    reached = fingered.verdict()
    assert (reached.decision, reached.reason, reached.finger) == ("refer", "face_matches", "aborted")
    rig.bench.now(fingered.cable.plug)
    fingered.listen()
    fingered.ready()


def test_a_template_that_is_none_is_told_to_the_log_without_what_it_holds(fingered: Fingered) -> None:
    rig = fingered.rig
    body = rig.enters(fingered.spoilt)
    fingered.place(0, INDEX_FINGERS[0])
    assert rig.leaves(body) == "a"
    reached = fingered.verdict()
    assert (reached.decision, reached.reason, reached.finger) == ("refer", "face_matches", "not_supported")
    (said,) = rig.logged("finger template cannot be used")
    assert said["level"] == "error"
    assert "CANARY" not in rig.log()
    fingered.passes()


# -- control socket ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        NOISE,
        b'{"op": "status"',
        b"{}\n",
        b'{"op": "fly"}\n',
        b'{"op": "door", "door": "C", "open": 1}\n',
        b"[" * 60_000 + b"\n",
        b"x" * 200_000,
    ],
    ids=["noise", "half", "empty", "unknown", "wrong value", "deep", "long"],
)
def test_garbage_on_the_control_socket(lane: Served, data: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as line:
        line.settimeout(8.0)
        line.connect(str(lane.rig.control))
        threading.Thread(target=_send, args=(line, data), daemon=True).start()
        answer = line.recv(65536)
    if answer:
        assert json.loads(answer)["ok"] is False
    assert lane.rig.ask()["state"] == "idle"


def _send(line: socket.socket, data: bytes) -> None:
    try:
        line.sendall(data)
        line.shutdown(socket.SHUT_WR)
    except OSError:
        return  # the lane hung up on it


# -- and afterwards ------------------------------------------------------------------------------------------------


def test_after_all_of_it_a_passenger_is_recognised_and_nothing_is_lost(
    lane: Served, somebody: tuple[bytes, Cut] | None
) -> None:
    rig, paper = lane.rig, lane.paper
    if somebody is None:
        pytest.skip("no test data: there is no real face to recognise")
    rig.bench.look(somebody[1])
    shout(rig, "a")
    body = rig.enters(paper)
    assert rig.leaves(body) == "b"
    rig.wait("idle")
    rig.assert_nothing_lost()
    (verdict,), (end,) = rig.tickets()[max(rig.tickets())]
    assert (verdict.decision, verdict.face, end.outcome, end.persons) == ("grant", "successful", "crossed", 1)
    canaries = [
        Canary("number", paper.number),
        Canary("name", f"{paper.surname} {paper.given_names}"),
        Canary("personal number", paper.personal_number),
        Canary("line", paper.lines[1]),
    ]
    assert found(canaries, rig.store, rig.folder / "lane.log") == []
    (rig.store / "control").write_text(paper.lines[1], encoding="ascii")
    assert {hit.canary for hit in found(canaries, rig.store)} == {"number", "personal number", "line"}
