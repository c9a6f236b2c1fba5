"""GGUF models that are split into several files, `name-00001-of-00003.gguf`, as `llama-gguf-split` writes them.

The first part holds the metadata, all parts hold tensors. Any of them may be named; a part that is missing, comes from
another model or contradicts the others is refused by its name.
"""

import re
from pathlib import Path

from trine.model.gguf.container import Container, TensorInfo, read_container
from trine.runtime.errors import TrineError

_PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")


def part_names(name: str) -> list[str]:
    """The names of all parts of a model, given that of one; a name of another form is a whole model's.

    >>> part_names("model-00002-of-00002.gguf")
    ['model-00001-of-00002.gguf', 'model-00002-of-00002.gguf']
    >>> part_names("model.gguf")
    ['model.gguf']
    """
    found = _PART.fullmatch(name)
    if found is None:
        return [name]
    return [f"{found['stem']}-{number:05}-of-{found['count']}.gguf" for number in range(1, int(found["count"]) + 1)]


def one_model(names: list[str]) -> str | None:
    """The one model that these files are, by the name of its first part; None where they are none or several."""
    firsts = {part_names(name)[0] for name in names if part_names(name)}
    return firsts.pop() if len(firsts) == 1 else None


def read_model_file(path: Path) -> Container:
    """The GGUF file `path`, with the tensors of its other parts where it is one of several."""
    opened = read_container(path)
    count = opened.metadata.get("split.count", 0)
    if count in (0, 1):
        return opened
    paths = [path.with_name(name) for name in part_names(path.name)]
    if len(paths) != count:
        opened.refuse(
            "split.count", f"is {count!r}, but the file's name does not end in -00001-of-{count!r:0>5}.gguf; rename it"
        )
    missing = [part.name for part in paths if not part.exists()]
    if missing:
        raise TrineError(
            f"{path} is one of {count} parts; {', '.join(missing[:5])} not in {path.parent}; get those too"
        )
    return _joined([opened if part == path else read_container(part) for part in paths])


def _joined(parts: list[Container]) -> Container:
    tensors: dict[str, TensorInfo] = {}
    for number, part in enumerate(parts):
        found = (part.metadata.get("split.no"), part.metadata.get("split.count"))
        if found != (number, len(parts)):
            part.refuse("split.no", f"and split.count are {found}, but by its name the file is part {number} (from 0)")
        for name, info in part.tensors.items():
            if name in tensors:
                part.refuse(f"tensor {name!r}", f"is in {tensors[name].path.name} too")
            tensors[name] = info
    total = parts[0].metadata.get("split.tensors.count", len(tensors))
    if total != len(tensors):
        parts[0].refuse("split.tensors.count", f"is {total!r}, but the parts hold {len(tensors)} tensors")
    return Container(parts[0].path, parts[0].metadata, tensors)
