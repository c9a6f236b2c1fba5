"""YAML as configs and recipes take it: a mapping whose scalars are read by the types of the fields they are for.

Text without quotes stays text (`config/values.py: Plain`), so that `no`, `1:30`, `010` and `1e6` are what a field of
their type says. Refused by name and line: a key that stands twice, keys that are no text, tabs as indentation, aliases
that unfold beyond measure, deep nesting. Written YAML has quotes around all text that could be read as anything else.
"""

import codecs
from pathlib import Path
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from trine.config.values import Plain, resolved
from trine.runtime.errors import TrineError

MAX_NODES = 100_000
MAX_DEPTH = 50
_DEEP = f"nested more than {MAX_DEPTH} levels deep"
_PLAIN = "!plain"
_MERGE = "tag:yaml.org,2002:merge"


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, with scalars left to the fields' types and with the refusals above."""

    def resolve(self, kind: type[Node], value: Any, implicit: Any) -> str:
        if kind is ScalarNode and implicit[0]:
            return _MERGE if value == "<<" else _PLAIN
        return str(super().resolve(kind, value, implicit))

    def fetch_flow_collection_start(self, kind: Any) -> None:
        if self.flow_level >= MAX_DEPTH:
            raise yaml.MarkedYAMLError(problem=_DEEP, problem_mark=self.get_mark())
        super().fetch_flow_collection_start(kind)

    def compose_mapping_node(self, anchor: Any) -> MappingNode:
        node = super().compose_mapping_node(anchor)
        first: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, ScalarNode):
                raise _refusal("a key is a text, not a list or a mapping", key)
            if key.tag != _MERGE and key.value in first:
                raise _refusal(f"the key {key.value!r} stands twice, on lines {first[key.value]} and {line}", key)
            first[key.value] = line
        return node


def _text(_: Any, node: ScalarNode) -> str:
    r"""Text with quotes; JSON writes what is beyond 16 bits as two escapes, "\ud83d\ude42"."""
    text = str(node.value)
    if any("\ud800" <= each <= "\udfff" for each in text):
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
    return text


_Loader.add_constructor(_PLAIN, lambda loader, node: Plain(node.value))
_Loader.add_constructor("tag:yaml.org,2002:str", _text)


def _no_value(_: Any, node: Node) -> Any:
    raise _refusal(f"{node.tag.rpartition(':')[2]!r} is no kind of value that a config has", node)


# What is written !!int or !!float is a number to every field; dates and bytes are no values of a config.
for _tag in ("timestamp", "binary", "set", "omap", "pairs"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", _no_value)


def _refusal(problem: str, node: Node) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)


def read_mapping(text: str, place: str) -> dict[str, Any]:
    """The mapping that `text` is. Raises `TrineError` naming `place`, the line and what is wrong."""
    values = read_value(text, place)
    if not isinstance(values, dict):
        found = {list: "a list", type(None): "nothing"}.get(type(values), f"the text {str(values)[:40]!r}")
        raise TrineError(f"{place}: expected a mapping of keys (key: value), found {found}")
    return values


def read_value(text: str, place: str) -> Any:
    """Any YAML value, its scalars unread. Raises `TrineError` naming `place`, the line and what is wrong."""
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            _check_size(node)
            return None if node is None else loader.construct_document(node)  # type: ignore[no-untyped-call]
        finally:
            loader.dispose()  # type: ignore[no-untyped-call]
    except RecursionError:
        raise TrineError(f"{place}: not readable YAML: {_DEEP}") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: !!int x
        raise TrineError(f"{place}{_words(error)}") from None


def read_file(path: Path) -> str:
    """A config file as text. Raises `TrineError` naming it and what is in the way."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise TrineError(f"config file {path} does not exist") from None
    except (OSError, ValueError) as error:
        raise TrineError(f"{path}: not readable: {getattr(error, 'strerror', None) or error}") from None
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise TrineError(f"{path}: not readable as UTF-8: it is UTF-16; save it as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise TrineError(f"{path}:{line}: not readable as UTF-8: {error.reason}; save it as UTF-8") from None


def written(values: Any) -> str:
    """`values` as YAML that reads back as the same values, whatever their fields' types."""
    return str(yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True))


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> ScalarNode:
    quoted = not isinstance(resolved(Plain(text)), str) or text == "<<"
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="'" if quoted else None)


_Dumper.add_representer(str, _represent_text)


def _check_size(root: Node | None) -> None:
    """Refuse what unfolds beyond measure: an alias inside what it names, or many aliases of many."""
    sizes: dict[int, int] = {}
    open_nodes: set[int] = set()

    def size(node: Node, depth: int) -> int:
        if id(node) in sizes:
            return sizes[id(node)]
        if id(node) in open_nodes:
            raise _refusal("an alias stands inside what it names", node)
        if depth > MAX_DEPTH:
            raise _refusal(_DEEP, node)
        open_nodes.add(id(node))
        total = 1 + sum(size(child, depth + 1) for child in _children(node))
        open_nodes.discard(id(node))
        if total > MAX_NODES:
            raise _refusal(f"aliases (*name) unfold to more than {MAX_NODES:,} values", node)
        sizes[id(node)] = total
        return total

    if root is not None:
        size(root, 1)


def _children(node: Node) -> list[Node]:
    if isinstance(node, MappingNode):
        return [each for pair in node.value for each in pair]
    return list(node.value) if isinstance(node, SequenceNode) else []


def _words(error: Exception) -> str:
    """ ":line: what is wrong", in one line."""
    if isinstance(error, yaml.reader.ReaderError):
        return (
            f": not readable YAML: the character {chr(error.character)!r} at position {error.position} is not allowed"
        )
    mark = getattr(error, "problem_mark", None)
    problem = str(getattr(error, "problem", None) or error).replace("\n", " ")
    if "'\\t'" in problem:
        problem = "a tab; YAML is indented by blanks"
    return f"{f':{mark.line + 1}' if mark else ''}: not readable YAML: {problem}"
