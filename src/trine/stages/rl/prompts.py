"""The prompts that online RL samples from, in an endless seeded order.

A prompt is a conversation opened for the assistant to speak, or, with form text, the beginning of a text: the whole of
it, or as many tokens as `query_tokens` draws for its record by the seed (Ziegler et al. 2019 continued 64 tokens, TRL's
reviews 2 to 8). A text is cut between whole characters.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from trine.catalog.exchanges import read_exchanges, read_texts
from trine.records import Answer, Example, Message, Rollout
from trine.runtime.errors import TrineError
from trine.runtime.progress import say
from trine.runtime.seeds import generator_for
from trine.tokenizer.chat_format import Chat
from trine.tokenizer.text_format import TextFormat
from trine.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True)
class Prompt:
    """What is answered: token ids, the messages or the plain text (`query`) they stand for, its record's other fields
    and its name.

    `ids` may be those of a later turn of a conversation: then they begin with a rollout's prompt and end before the
    turn that is scored.
    """

    ids: tuple[int, ...]
    messages: tuple[Message, ...] = ()
    columns: Mapping[str, Any] = field(default_factory=dict, hash=False)
    query: str | None = None
    name: str = ""

    def answer(self, rollout: Rollout, form: Chat | TextFormat, stop_strings: Sequence[str] = ()) -> Answer:
        """A rollout of this prompt, as a reward sees it: of a conversation of several turns the last, after the others.

        Where a stop string ended it, the text is what stands before that, and it carries no ids: what was sampled is
        no encoding of it.
        """
        ids = rollout.response_ids[len(self.ids) - len(rollout.prompt_ids) :]
        text = form.text(ids)
        ends = [place for place in map(text.find, stop_strings) if place >= 0] if rollout.stop_reason == "stop" else []
        answer = Answer(
            self.messages, text[: min(ends)] if ends else text, rollout.ended, columns=self.columns, query=self.query,
            prompt_index=rollout.prompt_index,
        )  # fmt: skip
        return answer if ends else with_ids(answer, self.ids, ids, form.tokenizer)


def with_ids(answer: Answer, prompt_ids: Sequence[int], response_ids: Sequence[int], tokenizer: Tokenizer) -> Answer:
    """The same answer with the ids it was sampled as, for readers with the same tokenizer."""
    return replace(
        answer, prompt_ids=tuple(prompt_ids), response_ids=tuple(response_ids), tokenizer=tokenizer.fingerprint
    )


def read_prompts(
    source: Path,
    form: Chat | TextFormat,
    max_prompt_tokens: int,
    query_tokens: Sequence[int] = (),
    seed: int = 0,
) -> list[Prompt]:
    """The prompts of a file, a folder or a data set; those of more than `max_prompt_tokens` are left out, and counted.

    With form text and `query_tokens` a prompt is as many tokens of its record's text, drawn between the two (both
    included); texts of fewer are left out, and counted.
    """
    if isinstance(form, TextFormat):
        prompts = read_queries(source, form, query_tokens, seed)
    else:
        prompts = [
            Prompt(tuple(form.prompt_ids(example.prompt)), example.prompt, columns_of(example), name=example.name)
            for example in read_exchanges(source, answered=False)
        ]
    if not prompts:
        raise TrineError(f"{source} holds no prompts")
    fitting = [prompt for prompt in prompts if len(prompt.ids) <= max_prompt_tokens]
    if not fitting:
        raise TrineError(f"{source}: no prompt leaves room for an answer: lower max_new_tokens, or shorten the prompts")
    if len(fitting) < len(prompts):
        say(f"{len(prompts) - len(fitting)} of {len(prompts)} prompts are too long and left out")
    return fitting


def columns_of(example: Example) -> dict[str, Any]:
    """What a reward may ask for by name: the record's other fields, and its answer as `response`."""
    return {**example.columns, "response": example.response} if example.response else dict(example.columns)


def read_queries(source: Path, form: TextFormat, query_tokens: Sequence[int], seed: int) -> list[Prompt]:
    """The beginnings of texts, in the order of their records."""
    examples = read_texts(source)
    if not query_tokens:
        return [query_of(example, form, None) for example in examples if example.response]
    least, most = query_tokens
    sizes = generator_for(seed, "query tokens").integers(least, most + 1, len(examples)).tolist()
    queries = [query_of(example, form, size) for example, size in zip(examples, sizes, strict=True)]
    found = [query for query, size in zip(queries, sizes, strict=True) if len(query.ids) >= size]
    if not found:
        raise TrineError(
            f"{source}: no text has as many tokens as query_tokens={list(query_tokens)} asks for; lower it"
        )
    if len(found) < len(queries):
        say(f"{len(queries) - len(found)} of {len(queries)} texts are shorter than their query and left out")
    return found


def query_of(example: Example, form: TextFormat, size: int | None) -> Prompt:
    """The first `size` tokens of a text, and of a character that they break the rest; None: all of it.

    What follows in the text is the column `response`, as a person's answer is in a conversation.
    """
    ids = form.query_ids(example.response)
    if size is None:
        return Prompt(tuple(ids), columns=example.columns, query=example.response, name=example.name)
    given = len(ids) - len(form.tokenizer.encode(example.response))  # BOS is no token of the text
    end = next((end for end in range(given + size, len(ids)) if _is_whole(ids[:end], form)), len(ids))
    columns = {**example.columns, "response": form.text(ids[end:])}
    return Prompt(tuple(ids[:end]), columns=columns, query=form.tokenizer.decode(ids[:end]), name=example.name)


def _is_whole(ids: Sequence[int], form: TextFormat) -> bool:
    """Whether the ids end with a whole character."""
    stream = form.stream()
    stream.push(ids)
    return "\ufffd" not in stream.finish()


def choose_prompts(prompts: Sequence[Prompt], size: int, iteration: int, seed: int) -> list[Prompt]:
    """The next `size` prompts of an endless seeded sequence, reshuffled each time round."""
    count = len(prompts)
    places = [divmod(index, count) for index in range(iteration * size, (iteration + 1) * size)]
    orders = {
        epoch: generator_for(seed, "prompts", epoch).permutation(count) for epoch in {epoch for epoch, _ in places}
    }
    return [prompts[int(orders[epoch][place])] for epoch, place in places]
