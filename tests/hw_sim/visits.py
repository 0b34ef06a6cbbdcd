"""Who comes in the story of `demo --story`: six people, each of whom HQ learns something about, and their visits."""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from enum import Enum
from pathlib import Path

from tests.hw_sim.cast import Manner, Passenger, Truth
from tests.hw_sim.gallery import Person
from tests.hw_sim.papers import Paper, passport, renewed
from tests.hw_sim.people import Script

LOOKS_AWAY_S = 6.0
"""So long somebody stands inside and looks elsewhere, of the ten that the lane gives them."""


class Role(Enum):
    """One person of the story."""

    URGENT = "urgent"
    """HQ does not know them until they stand there."""
    ORDINARY = "ordinary"
    """The same, enrolled without hurry."""
    BANNED = "banned"
    """And the ban is lifted in the end."""
    INSIDE = "inside"
    """Banned while they stand between the leaves."""
    RENEWED = "renewed"
    LOST = "lost"


NEW = frozenset({Role.URGENT, Role.ORDINARY})
"""Whom HQ does not know when the story begins."""


@dataclass(frozen=True, slots=True)
class Player:
    """Who plays a role. `person`: their number in the folder; `shown`: which of their photographs the camera sees;
    `subject`: in HQ's register, 0 where HQ does not know them yet."""

    role: Role
    person: int
    shown: int
    subject: int = 0


@dataclass(frozen=True, slots=True)
class Visit:
    """One passage. `paper`: which of the person's passports, the oldest is 0. `reason`: the policy's, of a referral."""

    role: Role
    truth: Truth
    reason: str = ""
    paper: int = 0
    manner: Manner = Manner.PLAIN


VISITS = {
    "unknown": Visit(Role.URGENT, Truth.NOT_ENROLLED, "holder_is_enrolled"),
    "enrolled": Visit(Role.URGENT, Truth.GENUINE),
    "unbanned": Visit(Role.BANNED, Truth.GENUINE),
    "banned": Visit(Role.BANNED, Truth.BANNED, "holder_is_not_flagged"),
    "inside": Visit(Role.INSIDE, Truth.BANNED, "holder_is_not_flagged", manner=Manner.LOOKS_AWAY),
    "renewed": Visit(Role.RENEWED, Truth.GENUINE, paper=1),
    "unlisted": Visit(Role.RENEWED, Truth.GENUINE, paper=2),
    "lost": Visit(Role.LOST, Truth.LOST, "document_is_not_flagged"),
    "unsigned": Visit(Role.BANNED, Truth.BANNED, "holder_is_not_flagged"),
    "lifted": Visit(Role.BANNED, Truth.GENUINE),
    "ordinary": Visit(Role.ORDINARY, Truth.GENUINE),
}
"""By the name under which the monitor knows the passenger."""


def papers(role: Role, person: int, seed: int, today: date) -> tuple[Paper, Paper, Paper]:
    """A passport, the one that follows it, and the one after that."""
    rng = random.Random(f"story {seed} {role.value}")
    first = passport(rng, person, today)
    second = renewed(rng, first, today)
    return first, second, renewed(rng, second, today)


def passengers(players: Sequence[Player], seed: int, today: date, take: int) -> dict[str, Passenger]:
    """By name. `take`: the first number of a picture that is free."""
    made = {}
    persons = {player.role: player.person for player in players}
    for k, (name, visit) in enumerate(VISITS.items()):
        person = persons[visit.role]
        paper = papers(visit.role, person, seed, today)[visit.paper]
        made[name] = Passenger(name, person, paper, visit.truth, visit.manner, seed + k, take=take + k)
    return made


def photos(players: Sequence[Player], everybody: Sequence[Person], take: int) -> dict[int, Path]:
    """The photograph of each visit, by its number."""
    shown = {player.role: everybody[player.person].shown[player.shown] for player in players}
    return {take + k: shown[visit.role] for k, visit in enumerate(VISITS.values())}


class Dawdler(Script):
    """Comes in looking elsewhere, and looks up only after `LOOKS_AWAY_S`."""

    def _bystand(self) -> None:
        self.looking = False

    async def _look_after(self, seconds: float) -> None:
        await asyncio.sleep(LOOKS_AWAY_S)
        self.looking = True
