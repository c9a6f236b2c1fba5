"""A tokenizer with more special tokens: GPT-1's start, delimiter and extract, GPT-2's tasks.

The new names are special: text never encodes to their ids, whatever it spells, and decoding leaves them out. Every id
that there was keeps its meaning; the new ones follow the highest.
"""

import json
from collections.abc import Sequence
from typing import Any

from trine.runtime.errors import TrineError
from trine.tokenizer.files import CONFIG, PIPELINE, TokenizerFiles
from trine.tokenizer.tokenizer import Tokenizer


def with_special_tokens(tokenizer: Tokenizer, names: Sequence[str]) -> Tokenizer:
    """`tokenizer` with the special tokens `names`; those that it has already keep their ids.

    >>> grown = with_special_tokens(tokenizer, ["[question]", "[answer]"])
    >>> grown.special["[question]"] - tokenizer.vocab_size
    0
    >>> grown.decode(grown.encode("a [question]"))  # typed, it stays text
    'a [question]'

    Raises `TrineError` for a name that is none, and one that is an ordinary entry of the vocabulary.
    """
    for name in names:
        _check(tokenizer, name, names)
    missing = [name for name in names if name not in tokenizer.special]
    if not missing:
        return tokenizer
    added = [_added(name, tokenizer.vocab_size + place) for place, name in enumerate(missing)]
    texts = dict(tokenizer.files.texts)
    texts[PIPELINE] = _dumped(_described(json.loads(texts[PIPELINE]), added))
    texts[CONFIG] = _dumped(_configured(json.loads(texts.get(CONFIG, "{}")), added))
    return Tokenizer(TokenizerFiles(texts, tokenizer.files.model_end_ids, tokenizer.files.place))


def with_template(
    tokenizer: Tokenizer, single: Sequence[str], pair: Sequence[str], *, truncation_side: str = "right"
) -> Tokenizer:
    """`tokenizer` with a post-processor, so that `transformers` writes special tokens around one text or two.

    `single` and `pair` are names of special tokens, and $A and $B where the texts go; `truncation_side` is where
    `transformers` cuts texts that are too long. `encode` does not change.
    """
    texts, description = dict(tokenizer.files.texts), json.loads(tokenizer.files.texts[PIPELINE])
    names = sorted({name for name in (*single, *pair) if not name.startswith("$")})
    description["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [_piece(name) for name in single],
        "pair": [_piece(name) for name in pair],
        "special_tokens": {
            name: {"id": name, "ids": [tokenizer.special[name]], "tokens": [name]} for name in names
        },
    }  # fmt: skip
    texts[PIPELINE] = _dumped(description)
    texts[CONFIG] = _dumped(json.loads(texts.get(CONFIG, "{}")) | {"truncation_side": truncation_side})
    return Tokenizer(TokenizerFiles(texts, tokenizer.files.model_end_ids, tokenizer.files.place))


def _check(tokenizer: Tokenizer, name: str, names: Sequence[str]) -> None:
    if len(name) < 2 or name != name.strip() or not name.isprintable():
        raise TrineError(
            f"{name!r} cannot be a special token: a name has two or more printable characters, and no blank at either "
            "end; such as [question]"
        )
    if list(names).count(name) > 1:
        raise TrineError(f"the special token {name!r} is declared twice; leave one out")
    if name in tokenizer.vocabulary and name not in tokenizer.special:
        raise TrineError(
            f"{name!r} is an ordinary entry of the vocabulary of {tokenizer.files.place}, which text encodes to; "
            "choose another name"
        )


def _added(name: str, token_id: int) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": token_id, "content": name, **flags, "special": True}


def _described(pipeline: dict[str, Any], added: list[dict[str, Any]]) -> dict[str, Any]:
    return pipeline | {"added_tokens": [*(pipeline.get("added_tokens") or []), *added]}


def _configured(config: dict[str, Any], added: list[dict[str, Any]]) -> dict[str, Any]:
    """tokenizer_config.json with the new tokens wherever it lists the old ones."""
    names = [token["content"] for token in added]
    key = "extra_special_tokens" if isinstance(config.get("extra_special_tokens"), list) else _OTHERS
    config = config | {key: [*(config.get(key) or []), *names]}
    if config.get("added_tokens_decoder"):
        entries = {str(token["id"]): {k: v for k, v in token.items() if k != "id"} for token in added}
        config["added_tokens_decoder"] = config["added_tokens_decoder"] | entries
    return config


_OTHERS = "additional_special_tokens"


def _piece(name: str) -> dict[str, Any]:
    if name.startswith("$"):
        return {"Sequence": {"id": name[1:], "type_id": 0}}
    return {"SpecialToken": {"id": name, "type_id": 0}}


def _dumped(values: dict[str, Any]) -> str:
    return json.dumps(values, ensure_ascii=False)
