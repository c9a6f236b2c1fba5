"""Trine's own tokenizers: byte-level BPE (Sennrich et al. 2016; Radford et al. 2019), GPT-2's split pattern.

No normaliser, no unknown token. Trained by `tokenizers`, encoded by `tiktoken` with the same merges (several times
faster; a test checks that both give the same ids). The first four ids are reserved, in this order: end of text, pad,
start of turn, end of turn.
"""

import json
from collections.abc import Iterable

from tokenizers import Tokenizer as HuggingFaceTokenizer
from tokenizers import decoders, models, pre_tokenizers, trainers

from trine.runtime.errors import TrineError
from trine.tokenizer.files import CONFIG, PIPELINE, TokenizerFiles
from trine.tokenizer.tokenizer import Tokenizer

END_OF_TEXT, PAD, TURN_START, TURN_END = "<|endoftext|>", "<|pad|>", "<|im_start|>", "<|im_end|>"
SPECIAL_TOKENS = (END_OF_TEXT, PAD, TURN_START, TURN_END)
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


def train_tokenizer(texts: Iterable[str], vocab_size: int, *, progress: bool = False) -> Tokenizer:
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
    backend = HuggingFaceTokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)  # type: ignore[assignment]
    backend.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=progress,
    )
    backend.train_from_iterator(texts, trainer)
    if backend.get_vocab_size() < vocab_size:
        raise TrineError(
            f"the corpus is too small for vocab_size={vocab_size}: it yields only "
            f"{backend.get_vocab_size()} entries; give more text or a smaller vocabulary"
        )
    config = json.dumps(_CONFIG, indent=2, ensure_ascii=False, sort_keys=True) + "\n"
    return Tokenizer(TokenizerFiles({PIPELINE: backend.to_str(pretty=True), CONFIG: config}))
