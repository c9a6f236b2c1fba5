"""The prompts that online RL samples from, in an endless seeded order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from trine.data.files import read_examples
from trine.records import Answer, Example, Message, Rollout
from trine.runtime.errors import TrineError
from trine.runtime.progress import say
from trine.runtime.seeds import generator_for
from trine.tokenizer.chat_format import Chat


@dataclass(frozen=True)
class Prompt:
    """A conversation opened for the assistant to speak: its token ids, its messages, its record's other fields."""

    ids: tuple[int, ...]
    messages: tuple[Message, ...] = ()
    columns: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def answer(self, rollout: Rollout, chat: Chat) -> Answer:
        """A rollout of this prompt, as a reward sees it."""
        return Answer(
            self.messages, chat.text(rollout.response_ids), rollout.ended, rollout.prompt_ids, rollout.response_ids,
            chat.tokenizer.fingerprint, self.columns, prompt_index=rollout.prompt_index,
        )  # fmt: skip


def read_prompt_records(path: Path) -> list[Example]:
    """The records of a JSONL of prompts. A `response`, which no prompt needs, is a column as any other field is."""
    return [
        replace(example, columns={**example.columns, **({"response": example.response} if example.response else {})})
        for example in read_examples(path, answered=False)
    ]


def read_prompts(path: Path, chat: Chat, max_prompt_tokens: int) -> list[Prompt]:
    """The prompts of a JSONL; those of more than `max_prompt_tokens` are left out, and counted."""
    prompts = [
        Prompt(tuple(chat.prompt_ids(example.prompt)), example.prompt, example.columns)
        for example in read_prompt_records(path)
    ]
    fitting = [prompt for prompt in prompts if len(prompt.ids) <= max_prompt_tokens]
    if not fitting:
        raise TrineError(f"{path}: no prompt leaves room for an answer: lower max_new_tokens, or shorten the prompts")
    if len(fitting) < len(prompts):
        say(f"{len(prompts) - len(fitting)} of {len(prompts)} prompts are too long and left out")
    return fitting


def choose_prompts(prompts: Sequence[Prompt], size: int, iteration: int, seed: int) -> list[Prompt]:
    """The next `size` prompts of an endless seeded sequence, reshuffled each time round."""
    count = len(prompts)
    places = [divmod(index, count) for index in range(iteration * size, (iteration + 1) * size)]
    orders = {
        epoch: generator_for(seed, "prompts", epoch).permutation(count) for epoch in {epoch for epoch, _ in places}
    }
    return [prompts[int(orders[epoch][place])] for epoch, place in places]
