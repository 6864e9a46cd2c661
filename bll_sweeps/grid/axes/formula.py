"""Formulas f(p) written as text: parsed, never executed as code, with their derivative by forward differentiation.

    -(1 - p)**gamma * logp

Names are those of VARIABLES, of FUNCTIONS and of the formula's own parameters. Works on numpy arrays, torch tensors and
floats, and imports neither library. `1 - p` is computed as q, which keeps its relative accuracy where p is next to 1;
log(p) and powers of p from log p, which does not underflow.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

from bll_sweeps.errors import one_of

# logp: log p in nats; q: 1 - p; entropy: of the most probable tokens, 0 to 1, taken as a constant.
VARIABLES = ("logp", "p", "q", "entropy")
FUNCTIONS = ("exp", "log", "expm1", "log1p", "sqrt", "minimum", "maximum", "where", "constant")
_COMPARISONS = {ast.Lt: "lt", ast.LtE: "le", ast.Gt: "gt", ast.GtE: "ge"}
_ARGUMENTS = {"minimum": 2, "maximum": 2, "where": 3}

# A value and its derivative by log p: arrays, or floats where they are the same for all tokens.
Dual = tuple[Any, Any]
_CONSTANT = 0.0  # this very object is the derivative of what does not depend on p: nothing infinite is multiplied by it


class Formula:
    """A parsed formula. ValueError, with what is allowed, for anything but arithmetic on the names."""

    def __init__(self, text: str, parameters: Mapping[str, float] | None = None):
        self.parameters = {name: float(value) for name, value in (parameters or {}).items()}
        for name, value in self.parameters.items():
            if name in VARIABLES + FUNCTIONS or not name.isidentifier():
                raise ValueError(f"has a parameter {name!r}, which is no free name")
            if not math.isfinite(value):
                raise ValueError(f"has {name}={value}, which is not finite")
        self._tree = _parsed(text)
        self.names = {node.id for node in ast.walk(self._tree) if isinstance(node, ast.Name)} - set(FUNCTIONS)
        _check(self._tree, (*VARIABLES, *self.parameters))
        if isinstance(self._tree, ast.Compare):
            raise ValueError("is a comparison; choose between values by where(p < 0.2, a, b)")

    @property
    def text(self) -> str:
        """The same for every way of spacing it."""
        return ast.unparse(self._tree)

    def __call__(self, xp: Any, logp: Any, entropy: Any = None) -> Dual:
        """f of each token [any shape], and df / d log p = p f'(p). xp: numpy, torch or math, as logp is. Either may be
        a float, where it is the same for all tokens.
        """
        if "entropy" in self.names and entropy is None:
            raise ValueError(f"formula={self.text!r} needs the entropy of the distribution")
        return _Evaluation(xp, self._values(xp, logp, entropy)).of(self._tree)

    def _values(self, xp: Any, logp: Any, entropy: Any) -> dict[str, Dual]:
        p = xp.exp(logp)
        values = {"logp": (logp, 1.0), "p": (p, p), "q": (-xp.expm1(logp), -p), "entropy": (entropy, _CONSTANT)}
        return values | {name: (value, _CONSTANT) for name, value in self.parameters.items()}

    def near_zeros(self, logps: Sequence[float], entropy: float) -> list[float]:
        """Log p at which what must not be 0 is 0, or nearest to it: denominators, bases of powers, and what a logarithm
        or a root is taken of. logps: where to look, ascending; zeros closer together than these are may be missed.
        """
        found = []
        for node, offset in _delicate(self._tree):
            size = partial(self._size, node, offset, entropy)
            sizes = [size(logp) for logp in logps]
            for i in range(1, len(logps) - 1):
                if sizes[i - 1] > sizes[i] <= sizes[i + 1]:
                    found.append(_least(size, logps[i - 1], logps[i + 1]))
        return found

    def _size(self, node: ast.expr, offset: float, entropy: float, logp: float) -> float:
        """Of a part of the formula; nan where it has no value."""
        try:
            return abs(float(_Evaluation(math, self._values(math, logp, entropy)).of(node)[0]) + offset)
        except (ValueError, OverflowError, ZeroDivisionError, TypeError):
            return math.nan


def _delicate(tree: ast.expr) -> Iterator[tuple[ast.expr, float]]:
    """Parts of a formula that must not be 0, or not with what is given beside them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            yield node.right, 0.0
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
            yield node.left, 0.0
        elif (
            isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("log", "log1p", "sqrt")
        ):
            yield node.args[0], 1.0 if node.func.id == "log1p" else 0.0


def _least(size: Callable[[float], float], low: float, high: float) -> float:
    """Where `size`, which has one minimum between the two, is least: by thirds."""
    for _ in range(90):
        third = (high - low) / 3
        low, high = (low, high - third) if size(low + third) <= size(high - third) else (low + third, high)
    return (low + high) / 2


class _Evaluation:
    """Forward differentiation: each operation passes on its value and its derivative."""

    def __init__(self, xp: Any, values: Mapping[str, Dual]):
        self._xp, self._values = xp, values

    def of(self, node: ast.expr) -> Dual:
        if isinstance(node, ast.Constant):
            return float(node.value), _CONSTANT  # type: ignore[arg-type]
        if isinstance(node, ast.Name):
            return self._values[node.id]
        if isinstance(node, ast.UnaryOp):
            value, slope = self.of(node.operand)
            return (-value, _product(slope, -1.0)) if isinstance(node.op, ast.USub) else (value, slope)
        if isinstance(node, ast.BinOp):
            return self._operation(node)
        assert isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        return self._call(node.func.id, node.args)

    def _operation(self, node: ast.BinOp) -> Dual:
        if _is_one_minus_p(node):
            return self._values["q"]
        if _is_p(node.left) and isinstance(node.op, ast.Pow):
            (logp, _), (b, db) = self._values["logp"], self.of(node.right)
            power = self._xp.exp(b * logp)
            return power, power * _sum(b, _product(db, logp))
        (a, da), (b, db) = self.of(node.left), self.of(node.right)
        if isinstance(node.op, ast.Add):
            return a + b, _sum(da, db)
        if isinstance(node.op, ast.Sub):
            return a - b, _sum(da, _product(db, -1.0))
        if isinstance(node.op, ast.Mult):
            return a * b, _sum(_product(da, b), _product(db, a))
        if isinstance(node.op, ast.Div):
            return a / b, _sum(_product(da, 1.0 / b), _product(db, -a / (b * b)))
        if db is not _CONSTANT:  # a^b with b of p: exp(b log a)
            power = a**b
            return power, power * _sum(_product(db, self._log(a)), _product(da, b / a))
        return a**b, _CONSTANT if _is_zero(b) or da is _CONSTANT else _product(da, b * a ** (b - 1.0))

    def _call(self, name: str, arguments: list[ast.expr]) -> Dual:
        xp = self._xp
        if name == "where":
            test = self._test(arguments[0])
            if isinstance(test, bool):  # the other one need not have a value
                return self.of(arguments[1] if test else arguments[2])
            (a, da), (b, db) = self.of(arguments[1]), self.of(arguments[2])
            return xp.where(test, a, b), xp.where(test, da, db)
        if name == "log" and _is_p(arguments[0]):
            return self._values["logp"]
        a, da = self.of(arguments[0])
        if name in ("minimum", "maximum"):
            b, db = self.of(arguments[1])
            first = a <= b if name == "minimum" else a >= b
            if isinstance(first, bool):
                return (a, da) if first else (b, db)
            return xp.where(first, a, b), xp.where(first, da, db)
        if name == "constant":
            return a, _CONSTANT
        if isinstance(a, float) and da is _CONSTANT:
            return getattr(math, name)(a), _CONSTANT
        value = getattr(xp, name)(a)
        slope: Callable[[], Any] = {
            "exp": lambda: value,
            "expm1": lambda: xp.exp(a),
            "log": lambda: 1.0 / a,
            "log1p": lambda: 1.0 / (1.0 + a),
            "sqrt": lambda: 0.5 / value,
        }[name]
        return value, _CONSTANT if da is _CONSTANT else _product(da, slope())

    def _test(self, node: ast.expr) -> Any:
        assert isinstance(node, ast.Compare)
        a, b = self.of(node.left)[0], self.of(node.comparators[0])[0]
        kind = _COMPARISONS[type(node.ops[0])]
        return {"lt": lambda: a < b, "le": lambda: a <= b, "gt": lambda: a > b, "ge": lambda: a >= b}[kind]()

    def _log(self, a: Any) -> Any:
        return math.log(a) if isinstance(a, float) else self._xp.log(a)


def _is_zero(value: Any) -> bool:
    return isinstance(value, float) and value == 0.0


def _product(slope: Any, factor: Any) -> Any:
    return _CONSTANT if slope is _CONSTANT else slope * factor


def _sum(slope: Any, other: Any) -> Any:
    if slope is _CONSTANT or other is _CONSTANT:
        return other if slope is _CONSTANT else slope
    return slope + other


def _is_p(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "p"


def _is_one_minus_p(node: ast.BinOp) -> bool:
    one = isinstance(node.left, ast.Constant) and node.left.value == 1
    return one and isinstance(node.op, ast.Sub) and _is_p(node.right)


@lru_cache(maxsize=256)
def _parsed(text: str) -> ast.expr:
    if len(text) > 1000:
        raise ValueError("is longer than 1000 characters")
    try:
        return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError) as error:
        raise ValueError(f"is no formula ({str(error).partition(' (<')[0]})") from None


def _check(node: ast.expr, names: tuple[str, ...]) -> None:
    if isinstance(node, ast.Constant):
        if not isinstance(node.value, (int, float)) or isinstance(node.value, bool):
            raise ValueError(f"has {ast.unparse(node)}, which is no number")
    elif isinstance(node, ast.Name):
        if node.id not in names:
            raise ValueError(f"has the name {node.id!r}: it {one_of(names, node.id)}")
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        _check(node.operand, names)
    elif isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow)):
        _check(node.left, names)
        _check(node.right, names)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
        _check_call(node.func.id, node.args, names)
    else:
        allowed = "numbers, names, + - * / **, and functions"
        raise ValueError(f"has {ast.unparse(node)!r}; it may have {allowed} ({', '.join(FUNCTIONS)})")


def _check_call(name: str, arguments: list[ast.expr], names: tuple[str, ...]) -> None:
    if name not in FUNCTIONS:
        raise ValueError(f"has the function {name!r}: it {one_of(FUNCTIONS, name)}")
    if len(arguments) != _ARGUMENTS.get(name, 1):
        raise ValueError(f"gives {name} {len(arguments)} arguments; it takes {_ARGUMENTS.get(name, 1)}")
    if name == "where":
        test = arguments[0]
        if not (isinstance(test, ast.Compare) and len(test.ops) == 1 and type(test.ops[0]) in _COMPARISONS):
            raise ValueError(f"has where({ast.unparse(test)}, ...), which must begin with a comparison by < <= > >=")
        arguments = [test.left, test.comparators[0], *arguments[1:]]
    for argument in arguments:
        _check(argument, names)
