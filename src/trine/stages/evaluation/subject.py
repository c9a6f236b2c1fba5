"""A model that is evaluated: its engine, and how text and conversations become ids for it."""

from collections.abc import Sequence
from dataclasses import replace

from trine.engine.answer_text import AnswerText
from trine.engine.engine import Engine
from trine.engine.sampling import Sampling
from trine.model.transformer import Transformer
from trine.records import Rollout
from trine.runtime.progress import progress_bar
from trine.stages.evaluation.task import Prompt, as_turn
from trine.tokenizer.chat_format import Chat, chat_format
from trine.tokenizer.text_stream import TextStream
from trine.tokenizer.tokenizer import Tokenizer

ROWS = 64
ROWS_SCORED_AT_ONCE = 256


class ModelSubject:
    """A `Subject` (`task.py`) of a language model::

        subject = ModelSubject("tiny", model, tokenizer)
        [log_probs] = subject.log_probs(subject.continuation_ids("def add", ["(a, b)"]))

    `asks_in_chat`: tasks put their prompts to it as conversations, as it was fine-tuned to be asked.
    """

    def __init__(self, name: str, model: Transformer, tokenizer: Tokenizer, *, asks_in_chat: bool = False) -> None:
        self.name, self.tokenizer, self.asks_in_chat = name, tokenizer, asks_in_chat
        self.context = model.config.context
        self.engine = Engine(model, rows=ROWS, tokenizer=tokenizer)
        self._chat: Chat | None = None

    @property
    def chat(self) -> Chat:
        """Its chat format; raises `TrineError` where it has none."""
        self._chat = self._chat or chat_format(self.tokenizer)
        return self._chat

    def prompt_ids(self, prompt: Prompt) -> list[int]:
        return self.tokenizer.prompt_ids(prompt) if isinstance(prompt, str) else self.chat.prompt_ids(prompt)

    def continuation_ids(self, prompt: Prompt, responses: Sequence[str]) -> list[tuple[list[int], list[int]]]:
        if not isinstance(prompt, str):
            before = self.chat.prompt_ids(prompt)
            return [(before, self.chat.response_ids(as_turn(response))) for response in responses]
        whole = [self.tokenizer.prompt_ids(prompt + response) for response in responses]
        before = self.tokenizer.prompt_ids(prompt)
        cut = min((_common(before, ids) for ids in whole), default=0)
        # Without BOS and prompt there is nothing to predict the first token from but the end of a text before.
        start = [] if cut else [self.tokenizer.end_of_text]
        return [(start + ids[:cut], ids[cut:]) for ids in whole]

    def log_probs(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[list[float]]:
        found: list[list[float]] = []
        with progress_bar(f"{self.name}: log-probabilities", len(pairs)) as bar:
            for start in range(0, len(pairs), ROWS_SCORED_AT_ONCE):
                part = pairs[start : start + ROWS_SCORED_AT_ONCE]
                found += self.engine.log_probs([before for before, _ in part], [after for _, after in part])
                bar.advance_or_stop(len(part))
        return found

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, samples: int = 1, *, answering: bool = False
    ) -> list[Rollout]:
        ends = self.chat.end_ids if answering else self.tokenizer.stop_ids
        settings = replace(sampling, eos_ids=tuple(dict.fromkeys((*sampling.eos_ids, *ends))))
        with progress_bar(f"{self.name}: answers", len(prompts) * samples) as bar:
            return self.engine.generate(prompts, settings, samples=samples, on_finished=bar.advance_or_stop)

    def text(self, rollout: Rollout, stop_strings: Sequence[str] = (), *, answering: bool = False) -> str:
        stream = self.chat.stream() if answering else TextStream(self.tokenizer, skip="")
        answer = AnswerText(stream, stop_strings)
        return answer.push(rollout.response_ids) + answer.finish()


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    """How many ids two lists begin with alike."""
    pairs = zip(first, second, strict=False)
    return next((index for index, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))
