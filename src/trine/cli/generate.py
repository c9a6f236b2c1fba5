"""One prompt, one or more answers. A single answer is printed while it is written."""

import sys

from trine.catalog.writer import Writer
from trine.config.use import GenerateConfig
from trine.records import Message
from trine.tokenizer.chat_format import chat_format
from trine.tokenizer.text_stream import TextStream


def write(config: GenerateConfig) -> None:
    """Continue the prompt, or answer it with --chat true, on standard output."""
    writer = Writer(config, rows=min(config.samples, 64))
    tokenizer = writer.tokenizer
    text = sys.stdin.read() if config.prompt == "-" else config.prompt
    if config.chat:
        chat = chat_format(tokenizer)
        ids, ends, opening = chat.prompt_ids((Message("user", text),)), chat.end_ids, ""
        streams = [chat.stream() for _ in range(config.samples)]
    else:
        ids, ends, opening = tokenizer.prompt_ids(text), tokenizer.stop_ids, text
        streams = [TextStream(tokenizer, skip="") for _ in range(config.samples)]
    sampling = writer.sampling(config, ends)
    if config.samples == 1:
        for piece in writer.pieces(ids, sampling, streams[0]):
            sys.stdout.write(opening + piece)
            sys.stdout.flush()
            opening = ""
        sys.stdout.write("\n")
        return
    for rollout, stream in zip(writer.engine.generate([ids], sampling, samples=config.samples), streams, strict=True):
        sys.stdout.write(opening + writer.text(rollout.response_ids, sampling, stream) + "\n")
