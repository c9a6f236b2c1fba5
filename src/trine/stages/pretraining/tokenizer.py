"""Step 0: learn a vocabulary from the corpus."""

import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from trine.config.corpus import CorpusConfig
from trine.config.text import TokenizerConfig
from trine.data.account import Tally
from trine.data.corpus import Corpus, open_corpus
from trine.data.filters import FilterCounts
from trine.records import Document
from trine.runtime.progress import say
from trine.runtime.signals import stop_request
from trine.tokenizer.bpe import train_tokenizer
from trine.tokenizer.tokenizer import Tokenizer
from trine.training.run_folder import open_run

MEASURED_BYTES = 16_000_000


def run(config: TokenizerConfig) -> Path:
    """Train a tokenizer and write it to the run folder."""
    corpus = open_corpus(config.corpus)
    say(f"corpus: {corpus.description}")
    with open_run(config, {"corpus": corpus.fingerprint}) as folder:
        if folder.finished:
            return folder.path
        started = time.perf_counter()
        counts = FilterCounts()
        tallies: dict[str, Tally] = {}
        read = open_corpus(_without_near_duplicates(config.corpus)).documents("train", counts, tallies)
        tokenizer = train_tokenizer(_texts(read, config.max_bytes), config.vocab_size)
        tokenizer.save(folder.path)
        account = corpus.account(tallies.values(), counts)
        say(f"tokenizer: {account.words}")
        folder.finish(
            {
                "corpus": corpus.description,
                "corpus_fingerprint": corpus.fingerprint,
                "documents": counts.as_json(),
                "account": account.as_json(),
                "vocab_size": tokenizer.vocab_size,
                "bytes_per_token": bytes_per_token(corpus, tokenizer),
                "seconds": time.perf_counter() - started,
            }
        )
    return folder.path


def _without_near_duplicates(corpus: CorpusConfig) -> CorpusConfig:
    """A vocabulary is much the same with them, and finding them takes more time and memory than learning it."""
    return corpus.model_copy(update={"filters": corpus.filters.model_copy(update={"near_duplicates": False})})


def _texts(documents: Iterable[Document], max_bytes: int) -> Iterator[str]:
    """The documents' texts up to so many bytes. A stop request ends it: nothing of a vocabulary is kept half-made."""
    size = 0
    for document in documents:
        stop_request.check()
        yield document.text
        size += len(document.text.encode("utf-8", "replace"))
        if size >= max_bytes:
            say(f"tokenizer: learned from the corpus's first {size / 1e6:.0f} MB (max_bytes)")
            return


def bytes_per_token(corpus: Corpus, tokenizer: Tokenizer) -> float:
    """Over the first 16 MB of held-out documents, or of training documents where none are held out."""
    tokens = size = 0
    for part in ("held_out", "train"):
        for document in corpus.documents(part):
            stop_request.check()
            tokens += len(tokenizer.encode_batch([document.text])[0])
            size += len(document.text.encode("utf-8", "replace"))
            if size >= MEASURED_BYTES:
                break
        if tokens:
            break
    return size / max(tokens, 1)
