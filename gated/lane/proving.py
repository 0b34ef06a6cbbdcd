"""Rows of recognition: face, finger, the controls as they stand now. No I/O, no clock."""

from gated.icao.check import Check
from gated.lane import commands as cmd
from gated.lane import events as ev
from gated.lane import policy, proof
from gated.lane.commands import AlarmCode, PromptCode
from gated.lane.core import Core, State
from gated.lane.events import Now
from gated.lane.evidence import Decision, Evidence, Verdict, as_if_failed, as_if_the_last_failed, with_found
from gated.lane.moves import against_the_way, record_release, refer
from gated.lane.passage import Kind
from gated.lane.rules import Rules


def match(lane: Core, now: Now) -> None:
    lane.note(since_mono=now.mono)
    lane.goto(State.MATCHING, now)
    if not _ask(lane, lane.guest.evidence, now):
        _confirm(lane, now)


def _ask(lane: Core, evidence: Evidence, now: Now) -> bool:
    """Ask for what is missing by this evidence, face or finger. False: nothing more can be asked for."""
    guest, traveller, timing = lane.guest, evidence.traveller, lane.timing
    assert traveller is not None, "nobody is matched without a record"
    finger = proof.next_finger(evidence, lane.rules, timing.finger_tries)
    looking = lane.state is State.MATCHING and traveller.face
    if looking and guest.tries < timing.face_tries and not _face_done(evidence, lane.rules, finger):
        guest.tries += 1
        guest.look_until = now.mono + timing.face_s
        _compare_face(lane, timing.face_s)
    elif finger is not None:
        guest.finger = finger
        if lane.state is State.FINGERING:
            lane.sign()
        else:
            lane.goto(State.FINGERING, now)
        lane.ask(cmd.CompareFinger, traveller.subject, finger, timing.finger_s)
    else:
        return False
    return True


def _compare_face(lane: Core, within_s: float) -> None:
    guest = lane.guest
    traveller = guest.evidence.traveller
    assert traveller is not None, "nobody is matched without a record"
    whole = guest.pretended is not None
    if whole:
        guest.look_until = 0.0
    lane.ask(cmd.CompareFace, traveller.subject, guest.evidence.since_mono, within_s, whole)


def _confirm(lane: Core, now: Now) -> None:
    """Read the control flags, after every answer and whatever it was (L8): so what that takes tells nobody which answer
    was the last one that a verdict needed."""
    guest = lane.guest
    guest.proof_state, guest.proof_due = lane.state, lane.due
    lane.goto(State.CONFIRMING, now)
    lane.ask(cmd.ReadFlags)


def _face_done(evidence: Evidence, rules: Rules, finger: str | None) -> bool:
    """Whether another look at the face would bring nothing: it stands, or it is weak and a finger will tell sooner."""
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
    guest = lane.guest
    compared = event.result in (Check.SUCCESSFUL, Check.FAILED)
    lane.note(faces=guest.evidence.faces + compared)
    if guest.pretended is None:
        lane.note(face=event)
    if event.result is not Check.SUCCESSFUL:
        guest.look_until = 0.0
    _confirm(lane, now)


def match_finger(lane: Core, event: ev.FingerCompared, now: Now) -> None:
    guest = lane.guest
    lane.note(fingers=(*guest.evidence.fingers, event))
    if guest.pretended is not None:
        guest.pretended = with_found(guest.pretended, fingers=(*guest.pretended.fingers, as_if_failed(event)))
    _confirm(lane, now)


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
    """The controls as they stand now; where everything is known, the verdict."""
    document_flags = lane.guest.evidence.document_flags | event.document_flags
    lane.note(flags=event.flags, document_flags=document_flags, cache=event.cache)
    _resume(lane)
    evidence = lane.guest.evidence
    if lane.guest.pretended is not None:
        _go_on_unseen(lane, now)
    elif not _ask(lane, evidence, now):
        verdict = policy.judge(evidence, lane.rules)
        if verdict.decision is Decision.GRANT:
            lane.record(verdict)
            lane.goto(State.RECORDING, now)
        else:
            _refer_unseen(lane, verdict, now)


def confirm_failed(lane: Core, _: ev.LookUpFailed, now: Now) -> None:
    _resume(lane)
    if lane.guest.pretended is not None:
        _go_on_unseen(lane, now)
    else:
        _refer_unseen(lane, lane.verdict(Decision.REFER, "flags_unread"), now)


def _resume(lane: Core) -> None:
    guest = lane.guest
    assert isinstance(guest.proof_state, State), "what is confirmed was proven"
    lane.resume(guest.proof_state, guest.proof_due)


def _refer_unseen(lane: Core, verdict: Verdict, now: Now) -> None:
    """L8: referred at once after face or finger was found, who is sought would know why. So the record is made and the
    officer called at once, and the lane goes on asking as if the last answer had been somebody else's, until it has
    asked all there is. So it does for every reason: where only a control were told late, to be told late would tell."""
    lane.record(verdict)
    lane.call_officer(verdict.reason)
    lane.alarm(AlarmCode.REFERRED)
    lane.guest.pretended = as_if_the_last_failed(lane.guest.evidence)
    _go_on_unseen(lane, now)


def _go_on_unseen(lane: Core, now: Now) -> None:
    """What comes next for somebody whose last proof did not match; a face that did is looked at until one that does not
    would be answered."""
    guest = lane.guest
    assert guest.pretended is not None and guest.verdict is not None
    rest_s = guest.look_until - now.mono
    if lane.state is State.MATCHING and rest_s > 0:
        _compare_face(lane, rest_s)
    elif not _ask(lane, guest.pretended, now):
        refer(lane, guest.verdict.reason, now)


def someone_passed_inside(lane: Core, event: ev.PersonPassed, now: Now) -> None:
    against_the_way(lane, event, now)
    if lane.guest.kind is Kind.PASSENGER:
        refer(lane, "unexpected_movement", now)
    elif lane.gate.stranger_from is lane.guest.far:
        # A stranger: presence told first, and now the barriers say which way they came.
        lane.guest.near, lane.guest.strangers = lane.guest.far, 0
        lane.note(direction=lane.ways.of(lane.guest.near))
        record_release(lane)
