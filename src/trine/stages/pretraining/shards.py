"""Between steps 0 and 1: a corpus encoded once, for any number of pretraining runs."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from trine.config.base import HardwareConfig
from trine.config.text import ShardsConfig
from trine.data.account import Account
from trine.data.corpus import Corpus, open_corpus
from trine.data.encoding import Encoding
from trine.data.shard_making import Target, make_shards
from trine.data.shards import Shards
from trine.runtime.device import available_cores
from trine.runtime.errors import TrineError
from trine.runtime.files import sha256_of
from trine.runtime.progress import say
from trine.tokenizer.tokenizer import Tokenizer, array_encoder
from trine.training.inputs import tokenizer_fingerprint
from trine.training.run_folder import open_run

FOLDER = "shards"


def run(config: ShardsConfig) -> Path:
    """Make the shards and write them to `shards/` of the run folder."""
    corpus, tokenizer = open_corpus(config.corpus), Tokenizer.load(config.tokenizer)
    say(f"corpus: {corpus.description}")
    inputs = {"corpus": corpus.fingerprint, "tokenizer": tokenizer_fingerprint(tokenizer)}
    with open_run(config, inputs) as folder:
        if not folder.finished:
            shards = encode_corpus(folder.path / FOLDER, corpus, tokenizer, config.hardware)
            described = {"corpus": shards.overview, "corpus_fingerprint": corpus.fingerprint}
            folder.finish(described | shards.contents | shards.making)
    return folder.path


def encode_corpus(folder: Path, corpus: Corpus, tokenizer: Tokenizer, hardware: HardwareConfig) -> Shards:
    """The shards of `corpus` in `folder`, made unless they are there; `hardware.threads` workers."""
    encoding = Encoding(partial(array_encoder, tokenizer.files), tokenizer.end_of_text, corpus.config.filters)
    target = Target(tokenizer.fingerprint, tokenizer.vocab_size, encoding)
    shards = make_shards(folder, corpus, target, hardware.threads or available_cores())
    shards.check_contents(tokenizer.vocab_size)
    say(f"shards: {shards.overview}")
    for line in _remarks(shards, corpus.config.held_out_share):
        say(f"shards: {line}")
    return shards


def _remarks(shards: Shards, held_out_share: float) -> Iterator[str]:
    """What became of the records, and whether any is held out."""
    account = shards.description.get("account")
    if account:
        yield Account.from_json(account).words
    if held_out_share and not shards.held_out:
        yield (
            f"nothing is held out, so the model cannot be evaluated: a hash of its name put none of the "
            f"{shards.train.document_count} documents into held_out_share={held_out_share:g}; raise it, or give "
            "more files"
        )


def open_shards(run_folder: Path, tokenizer: Tokenizer) -> Shards:
    """The shards that a shards stage made. Raises `TrineError` when they are another tokenizer's."""
    shards = Shards(run_folder / FOLDER)
    if shards.description["tokenizer"] != tokenizer.fingerprint:
        raise TrineError(
            f"the shards in {run_folder} were made with another tokenizer than {tokenizer.files.place}; give the one "
            "they were made with, or make shards for this one"
        )
    shards.check_contents(tokenizer.vocab_size)
    return shards


def shards_fingerprint(shards: Shards) -> str:
    """Of what was encoded, by which tokenizer, and how often each source is read."""
    return sha256_of(shards.fingerprint, repr(shards.weights))
