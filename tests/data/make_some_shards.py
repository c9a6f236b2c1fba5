"""Shards made slowly, for a test that kills it: `python -m tests.data.make_some_shards FOLDER CORPUS WORKERS DELAY`."""

import sys
from pathlib import Path

from tests.data.encoders import byte_target
from trine.config.corpus import CorpusConfig, FilterConfig
from trine.data import corpus_reader, encoding
from trine.data.corpus import open_corpus
from trine.data.shard_making import make_shards
from trine.data.shards import Shards
from trine.runtime.signals import Interrupted, stop_request

FILTERS = FilterConfig(exact_duplicates=True, maximum_line_length=80)


def make(folder: Path, corpus: Path, workers: int, delay: float) -> Shards:
    config = CorpusConfig(folders=(corpus,), filters=FILTERS, held_out_share=0.2, max_broken_share=0.5)
    return make_shards(folder, open_corpus(config), byte_target(FILTERS, delay), workers, chunk=3000)


if __name__ == "__main__":
    stop_request.install()
    corpus_reader.BATCH_DOCUMENTS = 16
    encoding.SMALL_CORPUS = 1
    try:
        make(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
    except Interrupted as interruption:
        sys.exit(128 + interruption.signal_number)
