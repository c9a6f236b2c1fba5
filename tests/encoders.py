"""A DistilBERT of random weights and a WordPiece tokenizer, made here: nothing is downloaded."""

from functools import cache
from pathlib import Path
from typing import Any

WORDS = (
    "a", "good", "fine", "film", "bad", "dull", "not", "at", "all", "and", "the", "was", "very", "plot", "acting",
    "music", "but", ",", ".", "write", "it", "is", "this",
)  # fmt: skip
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@cache
def word_piece() -> Any:
    """A WordPiece of whole words and letters, in the form of `transformers`."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    names = [*SPECIAL, *WORDS, *(each for each in letters if each not in WORDS), *(f"##{each}" for each in letters)]
    vocabulary = {name: place for place, name in enumerate(names)}
    pieces = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    pieces.normalizer = normalizers.BertNormalizer(lowercase=True)
    pieces.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    pieces.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    pieces.decoder = decoders.WordPiece()
    return PreTrainedTokenizerFast(
        tokenizer_object=pieces, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]", model_max_length=64,
    )  # fmt: skip


def tiny_encoder(labels: int = 1, seed: int = 0, names: tuple[str, ...] = ()) -> tuple[Any, Any]:
    """(model, tokenizer)"""
    import torch
    from transformers import DistilBertConfig, DistilBertForSequenceClassification

    tokenizer = word_piece()
    config = DistilBertConfig(
        vocab_size=len(tokenizer), max_position_embeddings=64, n_layers=2, n_heads=2, dim=32, hidden_dim=64,
        dropout=0.0, attention_dropout=0.0, seq_classif_dropout=0.0, num_labels=labels, initializer_range=0.3,
    )  # fmt: skip
    if names:
        config.id2label = dict(enumerate(names))
    torch.manual_seed(seed)
    return DistilBertForSequenceClassification(config), tokenizer


def write_encoder(folder: Path, labels: int = 1, model: Any = None, tokenizer: Any = None) -> Path:
    made = tiny_encoder(labels) if model is None else (model, tokenizer)
    for each in made:
        each.save_pretrained(folder)
    return folder
