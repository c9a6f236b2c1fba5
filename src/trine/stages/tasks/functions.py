"""Step 2a: tasks mined from code, split into training, held-out-reward and held-out parts."""

import signal
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

from trine.config.text import FunctionsConfig
from trine.data.account import Tally
from trine.data.corpus import open_corpus
from trine.data.files import write_examples
from trine.data.filters import FilterCounts
from trine.data.functions import mine_functions
from trine.data.sources import is_held_out
from trine.records import Document, Example
from trine.runtime.errors import TrineError
from trine.runtime.progress import progress_bar, say
from trine.tokenizer.chat_format import chat_format
from trine.tokenizer.tokenizer import Tokenizer
from trine.training.inputs import tokenizer_fingerprint
from trine.training.run_folder import open_run

DOCUMENTS_AT_A_TIME = 64
PARTS_AHEAD = 8


def run(config: FunctionsConfig) -> Path:
    """Mine tasks into train.jsonl, held_out_reward.jsonl and held_out.jsonl of the run folder.

    No two of the three have a prompt in common; held_out shares no module with the others either.
    """
    corpus = open_corpus(config.corpus)
    say(f"corpus: {corpus.description}")
    tokenizer = Tokenizer.load(config.tokenizer)
    inputs = {"corpus": corpus.fingerprint, "tokenizer": tokenizer_fingerprint(tokenizer)}
    with open_run(config, inputs) as folder:
        if folder.finished:
            return folder.path
        counts, tallies = FilterCounts(), dict[str, Tally]()
        train = _within_budget(_mine(corpus.documents("train", counts, tallies)), tokenizer, config)
        account = corpus.account(tallies.values(), counts)
        say(f"functions: {account.words}")
        held_out = _within_budget(_mine(corpus.documents("held_out")), tokenizer, config)
        if not train:
            raise TrineError(
                "no documented function of the corpus fits the budgets; raise max_prompt_tokens or max_response_tokens"
            )
        unseen = {example.prompt for example in held_out}
        train = [example for example in train if example.prompt not in unseen]
        set_apart = [
            example for example in train if is_held_out(example.prompt[0].content, config.held_out_reward_share)
        ]
        write_examples(folder.path / "all.jsonl", train)
        apart_prompts = {example.prompt for example in set_apart}
        write_examples(
            folder.path / "train.jsonl", [example for example in train if example.prompt not in apart_prompts]
        )
        write_examples(folder.path / "held_out_reward.jsonl", set_apart)
        write_examples(folder.path / "held_out.jsonl", held_out)
        tasks = {"train": len(train) - len(set_apart), "held_out_reward": len(set_apart), "held_out": len(held_out)}
        train_count, apart_count, held_out_count = tasks.values()
        say(
            f"functions: {train_count} tasks for training, {apart_count} for the held-out reward, "
            f"{held_out_count} held out"
        )
        folder.finish(tasks | {"account": account.as_json()})
    return folder.path


def _mine(documents: Iterator[Document]) -> list[Example]:
    """Parsing is the slow part and Python's own: it runs in two more processes, a few parts ahead of what is asked."""
    found: list[Example] = []
    with (
        ProcessPoolExecutor(
            2, mp_context=get_context("forkserver"), initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN)
        ) as pool,
        progress_bar("functions", None) as bar,
    ):
        waiting: deque[Future[list[Example]]] = deque()
        while part := list(islice(documents, DOCUMENTS_AT_A_TIME)):
            waiting.append(pool.submit(_mine_part, part))
            if len(waiting) > PARTS_AHEAD:
                found += waiting.popleft().result()
            bar.advance_or_stop()
        while waiting:
            found += waiting.popleft().result()
            bar.advance_or_stop(0)
    return found


def _mine_part(documents: Sequence[Document]) -> list[Example]:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other people's code has invalid escapes
        return list(mine_functions(documents))


def _within_budget(examples: list[Example], tokenizer: Tokenizer, config: FunctionsConfig) -> list[Example]:
    """Examples within the token budgets, each prompt and body pair once."""
    chat = chat_format(tokenizer)
    seen: set[tuple[str, str]] = set()
    kept = []
    for example in examples:
        key = (example.prompt[0].content, example.response)
        if key in seen:
            continue
        seen.add(key)
        prompt, response = chat.prompt_ids(example.prompt), chat.response_ids(example.response)
        smallest = config.min_response_tokens
        if len(prompt) <= config.max_prompt_tokens and smallest <= len(response) <= config.max_response_tokens:
            kept.append(example)
    return kept
