"""The ``where`` of an engage query: the documented expressions, and the casts that Mixpanel's own client sends.

Sources: docs.mixpanel.com reference/segmentation-expressions (grammar, types, what is undefined); for ``datetime()``
and ``NOW`` mixpanel-headless, _internal/query/user_builders.py. Python's parser reads it, as the grammar is part of its
own.
Refused, since no source gives their rules: ``boolean()``, ``list()``, ``user["..."]``, ``$distinct_id``, and
``datetime()`` of a text in another format.
"""

import ast
import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeAlias

from cohort_pipelines.core import clock
from cohort_pipelines.devtools.standins.population import Properties

Value: TypeAlias = Any  # None is undefined
Evaluate: TypeAlias = Callable[[Properties], Value]

_DATETIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d")
_DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_CANONICAL = "$distinct_id"
_TYPES = {
    type(None): "undefined",
    bool: "boolean",
    int: "number",
    float: "number",
    str: "string",
    datetime: "datetime",
    list: "list",
}
_LAST_SECOND = 0xFFFFFFFF  # larger numbers are milliseconds


class ExpressionRefused(ValueError):
    """An expression that cannot be read, or whose rules are published nowhere."""


def selector(expression: str) -> Callable[[Properties], bool]:
    """Return the test of a profile that ``expression`` stands for; the test raises ExpressionRefused too.

    Raises:
        ExpressionRefused: it is no expression, or one that is not evaluated here.
    """
    try:
        evaluate = _compiled(ast.parse(expression.strip(), mode="eval").body)
    except ExpressionRefused:
        raise
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        message = "the expression cannot be read"
        raise ExpressionRefused(message) from None
    return lambda profile: _truth(evaluate(profile))


def type_of(value: Value) -> str:
    """Return Mixpanel's name of the type of a value."""
    return _TYPES.get(type(value), "object")


def as_datetime(value: Value) -> datetime | None:
    """Return what ``datetime()`` makes of a value; the project's time zone is UTC."""
    match type_of(value):
        case "datetime":
            moment: datetime = value
            return moment
        case "string" if _DATETIME.fullmatch(value):
            try:
                return datetime.fromisoformat(value).replace(tzinfo=UTC)
            except ValueError:
                return None
        case "number" if 0 < value <= _LAST_SECOND * 1000:
            return datetime.fromtimestamp(value if value <= _LAST_SECOND else value / 1000, UTC)
        case _:
            return None


def _compiled(node: ast.expr) -> Evaluate:
    match node:
        case ast.Constant(value=value) if type(value) in (int, float, str):
            return lambda _profile: value
        case ast.Name(id="true" | "false" as name):
            return lambda _profile: name == "true"
        case ast.Name(id="NOW"):
            return lambda _profile: int(clock.now().timestamp())
        case ast.Subscript(value=ast.Name(id="properties"), slice=ast.Constant(value=str(name))) if name != _CANONICAL:
            return lambda profile: profile.get(name)
    operation, operands = _operation(node)
    function, compiled = _FUNCTIONS.get(operation), [_compiled(operand) for operand in operands]
    if function is None:
        message = f"{ast.unparse(node)} is not supported"
        raise ExpressionRefused(message)
    return lambda profile: function(*[evaluate(profile) for evaluate in compiled])


def _operation(node: ast.expr) -> tuple[str | type[ast.AST], Sequence[ast.expr]]:
    """Return the name that ``_FUNCTIONS`` has for a node, if it has any, and the operands."""
    match node:
        case ast.UnaryOp(op=op, operand=operand):
            return type(op), [operand]
        case ast.BoolOp(op=op, values=values):
            return type(op), values
        case ast.Compare(left=left, ops=[ast.In()], comparators=[ast.List(elts=items)]):
            return ast.List, [left, *items]
        case ast.BinOp(left=left, op=op, right=right) | ast.Compare(left=left, ops=[op], comparators=[right]):
            return type(op), [left, right]
        case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]) if not _in_another_format(name, argument):
            return name, [argument]
        case _:
            return "", []


def _in_another_format(name: str, argument: ast.expr) -> bool:
    return name == "datetime" and isinstance(argument, ast.Constant) and as_datetime(argument.value) is None


def _truth(value: Value) -> bool:
    if value is None or isinstance(value, bool):
        return value is True
    message = f"a {type_of(value)} stands where a boolean must"
    raise ExpressionRefused(message)


def _equal(one: Value, other: Value) -> bool:
    return type_of(one) == type_of(other) and bool(one == other)


def _in(value: Value, *items: Value) -> bool:
    return any(_equal(value, item) for item in items)


def _contained(part: Value, whole: Value) -> bool | None:
    if isinstance(whole, list):
        return _in(part, *whole)
    return part in whole if type_of(part) == type_of(whole) == "string" else None


def _ordered(compare: Callable[[Any, Any], bool]) -> Callable[[Value, Value], bool | None]:
    # two strings too: airbyte's connector compares $last_seen with a string
    def ordered(one: Value, other: Value) -> bool | None:
        comparable = type_of(one) == type_of(other) and type_of(one) in ("number", "string", "datetime")
        return compare(one, other) if comparable else None

    return ordered


def _numeric(compute: Callable[..., Value]) -> Callable[..., Value]:
    def numeric(*values: Value) -> Value:
        try:
            return compute(*values) if all(type_of(value) == "number" for value in values) else None
        except (ArithmeticError, ValueError):  # a divisor of 0
            return None

    return numeric


def _added(one: Value, other: Value) -> Value:
    return one + other if type_of(one) == type_of(other) and type_of(one) in ("number", "string") else None


def _as_string(value: Value) -> str | None:
    match type_of(value):
        case "string":
            text: str = value
            return text
        case "number":
            return f"{value:.15g}"
        case "boolean":
            return "true" if value else "false"
        case _:
            return None


def _as_number(value: Value) -> float | None:
    if isinstance(value, bool | int | float):
        return float(value)
    return float(value) if isinstance(value, str) and _DECIMAL.fullmatch(value) else None


_FUNCTIONS: Mapping[str | type[ast.AST], Callable[..., Value]] = {
    ast.Not: lambda value: not value if value is None or isinstance(value, bool) else None,
    ast.And: lambda *values: all(tuple(map(_truth, values))),
    ast.Or: lambda *values: any(tuple(map(_truth, values))),
    ast.Eq: _equal,
    ast.NotEq: lambda one, other: not _equal(one, other),
    ast.In: _contained,
    ast.List: _in,
    ast.Gt: _ordered(operator.gt),
    ast.GtE: _ordered(operator.ge),
    ast.Lt: _ordered(operator.lt),
    ast.LtE: _ordered(operator.le),
    ast.USub: _numeric(operator.neg),
    ast.Add: _added,
    ast.Sub: _numeric(operator.sub),
    ast.Mult: _numeric(operator.mul),
    ast.Div: _numeric(operator.truediv),
    ast.Mod: _numeric(math.fmod),  # with the sign of the dividend
    "floor": _numeric(math.floor),
    "ceil": _numeric(math.ceil),
    "round": _numeric(lambda value: math.floor(value + 0.5)),
    "string": _as_string,
    "number": _as_number,
    "defined": lambda value: value is not None,
    "datetime": as_datetime,
}
