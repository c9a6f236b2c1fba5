"""The scores of reasoning-gym's own tasks."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from trine.config.base import Config
from trine.data.reasoning import COLUMN, score_of

_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


class ReasoningGym(Config):
    """What the task of reasoning-gym that asked says of the answer, from 0 to 1; prompts by `trine reasoning`.

    Read is what stands between the last <answer> and </answer>, or else the whole response. How it is cheated: by
    the credit that most tasks give to whatever contains the answer, so that a list of all that come into question
    earns a little; and the way to the answer is not read.
    """

    task: str | None = None
    """only answers to this task; to others the reward does not apply. null: to any"""

    @property
    def needs(self) -> tuple[str, ...]:
        return (COLUMN,)

    def score(self, prompts: Sequence[str], responses: Sequence[str], **columns: Any) -> list[float | None]:
        return [self._of(response, key) for response, key in zip(responses, columns[COLUMN], strict=True)]

    def _of(self, response: str, key: Mapping[str, Any] | None) -> float | None:
        if key is None or (self.task is not None and key["task"] != self.task):
            return None
        found = _ANSWER.findall(response)
        return score_of(key, (found[-1] if found else response).strip())
