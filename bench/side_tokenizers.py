"""`tokenizers.encode_batch_fast` with the same tokenizer.json; RAYON_NUM_THREADS sets its threads."""

import os
from pathlib import Path

import tokenizers

from bench.encoding_runs import encoding_work
from bench.protocol import options, serve

OPTIONS = options()
TOKENIZER = tokenizers.Tokenizer.from_file(str(Path(OPTIONS["folder"]) / "tokenizer.json"))

if __name__ == "__main__":
    encode = encoding_work(
        Path(OPTIONS["folder"]),
        lambda texts: TOKENIZER.encode_batch_fast(texts, add_special_tokens=False),
        lambda encodings: [encoding.ids for encoding in encodings],
    )
    serve({"tokenizers": tokenizers.__version__, "threads": os.environ.get("RAYON_NUM_THREADS")}, encode)
