"""One prompt, one or more answers. A single answer is printed while it is written.

Standard output holds the answers alone; that the token budget cut some of them is said on standard error.
"""

import sys
from collections.abc import Sequence

from trine.catalog.writer import Writer
from trine.cli.answer_output import AnswerOutput
from trine.cli.standard_input import input_text
from trine.config.use import GenerateConfig
from trine.engine.sampling import Sampling
from trine.records import Message, StopReason
from trine.runtime.errors import TrineError
from trine.runtime.progress import say
from trine.tokenizer.chat_format import chat_format
from trine.tokenizer.task_format import parse_slots, task_prompt_ids
from trine.tokenizer.text_stream import TextStream


def write(config: GenerateConfig) -> None:
    """Continue the prompt, or answer it with --chat true, on standard output."""
    text = input_text() if config.prompt == "-" else config.prompt
    writer = Writer(config, rows=min(config.samples, 64))
    tokenizer = writer.tokenizer
    if config.chat:
        if config.slots:
            raise TrineError("--slots places task tokens in plain text; leave out --chat or --slots")
        chat = chat_format(tokenizer)
        ids, ends, opening = chat.prompt_ids((Message("user", text),)), chat.end_ids, ""
        streams = [chat.stream() for _ in range(config.samples)]
    else:
        slots = parse_slots(tokenizer, config.slots)
        ids, ends = task_prompt_ids(tokenizer, [("", text), *slots]), tokenizer.stop_ids
        opening = "" if slots else text
        streams = [TextStream(tokenizer, skip="") for _ in range(config.samples)]
    sampling = writer.sampling(config, ends)
    _tell_cut(_written(writer, ids, sampling, streams, opening), config)


def _written(
    writer: Writer, ids: Sequence[int], sampling: Sampling, streams: Sequence[TextStream], opening: str
) -> list[StopReason]:
    """Write an answer for each stream, `opening` before it; why they ended."""
    output = AnswerOutput(sys.stdout)
    if len(streams) == 1:
        return [output.show(writer.pieces(ids, sampling, streams[0]), opening)]
    rollouts = writer.engine.generate([ids], sampling, samples=len(streams))
    for rollout, stream in zip(rollouts, streams, strict=True):
        output.write(opening + writer.text(rollout.response_ids, sampling, stream) + "\n")
    return [rollout.stop_reason for rollout in rollouts]


def _tell_cut(reasons: Sequence[StopReason], config: GenerateConfig) -> None:
    cut = reasons.count("length")
    if not cut:
        return
    who = "the answer was" if len(reasons) == 1 else f"{cut} of {len(reasons)} answers were"
    form = "json_schema" if config.json_schema is not None else "regex" if config.regex is not None else None
    unmet = "" if form is None else f", before what --{form} asks for was complete"
    say(f"{who} cut after {config.max_new_tokens} tokens{unmet}; --max_new_tokens raises that")
