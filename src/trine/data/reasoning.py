"""Tasks of reasoning-gym (Stojanovski et al. 2025): questions without end, made by seed and number, and their scores.

A record names its question by task, options, seed and number, so that whoever scores an answer makes the very same
question again: what the package knows of it (tuples, graphs, objects) need not survive a file.
"""

import json
from collections.abc import Iterator, Mapping
from functools import cache, lru_cache
from typing import Any

from trine.config.loading import nearest
from trine.runtime.errors import TrineError
from trine.runtime.foreign import FOREIGN_ERRORS, told

COLUMN = "reasoning_gym"
"""the field of a record that names its question"""


def reasoning_records(
    task: str, options: Mapping[str, Any], *, seed: int, size: int, instruction: str
) -> Iterator[dict[str, Any]]:
    """`size` records {prompt, answer, reasoning_gym} of one task."""
    for place in range(size):
        key = {"task": task, "options": dict(options), "seed": seed, "size": size, "number": place}
        entry = question_of(key)
        prompt = f"{str(entry['question']).strip()}\n\n{instruction}" if instruction else str(entry["question"])
        yield {"prompt": prompt, "answer": str(entry["answer"]), COLUMN: key}


def question_of(key: Mapping[str, Any]) -> dict[str, Any]:
    """The question that a record names, with all that the package knows of it."""
    return _foreign(lambda: _opened(key)[int(key["number"])], f"question {dict(key)}")


def score_of(key: Mapping[str, Any], answer: str) -> float:
    """What the task says that `answer` is worth, from 0 to 1."""
    entry = question_of(key)
    return float(_foreign(lambda: _opened(key).score_answer(answer, entry), f"scoring {answer[:60]!r}"))


def _opened(key: Mapping[str, Any]) -> Any:
    """The task's data set, which some tasks make whole when it is opened."""
    return _data_set(json.dumps({name: value for name, value in key.items() if name != "number"}, sort_keys=True))


@lru_cache(maxsize=64)
def _data_set(key: str) -> Any:
    settings, gym = json.loads(key), _package()
    task, names = settings["task"], sorted(gym.factory.DATASETS)
    if task not in names:
        raise TrineError(f"reasoning-gym has no task {task}{nearest(task, names)}")
    options = settings["options"] | {"seed": settings["seed"], "size": settings["size"]}
    return _foreign(lambda: gym.create_dataset(task, **options), f"task {task} with {options}")


@cache
def _package() -> Any:
    try:
        import reasoning_gym
        import reasoning_gym.factory
    except ImportError:
        raise TrineError(
            "tasks of reasoning-gym need reasoning_gym, which is not installed: pip install 'trine[reasoning]'"
        ) from None
    return reasoning_gym


def _foreign(call: Any, what: str) -> Any:
    try:
        return call()
    except TrineError:
        raise
    except FOREIGN_ERRORS as error:
        raise TrineError(f"reasoning-gym: {what}: {told(error)}") from error
