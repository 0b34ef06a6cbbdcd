"""Mistakes that a programmer could make in the protocol between lane and HQ; the simulation must find each.

`old` must be found exactly once in its file; a mistake that no longer fits the code is out of date. They are planted in
the running process: functions get the changed code, and their own back."""

import importlib
import types
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final


@dataclass(frozen=True, slots=True)
class Mistake:
    """One replacement in a module, and what would come of it. `seeds`: one of these fails."""

    name: str
    module: str
    danger: str
    old: str
    new: str
    seeds: range = range(40)


_ALL = (
    Mistake(
        "lower_head_believed_without_pong",
        "gated.uplink.line",
        "a receipt that was overtaken counts as HQ's going back: everything is sent again and again",
        "self._acked_at_ping.get(head.stream_id, 0) if pong else 0",
        "self._flights.acked(head.stream_id)",
    ),
    Mistake(
        "went_back_not_noticed",
        "gated.uplink.line",
        "HQ was restored from a backup, and the lane deletes what HQ does not have any more",
        "self._acked_at_ping.get(head.stream_id, 0) if pong else 0",
        "0",
        range(2, 600, 10),
    ),
    Mistake(
        "held_never_drained",
        "gated.hq.intake",
        "a record that came early is kept and never taken in",
        "while waiting and (begin := min(waiting)) <= stream.head.seq + 1:",
        "while waiting and (begin := min(waiting)) <= stream.head.seq - 1:",
    ),
    Mistake(
        "a_new_stream_stops_all",
        "gated.store.flight",
        "a chapter that began between two looks is in the way of every other stream, and is never looked at itself",
        "changed = self.spans.keys() != self._flights.keys()",
        "changed = not self._flights",
    ),
    Mistake(
        "rewind_forgotten",
        "gated.store.flight",
        "what HQ lost, or refused, is never sent again",
        "        flight.sent = seq\n",
        "",
    ),
    Mistake(
        "nothing_is_overdue",
        "gated.store.flight",
        "what a dead worker took along is never sent again",
        "return bool(late)",
        "return False",
    ),
    Mistake(
        "receipt_without_its_hash",
        "gated.store.flight",
        "HQ's word for another record of this number frees ours",
        "if row is None or row.seq != seq or _chain(row) != chain:",
        "if row is None:",
        range(120),
    ),
    Mistake(
        "dropped_records_are_an_edit",
        "gated.hq.keeping",
        "a full outbox at the lane looks as if somebody had forged records",
        "            or stored == last_of(record.kind, record.clear)\n"
        "            or chain == last_of(kind, loads(clear.encode()))\n",
        "",
        range(120),
    ),
    Mistake(
        "set_aside_before_its_turn",
        "gated.hq.intake",
        "the lane goes on behind a record that HQ never comes to",
        "return begin <= stream.head.seq + 1",
        "return True",
        range(120),
    ),
    Mistake(
        "hole_without_a_word",
        "gated.hq.intake",
        "HQ goes without records and nobody can read which",
        "self._hole(site, head, head.seq + 1, last, why)\n        self._kept",
        "self._kept",
    ),
    Mistake(
        "chapter_let_go_unnoticed",
        "gated.hq.intake",
        "HQ was restored, the lane has nothing of a former chapter any more, and nobody says that its end is missing",
        "            self._skip(site, stream, *stream.end, GONE)",
        "            pass",
        range(2, 600, 10),
    ),
    Mistake(
        "birth_not_told_again",
        "gated.uplink.line",
        "a birth was lost, HQ never speaks of the new chapter, and its going back is not noticed there",
        "blind = pong and not self._acked_at_ping.keys() <= {head.stream_id for head in receipt.heads}",
        "blind = False",
        range(8, 600, 10),
    ),
    Mistake(
        "refused_not_counted",
        "gated.hq.intake",
        "a record that HQ's code fails on is sent again for ever, and holds up its stream",
        "often = addressed and self._kept.refused_before(lane, mark) + 1 >= self.REFUSALS_MAX",
        "often = False",
    ),
    Mistake(
        "acknowledged_before_it_is_durable",
        "gated.hq.intake",
        "HQ answers for a record that it only holds",
        'return Taken(Fate.HELD, *identity, chain, stream.head, "records before it are missing")',
        'return Taken(Fate.STORED, *identity, chain, stream.head.after(record), "")',
    ),
    Mistake(
        "marker_without_its_hash",
        "gated.store.outbox",
        "what stands for dropped records breaks the chain behind it",
        "RecordsDropped(begin, last.seq, head_of(last.encode()))",
        "RecordsDropped(begin, last.seq, first.prev)",
    ),
    Mistake(
        "forgotten_acks_are_a_gap",
        "gated.hq.sessions",
        "uplink.db was damaged, and HQ says that somebody took records out of the lane",
        "first = max(gap.first, self._head(lane, gap.stream_id).seq + 1)",
        "first = gap.first",
    ),
)
MISTAKES: Final = {mistake.name: mistake for mistake in _ALL}


class OutOfDate(Exception):
    """The place of a mistake is not in the code any more, or more than once."""


@contextmanager
def planted(mistake: Mistake) -> Iterator[None]:
    """The mistake is in the code of this process. Raises `OutOfDate`."""
    module = importlib.import_module(mistake.module)
    assert module.__file__ is not None
    text = Path(module.__file__).read_text(encoding="utf-8")
    if text.count(mistake.old) != 1:
        raise OutOfDate(f"{mistake.name}: its place is found {text.count(mistake.old)} times in {mistake.module}")
    before = _codes(compile(text, module.__file__, "exec", dont_inherit=True))
    after = _codes(compile(text.replace(mistake.old, mistake.new), module.__file__, "exec", dont_inherit=True))
    with ExitStack() as stack:
        changed = [
            each
            for each in _functions(module)
            if not _same(before.get(each.__qualname__), after.get(each.__qualname__))
        ]
        assert changed, f"{mistake.name}: nothing was planted"
        for each in changed:
            stack.callback(setattr, each, "__code__", each.__code__)
            each.__code__ = after[each.__qualname__]
        yield


def _codes(code: types.CodeType) -> dict[str, types.CodeType]:
    """The code of every function in a module's."""
    inner = [each for each in code.co_consts if isinstance(each, types.CodeType)]
    return {each.co_qualname: each for each in inner} | {k: v for each in inner for k, v in _codes(each).items()}


def _functions(module: types.ModuleType) -> list[types.FunctionType]:
    """A module's functions, and its classes' methods."""
    own = [each for each in vars(module).values() if getattr(each, "__module__", "") == module.__name__]
    inner = [each for cls in own if isinstance(cls, type) for each in vars(cls).values()]
    return [each for each in (*own, *inner) if isinstance(each, types.FunctionType)]


def _same(one: types.CodeType | None, other: types.CodeType | None) -> bool:
    """Whether two functions do the same, wherever in their file they stand."""
    if one is None or other is None:
        return True
    if (one.co_code, one.co_names, len(one.co_consts)) != (other.co_code, other.co_names, len(other.co_consts)):
        return False
    pairs = zip(one.co_consts, other.co_consts, strict=True)
    return all(_same(a, b) if isinstance(a, types.CodeType) else a == b for a, b in pairs)
