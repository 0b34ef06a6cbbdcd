"""Passengers derived from the requirements, one a row: who comes with what, where, which way, when, and what is right.

What is right is said here and nowhere computed: from the requirements' pages, not from the policy file. A row is a
`Specimen` (everything that it does not say is in order) with what a whole lane needs to know beside."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, time, timedelta
from typing import Any

from gated.lane.specimen import NOON, Pass, Specimen

PASS = "pass"
DAY = date(2026, 11, 20)
"""A Friday, and a working day."""
ONE_DAY = timedelta(days=1)
PLACES = (
    "taoyuan_t1",
    "taoyuan_t2",
    "songshan",
    "taichung",
    "kaohsiung_airport",
    "kinmen_shuitou",
    "keelung_port",
    "kaohsiung_port",
)
BOTH_WAYS = ("exit", "entry")
LAWS = {
    # W6: what a lane with a chip reader will find; this one has none.
    "no_chip_asked": ('may_miss = ["face_pad", "height"]', 'may_miss = ["chip", "face_pad", "height"]'),
    "height_asked": (
        'may_miss = ["chip", "face_pad", "finger_pad", "height"]',
        'may_miss = ["chip", "face_pad", "finger_pad"]',
    ),
    "live_face_asked": (
        'may_miss = ["chip", "face_pad", "finger_pad", "height"]',
        'may_miss = ["chip", "finger_pad", "height"]',
    ),
    "live_finger_asked": (
        'may_miss = ["chip", "face_pad", "finger_pad", "height"]',
        'may_miss = ["chip", "face_pad", "height"]',
    ),
}
"""Changes of the policy's text: what stands in Taiwan's, and what in its place."""
ROUTINE, ATTENTION, URGENT = "routine", "attention", "urgent"
URGENCY = {
    "document_in_force": ATTENTION,
    "holder_is_enrolled": ROUTINE,
    "category_is_known": ROUTINE,
    "category_is_in_force": ROUTINE,
    "cache_is_recent_enough": ROUTINE,
    "document_is_known": ROUTINE,
    "document_fits_category": ROUTINE,
    "document_fits_direction": ROUTINE,
    "document_fits_place": ATTENTION,
    "old_enough": ROUTINE,
    "tall_enough": ROUTINE,
    "enrolment_fits_category": ROUTINE,
    "enrolment_is_bound": ROUTINE,
    "enrolment_is_usable": ROUTINE,
    "enrolled_as_demanded": ROUTINE,
    "permits_are_valid": ATTENTION,
    "entries_are_left": ATTENTION,
    "stay_not_exceeded": ATTENTION,
    "not_inside_already": ATTENTION,
    "entered_before": ATTENTION,
    "document_is_of_the_entry": ATTENTION,
    "not_abroad_too_long": ATTENTION,
    "fingers_can_be_taken": ROUTINE,
    "chip_is_genuine": URGENT,
    "face_matches": ATTENTION,
    "face_is_live": URGENT,
    "finger_matches_where_demanded": ATTENTION,
    "finger_is_live": URGENT,
}
"""Of a referral by each rule; a control or a document's flag says its own in its row."""
INSIDE = frozenset(
    {
        "chip_is_genuine",
        "face_matches",
        "face_is_live",
        "finger_matches_where_demanded",
        "finger_is_live",
        "document_is_not_flagged",
        "holder_is_not_flagged",
    }
)
"""Rules that are asked of somebody who was let in; by every other one the way in stays shut."""


@dataclass(frozen=True, slots=True)
class Row(Specimen):
    """One passenger. `expect`: pass, or the rule that refers them."""

    name: str = ""
    cites: tuple[str, ...] = ()
    expect: str = PASS
    urgency: str = ""
    notes: tuple[str, ...] = ()
    enrolled: bool = True
    """Whether the cache knows the holder at all."""
    code: str = ""
    """Of the document, where it is not the usual one of its kind."""
    is_known_kind: bool = True
    """Whether the policy knows documents of this code."""
    renewed: str = ""
    """They show the passport after the enrolled one: "linked" where the personal number leads to them, else "alone"."""
    expected: bool = False
    """Announced for today by advance passenger information."""
    weak_face: bool = False
    """At a lane whose threshold nobody's face reaches, and everybody's own reaches the weak one."""
    law: str = ""
    """One of `LAWS`."""
    at: time = NOON
    """By the clocks of the country."""

    @property
    def passes(self) -> bool:
        return self.expect == PASS

    @property
    def comes_in(self) -> bool:
        """Whether the way in opens."""
        return self.passes or self.expect in INSIDE


DOCUMENT = {
    "national": "passport_tw",
    "national_abroad": "residence_certificate",
    "resident": "residence_certificate",
    "diplomat": "diplomatic_card",
    "hong_kong_macau": "exit_entry_permit",
    "hong_kong_macau_visitor": "exit_entry_permit",
    "mainland_resident": "exit_entry_permit",
    "mainland_spouse": "exit_entry_permit",
    "foreign_visitor": "passport_foreign",
}
"""What each category shows, where a row does not say (W1, W5, W6)."""
DOCUMENTS = (
    "passport_tw",
    "passport_foreign",
    "kinmen_permit",
    "residence_certificate",
    "diplomatic_card",
    "exit_entry_permit",
)
ALSO = {("national", "kinmen_permit"), ("diplomat", "residence_certificate")}
"""What they may show besides."""
WITH_FINGERS = tuple(name for name in DOCUMENT if name not in ("national", "foreign_visitor"))
"""Who is recognised by face and fingers (W4, W5)."""
RESIDENCE = Pass("residence")
REENTRY = Pass("reentry")
MULTIPLE = Pass("multiple_entry")
ENTRY_PERMIT = Pass("entry_permit")
STAY = Pass("stay")
PERMITS = {
    "national_abroad": (RESIDENCE, MULTIPLE),
    "resident": (RESIDENCE, REENTRY),
    "hong_kong_macau": (RESIDENCE, MULTIPLE),
    "hong_kong_macau_visitor": (ENTRY_PERMIT, STAY),
    "mainland_resident": (RESIDENCE, MULTIPLE),
    "mainland_spouse": (RESIDENCE, MULTIPLE),
    "foreign_visitor": (STAY,),
}
"""What each category has, where a row does not say (W3, W4, W6, O1)."""
CITED = {
    "national": "W1",
    "mainland_spouse": "W4",
    "hong_kong_macau_visitor": "O1",
    "foreign_visitor": "W6",
}
"""The requirement that lets a category use lanes; of every other one W3."""


def row(name: str, cites: str, category: str = "national", expected: str = PASS, /, **said: Any) -> Row:
    """A row; everything that is not said is in order, the last crossing 30 days ago."""
    expect: str = said.pop("expect", expected)
    on = said.get("on", DAY)
    way = said.setdefault("direction", "exit")
    if "entered" not in said and "left" not in said:
        said["entered" if way == "exit" else "left"] = on - timedelta(days=30)
    given: dict[str, Any] = {
        "category": category,
        "document": DOCUMENT.get(category, "passport_tw"),
        "place": "taoyuan_t1",
        "on": DAY,
        "origin": "entry" if category == "foreign_visitor" else "counter",
        "permits": PERMITS.get(category, ()),
        "fingers_enrolled": 2 if category in WITH_FINGERS else 0,
        "urgency": "" if expect == PASS else URGENCY.get(expect, ""),
    }
    return Row(name=name, cites=tuple(cites.split()), expect=expect, **(given | said))


def _around(name: str, cites: str, expect: str, says: str, *sides: tuple[Any, bool], **said: Any) -> Iterator[Row]:
    """Rows that differ in the field `says` alone; of each value, whether somebody passes with it."""
    for value, passes in sides:
        yield row(f"{name}: {value}", cites, expect=PASS if passes else expect, **{says: value}, **said)


# -- documents, places, directions (W1, W3-W6, L7, L11) ------------------------------------------------------------


def _matrix() -> Iterator[Row]:
    """Every cell: with the right document both ways, each time elsewhere; with each other one not at all."""
    turn = 0
    for category, usual in DOCUMENT.items():
        law = "no_chip_asked" if category == "foreign_visitor" else ""
        cites = f"{CITED.get(category, 'W3')} {'W5' if category in WITH_FINGERS else 'L1'} L7 L11"
        for document in DOCUMENTS:
            if document != usual and (category, document) not in ALSO:
                here = PLACES[turn % len(PLACES)]
                name = f"{category} with {document}"
                cited = f"{CITED.get(category, 'W3')} W5"
                yield row(name, cited, category, "document_fits_category", document=document, place=here)
                turn += 1
                continue
            if category == "national" and document == usual:
                continue  # everywhere, below
            for way in BOTH_WAYS:
                here = "kinmen_shuitou" if document == "kinmen_permit" else PLACES[turn % len(PLACES)]
                wrong_way = category == "foreign_visitor" and way == "entry"
                expect = "document_fits_direction" if wrong_way else PASS
                said = {"document": document, "place": here, "direction": way, "law": law}
                yield row(f"{category} with {document}, {way}", cites, category, expect, **said)
                turn += 1


def _places() -> Iterator[Row]:
    """Nationals everywhere, by their face alone; the Kinmen-Matsu permit at Kinmen alone; at ports, somebody sought."""
    for place in PLACES:
        for way in BOTH_WAYS:
            yield row(f"passport at {place}, {way}", "W1 L1 L3 L7 L11 E3", place=place, direction=way)
        if place != "kinmen_shuitou":
            said = {"document": "kinmen_permit", "place": place}
            yield row(f"Kinmen permit at {place}", "W1 L11", expect="document_fits_place", **said)
    wrong_way = {"document": "kinmen_permit", "place": "songshan", "direction": "entry"}
    yield row("Kinmen permit at songshan, entry", "W1 L11 L7", expect="document_fits_place", **wrong_way)
    for place in ("keelung_port", "kaohsiung_port"):
        for way in BOTH_WAYS:
            sought = {"place": place, "direction": way, "controls": ("wanted",), "urgency": URGENT}
            yield row(f"wanted at {place}, {way}", "L7 L8 W7", expect="holder_is_not_flagged", **sought)


WHO = (
    row("nobody knows them", "W1", expect="holder_is_enrolled", enrolled=False),
    row("nobody knows them, entry", "W1", expect="holder_is_enrolled", enrolled=False, direction="entry"),
    row("a foreigner without registration", "W3", "resident", "holder_is_enrolled", enrolled=False),
    row("of a category that the law does not name", "W3", "crew", "category_is_known"),
    row(
        "a seaman's book", "W1 W5", expect="document_is_known", document="kinmen_permit", code="IM", is_known_kind=False
    ),
    row("a two-letter passport code of 2026", "W1", code="PP"),
    row("a diplomatic passport of one's own", "W1", code="PD"),
    row("a certificate with the code I", "W5", "resident", code="I"),
    row("a certificate with the code IR", "W5", "resident", code="IR"),
    row("an exit-entry permit with the code C", "W5", "mainland_spouse", code="C"),
    row("face and document are another's", "L1 W1", expect="face_matches", face=False),
    row("face and document are another's, entry", "L1", expect="face_matches", face=False, direction="entry"),
    row("a twin of a resident", "W5 L1", "resident", "finger_matches_where_demanded", fingers=0, direction="entry"),
    row("a resident's finger and another's face", "W5 L1", "resident", "face_matches", face=False),
    row("neither face nor finger", "W5 L1", "mainland_spouse", "face_matches", face=False, fingers=0),
    row("one finger is hurt, the other is right", "W5 E4", "resident", fingers=1),
)

SINCE = (
    ("national_abroad", "W3", date(2012, 9, 3)),
    ("resident", "W3", date(2012, 9, 3)),
    ("diplomat", "W3", date(2012, 9, 3)),
    ("hong_kong_macau", "W3", date(2012, 9, 3)),
    ("mainland_resident", "W3", date(2012, 9, 3)),
    ("mainland_spouse", "W4", date(2013, 1, 1)),
    ("foreign_visitor", "W6", date(2025, 1, 1)),
)
"""From which day on a category may use lanes."""


def _since() -> Iterator[Row]:
    for category, cites, first in SINCE:
        law = "no_chip_asked" if category == "foreign_visitor" else ""
        for on, expect in ((first - ONE_DAY, "category_is_in_force"), (first, PASS)):
            yield row(f"{category} on {on}", cites, category, expect, on=on, law=law)


# -- age and height (W2) -------------------------------------------------------------------------------------------

SIZES = (
    (date(2012, 6, 1), 14, 140),
    (date(2022, 7, 21), 14, 140),
    (date(2022, 7, 22), 12, 140),
    (date(2024, 12, 31), 12, 140),
    (date(2025, 1, 1), 10, 120),
    (DAY, 10, 120),
)
"""On this day: so many years, so many centimetres."""


def _sizes() -> Iterator[Row]:
    for on, years, height in SIZES:
        birthday = on.replace(year=on.year - years)
        yield row(f"{years} today, on {on}", "W2", on=on, born=birthday)
        yield row(f"{years} tomorrow, on {on}", "W2", expect="old_enough", on=on, born=birthday + ONE_DAY)
        yield row(f"{height} cm on {on}", "W2", on=on, height_cm=height)
        yield row(f"{height - 1} cm on {on}", "W2", expect="tall_enough", on=on, height_cm=height - 1)
    yield row("ten since yesterday", "W2", born=DAY.replace(year=2016) - ONE_DAY)
    yield row("one year too young", "W2", expect="old_enough", born=date(2017, 11, 20))
    yield row("a resident's child of nine", "W2", "resident", "old_enough", born=date(2016, 11, 21))
    yield row("a resident's child of ten", "W2", "resident", born=date(2016, 11, 20))
    yield row("121 cm", "W2", height_cm=121)
    yield row("a resident of 119 cm", "W2 W3", "resident", "tall_enough", height_cm=119)
    yield row("a centenarian", "W2", born=date(1925, 3, 1))
    yield row("born on 29 February, ten on 28 February", "W2", expect="old_enough", on=LEAP_EVE, born=LEAPLING)
    yield row("born on 29 February, ten on 1 March", "W2", on=LEAP_EVE + ONE_DAY, born=LEAPLING)
    yield row("height on no record, and asked for", "W2", expect="tall_enough", law="height_asked")
    yield row("height on record, and asked for", "W2", law="height_asked", height_cm=120)


LEAPLING = date(2016, 2, 29)
LEAP_EVE = date(2026, 2, 28)
OVER = {"document_expires": DAY - ONE_DAY}


def _hours() -> Iterator[Row]:
    """The day of use is a day there: five past midnight the day before in Greenwich, ten to it not the next one."""
    early, late = {"at": time(0, 5)}, {"at": time(23, 50)}
    yield row("ten today, after midnight", "W2", born=DAY.replace(year=2016), **early)
    yield row("ten tomorrow, before midnight", "W2", expect="old_enough", born=date(2016, 11, 21), **late)
    yield row("passport until yesterday, after midnight", "W8", expect="document_in_force", **early, **OVER)
    yield row("passport until today, before midnight", "W8", document_expires=DAY, **late)
    leave = {"controls": ("conscript",), "permits": (Pass("military_leave", start=DAY),)}
    yield row("a conscript's leave from today, after midnight", "W7 O2", **leave, **early)
    leave = {"controls": ("conscript",), "permits": (Pass("military_leave", end=DAY),)}
    yield row("a conscript's leave until today, before midnight", "W7 O2", **leave, **late)


# -- permits (W3, W4, O1) and the stay (W6, O1) --------------------------------------------------------------------

DEMANDED = {
    "national_abroad": ("residence", "multiple_entry"),
    "resident": ("residence", "reentry"),
    "hong_kong_macau": ("residence", "multiple_entry"),
    "mainland_resident": ("residence", "multiple_entry"),
    "mainland_spouse": ("residence", "multiple_entry"),
    "hong_kong_macau_visitor": ("entry_permit",),
}
"""On entry, all of them; on exit the residence alone."""


def _permits() -> Iterator[Row]:
    for category, kinds in DEMANDED.items():
        cites = CITED.get(category, "W3")
        for kind in kinds:
            rest = tuple(permit for permit in PERMITS[category] if permit.kind != kind)
            for what, permit, passes in (
                ("its last day", Pass(kind, end=DAY), True),
                ("the day after it", Pass(kind, end=DAY - ONE_DAY), False),
                ("its first day", Pass(kind, start=DAY), True),
                ("the day before it", Pass(kind, start=DAY + ONE_DAY), False),
                ("without it", None, False),
            ):
                said = {"permits": (*rest, permit) if permit else rest, "direction": "entry"}
                yield row(f"{category}, {kind}: {what}", cites, category, _unless(passes, "permits_are_valid"), **said)
            said = {"permits": rest, "direction": "exit"}
            expect = _unless(kind != "residence", "permits_are_valid")
            yield row(f"{category} leaves without {kind}", cites, category, expect, **said)
    two = (RESIDENCE, Pass("reentry", end=DAY - ONE_DAY), Pass("reentry", start=DAY))
    yield row("a new re-entry permit after the old one", "W3", "resident", permits=two, direction="entry")


def _unless(right: bool, expect: str) -> str:
    return PASS if right else expect


def _entries() -> Iterator[Row]:
    def permit(left: int | None, end: date = DAY) -> tuple[Pass, ...]:
        return (Pass("entry_permit", end=end, entries_left=left),)

    who, way = "hong_kong_macau_visitor", {"direction": "entry"}
    yield row("two entries left", "O1", who, permits=permit(2), **way)
    yield row("the last entry", "O1", who, permits=permit(1), **way)
    yield row("no entry left", "O1", who, "entries_are_left", permits=permit(0), **way)
    yield row("as many entries as one likes", "O1", who, permits=permit(None), **way)
    yield row("an entry left of another permit", "O1", who, permits=permit(0) + permit(1), **way)
    over = permit(0) + permit(1, DAY - ONE_DAY)
    yield row("an entry left of a permit that is over", "O1", who, "entries_are_left", permits=over, **way)
    yield row("nothing left, and on the way out", "O1", who, permits=(*permit(0), STAY))
    twice = {"entered": DAY - timedelta(days=3), "left": DAY - timedelta(days=9)}
    yield row("a visitor enters twice", "O1 O7", who, "not_inside_already", notes=("double_entry",), **way, **twice)
    gone = {"entered": DAY - timedelta(days=9), "left": DAY - timedelta(days=3)}
    yield row("a visitor comes again", "O1 O7", who, **way, **gone)
    odd = ("exit_without_entry",)
    yield row("a visitor who never came leaves", "O1 O7", who, "entered_before", notes=odd, entered=None)
    yield row("a visitor leaves twice", "O1 O7", who, "entered_before", notes=odd, **gone)
    changed = {"other_document": True, "notes": ("other_document",)}
    yield row("a visitor leaves with another permit", "O1 O8", who, "document_is_of_the_entry", **changed)
    for what, stay, passes in (
        ("its last day", Pass("stay", end=DAY), True),
        ("the day after it", Pass("stay", end=DAY - ONE_DAY), False),
        ("without one", None, False),
    ):
        said = {"permits": (ENTRY_PERMIT, stay) if stay else (ENTRY_PERMIT,)}
        yield row(f"a visitor's stay: {what}", "O1 W6", who, _unless(passes, "stay_not_exceeded"), **said)


# -- foreigners without registration (W6) --------------------------------------------------------------------------


def _visitors() -> Iterator[Row]:
    who, law = "foreign_visitor", {"law": "no_chip_asked"}
    yield row("a lane that reads no chips", "W6", who, "chip_is_genuine")
    yield row("a lane that reads no chips, at a port", "W6", who, "chip_is_genuine", place="keelung_port")
    yield row("their face was taken on entry", "W6 E10", who, **law)
    yield row("no face was taken on entry", "W6", who, "holder_is_enrolled", enrolled=False, **law)
    yield row("somebody else's face was taken on entry", "W6 L1", who, "face_matches", face=False, **law)
    yield row(
        "a visitor who was enrolled at a counter", "W6 E2", who, "enrolment_fits_category", origin="counter", **law
    )
    yield row("a passport with the code PP", "W6", who, code="PP", **law)
    for what, stay, passes in (
        ("its last day", Pass("stay", end=DAY), True),
        ("the day after it", Pass("stay", end=DAY - ONE_DAY), False),
        ("its first day", Pass("stay", start=DAY), True),
        ("the day before it", Pass("stay", start=DAY + ONE_DAY), False),
    ):
        expect = _unless(passes, "stay_not_exceeded")
        yield row(f"a foreigner's stay: {what}", "W6", who, expect, permits=(stay,), **law)
    yield row("a foreigner without a stay", "W6", who, "stay_not_exceeded", permits=(), **law)
    odd = {"notes": ("exit_without_entry",), "entered": None}
    yield row("a foreigner who never came", "W6 O7", who, "entered_before", **odd, **law)
    changed = {"other_document": True, "notes": ("other_document",)}
    yield row("a foreigner with a second passport", "W6 O8", who, "document_is_of_the_entry", **changed, **law)
    sought = {"controls": ("exit_ban",), "urgency": URGENT}
    yield row("a foreigner under an exit ban", "W6 W7", who, "holder_is_not_flagged", **sought, **law)
    stolen = {"document_controls": ("stolen",), "urgency": URGENT}
    yield row("a foreigner with a stolen passport", "W6 W8", who, "document_is_not_flagged", **stolen, **law)
    yield row("a foreigner with a passport that is over", "W6 W8", who, "document_in_force", **OVER, **law)


# -- controls (W7, L8, O2, O3, O5, O9) and documents (W8) ----------------------------------------------------------

CONTROLS = (
    # control, requirements, who, place, urgency, counts on exit, counts on entry, lifted by
    ("wanted", "W7 L8", "national", "taoyuan_t1", URGENT, True, True, ""),
    ("exit_ban", "W7 L8", "national", "taoyuan_t1", URGENT, True, False, ""),
    ("entry_ban", "W7", "mainland_resident", "taoyuan_t1", URGENT, False, True, ""),
    ("abroad_over_two_years", "W7", "national", "taoyuan_t1", ATTENTION, False, True, ""),
    ("cannot_operate", "W7", "national", "taoyuan_t1", ROUTINE, True, True, ""),
    ("security_cleared", "W7", "national", "taoyuan_t1", ATTENTION, True, False, "security_approval"),
    ("conscript", "W7 O2 O5 O9", "national", "taoyuan_t1", ATTENTION, True, False, "military_leave"),
    ("public_office", "O3", "national", "kinmen_shuitou", ATTENTION, True, False, "mainland_travel"),
)


def _controls() -> Iterator[Row]:
    for control, cites, category, place, how, on_exit, on_entry, lifted in CONTROLS:
        for way, counts in (("exit", on_exit), ("entry", on_entry)):
            said: dict[str, Any] = {"place": place, "direction": way, "controls": (control,)}
            said["urgency"] = how if counts else ""
            yield row(f"{control}, {way}", cites, category, _unless(not counts, "holder_is_not_flagged"), **said)
        if not lifted:
            continue
        for what, permit, passes in (
            ("its last day", Pass(lifted, end=DAY), True),
            ("the day after it", Pass(lifted, end=DAY - ONE_DAY), False),
            ("its first day", Pass(lifted, start=DAY), True),
            ("the day before it", Pass(lifted, start=DAY + ONE_DAY), False),
            ("used already", Pass(lifted, entries_left=0), True),
            ("another permit", Pass("residence"), False),
        ):
            said = {"place": place, "controls": (control,), "permits": (permit,), "urgency": "" if passes else how}
            yield row(f"{control}, {lifted}: {what}", cites, category, _unless(passes, "holder_is_not_flagged"), **said)
    flagged, said = "holder_is_not_flagged", {"urgency": URGENT}
    for way in BOTH_WAYS:
        unnamed = {"controls": ("seen_with_smugglers",), "direction": way}
        yield row(f"a control that the law does not name, {way}", "W7 L8", expect=flagged, **unnamed, **said)
    for place in PLACES:
        if place != "kinmen_shuitou":
            yield row(f"public_office at {place}", "O3", controls=("public_office",), place=place)
    for category in ("resident", "hong_kong_macau", "mainland_spouse"):
        yield row(f"{category} under an exit ban", "W7 L8", category, flagged, controls=("exit_ban",), **said)
        entering = {"controls": ("entry_ban",), "direction": "entry"}
        yield row(f"{category} under an entry ban", "W7 L8", category, flagged, **entering, **said)
    two = ("cannot_operate", "wanted")
    yield row("two controls: the graver counts", "W7 L8", expect=flagged, controls=two, **said)
    two = ("cannot_operate", "entry_ban")
    yield row("two controls: one counts today", "W7", expect=flagged, controls=two, urgency=ROUTINE)
    both = {"controls": ("conscript", "security_cleared"), "permits": (Pass("military_leave"),)}
    yield row("leave for one control of two", "W7 O2", expect=flagged, urgency=ATTENTION, **both)
    both = {"controls": ("conscript", "security_cleared")}
    all_of_it = (Pass("military_leave"), Pass("security_approval"))
    yield row("leave for both controls", "W7 O2 O5 O9", permits=all_of_it, **both)
    sought = {"controls": ("wanted",), "urgency": URGENT}
    yield row("somebody with the papers of one who is wanted", "L1 L8", expect="face_matches", face=False, **sought)
    yield row("somebody wanted who is nine", "L8 W2", expect="old_enough", born=date(2016, 11, 21), **sought)
    yield row("somebody wanted whose passport is over", "L8 W8", expect="document_in_force", **OVER, **sought)
    other_way = {"controls": ("entry_ban",), "born": date(2016, 11, 21)}
    yield row("nine, and banned the other way", "L8 W2 W7", expect="old_enough", **other_way)


def _abroad() -> Iterator[Row]:
    """More than two years (W7), and who comes back in time."""
    two_years_ago = DAY.replace(year=DAY.year - 2)
    way = {"direction": "entry", "place": "taoyuan_t1"}
    yield row("abroad since two years less a day", "W7", left=two_years_ago + ONE_DAY, **way)
    yield row("abroad since two years", "W7", left=two_years_ago, **way)
    yield row(
        "abroad since two years and a day", "W7", expect="not_abroad_too_long", left=two_years_ago - ONE_DAY, **way
    )
    yield row("a resident abroad since three years", "W7 W3", "resident", left=DAY.replace(year=2023), **way)
    again = {"left": DAY.replace(year=2020), "entered": DAY.replace(year=2021), "notes": ("double_entry",)}
    yield row("came back meanwhile, and left unseen", "W7 O7", **again, **way)
    yield row("nothing is known of them, entry", "W7 O7", left=None, **way)


def _documents() -> Iterator[Row]:
    flagged = "document_is_not_flagged"
    for status, how in (("lost", ATTENTION), ("stolen", URGENT), ("invalid", ATTENTION), ("recalled", URGENT)):
        for way in BOTH_WAYS:
            said = {"document_controls": (status,), "direction": way, "urgency": how}
            yield row(f"a {status} passport, {way}", "W8 L8", expect=flagged, **said)
    both = {"document_controls": ("lost", "stolen"), "urgency": URGENT}
    yield row("a lost and stolen passport", "W8", expect=flagged, **both)
    card = {"document_controls": ("lost",), "urgency": ATTENTION}
    yield row("a lost residence certificate", "W8 W5", "resident", flagged, **card)
    yield from _around(
        "passport until",
        "W8",
        "document_in_force",
        "document_expires",
        (DAY - ONE_DAY, False),
        (DAY, True),
        (DAY + ONE_DAY, True),
    )
    yield row("a certificate that is over", "W8 W5", "resident", "document_in_force", **OVER)
    sought = {"document_controls": ("lost",), "controls": ("wanted",), "urgency": URGENT}
    yield row("lost document of somebody wanted", "W8 L8", expect=flagged, **sought)


def _announced() -> Iterator[Row]:
    """Advance passenger information makes no difference (W9)."""
    said: dict[str, Any] = {"expected": True}
    yield row("announced for today", "W9 W1", **said)
    yield row("announced for today, entry", "W9", direction="entry", **said)
    yield row("a resident announced for today", "W9", "resident", **said)
    yield row("announced, and another's face", "W9 L1", expect="face_matches", face=False, **said)
    ban = {"controls": ("exit_ban",), "urgency": URGENT}
    yield row("announced, and banned", "W9 W7", expect="holder_is_not_flagged", **ban, **said)
    yield row("announced, and nine years old", "W9 W2", expect="old_enough", born=date(2016, 11, 21), **said)
    yield row("announced, and the passport is over", "W9 W8", expect="document_in_force", **OVER, **said)


# -- enrolment (E1-E4, E6, E7, E9, L3) -----------------------------------------------------------------------------

NEW_YEAR = date(2026, 2, 23)
"""The first working day after Lunar New Year: 16 to 20 February are days off, as is the weekend on each side."""


def _office(received: date | None, enrolled: date | None = None) -> dict[str, Any]:
    return {
        "origin": "office",
        "enrolled_on": enrolled or (received - timedelta(days=10) if received else DAY - timedelta(days=10)),
        "received_on": received,
    }


def _enrolments() -> Iterator[Row]:
    yield row("enrolled at a counter today", "E1 E7", enrolled_on=DAY)
    yield row("a resident enrolled at a counter today", "E1 E3", "resident", enrolled_on=DAY)
    yield row("usable from today", "E1 E7", usable_from=DAY)
    yield row("usable from tomorrow", "E1 E7", expect="enrolment_is_usable", usable_from=DAY + ONE_DAY)
    yield row("enrolled at the gate", "E10 E1", origin="gate")
    yield row("a resident enrolled at the gate", "E10", "resident", origin="gate")
    yield row("a diplomat enrolled at the gate", "E10 W3", "diplomat", "enrolment_fits_category", origin="gate")
    yield row("enrolled nobody knows where", "E1 E2", expect="enrolment_fits_category", origin="elsewhere")
    yield row("a national whose face was taken on entry", "E2 W6", expect="enrolment_fits_category", origin="entry")
    office = _office(DAY - timedelta(days=8))
    yield row("enrolled at an office", "E2 E6 E7", **office)
    for category in DOCUMENT:
        if category != "national":
            cited = f"E2 {CITED.get(category, 'W3')}"
            yield row(f"{category} enrolled at an office", cited, category, "enrolment_fits_category", **office)


def _bound() -> Iterator[Row]:
    """Thirty days from the enrolment to the passport (E6)."""
    received = DAY - timedelta(days=8)
    for days, passes in ((0, True), (29, True), (30, True), (31, False), (-1, False)):
        said = _office(received, received - timedelta(days=days))
        yield row(f"passport received after {days} days", "E6", expect=_unless(passes, "enrolment_is_bound"), **said)
    yield row("no passport received", "E6", expect="enrolment_is_bound", **_office(None))
    unsaid = _office(received) | {"enrolled_on": None}
    yield row("enrolled at an office nobody knows when", "E6", expect="enrolment_is_bound", **unsaid)
    # A counter's enrolment is bound to no passport.
    yield row("a counter's enrolment, no passport received", "E6 E1", enrolled_on=DAY - timedelta(days=400))


def _usable() -> Iterator[Row]:
    """One working day from the passport to the first use (E7)."""
    sunday, monday = date(2026, 11, 22), date(2026, 11, 23)
    holiday = date(2026, 2, 16)
    for received, on, passes in (
        (DAY, DAY, False),
        (DAY - ONE_DAY, DAY, True),
        (DAY, sunday, False),
        (DAY, monday, True),
        (sunday - ONE_DAY, monday, True),
        (sunday, monday, True),
        (monday, monday, False),
        (date(2026, 2, 13), NEW_YEAR, True),
        (date(2026, 2, 13), NEW_YEAR - ONE_DAY, False),
        (date(2026, 2, 17), NEW_YEAR, True),
        (NEW_YEAR, NEW_YEAR, False),
        (date(2026, 2, 12), holiday, True),
        (date(2026, 2, 13), holiday, False),
        (date(2027, 12, 30), date(2027, 12, 31), True),
        (date(2027, 12, 31), date(2027, 12, 31), False),
    ):
        name = f"passport received on {received}, used on {on}"
        yield row(name, "E7", expect=_unless(passes, "enrolment_is_usable"), on=on, **_office(received))
    # What is a working day after the calendar's last one nobody has said yet.
    said = {"on": date(2028, 1, 5)} | _office(date(2027, 12, 31))
    yield row("received on the calendar's last day", "E7", expect="enrolment_is_usable", **said)
    said = {"on": date(2028, 1, 5)} | _office(date(2027, 12, 30))
    yield row("received on the last day but one", "E7", **said)
    later = _office(DAY - timedelta(days=8)) | {"usable_from": DAY + ONE_DAY}
    yield row("HQ says later than the law", "E7", expect="enrolment_is_usable", **later)
    sooner = _office(DAY) | {"usable_from": DAY - timedelta(days=5)}
    yield row("HQ says sooner than the law", "E7", expect="enrolment_is_usable", **sooner)


PROOFS = (
    row("face and fingers enrolled, the face is right", "L3 E3", fingers_enrolled=2),
    row("a weak face and a finger", "L3", fingers_enrolled=2, weak_face=True),
    row("a weak face and another's finger", "L3", expect="face_matches", fingers_enrolled=2, weak_face=True, fingers=0),
    row("a weak face and no finger", "L3", expect="face_matches", weak_face=True),
    row("a resident's weak face", "L3 W5", "resident", "face_matches", weak_face=True),
    row("a wrong face and the right finger", "L3", expect="face_matches", fingers_enrolled=2, face=False),
    row("no face, two fingers", "L3 E4", face_enrolled=False, fingers_enrolled=2),
    row("no face, both thumbs after two hurt fingers", "L3 E4", face_enrolled=False, fingers_enrolled=4),
    row(
        "no face, one of two fingers",
        "E4 L3",
        expect="face_matches",
        face_enrolled=False,
        fingers_enrolled=2,
        fingers=1,
    ),
    row("no face, another's fingers", "E4", expect="face_matches", face_enrolled=False, fingers_enrolled=2, fingers=0),
    row(
        "no face, one finger enrolled", "E4 E3", expect="fingers_can_be_taken", face_enrolled=False, fingers_enrolled=1
    ),
    row("no face, no finger", "E3 E4", expect="fingers_can_be_taken", face_enrolled=False),
    row("a good face, and fingers of no use", "L3 E4", fingers_enrolled=2, fingers=0),
    row("the reader is lost, and none is needed", "L3 L9", finger_reader=False),
    row("the reader is lost, and a resident comes", "L3 L9", "resident", "fingers_can_be_taken", finger_reader=False),
    row(
        "the reader is lost, and somebody without a face",
        "L3 E4",
        expect="fingers_can_be_taken",
        face_enrolled=False,
        fingers_enrolled=2,
        finger_reader=False,
    ),
    row("attack detection is asked, of the face", "L1", expect="face_is_live", law="live_face_asked"),
    row("nobody detects attacks, and no face", "L3", face_enrolled=False, fingers_enrolled=2, law="live_face_asked"),
    row("attack detection is asked, of a finger", "L3 W5", "resident", "finger_is_live", law="live_finger_asked"),
    row("attack detection of fingers, and none is needed", "L3", law="live_finger_asked"),
)


def _demanded() -> Iterator[Row]:
    """Where both are demanded and one is missing (W4, W5, E3)."""
    for category in WITH_FINGERS:
        cited = f"{CITED.get(category, 'W3')} W5 E3"
        yield row(f"{category}: no finger enrolled", cited, category, "enrolled_as_demanded", fingers_enrolled=0)
        yield row(f"{category}: no face enrolled", cited, category, "enrolled_as_demanded", face_enrolled=False)
        yield row(f"{category}: another's finger", cited, category, "finger_matches_where_demanded", fingers=0)
    yield row("a visitor without a face", "W6 E3", "foreign_visitor", "enrolled_as_demanded", face_enrolled=False)


def _renewed() -> Iterator[Row]:
    """One enrolment for life, bound to the person (E9)."""
    yield row("a renewed passport", "E9", renewed="linked")
    yield row("a renewed passport, entry", "E9", renewed="linked", direction="entry")
    yield row("a renewed passport, another's face", "E9 L1", expect="face_matches", renewed="linked", face=False)
    yield row("a renewed passport without its number", "E9", expect="holder_is_enrolled", renewed="alone")
    ban = {"controls": ("exit_ban",), "urgency": URGENT}
    yield row(
        "a renewed passport of one who is banned", "E9 W7", expect="holder_is_not_flagged", renewed="linked", **ban
    )
    lost = {"document_controls": ("lost",), "urgency": ATTENTION}
    yield row("a renewed passport that was lost", "E9 W8", expect="document_is_not_flagged", renewed="linked", **lost)


# -- history (O7, O8) ----------------------------------------------------------------------------------------------


def _history() -> Iterator[Row]:
    """What contradicts the last crossings is written down, of those who live here."""
    for category in ("national", "resident", "mainland_spouse"):
        odd = {"entered": DAY - timedelta(days=4), "left": DAY - timedelta(days=9), "notes": ("double_entry",)}
        yield row(f"{category} enters twice", "O7", category, direction="entry", **odd)
        odd = {"entered": DAY - timedelta(days=9), "left": DAY - timedelta(days=4), "notes": ("exit_without_entry",)}
        yield row(f"{category} leaves twice", "O7", category, **odd)
        odd = {"entered": None, "notes": ("exit_without_entry",)}
        yield row(f"{category} leaves, of whom nothing is known", "O7", category, **odd)
        odd = {"other_document": True, "notes": ("other_document",)}
        yield row(f"{category} leaves with a second document", "O8", category, **odd)
    usual = {"entered": DAY - timedelta(days=4), "left": DAY - timedelta(days=9)}
    yield row("out, in, and out again with one document", "O7 O8", **usual)
    usual = {"entered": DAY - timedelta(days=9), "left": DAY - timedelta(days=4)}
    yield row("in, out, and in again", "O7 O8", direction="entry", **usual)
    odd = {"entered": None, "notes": ("exit_without_entry",), "face": False}
    yield row("oddities are told of who is referred too", "O7", expect="face_matches", **odd)
    odd = {"other_document": True, "notes": ("other_document",), "controls": ("exit_ban",), "urgency": URGENT}
    yield row("two documents and an exit ban", "O8 W7", expect="holder_is_not_flagged", **odd)
    back = {"other_document": True, "left": DAY - timedelta(days=4), "entered": DAY - timedelta(days=9)}
    yield row("in again with another document", "O8", direction="entry", **back)


# -- the cache's age (L9) ------------------------------------------------------------------------------------------

HOUR_S, DAY_S = 3600, 86_400


def _ages() -> Iterator[Row]:
    """A lane without HQ goes on: a fortnight for who lives here, a day for visitors with foreign passports."""
    short = {"cache_age_s": DAY_S - HOUR_S, "law": "no_chip_asked"}
    yield row("a visitor after 23 hours without HQ", "L9 W6", "foreign_visitor", **short)
    long = {"cache_age_s": DAY_S, "law": "no_chip_asked"}
    yield row("a visitor after a day without HQ", "L9 W6", "foreign_visitor", "cache_is_recent_enough", **long)
    yield row("a national after a day without HQ", "L9", **long)
    for category in DOCUMENT:
        if category == "foreign_visitor":
            continue
        late, over = {"cache_age_s": 14 * DAY_S - HOUR_S}, {"cache_age_s": 14 * DAY_S}
        yield row(f"{category} after a fortnight less an hour", "L9", category, **late)
        yield row(f"{category} after a fortnight", "L9", category, "cache_is_recent_enough", **over)
    banned = {"cache_age_s": 14 * DAY_S - HOUR_S, "controls": ("exit_ban",), "urgency": URGENT}
    yield row("a ban that is a fortnight old", "L9 W7 L8", expect="holder_is_not_flagged", **banned)


TABLE: tuple[Row, ...] = (
    *_matrix(),
    *_places(),
    *WHO,
    *_since(),
    *_sizes(),
    *_hours(),
    *_permits(),
    *_entries(),
    *_visitors(),
    *_controls(),
    *_abroad(),
    *_documents(),
    *_announced(),
    *_enrolments(),
    *_bound(),
    *_usable(),
    *PROOFS,
    *_demanded(),
    *_renewed(),
    *_history(),
    *_ages(),
)
