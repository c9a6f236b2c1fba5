"""A corpus to token shards, end to end: reading, two workers that encode, files on disk, as `trine shards` does.

Nothing is made when this module is imported: the workers import it too.
"""

import shutil
import tempfile
import time
from pathlib import Path

from bench.encoding_runs import describe
from bench.protocol import Reply, options, serve


def encode(seed: int) -> Reply:
    """All texts of the folder into fresh shards."""
    from trine.config.base import HardwareConfig
    from trine.config.corpus import CorpusConfig
    from trine.data.corpus import open_corpus
    from trine.stages.pretraining.shards import encode_corpus
    from trine.tokenizer.tokenizer import Tokenizer

    asked = options()
    folder, place = Path(asked["folder"]), Path(tempfile.mkdtemp(prefix="trine-shards-"))
    config = CorpusConfig(folders=(folder / "texts.jsonl",), held_out_share=0.0)
    try:
        started = time.perf_counter()
        tokenizer = Tokenizer.load(folder)
        shards = encode_corpus(
            place / "shards", open_corpus(config), tokenizer, HardwareConfig(threads=asked["threads"] or 2)
        )
        seconds = time.perf_counter() - started
        rows = [ids.tolist() for ids in shards.train.document_ids()]
        return describe(rows, shards.train.bytes, seconds, "reading, encoding and writing")
    finally:
        shutil.rmtree(place)


if __name__ == "__main__":
    serve({"threads": options()["threads"] or 2}, encode)
