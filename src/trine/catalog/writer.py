"""A model opened for writing, as `trine generate`, `trine chat` and `trine.load` share it, and its sampling settings.

A setting that is not given is what the model's makers suggest (generation_config.json), else Trine's own default.
"""

from collections.abc import Generator, Sequence
from typing import TypeVar

from trine.catalog.loading import OpenedModel, open_hardware, open_language_model
from trine.config.extras import check_extras
from trine.config.use import OpenConfig, SamplingConfig
from trine.engine.answer_text import AnswerText
from trine.engine.engine import Engine
from trine.engine.sampling import Constraint, Sampling
from trine.engine.worker import EngineWorker
from trine.model.generation_config import GenerationDefaults
from trine.records import StopReason
from trine.runtime.errors import TrineError
from trine.tokenizer.text_stream import TextStream

DEFAULT_TEMPERATURE = 0.8
Number = TypeVar("Number", int, float)


class Writer:
    """A model with its engine::

        writer = Writer(OpenConfig(model="runs/base"), rows=1)
        ids = writer.tokenizer.prompt_ids("import")
        sampling = writer.sampling(SamplingConfig(max_new_tokens=4), writer.tokenizer.stop_ids)
        for piece in writer.pieces(ids, sampling, TextStream(writer.tokenizer, skip="")):
            print(piece, end="")

    `rows` is how many answers are written at a time. The engine runs in a thread of its own (`EngineWorker`): threads
    may share it, and an interrupt of the main one never cuts through one of its steps.
    """

    def __init__(self, config: OpenConfig, *, rows: int) -> None:
        check_extras(config)
        self.opened: OpenedModel = open_language_model(
            config.model,
            open_hardware(config.hardware),
            adapter=config.adapter,
            ignored=config.ignore_config_keys,
        )
        self.tokenizer = self.opened.tokenizer
        self.context = self.opened.model.config.context
        engine = Engine(self.opened.model, rows=rows, weights=config.weights, tokenizer=self.tokenizer)
        self.engine = EngineWorker(engine)

    def sampling(
        self, config: SamplingConfig, eos_ids: Sequence[int], *, seed: int | None = None, budget: int | None = None
    ) -> Sampling:
        """The settings of one request: the config's, but for a seed or a budget of the caller's."""
        suggested = self.opened.generation
        return Sampling(
            max_new_tokens=config.max_new_tokens if budget is None else budget,
            temperature=_temperature(config.temperature, suggested),
            seed=config.seed if seed is None else seed,
            eos_ids=tuple(dict.fromkeys((*eos_ids, *suggested.eos_token_ids))),
            stop_strings=config.stop_strings or suggested.stop_strings or (),
            top_k=_first(config.top_k, suggested.top_k, 0),
            top_p=_first(config.top_p, suggested.top_p, 1.0),
            min_p=_first(config.min_p, suggested.min_p, 0.0),
            repetition_penalty=_first(config.repetition_penalty, suggested.repetition_penalty, 1.0),
            constraint=_constraint(config),
        )

    def chat_budget(self, config: SamplingConfig) -> int:
        """The token budget of an answer in a conversation: at most half of the model's context."""
        return min(config.max_new_tokens, self.context // 2)

    def pieces(self, ids: Sequence[int], sampling: Sampling, stream: TextStream) -> Generator[str, None, StopReason]:
        """One answer's text as it is written; the generator returns why it ended. Closing it cancels the answer."""
        answer = AnswerText(stream, sampling.stop_strings)
        future = self.engine.submit(ids, sampling)
        for new_ids in future.stream():
            yield answer.push(new_ids)
        yield answer.finish()
        return future.result().stop_reason

    def text(self, ids: Sequence[int], sampling: Sampling, stream: TextStream) -> str:
        """A whole answer's text, up to its stop string."""
        answer = AnswerText(stream, sampling.stop_strings)
        return answer.push(ids) + answer.finish()


def _temperature(given: float | None, suggested: GenerationDefaults) -> float:
    if given is None and suggested.do_sample is False:
        return 0.0
    return _first(given, suggested.temperature, DEFAULT_TEMPERATURE)


def _first(given: Number | None, suggested: Number | None, otherwise: Number) -> Number:
    return next(value for value in (given, suggested, otherwise) if value is not None)


def _constraint(config: SamplingConfig) -> Constraint | None:
    if config.json_schema is not None and config.regex is not None:
        raise TrineError("json_schema and regex are both given; an answer can have one form only")
    if config.json_schema is not None:
        return Constraint("json_schema", config.json_schema)
    return None if config.regex is None else Constraint("regex", config.regex)
