"""The files of a tokenizer, kept unchanged, and the settings in them.

`tokenizer.json` is the pipeline; where it is missing, it is built from `vocab.json` and `merges.txt`. BOS and EOS
tokens and the chat template are in `tokenizer_config.json`, `special_tokens_map.json` and `chat_template.jinja`; added
tokens may be in any of these and in `added_tokens.json` (`added_tokens.py`). The ids that end generation are in the
model's `generation_config.json` or `config.json`, which this module only reads.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from trine.runtime.errors import TrineError
from trine.runtime.files import write_text
from trine.runtime.json_object import parse_json_object, read_json_object, read_text
from trine.tokenizer.added_tokens import with_added_tokens
from trine.tokenizer.pipeline import check_pipeline
from trine.tokenizer.vocab_and_merges import pipeline_of

PIPELINE, CONFIG, NAMED_TOKENS, ADDED_TOKENS, TEMPLATE = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
)  # fmt: skip
_FILES = (PIPELINE, CONFIG, NAMED_TOKENS, ADDED_TOKENS, TEMPLATE)


@dataclass(frozen=True)
class TokenizerFiles:
    """`texts`: file name -> content. `model_end_ids`: the EOS ids in the configs of the model."""

    texts: Mapping[str, str]
    model_end_ids: tuple[int, ...] = ()
    place: str = PIPELINE

    @staticmethod
    def read(folder: Path) -> "TokenizerFiles":
        """Read the tokenizer in `folder`; raises `TrineError` if there is none or a file is invalid."""
        folder = Path(folder)
        texts = {name: read_text(folder / name) for name in _FILES if (folder / name).exists()}
        if PIPELINE not in texts:
            texts = {PIPELINE: pipeline_of(folder), **texts}
        return TokenizerFiles(texts, _model_end_ids(folder), str(folder / PIPELINE))

    def write(self, folder: Path) -> None:
        for name, text in self.texts.items():
            write_text(folder / name, text)

    def place_of(self, name: str) -> str:
        """The path of the file `name`, for messages; a GGUF file holds all of them itself."""
        place = Path(self.place)
        return str(place.with_name(name)) if place.name == PIPELINE else self.place

    @property
    def template_place(self) -> str:
        """The path of the file with the chat template, for messages."""
        return self.place_of(TEMPLATE if TEMPLATE in self.texts else CONFIG)

    @cached_property
    def description(self) -> dict[str, Any]:
        """`tokenizer.json`, with the added tokens that only the other files name."""
        pipeline = self._json(PIPELINE)
        check_pipeline(pipeline, self.place)
        return with_added_tokens(
            pipeline, {name: self._json(name) for name in (CONFIG, NAMED_TOKENS, ADDED_TOKENS)}, self.place_of
        )

    @cached_property
    def named_tokens(self) -> dict[str, str]:
        """The text of `bos_token`, `eos_token`, `pad_token` ..., as far as the files name them."""
        both = self._json(NAMED_TOKENS) | {key: value for key, value in self._config.items() if value is not None}
        spelled = {key: _spelling(value) for key, value in both.items() if key.endswith("_token")}
        return {key: name for key, name in spelled.items() if name is not None}

    @cached_property
    def chat_template(self) -> str | None:
        """The Jinja source of the chat template; of several, the one called `default`.

        Raises `TrineError` if there are several and none is called so.
        """
        if TEMPLATE in self.texts:
            return self.texts[TEMPLATE]
        given = self._config.get("chat_template")
        if given is None or isinstance(given, str):
            return given
        place = self.place_of(CONFIG)
        templates = _named_templates(given, place)
        if "default" in templates or len(templates) < 2:
            return templates.get("default", next(iter(templates.values()), None))
        raise TrineError(
            f"{place}: none of the chat templates {', '.join(templates)} is called default; rename the one to use"
        )

    @cached_property
    def bos_token(self) -> str | None:
        """The token that every text begins with: what the post-processor says, as in transformers 5.

        `add_bos_token` is what the post-processor was made from; where they differ, transformers ignores it.
        """
        return _first_of_post_processor(self.description.get("post_processor"), self.place)

    @property
    def _config(self) -> dict[str, Any]:
        return self._json(CONFIG)

    def _json(self, name: str) -> dict[str, Any]:
        return parse_json_object(self.texts.get(name, "{}").encode("utf-8", "surrogatepass"), self.place_of(name))


def end_ids(value: Any, place: Path) -> tuple[int, ...]:
    """`eos_token_id` of the config `place`: an id, several or null. A negative one, as in early Llama's, is none."""
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if any(type(token_id) is not int for token_id in ids):
        raise TrineError(
            f"{place}: eos_token_id={value!r} is invalid: a token's id is a whole number; correct it or remove the key"
        )
    return tuple(token_id for token_id in ids if token_id >= 0)


def _model_end_ids(folder: Path) -> tuple[int, ...]:
    for path in (folder / "generation_config.json", folder / "config.json"):
        ids = end_ids(read_json_object(path).get("eos_token_id"), path) if path.exists() else ()
        if ids:
            return ids
    return ()


def _named_templates(given: Any, place: str) -> dict[str, str]:
    """Chat templates by name: an object, or a list of objects with `name` and `template`."""
    entries = given if isinstance(given, list) else []
    if all(isinstance(entry, dict) and {"name", "template"} <= entry.keys() for entry in entries):
        templates = given if isinstance(given, dict) else {entry["name"]: entry["template"] for entry in entries}
        if isinstance(given, dict | list) and all(isinstance(part, str) for pair in templates.items() for part in pair):
            return templates
    raise TrineError(f"{place}: chat_template must be text, or templates by name; it is {str(given)[:80]}")


def _spelling(token: Any) -> str | None:
    """The text of a token, which is a string or an object with `content`."""
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else None


def _first_of_post_processor(processor: dict[str, Any] | None, place: str) -> str | None:
    try:
        for step in (processor or {}).get("processors", [processor or {}]):
            if step.get("type") == "TemplateProcessing" and "SpecialToken" in step["single"][0]:
                return str(step["single"][0]["SpecialToken"]["id"])
    except (LookupError, TypeError, AttributeError):
        raise TrineError(f"{place}: its post_processor is damaged: {str(processor)[:200]}") from None
    return None
