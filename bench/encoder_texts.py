"""A DistilBERT of random weights with a tokenizer of whole words, and texts as long as reviews are: for `encoder`.

Lengths are log-normal about IMDB's (median 174 words, mean 230; cut at 512 tokens); words are random, so that a text's
tokens are its words and the two that the tokenizer adds.
"""

import random
from pathlib import Path

VOCABULARY, MEDIAN, DEVIATION = 30_000, 174.0, 0.68
MAX_TOKENS, BATCH, LEARNING_RATE = 512, 10, 5e-5


def write_encoder(folder: Path) -> None:
    """DistilBERT's published shape, 66M parameters with one label, and its tokenizer, in Hugging Face form."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import DistilBertConfig, DistilBertForSequenceClassification, PreTrainedTokenizerFast

    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{number}" for number in range(VOCABULARY))]
    words = Tokenizer(models.WordLevel({name: place for place, name in enumerate(names)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    torch.manual_seed(0)
    config = DistilBertConfig(
        vocab_size=len(names), num_labels=2, dropout=0.0, attention_dropout=0.0, seq_classif_dropout=0.0
    )
    DistilBertForSequenceClassification(config).save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]",
        model_max_length=MAX_TOKENS,
    ).save_pretrained(folder)  # fmt: skip


def review_texts(count: int, seed: int) -> list[str]:
    """The same texts for every side, given the seed."""
    draw = random.Random(seed)
    lengths = [min(max(round(MEDIAN * draw.lognormvariate(0, DEVIATION)), 8), MAX_TOKENS - 2) for _ in range(count)]
    return [" ".join(f"w{draw.randrange(VOCABULARY)}" for _ in range(length)) for length in lengths]


def tokens_of(texts: list[str]) -> int:
    return sum(len(text.split()) + 2 for text in texts)


def labels_of(count: int) -> list[int]:
    return [place % 2 for place in range(count)]
