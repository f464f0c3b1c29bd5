"""Doubled keys in a declaration's YAML: Dagster, like PyYAML, takes the last of them and says nothing."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import yaml

from cohort_pipelines.orchestration.invalid import KeyDoubled


def require_single_keys(path: Path, document: int, file: str) -> None:
    """Read ``path`` again, and refuse a key that stands twice in a mapping of its ``document`` (counted from 0).

    Raises:
        KeyDoubled: the error names the key and both lines; ``file`` is what it calls the file.
    """
    for number, root in enumerate(yaml.compose_all(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)):
        if number == document and root is not None:
            for mapping in _mappings(root, set()):
                _require_single(mapping, file)


def _mappings(node: yaml.Node, seen: set[int]) -> Iterator[yaml.MappingNode]:
    if id(node) in seen:  # an alias: the node that it stands for was looked at
        return
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        yield node
        for key, value in node.value:
            yield from _mappings(key, seen)
            yield from _mappings(value, seen)
    elif isinstance(node, yaml.SequenceNode):
        for each in node.value:
            yield from _mappings(each, seen)


def _require_single(mapping: yaml.MappingNode, file: str) -> None:
    keys = [key for key, _ in mapping.value if isinstance(key, yaml.ScalarNode)]
    for (tag, name), count in Counter((key.tag, key.value) for key in keys).items():
        if count > 1:
            lines = [key.start_mark.line + 1 for key in keys if (key.tag, key.value) == (tag, name)]
            raise KeyDoubled(name, file, lines)
