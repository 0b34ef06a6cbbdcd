"""Rows of recognition: face, finger, the controls as they stand now. No I/O, no clock."""

from gated.icao.check import Check
from gated.lane import commands as cmd
from gated.lane import events as ev
from gated.lane import policy, proof
from gated.lane.commands import AlarmCode, PromptCode
from gated.lane.core import Core, State
from gated.lane.events import Now
from gated.lane.evidence import Decision, Verdict, as_if_nothing_matched
from gated.lane.moves import against_the_way, record_release, refer
from gated.lane.passage import Kind


def match(lane: Core, now: Now) -> None:
    lane.note(since_mono=now.mono)
    lane.goto(State.MATCHING, now)
    _next_proof(lane, now)


def _compare_face(lane: Core) -> None:
    guest = lane.guest
    guest.tries += 1
    traveller = guest.evidence.traveller
    assert traveller is not None, "nobody is matched without a record"
    lane.ask(cmd.CompareFace, traveller.subject, guest.evidence.since_mono, lane.timing.face_s)


def _next_proof(lane: Core, now: Now) -> None:
    """Ask for what is missing: the face, a finger, or the control flags as they stand now."""
    guest = lane.guest
    evidence = as_if_nothing_matched(guest.evidence) if guest.unseen else guest.evidence
    traveller = evidence.traveller
    assert traveller is not None, "nobody is matched without a record"
    finger = proof.next_finger(evidence, lane.rules, lane.timing.finger_tries)
    looking = lane.state is State.MATCHING and traveller.face
    if looking and guest.tries < lane.timing.face_tries and not _face_done(lane, finger):
        _compare_face(lane)
    elif finger is not None:
        guest.finger = finger
        if lane.state is State.FINGERING:
            lane.sign()
        else:
            lane.goto(State.FINGERING, now)
        lane.ask(cmd.CompareFinger, traveller.subject, finger, lane.timing.finger_s)
    else:
        guest.proof_state, guest.proof_due = lane.state, lane.due
        lane.goto(State.CONFIRMING, now)
        lane.ask(cmd.ReadFlags)


def _face_done(lane: Core, finger: str | None) -> bool:
    """Whether another look at the face would bring nothing: it stands, or it is weak and a finger will tell sooner."""
    evidence, rules = lane.guest.evidence, lane.rules
    if not (policy.face_is_alone(evidence, rules) and policy.face_is_fresh(evidence, rules)):
        return False
    return proof.face_stands(evidence) or (proof.face_is_weak(evidence, rules) and finger is not None)


def match_advice(lane: Core, event: ev.FaceAdvice, now: Now) -> None:
    code = ADVICE.get(event.advice)
    if code is not None:
        lane.say(cmd.Prompt(code))


ADVICE = {
    ev.Advice.COME_CLOSER: PromptCode.COME_CLOSER,
    ev.Advice.STEP_BACK: PromptCode.STEP_BACK,
    ev.Advice.LOOK_AT_CAMERA: PromptCode.LOOK_AT_CAMERA,
    ev.Advice.UNCOVER_FACE: PromptCode.UNCOVER_FACE,
    ev.Advice.HOLD_STILL: PromptCode.HOLD_STILL,
    ev.Advice.ONE_PERSON_ONLY: PromptCode.ONE_PERSON_ONLY,
    ev.Advice.NOBODY: PromptCode.LOOK_AT_CAMERA,
}


def match_face(lane: Core, event: ev.FaceCompared, now: Now) -> None:
    if lane.guest.unseen:  # it was looked at for the passenger's eyes alone: the record stands
        _next_proof(lane, now)
        return
    compared = event.result in (Check.SUCCESSFUL, Check.FAILED)
    lane.note(face=event, faces=lane.guest.evidence.faces + compared)
    _next_proof(lane, now)


def match_finger(lane: Core, event: ev.FingerCompared, now: Now) -> None:
    lane.note(fingers=(*lane.guest.evidence.fingers, event))
    _next_proof(lane, now)


def finger_advice(lane: Core, event: ev.FingerAdvice, now: Now) -> None:
    if event.advice is ev.Touch.PLACE_AGAIN:
        lane.sign()
    else:
        lane.say(cmd.Prompt(PromptCode(event.advice.value)))


def proof_overdue(lane: Core, _: ev.Deadline, now: Now) -> None:
    refer(lane, f"{lane.state.value}_overdue", now)


def inside_presence(lane: Core, event: ev.PresenceChanged, now: Now) -> None:
    """Behind shut doors one person is one person: anything else is for an officer."""
    if lane.guest.kind is not Kind.PASSENGER:
        return
    if event.persons == 2:
        lane.guest.crowded = True
        lane.alarm(AlarmCode.TWO_PERSONS)
        refer(lane, "two_persons", now)
    elif event.persons == 0:
        refer(lane, "presence_lost", now)


def confirm_flags(lane: Core, event: ev.FlagsRead, now: Now) -> None:
    """The last word: everything is known, and the controls are seconds old."""
    document_flags = lane.guest.evidence.document_flags | event.document_flags
    lane.note(flags=event.flags, document_flags=document_flags, cache=event.cache)
    verdict = policy.judge(lane.guest.evidence, lane.rules)
    if verdict.decision is Decision.GRANT:
        lane.record(verdict)
        lane.goto(State.RECORDING, now)
    else:
        _go_on_unseen(lane, verdict, now)


def confirm_failed(lane: Core, _: ev.LookUpFailed, now: Now) -> None:
    _go_on_unseen(lane, lane.verdict(Decision.REFER, "flags_unread"), now)


def _go_on_unseen(lane: Core, verdict: Verdict, now: Now) -> None:
    """L8: referred at once after face or finger was found, who is sought would know why. So the record is made and the
    officer called at once, and the lane goes on asking as if nothing had matched, until it has asked all there is. So
    it does for every reason: where only a control were told late, to be told late would tell."""
    guest = lane.guest
    if guest.unseen:
        refer(lane, verdict.reason, now)
        return
    guest.unseen = True
    lane.record(verdict, unseen=True)
    lane.call_officer(verdict.reason)
    lane.alarm(AlarmCode.REFERRED)
    assert isinstance(guest.proof_state, State), "what is confirmed was proven"
    lane.resume(guest.proof_state, guest.proof_due)
    traveller, timing = guest.evidence.traveller, lane.timing
    rest_s = guest.evidence.since_mono + timing.face_s * timing.face_tries - now.mono
    if lane.state is State.MATCHING and traveller is not None and proof.face_stands(guest.evidence) and rest_s > 0:
        guest.tries = timing.face_tries
        lane.ask(cmd.CompareFace, traveller.subject, guest.evidence.since_mono, rest_s, True)
    else:
        _next_proof(lane, now)


def someone_passed_inside(lane: Core, event: ev.PersonPassed, now: Now) -> None:
    against_the_way(lane, event, now)
    if lane.guest.kind is Kind.PASSENGER:
        refer(lane, "unexpected_movement", now)
    elif lane.gate.stranger_from is lane.guest.far:
        # A stranger: presence told first, and now the barriers say which way they came.
        lane.guest.near, lane.guest.strangers = lane.guest.far, 0
        lane.note(direction=lane.ways.of(lane.guest.near))
        record_release(lane)
