"""`key=value` from the command line, as arguments that fit a workflow's signature.

    year=2013          by the parameter's annotation: int, float, bool, str, Path, date, Enum, Literal, Optional, unions …
    lrs=[0.1,0.2]      lists, dicts, dataclasses and the like as JSON; a list also as 0.1,0.2
    config=@file.json  the value from a file (@@ for a text that begins with @)
    @all.json          an object with any of the parameters

Without an annotation a value is taken as JSON where it is JSON, else as text. Nothing is ever evaluated.
"""

from __future__ import annotations

import inspect
import json
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dagengine.cli.conversion import Mismatch, an, convert, parse, type_name
from dagengine.errors import BadArguments
from dagengine.validation import did_you_mean

VALUE_LIMIT = 64 * 1024 * 1024
"""Bytes of a file that holds arguments. What is larger is data: pass its path, and let a task read it."""

_MISSING = inspect.Parameter.empty


def bind(
    name: str, signature: inspect.Signature, function: Any, words: Sequence[str]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments that the words give to the workflow `name`. Raises BadArguments: one line that names the word."""
    return _in_order(name, signature, _annotations(function, signature), given(name, signature, function, words))


def given(name: str, signature: inspect.Signature, function: Any, words: Sequence[str]) -> dict[str, Any]:
    """Only those that the words give, by the names of their parameters. Raises BadArguments."""
    types = _annotations(function, signature)
    found: dict[str, Any] = {}
    named: set[str] = set()
    for word in words:
        key, equals, text = word.partition("=")
        if word.startswith("@") and not equals:
            for key, value in _whole_object(word).items():
                parameter = _parameter(name, signature, types, key, f"{key} in {word}")
                found.setdefault(key, _converted(value, _type_of(parameter, types), f"{key} in {word}"))
            continue
        if not equals or not key:
            hint = _words_hint(signature, types, word)
            raise BadArguments(f"{word!r} is not key=value. {hint}")
        parameter = _parameter(name, signature, types, key, key)
        if key in named:
            raise BadArguments(f"{key} is given twice. Give it once.")
        named.add(key)
        found[key] = _value(text, _type_of(parameter, types), key)
    return found


def _annotations(function: Any, signature: inspect.Signature) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function, include_extras=True)
    except Exception:
        # A name that exists for type checkers only. Each annotation that can be known is still used.
        known: dict[str, Any] = {}
        for name, parameter in signature.parameters.items():
            if isinstance(parameter.annotation, str):
                holder = type("holder", (), {"__annotations__": {name: parameter.annotation}})
                try:
                    known |= typing.get_type_hints(holder, getattr(function, "__globals__", {}), include_extras=True)
                except Exception:
                    continue
            elif parameter.annotation is not _MISSING:
                known[name] = parameter.annotation
        return known


def _type_of(parameter: inspect.Parameter, types: dict[str, Any]) -> Any:
    return types.get(parameter.name, Any)


def _parameter(
    name: str, signature: inspect.Signature, types: dict[str, Any], key: str, where: str
) -> inspect.Parameter:
    found = signature.parameters.get(key)
    if found is not None and found.kind not in (found.VAR_POSITIONAL, found.VAR_KEYWORD):
        return found
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD and key.isidentifier():
            return parameter
    names = _names(signature)
    otherwise = f"Its parameters: {_parameters(signature, types)}." if names else "It takes none."
    hint = did_you_mean(key.replace("-", "_"), names, otherwise, closeness=0.5)
    raise BadArguments(f"{name} has no parameter {where!r}.{hint}")


def _names(signature: inspect.Signature) -> list[str]:
    return [p.name for p in signature.parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def _parameters(signature: inspect.Signature, types: dict[str, Any]) -> str:
    """As they are written: year: int, lr: float = 0.1."""
    parts = []
    for name in _names(signature):
        default = signature.parameters[name].default
        typed = f"{name}: {type_name(types[name])}" if name in types else name
        parts.append(typed if default is _MISSING else f"{typed} = {default!r:.40}")
    return ", ".join(parts)


def _words_hint(signature: inspect.Signature, types: dict[str, Any], word: str) -> str:
    names = _names(signature)
    if not names:
        return "The workflow takes no arguments."
    example = names[0] if len(names) == 1 or word in ("", "=") else "NAME"
    return f"Say {example}={word.lstrip('=') or '…'}, with one of: {_parameters(signature, types)}."


def _value(text: str, annotation: Any, key: str) -> Any:
    if text.startswith("@@"):
        text = text[1:]
    elif text.startswith("@"):
        path = text[1:]
        content = _read(path, key)
        if path.endswith(".json"):
            return _converted(_json(content, f"{key}={text}"), annotation, f"{key} in {path}")
        text = content.removesuffix("\n")
        key = f"{key} in {path}"
    try:
        return parse(text, annotation)
    except Mismatch as error:
        raise BadArguments(f"{key}{error.path}: {error}. Give {an(type_name(annotation))}.") from None


def _converted(value: Any, annotation: Any, where: str) -> Any:
    try:
        return convert(value, annotation)
    except Mismatch as error:
        raise BadArguments(f"{where}{error.path}: {error}. Give {an(type_name(annotation))}.") from None


def _whole_object(word: str) -> dict[str, Any]:
    path = word[1:]
    value = _json(_read(path, word), word)
    if not isinstance(value, dict):
        raise BadArguments(f"{path} holds {_json_name(value)}. Give an object with the workflow's parameters.")
    return value


def _json_name(value: Any) -> str:
    return {list: "a list", str: "a text", bool: "true or false", type(None): "null"}.get(type(value), "a number")


def _read(path: str, word: str) -> str:
    if not path:
        raise BadArguments(f"{word} names no file. Say @FILE.json.")
    try:
        file = Path(path)
        if file.stat().st_size > VALUE_LIMIT:
            raise BadArguments(f"{path} has more than {VALUE_LIMIT >> 20} MiB. Pass its path, and read it in a task.")
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise BadArguments(f"{path} is not text in UTF-8 ({word}). Pass its path, and read it in a task.") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise BadArguments(f"{path} can't be read ({word}): {reason}. Name a file that can.") from None


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise BadArguments(f"{where} is not JSON: {error.msg} (line {error.lineno}). Correct the file.") from None
    except (RecursionError, ValueError) as error:
        raise BadArguments(f"{where} can't be read as JSON: {error}. Correct the file.") from None


def _in_order(
    name: str, signature: inspect.Signature, types: dict[str, Any], given: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    missing = [
        f"{p.name} ({type_name(_type_of(p, types))})" if p.name in types else p.name
        for p in signature.parameters.values()
        if p.default is _MISSING and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) and p.name not in given
    ]
    if missing:
        first = missing[0].partition(" ")[0]
        raise BadArguments(f"{name} misses {', '.join(missing)}. Say {first}=….")
    args = []
    for parameter in signature.parameters.values():
        if parameter.kind is not parameter.POSITIONAL_ONLY:
            break
        args.append(given.pop(parameter.name, parameter.default))
    return tuple(args), given
