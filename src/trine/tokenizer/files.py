"""The files of a tokenizer, kept unchanged, and the settings in them.

`tokenizer.json` is the pipeline. BOS and EOS tokens and the chat template are in `tokenizer_config.json`,
`special_tokens_map.json` and `chat_template.jinja`; the ids that end generation are in the model's
`generation_config.json` or `config.json`, which this module only reads.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from trine.runtime.errors import TrineError
from trine.runtime.files import read_json, write_text

PIPELINE, CONFIG, NAMED_TOKENS, TEMPLATE = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja",
)  # fmt: skip


@dataclass(frozen=True)
class TokenizerFiles:
    """`texts`: file name -> content. `model_end_ids`: the EOS ids in the configs of the model."""

    texts: Mapping[str, str]
    model_end_ids: tuple[int, ...] = ()
    place: str = PIPELINE

    @staticmethod
    def read(folder: Path) -> "TokenizerFiles":
        """Read the tokenizer in `folder`; raises `TrineError` if tokenizer.json is missing or a file is invalid."""
        folder = Path(folder)
        if not (folder / PIPELINE).exists():
            raise TrineError(f"{folder / PIPELINE} does not exist")
        names = (name for name in (PIPELINE, CONFIG, NAMED_TOKENS, TEMPLATE) if (folder / name).exists())
        texts = {name: _read_text(folder / name) for name in names}
        return TokenizerFiles(texts, _model_end_ids(folder), str(folder / PIPELINE))

    def write(self, folder: Path) -> None:
        for name, text in self.texts.items():
            write_text(folder / name, text)

    @cached_property
    def description(self) -> dict[str, Any]:
        """`tokenizer.json`."""
        return self._json(PIPELINE)

    @cached_property
    def named_tokens(self) -> dict[str, str]:
        """The text of `bos_token`, `eos_token`, `pad_token` ..., as far as the files name them."""
        both = self._json(NAMED_TOKENS) | {key: value for key, value in self._config.items() if value is not None}
        spelled = {key: _spelling(value) for key, value in both.items() if key.endswith("_token")}
        return {key: name for key, name in spelled.items() if name is not None}

    @cached_property
    def chat_template(self) -> str | None:
        """The Jinja source of the chat template; of several, the one called `default`."""
        if TEMPLATE in self.texts:
            return self.texts[TEMPLATE]
        template = self._config.get("chat_template")
        if isinstance(template, list):
            return next((entry["template"] for entry in template if entry["name"] == "default"), None)
        return template

    @cached_property
    def bos_token(self) -> str | None:
        """The token that every text begins with, from the post-processor or else `add_bos_token`."""
        otherwise = self.named_tokens.get("bos_token") if self._config.get("add_bos_token") else None
        return _first_of_post_processor(self.description.get("post_processor")) or otherwise

    @property
    def _config(self) -> dict[str, Any]:
        return self._json(CONFIG)

    def _json(self, name: str) -> dict[str, Any]:
        try:
            value = json.loads(self.texts.get(name, "{}"))
        except json.JSONDecodeError as error:
            raise TrineError(f"{Path(self.place).with_name(name)} is not readable JSON: {error}") from None
        if not isinstance(value, dict):
            raise TrineError(f"{Path(self.place).with_name(name)} is not a JSON object")
        return value


def _read_text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TrineError(f"{path} is not readable text: {error}") from None


def _model_end_ids(folder: Path) -> tuple[int, ...]:
    for path in (folder / "generation_config.json", folder / "config.json"):
        ids = read_json(path).get("eos_token_id") if path.exists() else None
        if ids is not None:
            return tuple(ids) if isinstance(ids, list) else (ids,)
    return ()


def _spelling(token: Any) -> str | None:
    """The text of a token, which is a string or an object with `content`."""
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else None


def _first_of_post_processor(processor: dict[str, Any] | None) -> str | None:
    for step in (processor or {}).get("processors", [processor or {}]):
        if step.get("type") == "TemplateProcessing" and "SpecialToken" in step["single"][0]:
            return str(step["single"][0]["SpecialToken"]["id"])
    return None
