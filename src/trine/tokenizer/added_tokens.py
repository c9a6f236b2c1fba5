"""Added tokens that tokenizer.json does not name, from the files beside it, as `transformers` 5 adds them.

`added_tokens_decoder` of tokenizer_config.json gives ids and whether a token is special, `added_tokens.json` ids only,
`additional_special_tokens` (or `extra_special_tokens`) names only; a name without an id anywhere gets the next id after
the vocabulary. An id that contradicts tokenizer.json is refused: one of the two files is another model's.

An entry of the vocabulary with a role (`bos_token`, `pad_token` ...) is an added token too, and special unless text
spells it: `"pad_token": "!"` must not take the exclamation mark out of all text.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from trine.runtime.errors import TrineError
from trine.tokenizer.pipeline import is_token_id, merge_pair

_EXTRA = ("additional_special_tokens", "extra_special_tokens")
# Those named by role, in the order in which `transformers` gives ids to the ones that have none.
_ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized")
Files = Mapping[str, dict[str, Any]]


@dataclass(frozen=True)
class _Given:
    """A token that `place` names."""

    name: str
    token_id: int | None
    special: bool
    flags: dict[str, bool]
    place: str


def with_added_tokens(pipeline: dict[str, Any], files: Files, place_of: Callable[[str], str]) -> dict[str, Any]:
    """`pipeline` with the added tokens of the other files; the same object if they name no others."""
    before: list[dict[str, Any]] = pipeline.get("added_tokens") or []
    tokens = {token["content"]: dict(token) for token in before}
    known = dict(pipeline["model"]["vocab"]) | {name: token["id"] for name, token in tokens.items()}
    names = {token_id: name for name, token_id in known.items()}
    roles = _with_roles(files, {name for name in known if name not in tokens}, pipeline["model"].get("merges") or [])
    for given in (*_given(files, place_of, known), *roles):
        token_id = known.get(given.name, given.token_id)
        if token_id is None:
            continue
        if given.token_id is not None and given.token_id != token_id:
            raise TrineError(f"{given.place} gives {given.name!r} id {given.token_id}, tokenizer.json id {token_id}")
        if names.setdefault(token_id, given.name) != given.name:
            raise TrineError(f"{given.place} gives {given.name!r} id {token_id}, which is {names[token_id]!r}")
        known[given.name] = token_id
        token = tokens.setdefault(given.name, {"id": token_id, "content": given.name, **given.flags, "special": False})
        token["special"] = token.get("special", False) or given.special
    return pipeline if list(tokens.values()) == before else {**pipeline, "added_tokens": list(tokens.values())}


def _given(files: Files, place_of: Callable[[str], str], known: Mapping[str, int]) -> Iterator[_Given]:
    """What the files name: `files` are tokenizer_config.json, special_tokens_map.json and added_tokens.json."""
    config, roles, added = files.items()
    extra = {name: place_of(file) for file, values in (roles, config) for name in _extra(values, place_of(file))}
    both = [values.get(role) for role in _ROLES for values in (config[1], roles[1])]
    by_role = [name for name in map(_content, both) if name is not None]
    numbered = [*_of_decoder(config[1].get("added_tokens_decoder") or {}, place_of(config[0]))]
    numbered += _of_added_tokens(added[1], {*by_role, *extra}, place_of(added[0]))
    yield from numbered
    ids = dict(known) | {given.name: given.token_id for given in numbered if given.token_id is not None}
    missing = [name for name in dict.fromkeys((*by_role, *extra)) if name not in ids]
    next_ids = {name: 1 + max(ids.values()) + place for place, name in enumerate(missing)}
    for name, place in extra.items():
        yield _Given(name, next_ids.get(name), True, _flags({}, False), place)


def _with_roles(files: Files, ordinary: set[str], merges: list[Any]) -> Iterator[_Given]:
    """Tokens with a role among the `ordinary` entries of the vocabulary, which are no added tokens yet."""
    found = [values.get(role) for role in _ROLES for values in files.values() if _content(values.get(role)) in ordinary]
    spelled = {left + right for left, right in map(merge_pair, merges)} if found else set()
    for token in found:
        name = str(_content(token))
        flags = _flags(token if isinstance(token, dict) else {}, False)
        yield _Given(name, None, len(name) > 1 and name not in spelled, flags, "")


def _of_added_tokens(added: dict[str, Any], special: set[str], place: str) -> Iterator[_Given]:
    for name, token_id in added.items():
        if not is_token_id(token_id):
            raise TrineError(f"{place} gives {name!r} the id {token_id!r}, which is none")
        yield _Given(name, token_id, name in special, _flags({}, name not in special), place)


def _of_decoder(decoder: Any, place: str) -> Iterator[_Given]:
    entries: Iterable[tuple[Any, Any]] = decoder.items() if isinstance(decoder, dict) else [(None, decoder)]
    for key, token in entries:
        name, digits = _content(token), isinstance(key, str) and key.isascii() and key.isdecimal()
        if name is None or not digits or not is_token_id(int(key[:20])) or not isinstance(token, dict):
            raise TrineError(
                f"{place}: added_tokens_decoder must hold tokens by id; it holds {key!r}: {str(token)[:80]}"
            )
        yield _Given(name, int(key), token.get("special") is True, _flags(token, False), place)


def _extra(values: dict[str, Any], place: str) -> Iterator[str]:
    for key in _EXTRA:
        tokens = values.get(key) or []
        tokens = list(tokens.values()) if isinstance(tokens, dict) else tokens
        if not isinstance(tokens, list) or any(_content(token) is None for token in tokens):
            raise TrineError(f"{place}: {key} must be a list of tokens; it is {str(values[key])[:80]}")
        yield from (str(_content(token)) for token in tokens)


def _flags(token: dict[str, Any], normalized: bool) -> dict[str, bool]:
    plain = dict.fromkeys(_FLAGS, False) | {"normalized": normalized}
    return plain | {key: token[key] for key in _FLAGS if isinstance(token.get(key), bool)}


def _content(token: Any) -> str | None:
    """The text of a token, which is a string or an object with `content`; None if it is neither or empty."""
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) and content else None
