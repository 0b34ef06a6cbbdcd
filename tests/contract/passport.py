"""What every passport driver owes the lane, over memory (virtual time) and over a pseudo terminal (real time).

A driver's test is a subclass of `PassportContract` that names driver, mirror and options.
"""

import asyncio
import dataclasses
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from random import Random
from types import MappingProxyType, ModuleType
from typing import Any

import pytest

from drivers.base import DeviceFault
from drivers.links import ByteLink
from drivers.links.serial import SerialLink
from gated.icao.mrz import Document, parse, render
from gated.lane.events import (
    Device,
    DeviceReady,
    DocumentPresented,
    DocumentRemoved,
    DocumentUnreadable,
    Door,
    Event,
)
from tests.hw_sim import links, virtual
from tests.hw_sim.pty import Pty
from tests.hw_sim.readers import Fault, Reader

QUICK = {"inquire_every_s": 0.1, "trigger_every_s": 0.1, "frame_gap_s": 0.06, "answer_s_max": 0.4}
"""Settings of a driver that waits for little, so that real time costs little."""

WRAPPERS: dict[str, Callable[[ByteLink, Random], ByteLink]] = {
    "bare": lambda link, random: link,
    "one_byte": lambda link, random: links.OneByte(link),
    "delayed": lambda link, random: links.Delayed(link, random, 0.03),
    "lossy": lambda link, random: links.Lossy(link, random, 1 / 300),
    "noisy": lambda link, random: links.Noisy(link, random, 1 / 300),
}
WHOLE = ("bare", "one_byte", "delayed")
"""Wrappers that lose nothing: over them every document must be presented."""


def documents() -> list[tuple[str, ...]]:
    """Valid MRZ of every format; no two alike."""
    holders = [
        ("TD3", "L898902C3", "740812", "F", "ERIKSSON", "ANNA MARIA", "ZE184226B"),
        ("TD1", "D23145890", "740812", "F", "ERIKSSON", "ANNA MARIA", ""),
        ("TD2", "D23145891", "740812", "M", "STEVENSON", "PETER JOHN", ""),
        ("MRV-A", "L8988901C", "400907", "F", "ERIKSSON", "ANNA MARIA", "6ZE184226B"),
        ("MRV-B", "M8988902D", "510101", "M", "O", "", ""),
        ("TD3", "AB2134", "580728", "X", "VAN DER MUELLEN HUYSMANS SCHOUTEN", "MARIANNE LOUISE", ""),
    ]
    return [
        render(
            format,
            issuer="UTO",
            number=number,
            nationality="UTO",
            birth=birth,
            sex=sex,
            expiry="350415",
            surname=surname,
            given_names=given_names,
            optional=optional,
        )
        for format, number, birth, sex, surname, given_names, optional in holders
    ]


class Rig:
    """A driver that runs, its mirror, and everything that the driver has emitted."""

    def __init__(self, device: Any, reader: Reader) -> None:
        self.device = device
        self.reader = reader
        self.events: list[Event] = []
        self._news = asyncio.Event()
        self._tasks = AsyncExitStack()
        self.running: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Rig":
        mirror = asyncio.ensure_future(self.reader.run())
        self._tasks.callback(mirror.cancel)
        await asyncio.sleep(0)
        self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._tasks.aclose()

    def start(self) -> None:
        """Run the driver (again), on the same object."""
        self.running = asyncio.ensure_future(self.device.run(self._emit))
        self._tasks.callback(self.running.cancel)

    def _emit(self, event: Event) -> None:
        self.events.append(event)
        self._news.set()

    async def until(self, done: Callable[[], bool], within_s: float) -> None:
        """Wait for `done`; fails with what was emitted and how the driver ended."""
        end = asyncio.get_running_loop().time() + within_s
        while not done():
            self._news.clear()
            try:
                async with asyncio.timeout_at(end):
                    await self._news.wait()
            except TimeoutError:
                ended = self.running.exception() if self.running and self.running.done() else "still runs"
                pytest.fail(f"not within {within_s} s: {[type(e).__name__ for e in self.events]}, driver: {ended!r}")

    async def ready(self) -> None:
        await self.until(lambda: DeviceReady(Device.PASSPORT) in self.events, 10.0)
        self.events.clear()

    async def fault(self, within_s: float) -> str:
        """How `run` ended."""
        assert self.running is not None
        with pytest.raises(DeviceFault) as caught:
            await asyncio.wait_for(asyncio.shield(self.running), within_s)
        return caught.value.why


class PassportContract:
    """Subclass: name `driver`, `reader`, and the options of both."""

    driver: ModuleType
    reader: type[Reader]
    options: Mapping[str, Any] = MappingProxyType({})
    dialect: Mapping[str, Any] = MappingProxyType({})
    tells_removal: bool = False
    guards_names: bool = True
    asks: bool = False
    """Whether the driver notices by itself that the reader went mute."""

    # -- how a rig is built

    def device(self, link: ByteLink, port: str = "/dev/null", quick: bool = False) -> Any:
        known = {field.name for field in dataclasses.fields(self.driver.Settings)}
        haste = {name: value for name, value in QUICK.items() if name in known} if quick else {}
        return self.driver.Device(self.driver.Settings(port=port, **{**haste, **self.options}), link, Door.B)

    def mirror(self, link: ByteLink, random: Random) -> Reader:
        return self.reader(link, random, **self.dialect)

    def in_memory(self, wrapper: str = "bare", seed: int = 1) -> tuple[Rig, links.MemoryByteLink]:
        random = Random(seed)
        host, far = links.MemoryByteLink.pair()
        return Rig(self.device(WRAPPERS[wrapper](host, random)), self.mirror(far, random)), host

    def on_pty(self, pty: Pty, wrapper: str = "bare", baud_rate: int = 0) -> Rig:
        random = Random(3)
        far: ByteLink = links.Throttled(pty, baud_rate) if baud_rate else pty
        host = WRAPPERS[wrapper](SerialLink(pty.path, 115200), random)
        reader = self.mirror(far, random)
        reader.scan_s = 0.01
        return Rig(self.device(host, pty.path, quick=True), reader)

    # -- what is asserted of one document

    async def present(self, rig: Rig, lines: tuple[str, ...], wrapper: str = "bare", stay_s: float = 2.5) -> None:
        """Put a document in and take it out: it is told once, rightly or as unreadable, and nothing else is."""
        rig.events.clear()
        await rig.reader.insert(lines)
        await rig.until(lambda: bool(rig.events), 15.0)
        await asyncio.sleep(stay_s)
        told = [event for event in rig.events if isinstance(event, DocumentPresented)]
        bad = [event for event in rig.events if isinstance(event, DocumentUnreadable)]
        assert len(told) + len(bad) == len(rig.events), rig.events
        assert len(told) <= 1 and len(bad) <= 1, rig.events
        if wrapper in WHOLE:
            assert told and not bad, rig.events
        if told and bad:
            assert rig.events == [*bad, *told], "a document that was read is not taken back"
        for event in told:
            assert event.side is Door.B
            self.same(event.document, parse(lines), wrapper)
        rig.events.clear()
        await rig.reader.remove()
        if self.tells_removal:
            await rig.until(lambda: bool(rig.events), 15.0)
        await asyncio.sleep(stay_s)
        assert rig.events == ([DocumentRemoved(Door.B)] if self.tells_removal else [])

    def same(self, told: Document, meant: Document, wrapper: str) -> None:
        if wrapper == "noisy" and not self.guards_names:
            guarded = ("format", "number", "birth", "expiry")
            assert [getattr(told, name) for name in guarded] == [getattr(meant, name) for name in guarded]
        else:
            assert told == meant

    # -- the contract

    @pytest.mark.parametrize("wrapper", WRAPPERS)
    def test_each_document_is_told_once(self, wrapper: str) -> None:
        async def walk() -> None:
            rig, _ = self.in_memory(wrapper)
            async with rig:
                await rig.ready()
                for lines in [*documents(), documents()[0]]:
                    await self.present(rig, lines, wrapper)

        virtual.run(walk())

    def test_a_real_port_with_every_wrapper(self) -> None:
        async def walk(wrapper: str, baud_rate: int) -> None:
            pty = Pty()
            async with self.on_pty(pty, wrapper, baud_rate) as rig:
                await rig.ready()
                for lines in documents()[:2]:
                    await self.present(rig, lines, wrapper, stay_s=0.3)
            pty.unplug()

        async def all_at_once() -> None:
            await asyncio.gather(*(walk(wrapper, 0) for wrapper in WRAPPERS), walk("bare", 19200))

        asyncio.run(all_at_once())

    def test_a_pulled_cable_ends_the_run_and_the_next_run_works(self) -> None:
        async def walk() -> None:
            rig, host = self.in_memory()
            async with rig:
                for _ in range(2):
                    await rig.ready()
                    await self.present(rig, documents()[0])
                    host.unplug()
                    assert await rig.fault(5.0) == "unplugged"
                    rig.start()
                    assert await rig.fault(5.0) == "no_such_port"
                    host.plug()
                    rig.start()
                await rig.ready()

        virtual.run(walk())

    def test_a_cable_pulled_in_the_middle_of_a_document(self) -> None:
        async def walk() -> None:
            rig, host = self.in_memory()
            async with rig:
                await rig.ready()
                rig.reader.spoil_next(Fault.HALF)
                await rig.reader.insert(documents()[0])
                await asyncio.sleep(0.2)
                host.unplug()
                assert await rig.fault(5.0) == "unplugged"
                await rig.reader.remove()
                host.plug()
                rig.start()
                await rig.ready()
                await self.present(rig, documents()[1])

        virtual.run(walk())

    def test_a_real_port_unplugged_and_plugged(self) -> None:
        async def walk() -> None:
            pty = Pty()
            async with self.on_pty(pty) as rig:
                await rig.ready()
                pty.unplug()
                assert await rig.fault(2.0) == "unplugged"
                rig.start()
                assert await rig.fault(2.0) == "no_such_port"

        asyncio.run(walk())

    def test_garbage_then_a_document(self) -> None:
        async def walk(noise: Callable[[Random], bytes]) -> None:
            rig, _ = self.in_memory()
            async with rig:
                await rig.ready()
                random = Random(64)
                for _ in range(64):
                    await rig.reader.babble(noise(random))
                await asyncio.sleep(1.0)
                assert not [event for event in rig.events if isinstance(event, DocumentPresented)]
                for event in rig.events:
                    assert isinstance(event, DocumentUnreadable | DocumentRemoved)
                if self.tells_removal:
                    await asyncio.sleep(5.0)
                await self.present(rig, documents()[0])

        virtual.run(walk(lambda random: random.randbytes(1024)))
        virtual.run(walk(lambda random: b"A" * 1024))
        virtual.run(walk(lambda random: b"\x01\x49\x00\x5b" * 256))

    @pytest.mark.parametrize("fault", Fault)
    def test_a_spoilt_message_is_never_a_wrong_document(self, fault: Fault) -> None:
        async def walk(seed: int) -> None:
            rig, _ = self.in_memory(seed=seed)
            async with rig:
                await rig.ready()
                rig.reader.spoil_next(fault)
                # a garbled text without a check may still hold the right number: content is compared as under noise
                await self.present(rig, documents()[0], "noisy")
                await self.present(rig, documents()[1])

        for seed in range(5):
            virtual.run(walk(seed))

    def test_a_wrong_check_digit_is_unreadable_and_tells_no_content(self) -> None:
        async def walk() -> None:
            first, second = documents()[0]
            wrong = (first, second[:9] + str((int(second[9]) + 1) % 10) + second[10:])
            rig, _ = self.in_memory()
            async with rig:
                await rig.ready()
                await rig.reader.insert(wrong)
                await rig.until(lambda: bool(rig.events), 15.0)
                await asyncio.sleep(5.0)
                assert rig.events == [DocumentUnreadable("check_digit:number", Door.B)]
                await rig.reader.remove()
                await asyncio.sleep(5.0)
                await self.present(rig, documents()[1])

        virtual.run(walk())

    def test_an_illegible_document_is_never_presented(self) -> None:
        async def walk() -> None:
            rig, _ = self.in_memory()
            async with rig:
                await rig.ready()
                await rig.reader.insert(documents()[0], legible=False)
                await asyncio.sleep(10.0)
                assert not [event for event in rig.events if isinstance(event, DocumentPresented)]
                await rig.reader.remove()
                await asyncio.sleep(5.0)
                await self.present(rig, documents()[0])

        virtual.run(walk())

    def test_a_hung_reader_is_lost_where_the_driver_asks(self) -> None:
        async def walk() -> None:
            rig, _ = self.in_memory()
            async with rig:
                await rig.ready()
                rig.reader.stall()
                if self.asks:
                    assert await rig.fault(30.0) == "no_answer"
                    rig.start()
                    assert await rig.fault(30.0) == "no_answer"
                    rig.reader.resume()
                    rig.start()
                    await rig.ready()
                else:
                    await asyncio.sleep(30.0)
                    rig.reader.resume()
                assert rig.events == []
                await self.present(rig, documents()[0])

        virtual.run(walk())

    def test_nothing_that_is_told_shows_the_holder(self) -> None:
        async def walk() -> None:
            rig, _ = self.in_memory()
            async with rig:
                await rig.ready()
                await rig.reader.insert(documents()[0])
                await rig.until(lambda: bool(rig.events), 15.0)
                shown = repr(rig.events) + str(rig.events)
                assert "ERIKSSON" not in shown and "L898902C3" not in shown

        virtual.run(walk())

    def test_cancelling_closes_the_port(self) -> None:
        async def walk() -> None:
            pty, rigs = Pty(), []
            for _ in range(2):  # the port is exclusive: a second run proves that the first let go
                rigs.append(self.on_pty(pty))  # kept, or the garbage collector would close it
                async with rigs[-1] as rig:
                    await rig.ready()
                    assert rig.running is not None
                    rig.running.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await rig.running
            pty.unplug()

        asyncio.run(walk())
