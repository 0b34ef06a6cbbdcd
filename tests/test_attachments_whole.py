"""Pictures from the camera to HQ's desk: the whole lane in virtual time, and a real one with real networks.

What the lane made durable is read out of lane.db as the uplink reads it, taken in as HQ's ingest does, and opened with
HQ's key."""

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from structlog.testing import capture_logs

from gated.biometrics.face import Image, OnnxFaceEngine, template_of
from gated.hq.archive import Archive, Fate
from gated.hq.attachments import Attachment, Attachments
from gated.lane import commands as cmd
from gated.lane.events import Event, Now
from gated.lane.evidence import Decision
from gated.store.outbox import OutboxReader
from gated.wire.facts import AttachmentPart, TicketSettled
from gated.wire.record import Record
from tests.canaries import Canary, Hit, found
from tests.hw_sim import virtual
from tests.hw_sim.happenings import Topology
from tests.hw_sim.scene import colour_of
from tests.hw_sim.simlane import POLICY, sim_folder
from tests.lane_bench import face
from tests.lane_rig import LANE, Rig
from tests.networks import networks
from tests.test_fingers_whole import Story, Visit, visit

SEED = 11
CASE, ENTRY_FACE = "case_picture", "entry_face"
LAW = POLICY.read_text().replace('categories = ["hong_kong_macau_visitor"]', 'categories = ["national"]')
"""By which the faces of nationals are kept on entry: a virtual lane has many of them."""
WANTED = frozenset({"wanted"})


@dataclass
class Kept(Story):
    """A lane, and what HQ has of it in the end. `pictures`: by their names."""

    law: str = LAW
    queued: list[Record] = field(default_factory=list)
    pictures: dict[str, tuple[Attachment, bytes]] = field(default_factory=dict)

    def _collect(self) -> None:
        super()._collect()
        self.queued = outbox(self.folder)
        self.pictures = desk(self.folder / "hq.db", self.queued, self.hq_private)


def outbox(folder: Path) -> list[Record]:
    reader = OutboxReader(folder / "lane.db")
    try:
        return [Record.decode(each.payload) for each in reader.pending({}, 1_000_000)]
    finally:
        reader.close()


def desk(db: Path, records: Sequence[Record], private: bytes) -> dict[str, tuple[Attachment, bytes]]:
    """Every picture that HQ puts together of these records; all of them are whole."""
    archive = Archive(db)
    try:
        with archive.batch() as intake:
            for record in records:
                taken = intake.take("site", record.lane, record.encode(), (record.stream_id, record.seq), private)
                assert taken.fate is Fate.STORED, taken
        assert archive.broken() == []
        pictures = Attachments(archive)
        return {each.name: (each, pictures.picture(each, private, "show")) for each in pictures.newest(limit=1000)}
    finally:
        archive.close()


def story(*visits: Visit, kind: type[Kept] = Kept, direction: str = "entry", **how: Any) -> Kept:
    with sim_folder() as folder:
        lane = kind(SEED, Topology.MANTRAP, folder, visits=visits, direction=direction, **how)
        virtual.run(lane.run())
    return lane


def ticket(lane: Kept, who: Visit, decision: str) -> int:
    """Of their verdict with this decision."""
    (verdict,) = [each for each in lane.verdicts(who) if each.decision == decision]
    return verdict.ticket


def seen(picture: bytes) -> Image:
    image = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None, "a JPEG"
    return np.asarray(image, np.uint8)


def shows(picture: bytes, person: int) -> bool:
    """Whether a picture is of the colour of this person's token."""
    return bool(np.abs(seen(picture).reshape(-1, 3).mean(axis=0) - colour_of(person)).max() < 6)


# -- which passengers, which way ---------------------------------------------------------------------------------------


def test_who_enters_is_kept_with_the_face_and_who_is_referred_with_the_case() -> None:
    passes, wrong = visit(1, "national"), visit(2, "national", seen=3)
    lane = story(passes, wrong)
    entered, referred = ticket(lane, passes, "grant"), ticket(lane, wrong, "refer")
    assert set(lane.pictures) == {f"{entered}-{ENTRY_FACE}", f"{referred}-{CASE}"}
    (kept, picture), (case, whole) = lane.pictures[f"{entered}-{ENTRY_FACE}"], lane.pictures[f"{referred}-{CASE}"]
    assert (kept.keep_days, kept.ticket, case.keep_days, case.ticket) == (14, entered, 7, referred)
    assert shows(picture, 1), "the face of who passed"
    assert shows(whole, 3) and not shows(whole, 2), "who came, not whose document it is"
    face_px, frame_px = (seen(each).shape[:2] for each in (picture, whole))
    assert frame_px == (480, 640) and face_px[0] < 480 and face_px[1] < 640


def test_on_the_way_out_no_face_is_kept() -> None:
    passes, wrong = visit(1, "national"), visit(2, "national", seen=3)
    lane = story(passes, wrong, direction="exit")
    assert ticket(lane, passes, "grant")
    assert set(lane.pictures) == {f"{ticket(lane, wrong, 'refer')}-{CASE}"}


def test_without_the_policy_s_word_there_is_none() -> None:
    law = LAW[: LAW.index("[attachments.case_picture]")] + LAW[LAW.index("# -- reasons") :]
    passes, wrong = visit(1, "national"), visit(2, "national", seen=3)
    lane = story(passes, wrong, law=law)
    assert ticket(lane, passes, "grant") and ticket(lane, wrong, "refer")
    assert lane.pictures == {}


def test_of_whoever_has_no_stay_that_ends_no_face_is_kept_by_taiwan_s_policy() -> None:
    passes = visit(1, "national")
    lane = story(passes, law="")
    assert ticket(lane, passes, "grant") and lane.pictures == {}


@dataclass
class Told(Kept):
    """And when a picture was asked for, of which decision, and whether the lane went on as if nothing had matched."""

    asked: list[tuple[str, Decision, bool]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.watchers.append(self._watch)

    def _watch(self, event: Event, now: Now, commands: tuple[cmd.Command, ...]) -> None:
        for each in commands:
            if isinstance(each, cmd.KeepPicture):
                guest = self.app.lane.guest
                assert guest.verdict is not None
                self.asked.append((each.what, guest.verdict.decision, guest.pretended is not None))


def test_of_whom_a_control_met_the_face_is_kept_before_they_could_know() -> None:
    """The record says refer, and the picture is that record's; the lane goes on as if nothing had matched (L8)."""
    base = visit(1, "national")
    sought = replace(base, enrolment=replace(base.enrolment, flags=WANTED))
    lane = story(sought, kind=Told)
    assert isinstance(lane, Told)
    number = ticket(lane, sought, "refer")
    assert shows(lane.pictures[f"{number}-{CASE}"][1], 1)
    assert lane.asked[0] == (CASE, Decision.REFER, True)
    made = min(part.utc for part in lane.queued if part.kind == AttachmentPart.__name__)
    assert made < next(r.utc for r in lane.queued if r.kind == TicketSettled.__name__)


def test_of_whom_no_frame_is_good_enough_there_is_none_and_a_line_says_so() -> None:
    wrong = visit(2, "national", seen=3)
    wrong.passenger.quality = 0.1
    with capture_logs() as logs:
        lane = story(wrong)
    assert ticket(lane, wrong, "refer") and lane.pictures == {}
    (line,) = [each for each in logs if each["event"] == "no picture is kept"]
    assert set(line) == {"event", "log_level", "what", "why"} and line["why"] == "no_frame"


# -- sealed ------------------------------------------------------------------------------------------------------------


def canaries(pictures: Iterable[bytes]) -> list[Canary]:
    """From the middle of each, where no other JPEG is the same."""
    return [Canary(f"picture {k}", each[len(each) // 2 :][:600]) for k, each in enumerate(pictures)]


def test_no_file_of_the_lane_has_a_picture() -> None:
    class Searched(Kept):
        hits: list[Hit]
        control: list[Hit]

        def _collect(self) -> None:
            super()._collect()
            parts = [fact for _, _, fact in self.told if isinstance(fact, AttachmentPart)]
            assert {part.what for part in parts} == {CASE, ENTRY_FACE}
            wanted = canaries(part.data for part in parts)
            self.hits = found(wanted, self.folder)
            # As the same parts would lie in the outbox were they not sealed: base64 in JSON, and that in base64.
            bare = [base64.b64encode(b'{"data":"' + base64.b64encode(part.data) + b'"}') for part in parts]
            (self.folder / "control").write_bytes(b"\n".join(bare))
            self.control = found(wanted, self.folder)
            assert {hit.canary for hit in self.control} == {each.name for each in wanted}

    lane = story(visit(1, "national"), visit(2, "national", seen=3), kind=Searched)
    assert isinstance(lane, Searched) and lane.pictures
    assert lane.hits == []
    assert {hit.path.name for hit in lane.control} == {"control"}


# -- a real lane -------------------------------------------------------------------------------------------------------


def somebody_else() -> bytes:
    """A template of the right form that is like nobody's."""
    vector = np.random.default_rng(5).normal(size=128)
    return template_of((vector / np.linalg.norm(vector)).astype(np.float32))


def test_a_real_lane_keeps_the_face_that_it_recognised_and_the_case_that_it_did_not() -> None:
    """Real camera driver, networks, disk; HQ's desk recognises the person in what the lane gave it."""
    template, head = face()
    rig = Rig()
    try:
        (rig.folder / "policy.toml").write_text(LAW)
        rig.options["policy"]["file"] = str(rig.folder / "policy.toml")
        rig.options["lane"]["direction"] = "entry"
        passes, wrong = (rig.enrol(rig.passport(), each) for each in (template, somebody_else()))
        rig.publish()
        rig.start()
        rig.bench.look(head)
        assert rig.leaves(rig.enters(passes)) == "b"
        assert rig.leaves(rig.enters(wrong)) == "a"
        rig.wait("idle")
        rig.assert_nothing_lost()
        assert rig.end() == 0
        pictures = desk(rig.folder / "hq.db", outbox(rig.store), rig.hq_private)
        decisions = {number: verdicts[0].decision for number, (verdicts, _) in rig.tickets().items()}
        names = {f"{n}-{CASE if decision == 'refer' else ENTRY_FACE}" for n, decision in decisions.items()}
        assert set(pictures) == names and len(names) == 2
        sizes, engine = {}, OnnxFaceEngine(networks(), near_eye_px_min=10.0)
        for name, (kept, picture) in pictures.items():
            image = seen(picture)
            assert kept.lane == LANE
            assert engine.score(engine.embed(image, engine.look(image)), template) > engine.threshold.score, name
            sizes[kept.what] = image.shape[:2]
        assert sizes[CASE] == (480, 640) and sizes[ENTRY_FACE][1] < 480
        shown = [picture for _, picture in pictures.values()]
        assert found(canaries(shown), rig.store, rig.folder / "lane.log") == []
        (rig.store / "control").write_bytes(b"".join(shown))
        assert len({hit.canary for hit in found(canaries(shown), rig.store)}) == 2
    finally:
        rig.close()
