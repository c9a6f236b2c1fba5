"""Step 0: learn a vocabulary from the corpus."""

import time
from pathlib import Path

from trine.config.text import TokenizerConfig
from trine.data.corpus import load_corpus
from trine.runtime.progress import say
from trine.tokenizer.bpe import train_tokenizer
from trine.training.run_folder import open_run


def run(config: TokenizerConfig) -> Path:
    """Train a tokenizer and write it to the run folder."""
    corpus = load_corpus(config.corpus)
    say(f"corpus: {corpus.description}")
    with open_run(config.model_dump(mode="json"), {"corpus": corpus.fingerprint}) as folder:
        if folder.finished:
            return folder.path
        started = time.perf_counter()
        tokenizer = train_tokenizer((document.text for document in corpus.train), config.vocab_size)
        tokenizer.save(folder.path)
        held_out = "".join(document.text for document in corpus.held_out) or corpus.train[0].text
        tokens = len(tokenizer.encode_batch([held_out])[0])
        folder.finish(
            {
                "corpus": corpus.description,
                "corpus_fingerprint": corpus.fingerprint,
                "vocab_size": tokenizer.vocab_size,
                "bytes_per_token": len(held_out.encode("utf-8", "replace")) / max(tokens, 1),
                "seconds": time.perf_counter() - started,
            }
        )
    return folder.path
