"""Mutants of the code that decides: what `tests.hw_sim.mutants_policy` plants in functions of gated/lane.

The operators on code are stated in `tests.hw_sim.mutants_policy_operators`. Beside them:

* order: a rule left out of BEFORE_ENTRY or BEFORE_EXIT, two neighbours exchanged
* default: what holds where the policy leaves an option out

Not touched: `cites` (names for the documents), and what the modules say of reasons (`IN_THE_LANE`, `REASONS`).

A mutant is planted by exchanging the function's code object, so whoever imported the function has the mutant; nothing
is imported twice, and taking it back is one assignment."""

import ast
import copy
import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import MISSING, dataclass, fields
from datetime import date
from enum import Enum
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any, Final

from tests.hw_sim.mutants_policy_operators import blocks, variants, words

MODULES: Final = ("entitlement", "policy", "proof", "calendar", "freshness", "rules", "evidence")
UNTOUCHED: Final = frozenset({"cites", "with_found", "_names"})
"""`cites` runs at import; the others decide nothing: one is `dataclasses.replace`, one puts words in error messages."""
CONSTANTS: Final = {
    "policy": ("_NO_CLONE",),
    "proof": ("TRIES_A_FINGER",),
    "calendar": ("ONE_DAY",),
    "freshness": ("AHEAD_S_MAX", "_RANKS"),
    "rules": (
        "DIRECTIONS",
        "PARTITIONS",
        "EVIDENCE_THAT_MAY_BE_MISSING",
        "NAME_MAX",
        "KINDS_KEPT",
        "PICTURES",
        "PICTURED",
        "KEEP_DAYS_MAX",
    ),
}
ORDERS: Final = ("BEFORE_ENTRY", "BEFORE_EXIT")
DEFAULTS: Final = ("Category", "DocumentKind", "Where", "ControlRule", "Origin", "Picture", "Rules")


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change. `plant` makes it, for as long as the context lasts."""

    name: str
    operator: str
    plant: Callable[[], AbstractContextManager[None]]


def code_mutants() -> Iterator[Mutant]:
    """Every mutant of the code, in the order of the files."""
    for name in MODULES:
        module = importlib.import_module(f"gated.lane.{name}")
        tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
        for path, function in _functions(tree):
            if path.split(".")[-1] not in UNTOUCHED:
                yield from _of_function(module, path, function)
        yield from _of_constants(module, tree, CONSTANTS.get(name, ()))
    yield from _of_orders()
    yield from _of_defaults()


def _functions(tree: ast.Module) -> Iterator[tuple[str, ast.FunctionDef]]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            yield node.name, node
        elif isinstance(node, ast.ClassDef):
            yield from ((f"{node.name}.{each.name}", each) for each in node.body if isinstance(each, ast.FunctionDef))


# -- functions -----------------------------------------------------------------------------------------------------


def _of_function(module: ModuleType, path: str, function: ast.FunctionDef) -> Iterator[Mutant]:
    target = _target(module, path)
    where = f"{module.__name__.rsplit('.', 1)[-1]}.{path}"
    seen: dict[str, int] = {}
    bare = _bare(function)
    for operator, told, changed in variants(bare, predicate=_is_predicate(function)):
        seen[told] = seen.get(told, 0) + 1
        name = f"{where}: {told}" + (f" #{seen[told]}" if seen[told] > 1 else "")
        compiled = _compiled(changed, module, target)
        yield Mutant(
            name,
            operator,
            partial(lambda target, compiled: _exchanged(target, *compiled), target=target, compiled=compiled),
        )


def _bare(function: ast.FunctionDef) -> ast.FunctionDef:
    """Without decorators, annotations and docstrings: none of them decides anything."""
    bare = copy.deepcopy(function)
    bare.decorator_list = []
    for node in ast.walk(bare):
        if isinstance(node, ast.FunctionDef):
            node.returns = None
            if ast.get_docstring(node, clean=False) is not None:
                node.body = node.body[1:] or [ast.Pass()]
        elif isinstance(node, ast.arg):
            node.annotation = None
    for node in ast.walk(bare):
        for block in blocks(node):
            block[:] = [
                ast.Assign([each.target], each.value) if isinstance(each, ast.AnnAssign) and each.value else each
                for each in block
            ]
    return ast.fix_missing_locations(bare)


def _is_predicate(function: ast.FunctionDef) -> bool:
    return isinstance(function.returns, ast.Name) and function.returns.id == "bool"


def _target(module: ModuleType, path: str) -> FunctionType:
    """The function object that everybody calls."""
    found: Any = module
    for name in path.split("."):
        found = vars(found)[name]
    if isinstance(found, property):
        found = found.fget
    assert isinstance(found, FunctionType), f"{path} is no plain function"
    return found


Compiled = tuple[CodeType, tuple[Any, ...] | None]


def _compiled(function: ast.FunctionDef, module: ModuleType, target: FunctionType) -> Compiled:
    made = compile(ast.Module([function], []), str(module.__file__), "exec")
    code = next(each for each in made.co_consts if isinstance(each, CodeType) and each.co_name == function.name)
    assert code.co_freevars == target.__code__.co_freevars == (), f"{function.name} is a closure"
    defaults = tuple(eval(ast.unparse(each), vars(module)) for each in function.args.defaults)
    return code, defaults or None


@contextmanager
def _exchanged(target: FunctionType, code: CodeType, defaults: tuple[Any, ...] | None) -> Iterator[None]:
    before = target.__code__, target.__defaults__
    target.__code__, target.__defaults__ = code, defaults
    try:
        yield
    finally:
        target.__code__, target.__defaults__ = before


# -- what stands beside the functions ------------------------------------------------------------------------------


@contextmanager
def _set_everywhere(before: Any, name: str, value: Any) -> Iterator[None]:
    """A module's constant, also where it was imported by its name."""
    homes = [
        module
        for key, module in list(sys.modules.items())
        if key.startswith("gated.") and vars(module).get(name, MISSING) is before
    ]
    assert homes, f"nobody has {name}"
    for module in homes:
        setattr(module, name, value)
    try:
        yield
    finally:
        for module in homes:
            setattr(module, name, before)


def _of_constants(module: ModuleType, tree: ast.Module, names: tuple[str, ...]) -> Iterator[Mutant]:
    for node in tree.body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if not isinstance(target, ast.Name) or target.id not in names:
            continue
        assert isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None
        before = vars(module)[target.id]
        for operator, told, changed in _constant_variants(node.value):
            value = eval(compile(changed, str(module.__file__), "eval"), vars(module))
            name = f"{module.__name__.rsplit('.', 1)[-1]}.{target.id}: {told}"
            yield Mutant(name, operator, partial(_set_everywhere, before, target.id, value))


def _constant_variants(value: ast.expr) -> Iterator[tuple[str, str, Any]]:
    yield from variants(ast.fix_missing_locations(ast.Expression(value)), predicate=False)
    for node in ast.walk(value):
        if isinstance(node, ast.Set):
            for place, each in enumerate(node.elts):
                changed = ast.Expression(copy.deepcopy(value))
                found = next(s for s in ast.walk(changed) if isinstance(s, ast.Set))
                del found.elts[place]
                if found.elts:
                    yield "constant", f"without {words(each)}", ast.fix_missing_locations(changed)


def _of_orders() -> Iterator[Mutant]:
    """A change of BEFORE_ENTRY is one of BEFORE_EXIT too, which begins with it."""
    policy = importlib.import_module("gated.lane.policy")
    entry, whole = (getattr(policy, name) for name in ORDERS)
    rest = whole[len(entry) :]
    assert whole == (*entry, *rest), "BEFORE_EXIT begins with BEFORE_ENTRY"

    @contextmanager
    def ordered(entry_now: tuple[Any, ...], rest_now: tuple[Any, ...]) -> Iterator[None]:
        both = (*entry_now, *rest_now)
        with _set_everywhere(entry, ORDERS[0], entry_now), _set_everywhere(whole, ORDERS[1], both):
            yield

    for place, rule in enumerate(whole):
        left = (*whole[:place], *whole[place + 1 :])
        cut = len(entry) - (place < len(entry))
        name = ORDERS[place >= len(entry)]
        yield Mutant(
            f"policy.{name}: without {rule.__name__}",
            "order",
            partial(lambda o, c: ordered(o[:c], o[c:]), o=left, c=cut),
        )
    for place, (rule, after) in enumerate(pairwise(whole)):
        if place == len(entry) - 1:
            continue  # not neighbours in the file: one ends the first tuple, one begins the second
        swapped = (*whole[:place], after, rule, *whole[place + 2 :])
        name, cut = ORDERS[place >= len(entry)], len(entry)
        told = f"policy.{name}: {after.__name__} before {rule.__name__}"
        yield Mutant(told, "order", partial(lambda o, c: ordered(o[:c], o[c:]), o=swapped, c=cut))


def _of_defaults() -> Iterator[Mutant]:
    rules = importlib.import_module("gated.lane.rules")
    for name in DEFAULTS:
        made = getattr(rules, name)
        init = made.__init__
        optional = [each for each in fields(made) if each.init and each.default is not MISSING]
        arguments = init.__code__.co_varnames[1 : init.__code__.co_argcount]
        first = len(arguments) - len(init.__defaults__ or ())
        for each in optional:
            place = arguments.index(each.name) - first
            assert init.__defaults__[place] == each.default, "a default stands where it is read"
            for value in _other_values(each.default):
                changed = (*init.__defaults__[:place], value, *init.__defaults__[place + 1 :])
                told = f"rules.{name}.{each.name}: {_value(value)} where it is left out"
                plant = partial(_exchanged, init, init.__code__, changed)
                yield Mutant(told, "default", plant)


def _other_values(value: Any) -> tuple[Any, ...]:
    if isinstance(value, bool):
        return (not value,)
    if isinstance(value, Enum):
        return tuple(each for each in type(value) if each is not value)
    if isinstance(value, int):
        return value - 1, value + 1
    if isinstance(value, date):
        return (date(2026, 11, 20),)
    if isinstance(value, str):
        return ("stay",)
    if isinstance(value, frozenset):
        return (value | {"entry"},) if not value else (frozenset(sorted(value)[1:]), frozenset())
    assert value is None, f"no operator for {value!r}"
    return (1,)


def _value(value: Any) -> str:
    if isinstance(value, frozenset):
        return "{" + ", ".join(sorted(value)) + "}"
    return str(value.value) if isinstance(value, Enum) else str(value)
