"""From TOML files and ``--set a.b=c`` to a config, with every mistake named.

A preset is a TOML file in ``vaesc/presets/`` that lists what differs from the defaults. Later
sources win: defaults, preset, the user's file, ``--set``. An unknown key is refused with the
nearest right name, a wrong type with the right one.
"""

from __future__ import annotations

import ast
import difflib
import functools
import inspect
import math
import tomllib
import types
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from vaesc import config as config_module
from vaesc.config import PipelineConfig
from vaesc.errors import ConfigError

_LARGEST = 2**31
"""What is larger is a slip: no machine holds so many of anything but of images."""
_LARGER = ("seed", "limit")
_LARGEST_FILE = 1_000_000
_LONGEST = 200
_PRESETS = Path(__file__).parent / "presets"


def presets() -> dict[str, str]:
    """Return every preset's name, with the comment of its first line."""
    return {
        path.stem: path.read_text().splitlines()[0].lstrip("# ").strip()
        for path in sorted(_PRESETS.glob("*.toml"))
    }


def load_config(
    preset: str = "digits", file: Path | None = None, assignments: Sequence[str] = ()
) -> PipelineConfig:
    """Build the config of a run.

    Args:
        preset: Name of a preset, see :func:`presets`.
        file: A TOML file laid over the preset.
        assignments: Settings laid over both, each ``section.name=value``; the value is read as
            TOML, and as a plain string where it is not TOML.

    Raises:
        ConfigError: A preset, file, key or value is wrong; the sentence names it.
    """
    if preset not in presets():
        raise ConfigError(
            f"there is no preset {preset!r}; presets are {', '.join(presets())}"
            f"{_nearest(preset, presets())}"
        )
    values = _read_toml(_PRESETS / f"{preset}.toml")
    if file is not None:
        _lay_over(values, _read_toml(file), f"in {file}")
    for assignment in assignments:
        _lay_over(values, parse_assignment(assignment), "with --set")
    return config_from_mapping({"preset": preset, **values})


def config_from_mapping(values: dict[str, Any]) -> PipelineConfig:
    """Build a config from nested dicts, checking every key and type.

    Raises:
        ConfigError: A key is unknown, a value has the wrong type or breaks its rule.
    """
    built = _build(PipelineConfig, values, "")
    assert isinstance(built, PipelineConfig)
    return built


def describe_settings() -> Iterator[tuple[str, str, str, str]]:
    """Yield (key, type, default, documentation) of every setting, for ``--help``.

    The preset is not one of them: it is where the settings start, so it cannot be set.
    """
    for path, cls in _sections(PipelineConfig):
        hints, documents = get_type_hints(cls), _field_documents(cls)
        default = cls() if cls is not PipelineConfig else PipelineConfig()
        for f in fields(cls):
            if not is_dataclass(hints[f.name]) and f"{path}{f.name}" != "preset":
                yield (
                    f"{path}{f.name}",
                    _type_name(hints[f.name]),
                    _toml(getattr(default, f.name)),
                    documents.get(f.name, ""),
                )


def _sections(cls: type[Any], path: str = "") -> Iterator[tuple[str, type[Any]]]:
    yield path, cls
    for name, hint in get_type_hints(cls).items():
        if is_dataclass(hint) and isinstance(hint, type):
            yield from _sections(hint, f"{path}{name}.")


@functools.cache
def _config_source() -> list[ast.stmt]:
    return ast.parse(inspect.getsource(config_module)).body


def _field_documents(cls: type[Any]) -> dict[str, str]:
    """Return the string under each field; Python keeps no docstring for attributes."""
    node = next(
        n for n in _config_source() if isinstance(n, ast.ClassDef) and n.name == cls.__name__
    )
    found = {}
    for item, after in zip(node.body, node.body[1:], strict=False):
        if (
            isinstance(item, ast.AnnAssign)
            and isinstance(item.target, ast.Name)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
        ):
            found[item.target.id] = " ".join(str(after.value.value).split())
    return found


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(read_settings(path))
    except OSError as error:
        raise ConfigError(f"config file {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"config file {path} is not UTF-8 text; write it as TOML") from error
    except (ValueError, RecursionError) as error:  # numbers of 5000 digits, lists in lists
        raise ConfigError(f"config file {path} is not valid TOML: {error}") from error


def read_settings(path: Path) -> str:
    """Return the text of a file of settings, if it is one: a device or a pipe may never end.

    Raises:
        OSError: It cannot be read.
        ValueError: It is no file, no UTF-8, or of more than a megabyte.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise ValueError("it is a pipe or a device; write a file")
    if path.stat().st_size > _LARGEST_FILE:
        raise ValueError(f"it is larger than {_LARGEST_FILE:,} bytes")
    return path.read_text(encoding="utf-8")


def parse_assignment(text: str) -> dict[str, Any]:
    """Return what ``section.name=value`` sets, as nested dicts.

    Raises:
        ConfigError: It has another form.
    """
    key, equals, value = text.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(f"--set takes section.name=value, got {text!r}")
    nested: dict[str, Any] = {parts[-1]: _parse_value(value.strip())}
    for part in reversed(parts[:-1]):
        nested = {part: nested}
    return nested


def _parse_value(text: str) -> Any:  # noqa: ANN401
    """Read a value as TOML; what is not TOML is a string without its quotes."""
    if "\n" in text:
        return text
    try:
        return tomllib.loads(f"v = {text}")["v"]
    except (ValueError, RecursionError):  # as for a file; no setting takes such a thing
        return text


def _lay_over(values: dict[str, Any], above: dict[str, Any], where: str) -> None:
    if "preset" in above:
        # It would name another preset than the one the settings come from.
        raise ConfigError(f"preset is chosen with --preset, not {where}; leave it out")
    _overlay(values, above)


def _overlay(below: dict[str, Any], above: dict[str, Any]) -> None:
    for key, value in above.items():
        if isinstance(value, dict) and isinstance(below.get(key), dict):
            _overlay(below[key], value)
        else:
            below[key] = value


def _build(cls: type[Any], values: Any, path: str) -> Any:  # noqa: ANN401
    if not isinstance(values, dict):
        raise ConfigError(f"{path.rstrip('.')} is a section of settings, got {_shown(values)}")
    hints = get_type_hints(cls)
    for key in values:
        if key not in hints:
            raise ConfigError(f"there is no setting {path}{key}{_hint_for(key, path, hints)}")
    made = {key: _convert(hints[key], value, f"{path}{key}") for key, value in values.items()}
    try:
        return cls(**made)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{path}{error}") from error


def _hint_for(key: str, path: str, hints: dict[str, Any]) -> str:
    """Say the nearest right name: in this section first, then anywhere."""
    if near := _nearest(key, hints, path):
        return near
    everywhere = [name for name, *_ in describe_settings()]
    elsewhere = [name for name in everywhere if name.split(".")[-1] == key]
    if elsewhere:
        return f"; did you mean {elsewhere[0]}?"
    return _nearest(f"{path}{key}", everywhere) or f"; there are {', '.join(hints)}"


def _nearest(word: str, known: Any, path: str = "") -> str:  # noqa: ANN401
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {path}{close[0]}?" if close else ""


def _convert(hint: Any, value: Any, path: str) -> Any:  # noqa: ANN401
    """Return `value` as the type that `hint` declares, or refuse it."""
    wide = hint is float or path.rpartition(".")[2] in _LARGER
    largest = 2**64 if wide else _LARGEST
    if isinstance(value, int) and abs(value) >= largest:
        # Beyond 4300 digits Python does not even print it.
        raise ConfigError(
            f"{path} must be below 2^{largest.bit_length() - 1}, got a number of "
            f"{value.bit_length()} bits"
        )
    if is_dataclass(hint) and isinstance(hint, type):
        return _build(hint, value, f"{path}.")
    origin, options = get_origin(hint), get_args(hint)
    if origin is Literal:
        if value in options and isinstance(value, str):
            return value
        near = _nearest(str(value), options)
        listed = ", ".join(str(o) for o in options)
        raise ConfigError(f"{path} must be one of {listed}, got {_shown(value)}{near}")
    if origin in (Union, types.UnionType):
        if value is None or value == "none":
            return None
        return _convert(next(o for o in options if o is not type(None)), value, path)
    if origin is tuple and isinstance(value, (list, tuple)):
        return tuple(_convert(options[0], item, f"each entry of {path}") for item in value)
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise ConfigError(f"{path} must be finite, got {_shown(value)}")
        return float(value)
    if hint is str and isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    if isinstance(hint, type) and isinstance(value, hint) and not _is_mistaken_bool(hint, value):
        return value
    raise ConfigError(f"{path} must be {_type_name(hint)}, got {_shown(value)}")


def _shown(value: Any) -> str:  # noqa: ANN401
    """Return a value as an error's sentence shows it: not all of a megabyte."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of 5000 digits inside, lists in lists
        return f"a {type(value).__name__} too large to print"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _is_mistaken_bool(hint: type, value: Any) -> bool:  # noqa: ANN401
    return isinstance(value, bool) and hint is not bool


def _type_name(hint: Any) -> str:  # noqa: ANN401
    names = {int: "a whole number", float: "a number", str: "a string", bool: "true or false"}
    origin, options = get_origin(hint), get_args(hint)
    if origin is Literal:
        return " | ".join(str(o) for o in options)
    if origin in (Union, types.UnionType):
        return f"{_type_name(next(o for o in options if o is not type(None)))}, or none"
    if origin is tuple:
        return f"a list, each {_type_name(options[0])}"
    return names.get(hint, str(hint))


def _toml(value: Any) -> str:  # noqa: ANN401
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return str(list(value)) if isinstance(value, tuple) else str(value)
