"""The serial line over a real pseudo terminal, and the simulator's byte links: nothing lost, nothing hangs."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from drivers.links import ByteLink, LinkLost
from drivers.links.serial import SerialLink
from tests.hw_sim import links, virtual
from tests.hw_sim.pty import Pty


async def lost(doing: object) -> str:
    with pytest.raises(LinkLost) as caught:
        await doing  # type: ignore[misc]
    return caught.value.why


def test_bytes_go_both_ways_over_a_symbolic_link(tmp_path: Path) -> None:
    async def walk() -> None:
        pty = Pty(tmp_path / "mrz0")
        link = SerialLink(str(tmp_path / "mrz0"), 9600, parity="E", stop_bits=2)
        await link.open()
        every_byte = bytes(range(256))  # also CR, LF, XON, XOFF, EOF: nothing on the way may treat them as text
        await link.write(every_byte)
        heard = b""
        while len(heard) < 256:
            heard += await pty.read()
        assert heard == every_byte
        await pty.write(every_byte)
        heard = b""
        while len(heard) < 256:
            heard += await link.read()
        assert heard == every_byte
        await link.close()
        await link.close()
        pty.unplug()
        assert not (tmp_path / "mrz0").exists()

    asyncio.run(walk())


def test_a_port_belongs_to_one_process_at_a_time() -> None:
    async def walk() -> None:
        pty = Pty()
        first, second = SerialLink(pty.path, 9600), SerialLink(pty.path, 9600)
        await first.open()
        assert await lost(second.open()) == "port_busy"
        await first.close()
        await second.open()
        await second.close()
        pty.unplug()

    asyncio.run(walk())


def test_what_is_not_there_and_what_is_not_open() -> None:
    async def walk() -> None:
        link = SerialLink("/dev/no_such_reader", 9600)
        assert await lost(link.open()) == "no_such_port"
        assert await lost(link.read()) == "not_open"
        assert await lost(link.write(b"x")) == "not_open"
        assert await lost(SerialLink("/dev/null", 9600).open()) == "cannot_open"

    asyncio.run(walk())


@pytest.mark.parametrize("wrong", [{"baud_rate": 0}, {"parity": "X"}, {"stop_bits": 3}, {"write_s_max": 0.0}])
def test_impossible_lines_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        SerialLink("/dev/ttyACM0", **{"baud_rate": 9600, **wrong})  # type: ignore[arg-type]


def test_pulling_the_cable_wakes_a_waiting_read_and_fails_a_write() -> None:
    async def walk() -> None:
        pty = Pty()
        link = SerialLink(pty.path, 9600)
        await link.open()
        reading = asyncio.ensure_future(link.read())
        await asyncio.sleep(0.02)
        pty.unplug()
        assert await lost(reading) == "unplugged"
        assert await lost(link.write(b"x")) == "unplugged"
        await link.close()

    asyncio.run(walk())


def test_a_line_that_takes_nothing_is_lost_and_until_then_blocks_nobody() -> None:
    async def walk() -> None:
        pty = Pty()
        link = SerialLink(pty.path, 9600, write_s_max=0.1)
        await link.open()
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0.01)

        ticking = asyncio.ensure_future(tick())
        assert await lost(link.write(bytes(200_000))) == "write_timeout"
        assert ticks > 4
        ticking.cancel()
        await link.close()
        pty.unplug()

    asyncio.run(walk())


def test_a_slow_line_takes_all_in_the_end() -> None:
    async def walk() -> None:
        pty = Pty()
        link = SerialLink(pty.path, 9600, write_s_max=1.0)
        await link.open()
        writing = asyncio.ensure_future(link.write(b"m" * 100_000))
        heard = 0
        while heard < 100_000:
            heard += len(await pty.read())
        await writing
        await link.close()
        pty.unplug()

    asyncio.run(walk())


def test_two_who_write_at_once_into_a_full_line_come_one_after_the_other() -> None:
    """A device that answers while noise is on its line: neither waits for ever, neither is cut in two."""

    async def walk() -> None:
        pty = Pty()
        link = SerialLink(pty.path, 115200)
        await link.open()
        pieces = [bytes((number,)) * 10_000 for number in range(4)]
        writing = asyncio.gather(*map(pty.write, pieces))
        await asyncio.sleep(0.05)
        assert not writing.done(), "the line is not full"
        heard = b""
        async with asyncio.timeout(10.0):
            while len(heard) < 40_000:
                heard += await link.read()
            await writing
        assert heard == b"".join(pieces)
        await link.close()
        pty.unplug()

    asyncio.run(walk())


def test_a_cancelled_read_loses_no_byte() -> None:
    async def walk(far: ByteLink, near: ByteLink, pause_s: float) -> None:
        await far.open()
        await near.open()
        random, heard, sent = Random(5), b"", random_text(2000)

        async def send() -> None:
            for at in range(0, len(sent), 20):
                await far.write(sent[at : at + 20])
                await asyncio.sleep(random.uniform(0, pause_s))

        sending = asyncio.ensure_future(send())
        while len(heard) < len(sent):
            try:
                async with asyncio.timeout(random.uniform(0, pause_s)):
                    heard += await near.read()
            except TimeoutError:
                continue
        assert heard == sent
        await sending

    async def real() -> None:
        pty = Pty()
        link = SerialLink(pty.path, 9600)
        await walk(pty, link, 0.002)
        await link.close()
        pty.unplug()

    asyncio.run(real())
    for spoil in (links.OneByte, lambda link: links.Delayed(link, Random(6), 0.004), links.Unpluggable):
        one, other = links.MemoryByteLink.pair()
        virtual.run(walk(one, spoil(other), 0.01))


def random_text(count: int) -> bytes:
    return Random(7).randbytes(count)


@pytest.mark.parametrize(
    "spoil, kept",
    [
        (lambda link: links.Lossy(link, Random(1), 0.1), (850, 950)),
        (lambda link: links.Noisy(link, Random(1), 0.1), (1000, 1000)),
        (lambda link: links.Throttled(link, 9600), (1000, 1000)),
    ],
)
def test_wrappers_do_what_they_say(spoil: Callable[[ByteLink], ByteLink], kept: tuple[int, int]) -> None:
    async def walk() -> None:
        near, far = links.MemoryByteLink.pair()
        await far.open()
        link = spoil(near)
        await link.open()
        sent = random_text(1000)
        await link.write(sent)
        heard = await far.read()
        assert kept[0] <= len(heard) <= kept[1]
        if isinstance(link, links.Throttled):
            assert heard == sent and asyncio.get_running_loop().time() == pytest.approx(1000 * 10 / 9600)
        else:
            assert heard != sent
        if isinstance(link, links.Noisy):
            assert 70 <= link.flipped == sum(a != b for a, b in zip(sent, heard, strict=True)) <= 130
        if isinstance(link, links.Lossy):
            assert link.lost == 1000 - len(heard)

    virtual.run(walk())


def test_a_cable_may_be_pulled_in_the_middle_of_a_read() -> None:
    async def walk() -> None:
        near, far = links.MemoryByteLink.pair()
        link = links.Unpluggable(near)
        await far.open()
        await link.open()
        reading = asyncio.ensure_future(link.read())
        await asyncio.sleep(1.0)
        link.unplug()
        assert await lost(reading) == "unplugged"
        assert await lost(link.write(b"x")) == "unplugged"
        assert await lost(link.open()) == "no_such_port"
        link.plug()
        await link.open()
        await far.write(b"x")
        assert await link.read() == b"x"

    virtual.run(walk())
