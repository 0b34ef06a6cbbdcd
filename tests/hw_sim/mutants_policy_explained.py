"""Mutants of the policy that no test can catch, each with the reason; see `tests.hw_sim.mutants_policy`."""

from typing import Final

_ENTRY_OR_EXIT: Final = "one of the two is asked on entry alone and the other on exit alone: nobody breaks both"
_RESIDENCE: Final = "leaving, this category is asked for a valid residence already, by permits_are_valid before it"
_ONLY_LEAVES: Final = "the matrix lets this category enter nowhere: what is asked on entry is never reached"
_FIRST_SIZE: Final = "before the first size the first holds as well (`Rules.size`): its day decides nothing"
_EDITION: Final = "the edition is compared with other editions, by `adopt` and the sync; alone it decides nothing"

EXPLAINED: Final[dict[str, str]] = {
    "proof.next_finger: e.traveller is None or not e.finger_reader or len(proven_fingers(e)) >= fingers_needed(...: "
    "without e.traveller is None": "of nobody no finger is needed, so the last of the three conditions says the same",
    "freshness.of_stand: found.rank > worst.rank: > is >=": "of two of one rank either is the worse: they are the same",
    "policy.BEFORE_ENTRY: category_is_in_force before category_is_known": "a category that the policy does not know "
    "has no first or last day: nobody breaks both",
    "policy.BEFORE_ENTRY: stay_not_exceeded before entries_are_left": _ENTRY_OR_EXIT,
    "policy.BEFORE_ENTRY: not_inside_already before stay_not_exceeded": _ENTRY_OR_EXIT,
    "policy.BEFORE_ENTRY: entered_before before not_inside_already": _ENTRY_OR_EXIT,
    "policy.BEFORE_ENTRY: document_is_of_the_entry before entered_before": "the first wants somebody who entered, the "
    "second somebody who did not: nobody breaks both",
    "policy.BEFORE_ENTRY: not_abroad_too_long before document_is_of_the_entry": _ENTRY_OR_EXIT,
    "policy.BEFORE_EXIT: finger_is_live before finger_matches_where_demanded": "only a finger that matches is asked "
    "whether it is live: nobody breaks both",
    "edition: 5": _EDITION,
    "edition: 3": _EDITION,
    "sizes.0.since: 2012-01-02": _FIRST_SIZE,
    "sizes.0.since: 2011-12-31": _FIRST_SIZE,
    "categories.national_abroad.stay: 'residence'": _RESIDENCE,
    "categories.resident.stay: 'residence'": _RESIDENCE,
    "categories.hong_kong_macau.stay: 'residence'": _RESIDENCE,
    "categories.mainland_resident.stay: 'residence'": _RESIDENCE,
    "categories.mainland_spouse.stay: 'residence'": _RESIDENCE,
    "categories.foreign_visitor.may_miss: with finger_pad": "no finger ever counts for this category",
    **{
        f"categories.foreign_visitor.entry_permits: with {kind}": _ONLY_LEAVES
        for kind in (
            *("entry_permit", "mainland_travel", "military_leave", "multiple_entry"),
            *("reentry", "residence", "security_approval", "stay"),
        )
    },
    "categories.foreign_visitor.abroad_years_max: 1": _ONLY_LEAVES,
    "controls: without wanted": "a flag that is not named counts everywhere and is urgent: that is what its line says",
    "document_controls: without stolen": "a flag that is not named is urgent: that is what its line says",
}
"""Name -> why it is no other policy."""
