"""L8 through the whole lane: until a referral is shown, a control on the holder changes nothing they see, or when."""

from dataclasses import replace

import pytest

from gated.lane import commands as cmd
from gated.lane.commands import Command, PromptCode
from gated.lane.core import State
from gated.lane.events import Event, Now
from tests.hw_sim import virtual
from tests.hw_sim.happenings import Topology
from tests.hw_sim.simlane import sim_folder
from tests.test_fingers_whole import Picturing, Story, Visit, visit

SEEN = (cmd.Prompt, cmd.Indicate, cmd.RequestOpen, cmd.WithdrawOpen)


def watched(who: Visit, seed: int, kind: type[Story], topology: Topology) -> tuple[list[tuple[float, Command]], Story]:
    """Everything that a passenger could see, and when."""
    found: list[tuple[float, Command]] = []

    def look(event: Event, now: Now, commands: tuple[Command, ...]) -> None:
        found.extend((now.mono, each) for each in commands if isinstance(each, SEEN))

    with sim_folder() as folder:
        lane = kind(seed, topology, folder, visits=(who,))
        lane.watchers.append(look)
        virtual.run(lane.run())
    return found, lane


@pytest.mark.parametrize("seed", range(20))
def test_a_control_changes_nothing_before_a_referral_is_shown(seed: int) -> None:
    kind = (Story, Picturing)[seed % 2]
    topology = list(Topology)[seed % 3]
    who = visit(seed, face=seed % 4 != 3, bandaged=("right_index",) if seed % 5 == 4 else ())
    free, lane = watched(who, seed, kind, topology)
    flagged = replace(who, enrolment=replace(who.enrolment, flags=frozenset({"wanted"})))
    sought, other = watched(flagged, seed, kind, topology)
    assert State.RELEASING.value not in other.display
    if lane.verdicts(who)[0].decision == "refer":  # a face and fingers that no longer suffice: nothing differs at all
        assert sought == free
        return
    assert other.verdicts(who)[0].reason == "holder_is_not_flagged"
    opened = next(at for at, each in free if isinstance(each, cmd.Prompt) and each.code is PromptCode.WALK_THROUGH)
    before = [each for each in free if each[0] < opened]
    assert before == sought[: len(before)]
    again, *later = sought[len(before) :]
    assert isinstance(again[1], cmd.Prompt) and again[1].code.value.startswith("place_"), "as if it had not matched"
    assert isinstance(later[0][1], cmd.Prompt)
    if later[0][1].code is PromptCode.SEE_OFFICER:  # or the officer, who was called at once, was there sooner
        assert later[0][0] - opened > 5.0
