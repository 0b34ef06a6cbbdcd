"""The simulated gate obeys physics: leaves, monoflop, safety chain, beams, presence."""

import asyncio
import random

from tests.hw_sim import virtual
from tests.hw_sim.happenings import LANE_M, Body, Happening, Kind, Topology, What
from tests.hw_sim.physics import Gate
from tests.hw_sim.pins import PinBoard


class Wires(PinBoard):
    """A board that remembers what was driven when, with the least of a lane at its other side."""

    def __init__(self) -> None:
        super().__init__()
        self.driven: list[tuple[float, str, bool]] = []
        self.listen(self._note)

    def _note(self, name: str, active: bool) -> None:
        self.driven.append((asyncio.get_running_loop().time(), name, active))

    async def ask(self, door: str, seconds: float) -> None:
        """A living lane requests one leaf for a while."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        self.drive(f"{door}_request", True)
        while loop.time() < end - 1e-6:
            self.drive("alive", not self.output("alive"))
            await asyncio.sleep(0.1)
        self.drive(f"{door}_request", False)

    def times(self, name: str, active: bool) -> list[float]:
        return [at for at, wire, level in self.driven if wire == name and level == active]


def gate(topology: Topology = Topology.MANTRAP, bounce_s: float = 0.0) -> tuple[Wires, Gate, list[Happening]]:
    wires, seen = Wires(), list[Happening]()
    made = Gate(wires, topology, random.Random(1), bounce_s=bounce_s)
    made.observers.append(seen.append)
    return wires, made, seen


def test_a_request_without_a_living_lane_opens_nothing() -> None:
    async def main() -> None:
        wires, made, _ = gate()
        wires.drive("a_request", True)
        await asyncio.sleep(5)
        assert made.leaves["a"].position == 0.0

    virtual.run(main())


def test_a_dead_lane_loses_its_request_within_half_a_second_and_the_leaf_shuts() -> None:
    async def main() -> None:
        wires, made, seen = gate()
        asker = asyncio.create_task(wires.ask("a", 60))
        await asyncio.sleep(3.0)
        assert made.leaves["a"].open
        asker.cancel()
        died = asyncio.get_running_loop().time()
        await asyncio.sleep(5.0)
        (off,) = [h.at for h in seen if h.what is What.REQUEST_OFF]
        assert off - died <= 0.5
        assert wires.output("a_request"), "the output itself stays up: the gate's monoflop let go, not the lane"
        assert made.leaves["a"].closed and wires.input("a_closed")

    virtual.run(main())


def test_the_leaf_takes_its_time_and_its_contacts_bounce_but_settle() -> None:
    async def main() -> None:
        wires, made, _ = gate(bounce_s=0.006)
        await wires.ask("b", 2.0)
        await asyncio.sleep(2.0)
        assert wires.times("b_open", True)[0] > 0.5, "a leaf needs more than half a second to open"
        assert len(wires.driven) > 8, "contacts bounce"
        assert wires.input("b_closed") and not wires.input("b_open") and made.leaves["b"].cause is None

    virtual.run(main())


def test_a_leaf_never_shuts_onto_a_person_unless_its_chain_is_broken() -> None:
    async def main(chain_works: bool) -> list[Happening]:
        wires, made, seen = gate()
        made.leaves["a"].chain_works = chain_works
        body = made.add(Body("p1", x=-1.0))
        asker = asyncio.create_task(wires.ask("a", 2.0))
        assert await made.walk(body, 0.0)
        await asker
        await asyncio.sleep(10)
        if chain_works:
            assert made.leaves["a"].passable
            await made.walk(body, 1.3)
            await asyncio.sleep(3)
            assert made.leaves["a"].closed
        return seen

    assert not [h for h in virtual.run(main(True)) if h.what is What.TOUCHED]
    assert [h for h in virtual.run(main(False)) if h.what is What.TOUCHED]


def test_a_closing_leaf_gives_way_to_a_latecomer_and_the_gate_reports_it() -> None:
    async def main() -> None:
        wires, made, _ = gate()
        body = made.add(Body("p1", x=-0.5))
        await wires.ask("a", 1.5)
        await made.walk(body, 1.3, speed=1.2)
        assert wires.times("a_obstacle", True)
        await asyncio.sleep(3)
        assert not wires.input("a_obstacle") and made.leaves["a"].closed

    virtual.run(main())


def test_a_walk_breaks_the_beams_in_order_and_a_shut_leaf_stops_it() -> None:
    async def main() -> None:
        wires, made, seen = gate()
        body = made.add(Body("p1", x=-2.0))
        assert not await made.walk(body, 1.3, patience_s=2.0), "the leaf is shut"
        assert body.x < 0
        asker = asyncio.create_task(wires.ask("a", 4.0))
        assert await made.walk(body, 1.3)
        order = [name for _, name, level in wires.driven if name in ("a_outer", "a_inner", "presence_one") and level]
        assert order == ["a_outer", "a_inner", "presence_one"]
        (crossed,) = [h for h in seen if h.what is What.CROSSED]
        assert crossed.door == "a" and crossed.inward and crossed.body is body
        assert not wires.input("a_outer") and not wires.input("a_inner") and wires.input("presence_one")
        made.add(Body("bag", Kind.THING, x=1.0))
        assert wires.input("thing") and not wires.input("presence_many")
        await asker

    virtual.run(main())


def test_fire_opens_every_leaf_whatever_the_lane_says() -> None:
    async def main() -> None:
        wires, made, _ = gate()
        made.fire(True)
        await asyncio.sleep(2)
        assert made.leaves["a"].open and made.leaves["b"].open and wires.input("fire")
        made.fire(False)
        await asyncio.sleep(3)
        assert made.leaves["a"].closed and made.leaves["b"].closed and not wires.input("fire")

    virtual.run(main())


def test_faults_lie_to_the_lane_and_not_to_the_world() -> None:
    async def main() -> None:
        wires, made, _ = gate()
        made.stick("a_closed", True)
        await wires.ask("a", 1.0)
        assert made.leaves["a"].open and wires.input("a_closed") and made.lies("a_closed")
        await asyncio.sleep(3)
        made.unstick("a_closed")
        made.stick_leaf("b", True)
        await wires.ask("b", 2.0)
        assert made.leaves["b"].closed
        made.stick_leaf("b", False)
        made.set_blind(True)
        made.add(Body("p", x=1.0))
        assert not wires.input("presence_one")
        made.force("b", True)
        await asyncio.sleep(2)
        assert made.leaves["b"].open and not made.leaves["b"].asked

    virtual.run(main())


def test_a_single_lane_has_one_leaf_and_the_zone_before_it() -> None:
    async def main() -> None:
        wires, made, seen = gate(Topology.SINGLE)
        body = made.add(Body("p", x=-2.0))
        assert await made.walk(body, 1.0), "nothing stands before the zone"
        assert wires.input("presence_one") and not wires.times("a_closed", True)
        asker = asyncio.create_task(wires.ask("b", 3.0))
        assert await made.walk(body, LANE_M + 1.5)
        assert [h.door for h in seen if h.what is What.CROSSED] == ["a", "b"]
        await asker

    virtual.run(main())
