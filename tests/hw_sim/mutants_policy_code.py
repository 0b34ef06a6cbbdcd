"""Mutants of the code that decides: what `tests.hw_sim.mutants_policy` plants in functions of gated/lane.

Operators, each applied at every place where it fits, one place a mutant:

* comparison: `<` to `<=` and `>=`, `<=` to `<` and `>`, and so on; `==`/`!=`, `in`/`not in`, `is`/`is not` flipped
* logic: `and`/`or` exchanged, each operand left out, `not` left out, `not` put before a condition
* constant: a number 1 more and 1 less, a truth value flipped, a string changed
* answer: a predicate that returns True, or False; any other function that returns None
* branch: a condition that is always true, or never; a filter of a comprehension left out
* statement: left out
* exchange: min/max, any/all, | & -, + -, *; and names that could be taken for each other (entry/exit, start/end, ...)
* order: a rule left out of BEFORE_ENTRY or BEFORE_EXIT, two neighbours exchanged
* default: what holds where the policy leaves an option out

Not touched: assertions, docstrings, annotations, the words of error messages, and `cites` (names for the documents).

A mutant is planted by exchanging the function's code object, so whoever imported the function has the mutant; nothing
is imported twice, and taking it back is one assignment."""

import ast
import copy
import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import MISSING, dataclass, fields
from datetime import date
from enum import Enum
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any, Final

MODULES: Final = ("entitlement", "policy", "proof", "calendar", "freshness", "rules", "evidence")
UNTOUCHED: Final = frozenset({"cites", "with_found", "_names"})
"""`cites` runs at import; the others decide nothing: one is `dataclasses.replace`, one puts words in error messages."""
CONSTANTS: Final = {
    "policy": ("_NO_CLONE",),
    "proof": ("TRIES_A_FINGER",),
    "calendar": ("ONE_DAY",),
    "freshness": ("AHEAD_S_MAX", "_RANKS"),
    "rules": ("DIRECTIONS", "PARTITIONS", "EVIDENCE_THAT_MAY_BE_MISSING", "NAME_MAX", "KINDS_KEPT"),
}
ORDERS: Final = ("BEFORE_ENTRY", "BEFORE_EXIT")
DEFAULTS: Final = ("Category", "DocumentKind", "Where", "ControlRule", "Origin", "Rules")

_COMPARE: Final[Mapping[type[ast.cmpop], tuple[type[ast.cmpop], ...]]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
}
_ARITHMETIC: Final[Mapping[type[ast.operator], tuple[type[ast.operator], ...]]] = {
    ast.Add: (ast.Sub,),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Add,),
    ast.BitOr: (ast.BitAnd, ast.Sub),
    ast.BitAnd: (ast.BitOr, ast.Sub),
}
_PAIRS: Final = (
    *(("min", "max"), ("any", "all"), ("ENTRY", "EXIT"), ("entry", "exit"), ("entered", "left"), ("start", "end")),
    *(("since", "until"), ("entry_permits", "exit_permits"), ("issuers", "other_than"), ("first", "second")),
    *(("late_s", "stale_s"), ("people_as_of", "control_as_of"), ("age_years_min", "height_cm_min")),
    *(("enrolled_on", "received_on"), ("days_off", "workdays"), ("fmr", "weak_fmr"), ("named", "rest")),
)
_OTHER: Final = {a: b for one, two in _PAIRS for a, b in ((one, two), (two, one))}
_GLOBAL: Final = frozenset({"min", "max", "any", "all", "ENTRY", "EXIT"})


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
        yield Mutant(name, operator, lambda target=target, compiled=compiled: _exchanged(target, *compiled))


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
        for block in _blocks(node):
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


# -- operators -----------------------------------------------------------------------------------------------------

Change = tuple[str, str, Callable[[Any], ast.AST | None]]
"""Operator, what is said of it, and what makes of the node another one; None: the statement goes."""


def variants(root: ast.FunctionDef | ast.Expression, predicate: bool) -> Iterator[tuple[str, str, Any]]:
    """(operator, what changed, the changed tree), one place each. `predicate`: what is returned is True or False."""
    nodes = list(ast.walk(root))
    known = {each.arg for each in nodes if isinstance(each, ast.arg)} | _GLOBAL
    known |= {each.id for each in nodes if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)}
    silent = _silent(root) | {id(n) for n in nodes if isinstance(n, ast.Name) and _OTHER.get(n.id, n.id) not in known}
    conditions = _conditions(root, predicate)
    for index, node in enumerate(nodes):
        if id(node) in silent:
            continue
        for operator, told, change in _changes(node, id(node) in conditions, predicate):
            changed = copy.deepcopy(root)
            _put(changed, list(ast.walk(changed))[index], change)
            yield operator, told, ast.fix_missing_locations(changed)


def _silent(root: ast.AST) -> set[int]:
    """Nodes that are not touched: assertions, and the words of error messages."""
    found: set[int] = set()
    for node in ast.walk(root):
        if isinstance(node, ast.Assert | ast.JoinedStr):
            found |= {id(each) for each in ast.walk(node)}
        elif isinstance(node, ast.Raise | ast.Yield):
            found |= {id(each) for each in ast.walk(node) if each is not node}
    return found


def _conditions(root: ast.AST, predicate: bool) -> set[int]:
    """Expressions of which only the truth counts."""
    found: set[int] = set()
    for node in ast.walk(root):
        if isinstance(node, ast.If | ast.IfExp | ast.While):
            found.add(id(node.test))
        elif isinstance(node, ast.comprehension):
            found |= {id(each) for each in node.ifs}
        elif isinstance(node, ast.Return) and predicate and node.value is not None:
            found.add(id(node.value))
    for node in ast.walk(root):  # from the outside in
        if isinstance(node, ast.BoolOp) and id(node) in found:
            found |= {id(each) for each in node.values}
    return found


def _changes(node: ast.AST, condition: bool, predicate: bool) -> Iterator[Change]:
    text = _words(node)
    bare = isinstance(node, ast.UnaryOp | ast.Constant) or (isinstance(node, ast.Compare) and len(node.ops) == 1)
    if condition and not bare:
        yield "logic", f"not ({text})", lambda n: ast.UnaryOp(ast.Not(), n)
    if isinstance(node, ast.Compare):
        for place, op in enumerate(node.ops):
            for other in _COMPARE[type(op)]:
                yield "comparison", f"{text}: {_sign(op)} is {_sign(other())}", _compares(place, other)
    elif isinstance(node, ast.BoolOp):
        other_op = ast.Or if isinstance(node.op, ast.And) else ast.And
        yield "logic", f"{text}: {other_op.__name__.lower()}", lambda n, op=other_op: ast.BoolOp(op(), n.values)
        for place, each in enumerate(node.values):
            yield "logic", f"{text}: without {_words(each)}", _operand_left_out(place)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield "logic", f"{text}: without not", lambda n: n.operand
    elif isinstance(node, ast.BinOp | ast.AugAssign):
        for made in _ARITHMETIC.get(type(node.op), ()):
            yield "exchange", f"{text}: {made.__name__}", _with_op(made)
    elif isinstance(node, ast.Constant):
        yield from _of_constant(node)
    elif isinstance(node, ast.Return) and node.value is not None:
        for answer in (True, False) if predicate else (None,):
            if _words(node.value) != str(answer):
                yield "answer", f"{text}: return {answer}", lambda n, a=answer: ast.Return(ast.Constant(a))
    elif isinstance(node, ast.Name | ast.Attribute):
        name = node.id if isinstance(node, ast.Name) else node.attr
        if name in _OTHER and isinstance(node.ctx, ast.Load):
            yield "exchange", f"{text}: {_OTHER[name]}", _renamed(_OTHER[name])
    elif isinstance(node, ast.comprehension):
        for place, each in enumerate(node.ifs):
            yield "branch", f"without if {_words(each)}", _filter_left_out(place)
    if isinstance(node, ast.If | ast.IfExp | ast.While):
        for answer in (True, False):
            yield "branch", f"if {_words(node.test)}: always {answer}", _decided(answer)
    if isinstance(node, ast.Assign | ast.AugAssign | ast.Expr | ast.Raise | ast.For | ast.Continue | ast.Break):
        yield "statement", f"without {text}", lambda _: None


def _of_constant(node: ast.Constant) -> Iterator[Change]:
    value = node.value
    if isinstance(value, bool):
        yield "constant", f"{value} is {not value}", lambda _: ast.Constant(not value)
    elif isinstance(value, int | float):
        for more in (1, -1):
            yield "constant", f"{value} is {value + more}", lambda _, made=value + more: ast.Constant(made)
    elif isinstance(value, str):
        yield "constant", f"{value!r} changed", lambda _: ast.Constant(value + "?")


def _words(node: ast.AST) -> str:
    text = ast.unparse(node).split("\n", 1)[0]
    return text if len(text) <= 90 else text[:87] + "..."


def _sign(op: ast.cmpop) -> str:
    return ast.unparse(ast.Compare(ast.Name("a"), [op], [ast.Name("b")]))[2:-2]


def _compares(place: int, made: type[ast.cmpop]) -> Callable[[Any], ast.AST]:
    def change(node: ast.Compare) -> ast.AST:
        node.ops[place] = made()
        return node

    return change


def _operand_left_out(place: int) -> Callable[[Any], ast.AST]:
    def change(node: ast.BoolOp) -> ast.AST:
        rest = [each for number, each in enumerate(node.values) if number != place]
        return rest[0] if len(rest) == 1 else ast.BoolOp(node.op, rest)

    return change


def _with_op(made: type[ast.operator]) -> Callable[[Any], ast.AST]:
    def change(node: Any) -> ast.AST:
        node.op = made()
        return node  # type: ignore[no-any-return]  # BinOp or AugAssign, as it came

    return change


def _renamed(name: str) -> Callable[[Any], ast.AST]:
    def change(node: ast.Name | ast.Attribute) -> ast.AST:
        return ast.Name(name, node.ctx) if isinstance(node, ast.Name) else ast.Attribute(node.value, name, node.ctx)

    return change


def _filter_left_out(place: int) -> Callable[[Any], ast.AST]:
    def change(node: ast.comprehension) -> ast.AST:
        del node.ifs[place]
        return node

    return change


def _decided(answer: bool) -> Callable[[Any], ast.AST]:
    def change(node: ast.If | ast.IfExp | ast.While) -> ast.AST:
        node.test = ast.Constant(answer)
        return node

    return change


def _blocks(node: ast.AST) -> Iterator[list[ast.stmt]]:
    for name in ("body", "orelse", "finalbody"):
        block = getattr(node, name, None)
        if isinstance(block, list):
            yield block


def _put(root: ast.AST, node: ast.AST, change: Callable[[Any], ast.AST | None]) -> None:
    """Exchange `node` where it stands in `root`."""
    for parent in ast.walk(root):
        for name, value in ast.iter_fields(parent):
            if value is node:
                setattr(parent, name, change(node))
                return
            if isinstance(value, list) and any(each is node for each in value):
                place = next(number for number, each in enumerate(value) if each is node)
                value[place] = change(node) or ast.Pass()
                return
    raise AssertionError("the node is not in the tree")


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
            yield Mutant(name, operator, lambda b=before, n=target.id, v=value: _set_everywhere(b, n, v))


def _constant_variants(value: ast.expr) -> Iterator[tuple[str, str, Any]]:
    yield from variants(ast.fix_missing_locations(ast.Expression(value)), predicate=False)
    for node in ast.walk(value):
        if isinstance(node, ast.Set):
            for place, each in enumerate(node.elts):
                changed = ast.Expression(copy.deepcopy(value))
                found = next(s for s in ast.walk(changed) if isinstance(s, ast.Set))
                del found.elts[place]
                if found.elts:
                    yield "constant", f"without {_words(each)}", ast.fix_missing_locations(changed)


def _of_orders() -> Iterator[Mutant]:
    """A change of BEFORE_ENTRY is one of BEFORE_EXIT too, which begins with it."""
    policy = importlib.import_module("gated.lane.policy")
    entry, whole = (getattr(policy, name) for name in ORDERS)
    rest = whole[len(entry) :]
    assert whole == (*entry, *rest), "BEFORE_EXIT begins with BEFORE_ENTRY"

    @contextmanager
    def ordered(entry_now: tuple[Any, ...], rest_now: tuple[Any, ...]) -> Iterator[None]:
        with _set_everywhere(entry, ORDERS[0], entry_now):
            with _set_everywhere(whole, ORDERS[1], (*entry_now, *rest_now)):
                yield

    for place, rule in enumerate(whole):
        left = (*whole[:place], *whole[place + 1 :])
        cut = len(entry) - (place < len(entry))
        name = ORDERS[place >= len(entry)]
        yield Mutant(f"policy.{name}: without {rule.__name__}", "order", lambda o=left, c=cut: ordered(o[:c], o[c:]))
    for place, (rule, after) in enumerate(zip(whole, whole[1:], strict=False)):
        if place == len(entry) - 1:
            continue  # not neighbours in the file: one ends the first tuple, one begins the second
        swapped = (*whole[:place], after, rule, *whole[place + 2 :])
        name, cut = ORDERS[place >= len(entry)], len(entry)
        told = f"policy.{name}: {after.__name__} before {rule.__name__}"
        yield Mutant(told, "order", lambda o=swapped, c=cut: ordered(o[:c], o[c:]))


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
                plant: Any = lambda i=init, c=changed: _exchanged(i, i.__code__, c)  # noqa: E731
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
