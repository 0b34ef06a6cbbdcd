"""Mistakes that a programmer could make in the machine, each dangerous: what `tests.hw_sim.mutants` plants.

`old` must be found exactly once in its file of gated/lane; a mistake that no longer fits the code is out of date. Left
out are mistakes that cannot be told from outside because a second check stands behind the first."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mistake:
    """One replacement in `gated/lane/{file}.py`, and what it would do at a border."""

    name: str
    file: str
    danger: str
    old: str
    new: str


MISTAKES: tuple[Mistake, ...] = (
    # -- policy: evidence -> verdict ---------------------------------------------------------------------------
    Mistake(
        "face_from_before_the_entry_shut",
        "policy",
        "the face of one person, the passage of another",
        "e.face.captured_mono >= e.since_mono)",
        "e.face.captured_mono >= 0.0)",
    ),
    Mistake(
        "two_faces_in_the_frame",
        "policy",
        "somebody stands beside the holder and walks on",
        "e.face.persons == 1)",
        "e.face.persons >= 1)",
    ),
    Mistake(
        "no_usable_frame_matches",
        "proof",
        "UNDETERMINED with score 0 at threshold 0 is a match",
        "e.face.result is Check.SUCCESSFUL and e.face.score >= e.face.threshold",
        "e.face.score >= e.face.threshold",
    ),
    Mistake(
        "threshold_not_applied",
        "proof",
        "whatever the matcher calls a success is one",
        "e.face.result is Check.SUCCESSFUL and e.face.score >= e.face.threshold",
        "e.face.result is Check.SUCCESSFUL",
    ),
    Mistake(
        "attack_detection_that_broke_off",
        "policy",
        "an aborted attack detection counts as a live face",
        "return e.face.pad is Check.SUCCESSFUL",
        "return e.face.pad is not Check.FAILED",
    ),
    Mistake(
        "attack_detection_not_demanded",
        "policy",
        "a category that demands a live face is granted without",
        'return "face_pad" in category_of(e, rules).may_miss',
        "return True",
    ),
    Mistake(
        "cloned_chip",
        "policy",
        "a copied chip passes",
        "if results == {Check.SUCCESSFUL} and e.chip.not_cloned in _NO_CLONE:",
        "if results == {Check.SUCCESSFUL}:",
    ),
    Mistake(
        "half_read_chip",
        "policy",
        "a chip that answers but cannot be proven counts as one that is not there",
        'return results == {Check.NOT_SUPPORTED} and "chip" in category_of(e, rules).may_miss',
        'return Check.NOT_SUPPORTED in results and "chip" in category_of(e, rules).may_miss',
    ),
    Mistake(
        "age_by_one_year",
        "entitlement",
        "children of a year too few travel alone",
        ">= rules.size(e.day).age_years_min",
        ">= rules.size(e.day).age_years_min - 1",
    ),
    Mistake(
        "age_by_year_of_birth",
        "entitlement",
        "the birthday is forgotten",
        "day.year - born.year - ((day.month, day.day) < (born.month, born.day))",
        "day.year - born.year",
    ),
    Mistake(
        "expiry_by_one_day",
        "entitlement",
        "a document passes on the day after its last",
        "e.document.expires_on(e.day) >= e.day",
        "e.document.expires_on(e.day).toordinal() >= e.day.toordinal() - 1",
    ),
    Mistake(
        "enrolment_a_day_early",
        "entitlement",
        "an enrolment is used before it may be",
        "return first is None or first <= e.day",
        "return first is None or first.toordinal() <= e.day.toordinal() + 1",
    ),
    Mistake(
        "flags_read_again_not_used",
        "policy",
        "a ban of the last minutes is read and not minded",
        "known = e.flags | (e.traveller.flags if e.traveller is not None else frozenset())",
        "known = e.traveller.flags if e.traveller is not None else frozenset()",
    ),
    Mistake(
        "stolen_documents_not_asked_for",
        "policy",
        "a document that is reported stolen passes",
        "    document_is_not_flagged,\n",
        "",
    ),
    Mistake(
        "control_shown_at_the_entry",
        "policy",
        "who is sought is turned away outside and warned (L8)",
        "    fingers_can_be_taken,\n)\n",
        "    fingers_can_be_taken,\n    holder_is_not_flagged,\n)\n",
    ),
    # -- entering ------------------------------------------------------------------------------------------------
    Mistake(
        "two_at_the_barriers",
        "entering",
        "two walk in together and one is asked for a face",
        "if guest.entered - guest.left > 1:",
        "if guest.entered - guest.left > 2:",
    ),
    Mistake(
        "two_by_the_presence_sensors",
        "entering",
        "a second person under the sensors' eyes is not one",
        "if event.persons > 1:\n        _two_persons(lane, now)\n    else:",
        "if event.persons > 2:\n        _two_persons(lane, now)\n    else:",
    ),
    Mistake(
        "entry_while_the_exit_stands_open",
        "entering",
        "a leaf moves late while a document is read, and the entry is opened beside it",
        "elif not lane.gate.shut() or lane.gate.persons or lane.gate.severity() >= Severity.BLOCKS_ENTRY:",
        "elif lane.gate.persons or lane.gate.severity() >= Severity.BLOCKS_ENTRY:",
    ),
    Mistake(
        "matched_with_the_entry_open",
        "entering",
        "the face is taken while people can still change places",
        "if not lane.gate.shut() or lane.gate.persons != 1:",
        "if lane.gate.persons != 1:",
    ),
    Mistake(
        "entry_kept_open_behind_the_passenger",
        "entering",
        "the entry is asked for until somebody else has walked in",
        "        lane.withdraw(now)\n        lane.goto(State.ENCLOSING, now)\n    elif",
        "        lane.goto(State.ENCLOSING, now)\n    elif",
    ),
    Mistake(
        "tickets_of_a_crash_not_settled",
        "entering",
        "after a restart a passage has no last record",
        "lane.say(cmd.Settle(ticket, Outcome.UNRESOLVED, None, 0, near, lane.ways.of(near)), cmd.Forget(ticket))",
        "lane.say(cmd.Forget(ticket))",
    ),
    Mistake(
        "fire_forgotten_by_a_restart",
        "entering",
        "a process that died in a fire opens for passengers when it is back",
        "lane.reset_needed = event.reset_needed",
        "lane.reset_needed = False",
    ),
    Mistake(
        "any_cache_will_do",
        "policy",
        "the policy's limit on the cache's age is not asked",
        "    category_is_in_force,\n    cache_is_recent_enough,\n",
        "    category_is_in_force,\n",
    ),
    Mistake(
        "the_last_partition_counts",
        "freshness",
        "fresh controls make up for stale people",
        "worst = found if found.rank > worst.rank else worst",
        "worst = found",
    ),
    Mistake(
        "a_cache_of_tomorrow_is_fresh",
        "freshness",
        "with its clock years behind a lane trusts any cache",
        "if age_s < -AHEAD_S_MAX:",
        "if as_of is None:",
    ),
    Mistake(
        "stolen_document_found_and_dropped",
        "entering",
        "what the look-up says of the document is lost",
        "document_flags=event.document_flags, cache=event.cache, finger_reader=reader",
        "cache=event.cache, finger_reader=reader",
    ),
    # -- proving -------------------------------------------------------------------------------------------------
    Mistake(
        "exit_before_the_record",
        "proving",
        "a passage without a durable record",
        "            lane.record(verdict)\n            lane.goto(State.RECORDING, now)",
        "            lane.record(verdict)\n            lane.guest.released = True\n"
        "            lane.goto(State.RELEASING, now)\n            lane.request(lane.guest.far)",
    ),
    Mistake(
        "flags_not_read_again",
        "proving",
        "a ban between entry and exit is not seen",
        "    lane.goto(State.CONFIRMING, now)\n    lane.ask(cmd.ReadFlags)",
        "    confirm_flags(lane, ev.FlagsRead(guest.ticket, 1, guest.evidence.flags), now)",
    ),
    Mistake(
        "flags_unread_are_none",
        "proving",
        "a cache that does not answer has no controls",
        '        _refer_unseen(lane, lane.verdict(Decision.REFER, "flags_unread"), now)',
        "        confirm_flags(lane, ev.FlagsRead(lane.guest.ticket, 1, frozenset()), now)",
    ),
    Mistake(
        "document_flags_overwritten",
        "proving",
        "the second reading wipes what the first one found",
        "document_flags = lane.guest.evidence.document_flags | event.document_flags",
        "document_flags = event.document_flags",
    ),
    Mistake(
        "frames_since_the_document",
        "proving",
        "frames from in front of the lane count",
        "lane.note(since_mono=now.mono)",
        "lane.note(since_mono=lane.guest.opened.mono)",
    ),
    Mistake(
        "second_person_behind_the_shut_door",
        "proving",
        "two behind shut doors are one",
        "if event.persons == 2:",
        "if event.persons > 2:",
    ),
    Mistake(
        "nobody_behind_the_shut_door",
        "proving",
        "a face is granted while the sensors see nobody",
        "elif event.persons == 0:",
        "elif event.persons < 0:",
    ),
    Mistake(
        "movement_behind_shut_doors",
        "proving",
        "whoever slipped in or out while the doors count as shut changes nothing",
        'refer(lane, "unexpected_movement", now)',
        "pass",
    ),
    Mistake(
        "control_shown_by_its_haste",
        "proving",
        "who is sought is referred sooner than a weak face, and knows why (L8)",
        "rest_s = guest.look_until - now.mono",
        "rest_s = 0.0",
    ),
    Mistake(
        "second_person_forgotten",
        "proving",
        "two were seen, one hides, and an officer lets the other try again",
        "        lane.guest.crowded = True\n",
        "",
    ),
    # -- leaving -------------------------------------------------------------------------------------------------
    Mistake(
        "doorway_was_blocked_before",
        "leaving",
        "who stood in the exit as it opened has surely not crossed",
        "        guest.blind = lane.gate.leaves[guest.far].blocked\n",
        "",
    ),
    Mistake(
        "settled_twice",
        "leaving",
        "one passage has two endings at HQ",
        '        lane.call_officer("left_inside")\n    finish(lane, now)',
        '        lane.call_officer("left_inside")\n'
        "        lane.say(cmd.Settle(lane.guest.ticket, cmd.Outcome.UNRESOLVED, None, 0))\n    finish(lane, now)",
    ),
    Mistake(
        "stranger_sent_to_the_entry_side",
        "moves",
        "who came in through the exit is let into the country",
        "return bool(guest.strangers) or swapped or lane.gate.stranger_from is guest.far",
        "return swapped",
    ),
    Mistake(
        "tailgater_not_counted",
        "leaving",
        "a second person through the exit is nobody's business",
        "if guest.passed > 1:",
        "if guest.passed > 2:",
    ),
    Mistake(
        "hands_in_the_barriers",
        "leaving",
        "a passage is recorded of somebody who is still inside",
        "lane.guest.doubted = bool(lane.gate.persons) and not lane.guest.strangers",
        "lane.guest.doubted = False",
    ),
    # -- referral ------------------------------------------------------------------------------------------------
    Mistake(
        "order_for_another_ticket",
        "referral",
        "an officer's order opens for the next passenger",
        "if event.ticket == lane.guest.ticket:",
        "if event.ticket:",
    ),
    Mistake(
        "order_answered_before_it_is_recorded",
        "referral",
        "the officer is told that it is done and it may never be",
        "lane.guest.order = event.order\n",
        "lane.answer(event.order, True)\n",
    ),
    Mistake(
        "order_of_nobody",
        "referral",
        "the record does not say who ordered it",
        'lane.record(lane.verdict(Decision.GRANT, "officer"), event.by)',
        'lane.record(lane.verdict(Decision.GRANT, "officer"))',
    ),
    Mistake(
        "longest_stay_without_end",
        "referral",
        "a stranger whom no disk records makes the lane wake itself for ever, and it hears no fire alarm",
        "            lane.gate.inside_since = now.mono",
        "            pass",
    ),
    Mistake(
        "call_not_repeated",
        "referral",
        "the deadline of somebody who does not leave is not put anew",
        '    lane.call_officer("did_not_leave")\n    lane.goto(State.RETURNING, now)\n',
        '    lane.call_officer("did_not_leave")\n',
    ),
)
