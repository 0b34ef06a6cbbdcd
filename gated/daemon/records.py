"""What the lane's commands say to HQ: commands -> facts of `gated.wire.facts`. No I/O."""

from collections.abc import Callable

from gated.icao.check import Check
from gated.icao.mrz import Document
from gated.lane import commands as cmd
from gated.lane.commands import Command
from gated.lane.events import FingerCompared, Traveller
from gated.lane.evidence import Evidence
from gated.lane.freshness import of_stand
from gated.lane.proof import finger_comparisons, proven_fingers, stated_fmr
from gated.lane.rules import Rules
from gated.wire import facts
from gated.wire.facts import Fact

DETAIL_MAX = 256


class Facts:
    """`rules`: the policy in force when a command was made."""

    def __init__(self, rules: Callable[[], Rules]) -> None:
        self._rules = rules

    def of(self, command: Command, ticket: int | None) -> Fact | None:
        """The fact that HQ must be told about this command, or None. `ticket`: the present one."""
        match command:
            case cmd.Record():
                return self._verdict(command)
            case cmd.Settle(number, outcome, verdict, persons, came_from, direction):
                return facts.TicketSettled(
                    number,
                    outcome.value,
                    persons,
                    verdict.decision.value if verdict else None,
                    verdict.reason if verdict else None,
                    direction,
                    came_from.value,
                )
            case cmd.Alarm(code, detail):
                return facts.AlarmRaised(code.value, detail[:DETAIL_MAX], ticket)
            case cmd.CallOfficer(number, reason, urgency):
                return facts.OfficerCalled(number, reason, urgency)
            case cmd.Answer(order, accepted, why):
                return facts.OrderAnswered(order, accepted, why)
            case _:
                return None

    def _verdict(self, command: cmd.Record) -> facts.VerdictReached:
        evidence, verdict, rules = command.evidence, command.verdict, self._rules()
        chip, face, finger = evidence.chip, evidence.face, _telling(evidence)
        return facts.VerdictReached(
            command.ticket,
            verdict.decision.value,
            verdict.reason,
            verdict.rules,
            evidence.direction,
            command.came_from.value,
            opened=evidence.opened,
            clock_trusted=evidence.clock_trusted,
            by=command.by,
            category=evidence.traveller.category if evidence.traveller else None,
            enrolled=evidence.traveller is not None if evidence.document else None,
            chip_access=chip.access.value if chip else None,
            chip_authentic=chip.authentic.value if chip else None,
            chip_not_cloned=chip.not_cloned.value if chip else None,
            face=face.result.value if face else None,
            face_score=face.score if face else None,
            face_threshold=face.threshold if face else None,
            face_fmr=face.fmr if face else None,
            face_persons=face.persons if face else None,
            face_pad=face.pad.value if face else None,
            face_weak_threshold=face.weak_threshold if face else None,
            face_weak_fmr=face.weak_fmr if face and face.weak_threshold is not None else None,
            finger=finger.result.value if finger else None,
            finger_position=finger.finger if finger else None,
            finger_score=finger.score if finger else None,
            finger_threshold=finger.threshold if finger else None,
            finger_fmr=finger.fmr if finger else None,
            finger_pad=finger.pad.value if finger else None,
            finger_sensor=(finger.sensor or None) if finger else None,
            finger_tries=len(finger_comparisons(evidence)),
            fingers_matched=len(proven_fingers(evidence)),
            fmr=stated_fmr(evidence, rules),
            holder=_holder(evidence.document, evidence.traveller, evidence),
            people_serial=evidence.cache.people_serial if evidence.cache else None,
            control_serial=evidence.cache.control_serial if evidence.cache else None,
            cache=of_stand(rules.freshness, evidence.cache, evidence.opened).value if evidence.cache else None,
            place=evidence.place or None,
            document_kind=rules.kind_of(evidence.document) if evidence.document else None,
            urgency=verdict.urgency,
            notes=verdict.notes,
        )


def _telling(evidence: Evidence) -> FingerCompared | None:
    """The comparison that speaks for the finger: one that matched, else the last."""
    proven = proven_fingers(evidence)
    matched = [each for each in evidence.fingers if each.finger in proven and each.result is Check.SUCCESSFUL]
    return next(iter(matched), evidence.fingers[-1] if evidence.fingers else None)


def _holder(document: Document | None, traveller: Traveller | None, evidence: Evidence) -> facts.Holder | None:
    if document is None:
        return None
    return facts.Holder(
        document_type=document.format,
        document_code=document.code,
        issuer=document.issuer,
        number=document.number,
        nationality=document.nationality,
        birth=document.birth,
        birth_on=traveller.birth if traveller else None,
        sex=document.sex,
        expiry=document.expiry,
        surname=document.surname,
        given_names=document.given_names,
        personal_number=document.personal_number,
        subject=traveller.subject if traveller else None,
        flags=(traveller.flags if traveller else frozenset()) | evidence.flags,
        document_flags=evidence.document_flags,
        permits=tuple(permit.kind for permit in traveller.permits) if traveller else (),
        expected=traveller is not None and traveller.expected,
    )
