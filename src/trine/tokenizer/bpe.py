"""Trine's own tokenizers: byte-level BPE (Sennrich et al. 2016; Radford et al. 2019), GPT-2's split pattern.

No normaliser, no unknown token. Trained by `tokenizers`, encoded by `tiktoken` with the same merges (several times
faster; a test checks that both give the same ids). The first four ids are reserved, in this order: end of text, pad,
start of turn, end of turn.

Training runs in a process of its own (`bpe_training.py`), which a signal can end at any moment. A piece of more than
`MAX_PIECE_BYTES` bytes without a break, such as a hundred thousand blanks, is cut there: learning from one piece takes
time in the square of its length. No ordinary text has such pieces.
"""

import json
from collections.abc import Iterable

from trine.runtime.errors import TrineError
from trine.tokenizer.bpe_training import learned_pipeline
from trine.tokenizer.files import CONFIG, PIPELINE, TokenizerFiles
from trine.tokenizer.tokenizer import Tokenizer

END_OF_TEXT, PAD, TURN_START, TURN_END = "<|endoftext|>", "<|pad|>", "<|im_start|>", "<|im_end|>"
SPECIAL_TOKENS = (END_OF_TEXT, PAD, TURN_START, TURN_END)
MAX_PIECE_BYTES = 1024
MIN_VOCABULARY = 256 + len(SPECIAL_TOKENS)

CHATML_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_CONFIG = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": None,
    "eos_token": END_OF_TEXT,
    "pad_token": PAD,
    "additional_special_tokens": [TURN_START, TURN_END],
    "chat_template": CHATML_TEMPLATE,
    "clean_up_tokenization_spaces": False,
    "model_max_length": 1_000_000_000,
}


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Train a tokenizer of `vocab_size` entries, reserved ids included, on `texts`; deterministic.

    Example::

        tokenizer = train_tokenizer(texts, vocab_size=8192)
        tokenizer.save(Path("tokenizer"))

    Raises `TrineError` if there is not enough text for so many entries.
    """
    if vocab_size < MIN_VOCABULARY:
        raise TrineError(
            f"vocab_size={vocab_size} is too small: 256 bytes and {len(SPECIAL_TOKENS)} reserved tokens "
            f"need at least {MIN_VOCABULARY}"
        )
    pipeline = learned_pipeline(texts, vocab_size, SPECIAL_TOKENS, MAX_PIECE_BYTES)
    size = len(json.loads(pipeline)["model"]["vocab"])
    if size < vocab_size:
        raise TrineError(
            f"the corpus is too small for vocab_size={vocab_size}: it yields only {size} entries; give more text or a "
            "smaller vocabulary"
        )
    config = json.dumps(_CONFIG, indent=2, ensure_ascii=False, sort_keys=True) + "\n"
    return Tokenizer(TokenizerFiles({PIPELINE: pipeline, CONFIG: config}))
