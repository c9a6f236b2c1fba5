"""`Tokenizer.encode_batch` on two threads, as a shard is made."""

from pathlib import Path

import trine
from bench.encoding_runs import encoding_work
from bench.protocol import options, serve
from trine.tokenizer.tokenizer import Tokenizer

OPTIONS = options()
THREADS = OPTIONS["threads"] or 2
TOKENIZER = Tokenizer.load(Path(OPTIONS["folder"]))

if __name__ == "__main__":
    encode = encoding_work(
        Path(OPTIONS["folder"]), lambda texts: TOKENIZER.encode_batch(texts, THREADS), lambda ids: ids
    )
    serve({"trine": trine.__version__, "threads": THREADS}, encode)
