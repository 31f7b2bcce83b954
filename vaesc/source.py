"""Which library code a step uses, as one digest.

Editing a module must make the steps that use it run again, and no others. The modules a step uses
are found by following the ``import vaesc...`` statements from its entry module, without running
anything. The ground floor (settings, records, the store itself, words for errors) is left out:
what it contributes to a result is in the step's config already.
"""

from __future__ import annotations

import functools
import hashlib
import re
from pathlib import Path

_IMPORT = re.compile(
    rb"^[ \t]*(?:from[ \t]+(vaesc[\w.]*)[ \t]+import[ \t]*(\([^)]*\)|[^\n]+)"
    rb"|import[ \t]+(vaesc[^\n]*))",
    re.MULTILINE,
)
_NAME = re.compile(r"[\w.]+")
_PACKAGE = Path(__file__).parent
_GROUND_FLOOR = {
    "vaesc", "vaesc.config", "vaesc.config_files", "vaesc.errors", "vaesc.records", "vaesc.store",
    "vaesc.source", "vaesc.steps", "vaesc.progress",
}  # fmt: skip


@functools.cache
def source_digest(*entries: str) -> str:
    """SHA-256 over the source of `entries` and of every vaesc module they import, directly or not.

    Args:
        entries: Dotted names of modules of vaesc; a package stands for all its modules.

    Raises:
        ValueError: There is no such module.
    """
    seen: dict[str, bytes] = {}
    waiting = list(entries)
    while waiting:
        name = waiting.pop()
        if name in seen or name in _GROUND_FLOOR:
            continue
        path = _file_of(name)
        if path is None:
            raise ValueError(f"{name} is not a module of vaesc")
        seen[name] = path.read_bytes()
        waiting += _imports(seen[name])
        if path.name == "__init__.py":
            waiting += [f"{name}.{p.stem}" for p in path.parent.glob("*.py") if p != path]
    total = hashlib.sha256()
    for name in sorted(seen):
        total.update(f"{name}:{hashlib.sha256(seen[name]).hexdigest()}\n".encode())
    return total.hexdigest()


@functools.cache
def _imports(source: bytes) -> tuple[str, ...]:
    """Return the vaesc modules that a source imports, anywhere in it.

    Found by pattern, since a syntax tree of every module took a fifth of a cached run's time. An
    import quoted in a docstring counts too: a digest that sees too much is safe.
    """
    found: list[str] = []
    for match in _IMPORT.finditer(source):
        module, names, plain = (part.decode() if part else "" for part in match.groups())
        # `from vaesc.models import vae` may name a module or something inside one.
        found += [module, *(f"{module}.{name}" for name in _NAME.findall(names))] if module else []
        found += _NAME.findall(plain)
    return tuple(name for name in found if name.startswith("vaesc.") and _file_of(name))


def _file_of(name: str) -> Path | None:
    parts = name.split(".")[1:]
    package = _PACKAGE.joinpath(*parts, "__init__.py")
    module = _PACKAGE.joinpath(*parts).with_suffix(".py") if parts else package
    return next((p for p in (package, module) if p.is_file()), None)


def digest_of_source() -> str:
    """Return one SHA-256 of every module of vaesc as it lies on the disk now."""
    total = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob("*.py")):
        of_file = hashlib.sha256(path.read_bytes()).hexdigest()
        total.update(f"{path.relative_to(_PACKAGE)}:{of_file}\n".encode())
    return total.hexdigest()
