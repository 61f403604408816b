"""Reading and writing YAML: content that YAML would silently drop or convert is refused, with its line.

YAML keeps the last of duplicate keys, and reads ``no`` as false, ``010`` as 8, ``1:30`` as 90 and ``2026-08-01`` as a
date. In this program's files none of these is meant, except false as a value: a name that YAML would convert is written
in quotes.
"""

from __future__ import annotations

import gc
import re
from pathlib import Path
from typing import Any

import yaml
from yaml.composer import Composer
from yaml.constructor import SafeConstructor
from yaml.resolver import Resolver

YAML_ERRORS = (yaml.YAMLError, ValueError, RecursionError)
"""Exceptions for text that is not YAML; the last two for bytes, impossible dates and thousands of brackets."""

_LINE_BREAKS = frozenset("\x85\u2028\u2029")
_TAG = "tag:yaml.org,2002:"
_PLAIN = frozenset({"null", "bool", "int", "float", "str", "timestamp", "seq", "map", "merge"})
"""Tags of values; others, such as ``!!binary`` and ``!!set``, stand for what no file of this program holds."""
_OCTAL_OR_SEXAGESIMAL = re.compile(r"[-+]?(0[0-7_]+|[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?)")

try:
    from yaml.cyaml import CParser
except ImportError:  # a PyYAML that was built without libyaml
    _Loader: Any = yaml.SafeLoader
else:

    class _Loader(Composer, CParser, SafeConstructor, Resolver):  # type: ignore[no-redef, misc]
        """Events from libyaml, composed in Python: `yaml.CSafeLoader` crashes on text of many thousand brackets."""

        def __init__(self, text: str) -> None:
            CParser.__init__(self, text)
            Composer.__init__(self)
            SafeConstructor.__init__(self)
            Resolver.__init__(self)


def read(path: Path) -> Any:
    """Return the content of a YAML file.

    Raises
    ------
    OSError
        If it cannot be read.
    yaml.YAMLError, ValueError, RecursionError
        `YAML_ERRORS`: if it is not YAML, or holds a key twice or a value that YAML would convert.
    """
    try:
        return parse(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise yaml.YAMLError(f"{error}; save it as UTF-8") from error


def parse(text: str) -> Any:
    """Return the content of YAML text; errors as for `read`."""
    loader = _Loader(text)
    collecting = gc.isenabled()
    gc.disable()  # it would traverse the growing number of nodes repeatedly: two thirds of the time
    try:
        root = _compose(loader, text)
        if root is None:
            return None
        _check(root)
        return loader.construct_document(root)
    finally:
        loader.dispose()
        if collecting:
            gc.enable()


def _compose(loader: Any, text: str) -> yaml.Node | None:
    try:
        root: yaml.Node | None = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        lines = text.splitlines()
        if mark is not None and mark.line < len(lines) and re.match(r" *\t", lines[mark.line]):
            raise yaml.YAMLError(f"line {mark.line + 1}: a tab before the key; YAML is indented with spaces") from error
        raise
    return root


def dump(content: Any) -> str:
    """Return YAML text from which `parse` restores ``content``; keys keep their order."""
    text = str(yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
    if set(text) & _LINE_BREAKS:  # PyYAML writes them unescaped in keys, and reads them as spaces
        text = str(yaml.safe_dump(content, sort_keys=False))
    return text


def flow(content: Any) -> str:
    """Return ``content`` as YAML on one line."""
    text = str(yaml.safe_dump(content, sort_keys=False, allow_unicode=True, default_flow_style=True, width=10**6))
    return text.removesuffix("...\n").strip()


def _check(root: yaml.Node) -> None:
    waiting, seen = [root], set()
    while waiting:
        node = waiting.pop()
        if id(node) in seen:  # an alias
            continue
        seen.add(id(node))
        if node.tag.removeprefix(_TAG) not in _PLAIN:
            tag = node.tag.replace(_TAG, "!!")
            raise yaml.YAMLError(f"line {_line(node)}: the tag {tag} is not used here; remove it, or use quotes")
        if isinstance(node, yaml.MappingNode):
            _check_keys(node)
            waiting += [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            waiting += node.value
        elif isinstance(node, yaml.ScalarNode):
            _check_value(node)


def _check_keys(node: yaml.MappingNode) -> None:
    lines: dict[str, int] = {}
    for key, _ in node.value:
        line = _line(key)
        if not isinstance(key, yaml.ScalarNode):
            raise yaml.YAMLError(f"line {line}: a list or a section stands in the place of a key; write a name")
        if key.tag not in (f"{_TAG}str", f"{_TAG}merge"):
            raise yaml.YAMLError(f"line {line}: the key {key.value} is not text in YAML; write it in quotes")
        if key.value in lines:
            where = f"in line {line}" if lines[key.value] == line else f"in lines {lines[key.value]} and {line}"
            raise yaml.YAMLError(f"the key '{key.value}' appears twice, {where}; remove one of the two")
        lines[key.value] = line


def _check_value(node: yaml.ScalarNode) -> None:
    text = node.value
    if node.tag == f"{_TAG}timestamp":
        raise yaml.YAMLError(f"line {_line(node)}: {text} is a date in YAML; if it is a name, write '{text}' in quotes")
    if node.tag in (f"{_TAG}int", f"{_TAG}float") and _OCTAL_OR_SEXAGESIMAL.fullmatch(text):
        raise yaml.YAMLError(
            f"line {_line(node)}: {text} is an octal or sexagesimal number in YAML; write a plain number, or a name in"
            f" quotes: '{text}'"
        )


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1
