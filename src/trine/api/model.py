"""A language model in a Python program. It writes as `trine generate` and `trine chat` do, with the same defaults."""

import os
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict, Unpack, overload

from trine.api.completion import Completion
from trine.api.prompts import Conversation, Prompt, is_many, messages_of, paired
from trine.catalog.writer import Writer
from trine.config.loading import validated
from trine.config.use import ChatConfig, OpenConfig, SamplingConfig
from trine.engine.sampling import Sampling
from trine.engine.worker import EngineWorker
from trine.records import Rollout
from trine.runtime.errors import TrineError
from trine.tokenizer.chat_format import Chat, chat_format
from trine.tokenizer.text_stream import TextStream
from trine.tokenizer.tokenizer import Tokenizer

Texts = list[str] | tuple[str, ...]


class SamplingOptions(TypedDict, total=False):
    """How an answer is sampled, and when it ends: the fields of `SamplingConfig`.

    `temperature`, `top_k`, `top_p`, `min_p` and `repetition_penalty` are, where not given, what the model's makers
    suggest (generation_config.json), else Trine's own (temperature 0.8, no filter).
    """

    max_new_tokens: int
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float | None
    stop_strings: Sequence[str]
    json_schema: str | None
    regex: str | None
    seed: int


def load(
    name: str | os.PathLike[str],
    *,
    adapter: str | os.PathLike[str] | None = None,
    ignore_config_keys: Sequence[str] = (),
    device: str = "auto",
    precision: Literal["auto", "fp32", "bf16"] = "auto",
    threads: int = 0,
    weights: Literal["compute", "bf16", "int8"] = "compute",
    rows: int = 64,
) -> "Model":
    """Open a language model: a run, model or adapter folder, a `Result`, a .gguf file, smollm2, or owner/name on the
    hub; with the LoRA adapter `adapter` merged into it, a folder of PEFT's form or owner/name on the hub.

        model = trine.load("runs/quickstart/ppo")

    Keys of its config that could change the results are refused by name; `ignore_config_keys` treats them as absent.
    `device` is auto, cpu, cuda, cuda:1 or mps; `precision` auto takes bf16 where the hardware has it; `threads` 0 takes
    all cores; `weights` bf16 and int8 are kept in fewer bits, which is faster and a little less accurate; `rows` is
    how many answers are written at a time.
    """
    hardware = {"device": device, "precision": precision, "threads": threads}
    values: dict[str, Any] = {"model": os.fspath(name), "weights": weights, "hardware": hardware}
    values |= {"adapter": None if adapter is None else os.fspath(adapter), "ignore_config_keys": ignore_config_keys}
    return Model(Writer(validated(OpenConfig, values, "trine.load"), rows=rows))


@dataclass(frozen=True)
class _Form:
    """How prompts become ids and ids text: plain text that goes on, or a conversation that is answered."""

    ends: tuple[int, ...]
    stream: Callable[[], TextStream]


class Model:
    """A model that writes; made by `trine.load`::

        import trine

        model = trine.load("runs/chat")
        print(model.generate("The", max_new_tokens=8, temperature=0))
        print(model.chat([{"role": "user", "content": "Hi!"}], max_new_tokens=8))
        for piece in model.chat([{"role": "user", "content": "Hi!"}], max_new_tokens=8, stream=True):
            print(piece, end="", flush=True)

    Answers are `Completion`s: texts with their ids, log-probabilities and stop reason. The same seed gives the same
    answer, alone or among others. Threads may share a model.
    """

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        if isinstance(writer.engine, EngineWorker):
            weakref.finalize(self, writer.engine.close)  # its thread would keep the model in memory
        self._continuing = _Form(writer.tokenizer.stop_ids, lambda: TextStream(writer.tokenizer, skip=""))

    @property
    def tokenizer(self) -> Tokenizer:
        return self._writer.tokenizer

    @property
    def context(self) -> int:
        """The longest prompt with its answer, in tokens."""
        return self._writer.context

    # Generation

    @overload
    def generate(self, prompt: str, *, stream: Literal[True], **options: Unpack[SamplingOptions]) -> Iterator[str]: ...
    @overload
    def generate(self, prompt: str, *, samples: int, **options: Unpack[SamplingOptions]) -> list[Completion]: ...
    @overload
    def generate(self, prompt: str, **options: Unpack[SamplingOptions]) -> Completion: ...
    @overload
    def generate(
        self, prompt: Texts, *, samples: int, **options: Unpack[SamplingOptions]
    ) -> list[list[Completion]]: ...
    @overload
    def generate(self, prompt: Texts, **options: Unpack[SamplingOptions]) -> list[Completion]: ...
    def generate(
        self, prompt: Any, *, samples: int | None = None, stream: bool = False, **options: Unpack[SamplingOptions]
    ) -> Any:
        """Continue a text, or each of a list of texts.

            model.generate("import numpy as", max_new_tokens=16, seed=1)
            model.generate(["def add(a, b):", "def mul(a, b):"], temperature=0)
            model.generate("Once", samples=4)       # a list of 4, whatever the prompt
            model.generate("Once", stream=True)     # pieces of text as they are written

        Options are those of `trine generate` (`SamplingOptions`). Raises `TrineError` naming what cannot be.
        """
        config = validated(SamplingConfig, dict(options), "Model.generate")
        form = self._continuing
        sampling = self._writer.sampling(config, form.ends)
        prompts = [self.tokenizer.prompt_ids(_text(each)) for each in (prompt if is_many(prompt) else [prompt])]
        if stream:
            return self._writer.pieces(_only(prompts, is_many(prompt), samples), sampling, form.stream())
        answers = self._answers(prompts, sampling, form, samples)
        return answers if is_many(prompt) else answers[0]

    @overload
    def chat(
        self, messages: Conversation, *, stream: Literal[True], **options: Unpack[SamplingOptions]
    ) -> Iterator[str]: ...
    @overload
    def chat(self, messages: Conversation, *, samples: int, **options: Unpack[SamplingOptions]) -> list[Completion]: ...
    @overload
    def chat(self, messages: Conversation, **options: Unpack[SamplingOptions]) -> Completion: ...
    def chat(
        self, messages: Any, *, samples: int | None = None, stream: bool = False, **options: Unpack[SamplingOptions]
    ) -> Any:
        """Answer a conversation, a list of {"role": ..., "content": ...}, in the model's own chat format.

            model.chat([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}])

        Options are those of `trine chat`: `max_new_tokens` is 256, and at most half of the model's context. `samples`
        and `stream` as in `generate`.
        """
        chat = self._chat()
        defaults = {"max_new_tokens": ChatConfig.model_fields["max_new_tokens"].default}
        config = validated(SamplingConfig, defaults | options, "Model.chat")
        form = _Form(chat.end_ids, chat.stream)
        sampling = self._writer.sampling(config, form.ends, budget=self._writer.chat_budget(config))
        prompts = [chat.prompt_ids(messages_of(messages))]
        if stream:
            return self._writer.pieces(_only(prompts, False, samples), sampling, form.stream())
        return self._answers(prompts, sampling, form, samples)[0]

    # Scoring

    @overload
    def log_probs(self, prompt: Prompt, response: str, *, temperature: float = 1.0) -> list[float]: ...
    @overload
    def log_probs(
        self, prompt: Sequence[Prompt], response: Texts, *, temperature: float = 1.0
    ) -> list[list[float]]: ...
    def log_probs(self, prompt: Any, response: Any, *, temperature: float = 1.0) -> Any:
        """The log-probability of every token of `response` after `prompt`; of lists of both, a list for each.

            sum(model.log_probs("The capital of France is", " Paris"))
            model.log_probs([{"role": "user", "content": "2 + 2?"}], "4")

        After a text the response goes on; after a conversation it is an answer, its end token included.
        """
        many = not isinstance(response, str)
        pairs = [self._pair(*pair) for pair in paired(prompt, response)] if many else [self._pair(prompt, response)]
        log_probs = self._writer.engine.log_probs(
            [prompt_ids for prompt_ids, _ in pairs], [response_ids for _, response_ids in pairs], temperature
        )
        return log_probs if many else log_probs[0]

    def _pair(self, prompt: Prompt, response: str) -> tuple[list[int], list[int]]:
        if isinstance(prompt, str):
            return self.tokenizer.prompt_ids(prompt), self.tokenizer.encode(_text(response))
        chat = self._chat()
        return chat.prompt_ids(messages_of(prompt)), chat.response_ids(_text(response))

    def _chat(self) -> Chat:
        return chat_format(self.tokenizer)

    def _answers(self, prompts: list[list[int]], sampling: Sampling, form: _Form, samples: int | None) -> list[Any]:
        """For every prompt its answer, or a list of as many as `samples` says."""
        if samples is not None and samples < 1:
            raise TrineError(f"samples={samples} asks for no answer; give at least 1")
        rollouts = self._writer.engine.generate(prompts, [sampling] * len(prompts), samples=samples or 1)
        answers = [self._completion(rollout, sampling, form) for rollout in rollouts]
        if samples is None:
            return answers
        return [answers[start : start + samples] for start in range(0, len(answers), samples)]

    def _completion(self, rollout: Rollout, sampling: Sampling, form: _Form) -> Completion:
        text = self._writer.text(rollout.response_ids, sampling, form.stream())
        return Completion(text, rollout.response_ids, rollout.log_probs, rollout.stop_reason)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TrineError(f"{value!r:.60} is no text; conversations are for Model.chat")
    return value


def _only(prompts: list[list[int]], many: bool, samples: int | None) -> list[int]:
    if many or samples is not None:
        raise TrineError("stream=True writes one answer to one prompt; leave it out for several")
    return prompts[0]
