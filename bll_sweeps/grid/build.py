"""Plain data -> the frozen values of grid/axes.py and cell.py, with errors that name key, value and choices."""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from typing import Any, Literal, TypeVar, Union

from bll_sweeps.errors import ConfigError, one_of

T = TypeVar("T")


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return {f.name: typing.get_type_hints(cls)[f.name] for f in dataclasses.fields(cls)}


def build(cls: type[T], data: Any, key: str = "") -> T:
    """The value of dataclass `cls` that `data` (nested dicts and lists) describes.

    Raises ConfigError for an unknown or missing key, a wrong type, a value outside a Literal, or what the class
    itself rejects.
    """
    if not isinstance(data, dict):
        raise ConfigError(key or cls.__name__, data, "must be a mapping")
    hints = _hints(cls)  # type: ignore[arg-type]
    for name in data:
        if name not in hints:
            raise ConfigError(_join(key, name), data[name], one_of(hints, name))
    values = {name: _value(hints[name], item, _join(key, name)) for name, item in data.items()}
    for f in dataclasses.fields(cls):  # type: ignore[arg-type]
        if f.name not in values and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            raise ConfigError(_join(key, f.name), None, "is missing: it must be given")
    try:
        return cls(**values)
    except ConfigError as error:
        raise (error.under(key) if key else error) from None


_SHARED: dict[tuple[type, str], Any] = {}  # the choices of a grid: few, whatever the number of its jobs


def shared(cls: type[T], data: Any, key: str = "") -> T:
    """As `build`, but equal data give one and the same value: thousands of jobs share few of them."""
    memo = (cls, repr(data))
    if memo not in _SHARED:
        _SHARED[memo] = build(cls, data, key)
    return _SHARED[memo]


def _join(key: str, name: str) -> str:
    return f"{key}.{name}" if key else str(name)


def _value(hint: Any, item: Any, key: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        if item is None and type(None) in args:
            return None
        (inner,) = [a for a in args if a is not type(None)]
        return _value(inner, item, key)
    if origin is Literal:
        if item not in args:
            raise ConfigError(key, item, one_of(args, item))
        return item
    if origin is tuple:
        if not isinstance(item, (list, tuple)):
            raise ConfigError(key, item, "must be a list")
        inner = args[0]
        return tuple(_value(inner, x, f"{key}[{i}]") for i, x in enumerate(item))
    if origin is dict:
        if not isinstance(item, dict):
            raise ConfigError(key, item, "must be a mapping")
        return {str(k): _value(args[1], v, _join(key, str(k))) for k, v in item.items()}
    if dataclasses.is_dataclass(hint):
        return shared(typing.cast(type, hint), item, key)
    return _scalar(hint, item, key)


def _scalar(hint: Any, item: Any, key: str) -> Any:
    if hint is float and isinstance(item, (int, float)) and not isinstance(item, bool):
        return float(item)
    if hint is Any or (isinstance(item, hint) and not (hint is int and isinstance(item, bool))):
        return item
    raise ConfigError(key, item, f"must be of type {hint.__name__}, not {type(item).__name__}")
