"""Operators on code, by its syntax tree; see `tests.hw_sim.mutants_policy_code`.

Each is applied at every place where it fits, one place a mutant:

* comparison: `<` to `<=` and `>=`, `<=` to `<` and `>`, and so on; `==`/`!=`, `in`/`not in`, `is`/`is not` flipped
* logic: `and`/`or` exchanged, each operand left out, `not` left out, `not` put before a condition
* constant: a number 1 more and 1 less, a truth value flipped, a string changed, a member of a set left out
* answer: a predicate that returns True, or False; any other function that returns None
* branch: a condition that is always true, or never; a filter of a comprehension left out
* statement: left out
* exchange: min/max, any/all, | & -, + -, *; and names that could be taken for each other (entry/exit, start/end, ...)

Not touched: assertions, and the words of error messages."""

import ast
import copy
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Final

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
    text = words(node)
    bare = isinstance(node, ast.UnaryOp | ast.Constant) or (isinstance(node, ast.Compare) and len(node.ops) == 1)
    if condition and not bare:
        yield "logic", f"not ({text})", lambda n: ast.UnaryOp(ast.Not(), n)
    if isinstance(node, ast.Compare):
        for place, op in enumerate(node.ops):
            for other in _COMPARE[type(op)]:
                yield "comparison", f"{text}: {_sign(op)} is {_sign(other())}", _compares(place, other)
    elif isinstance(node, ast.BoolOp):
        other_op = ast.Or if isinstance(node.op, ast.And) else ast.And
        yield (
            "logic",
            f"{text}: {other_op.__name__.lower()}",
            partial(lambda n, op: ast.BoolOp(op(), n.values), op=other_op),
        )
        for place, each in enumerate(node.values):
            yield "logic", f"{text}: without {words(each)}", _operand_left_out(place)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield "logic", f"{text}: without not", lambda n: n.operand
    elif isinstance(node, ast.BinOp | ast.AugAssign):
        for made in _ARITHMETIC.get(type(node.op), ()):
            yield "exchange", f"{text}: {made.__name__}", _with_op(made)
    elif isinstance(node, ast.Constant):
        yield from _of_constant(node)
    elif isinstance(node, ast.Return) and node.value is not None:
        for answer in (True, False) if predicate else (None,):
            if words(node.value) != str(answer):
                yield "answer", f"{text}: return {answer}", partial(lambda n, a: ast.Return(ast.Constant(a)), a=answer)
    elif isinstance(node, ast.Name | ast.Attribute):
        name = node.id if isinstance(node, ast.Name) else node.attr
        if name in _OTHER and isinstance(node.ctx, ast.Load):
            yield "exchange", f"{text}: {_OTHER[name]}", _renamed(_OTHER[name])
    elif isinstance(node, ast.comprehension):
        for place, each in enumerate(node.ifs):
            yield "branch", f"without if {words(each)}", _filter_left_out(place)
    if isinstance(node, ast.If | ast.IfExp | ast.While):
        for answer in (True, False):
            yield "branch", f"if {words(node.test)}: always {answer}", _decided(answer)
    if isinstance(node, ast.Assign | ast.AugAssign | ast.Expr | ast.Raise | ast.For | ast.Continue | ast.Break):
        yield "statement", f"without {text}", lambda _: None


def _of_constant(node: ast.Constant) -> Iterator[Change]:
    value = node.value
    if isinstance(value, bool):
        yield "constant", f"{value} is {not value}", lambda _: ast.Constant(not value)
    elif isinstance(value, int | float):
        for more in (1, -1):
            yield (
                "constant",
                f"{value} is {value + more}",
                partial(lambda _, made: ast.Constant(made), made=value + more),
            )
    elif isinstance(value, str):
        yield "constant", f"{value!r} changed", lambda _: ast.Constant(value + "?")


def words(node: ast.AST) -> str:
    """Its first line, not too long."""
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


def blocks(node: ast.AST) -> Iterator[list[ast.stmt]]:
    """The statements inside a statement."""
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
