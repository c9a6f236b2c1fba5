"""2.2: what is mistyped is normalised or refused with its name before it starts; it never harms a request beside it."""

import math
from collections.abc import Iterator
from dataclasses import fields
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from tests.engine.helpers import all_is_given_back, finish, naive_greedy
from tests.tiny import tiny_model, tiny_tokenizer
from trine.engine.engine import Engine
from trine.engine.request import Request
from trine.engine.sampling import Constraint, Sampling
from trine.engine.values import shown
from trine.engine.worker import EngineWorker
from trine.runtime.errors import TrineError

TOKENIZER = tiny_tokenizer()
VOCABULARY = TOKENIZER.vocab_size
MODEL = tiny_model(vocab_size=VOCABULARY)
NEIGHBOUR = Sampling(6, temperature=0.0)


class Spiteful:
    """A value whose every use raises."""

    def __repr__(self) -> str:
        raise ValueError("no repr")

    def __iter__(self) -> Iterator[int]:
        raise ValueError("no items")

    __index__ = __float__ = __len__ = __repr__  # type: ignore[assignment]


SCALARS: list[Any] = [
    None, True, False, np.True_, 0, 1, -1, 2, 2.0, 2.5, -2.5, 1e39, 1e308, 10**20, 10**400, 10**5000, math.nan,
    math.inf, -math.inf, 1j, "2", "", "the end", "\ud800", b"2", bytearray(b"2"), Decimal(2), Fraction(1, 2), object,
    Spiteful(), np.int64(2), np.uint8(2), np.float32(0.5), np.float64("nan"), np.array(2), torch.tensor(2),
    torch.tensor(0.5), torch.tensor(2, device="meta"), torch.tensor(True), VOCABULARY, 2**63, -(2**70),
]  # fmt: skip
LISTS: list[Any] = [
    [], (), [2], (2, 2), [2.0], [2.5], [True], ["2"], [None], [[2]], [math.nan], [VOCABULARY], [-1], [2**70],
    {2}, {2: 1}, {2: 1.5}, {"2": 1}, {2: "1"}, {2: True}, {2.0: math.nan}, range(3), iter([2]), np.array([2,
    3]), np.array([[2]]), np.array([2.5]), np.array(["a"]), torch.tensor([2, 3]), torch.tensor([[2]]),
    torch.zeros(0), [(2, 1.0)], [[2, 1.0]], [(2, 1.0), (2, 1.0)], [(2, 1.0, 3)], [(2,)], [(2.5, 1)], [(2, "a")],
    [(2, None)], [("2", 1)], [(2, 1e9)], ["a", 2], ["a", ""], ["a", "\ud800"], [b"a"], [Spiteful()], {"a"},
    Constraint("regex", "a"), "abc"[:1],
]  # fmt: skip
FIELDS = [field.name for field in fields(Sampling)]


@pytest.mark.parametrize("field", FIELDS)
def test_any_value_of_any_field_works_or_is_refused_by_its_name(field: str) -> None:
    """2.2: 90 values for each of the 15 fields; what is accepted finishes beside another request."""
    engine, accepted, refused = Engine(MODEL, tokenizer=TOKENIZER), list[Request](), 0
    neighbour = engine.submit([1, 2], NEIGHBOUR)
    for value in (*SCALARS, *LISTS):
        settings = {"max_new_tokens": 2, "eos_ids": (0,), field: value}
        try:
            accepted.append(engine.submit([3], Sampling(**settings)))
        except TrineError as error:
            refused += 1
            assert field in str(error), shown(value)
    assert min(len(accepted), refused) > 0
    finish(engine, [neighbour, *accepted])
    assert neighbour.ids == naive_greedy(MODEL, [1, 2], 6)
    assert [request.error for request in accepted if request.error is not None] == []
    assert all_is_given_back(engine)


PROMPTS = [*SCALARS, *(value for value in LISTS if not isinstance(value, type(iter([]))))]


def test_any_prompt_works_or_is_refused_by_its_number() -> None:
    """2.2: also in `log_probs`, on either side."""
    engine = Engine(MODEL, tokenizer=TOKENIZER)
    for value in PROMPTS:
        for call in (
            lambda value=value: engine.generate([[1], value], NEIGHBOUR),  # type: ignore[misc]
            lambda value=value: engine.submit(value, NEIGHBOUR),  # type: ignore[misc]
            lambda value=value: list(engine.stream(value, NEIGHBOUR)),  # type: ignore[misc]
            lambda value=value: engine.log_probs([[1], value], [[1], [2]]),  # type: ignore[misc]
            lambda value=value: engine.log_probs([[1], [2]], [[1], value]),  # type: ignore[misc]
        ):
            try:
                call()
            except TrineError as error:
                assert any(name in str(error) for name in ("prompt 0", "prompt 1", "response 1")), shown(value)
    assert list(engine.generate([[1, 2]], NEIGHBOUR)[0].response_ids) == naive_greedy(MODEL, [1, 2], 6)
    assert all_is_given_back(engine)


@pytest.mark.parametrize("argument", ["prompts", "sampling", "samples", "on_finished", "temperature", "responses"])
def test_any_argument_works_or_is_refused_with_a_reason(argument: str) -> None:
    """2.2: of `generate` and `log_probs`, through the worker too."""
    engine = Engine(MODEL, tokenizer=TOKENIZER)
    worker = EngineWorker(Engine(MODEL, tokenizer=TOKENIZER))
    scoring = argument in ("temperature", "responses")
    given: dict[str, Any] = {"prompts": [[1]], **({"responses": [[2]]} if scoring else {"sampling": NEIGHBOUR})}
    refused = 0
    with worker:
        for value in (*SCALARS, *LISTS):
            for owner in (engine, worker):
                if argument == "on_finished" and owner is worker:
                    continue
                call: Any = owner.log_probs if scoring else owner.generate
                if argument == "samples" and isinstance(value, (int, float)) and value > 100:
                    continue  # that many are asked for
                if value is object and argument == "on_finished":
                    continue  # a callable, if a useless one
                try:
                    call(**given | {argument: value})
                except TrineError as error:
                    refused += 1
                    assert argument[:6] in str(error), shown(value)
    assert refused > 30


@pytest.mark.parametrize(
    ("given", "held"),
    [
        ({"stop_strings": "the end"}, {"stop_strings": ("the end",)}),
        ({"stop_strings": ["a", np.str_("b")]}, {"stop_strings": ("a", "b")}),
        ({"eos_ids": 3}, {"eos_ids": (3,)}),
        ({"eos_ids": {5, 3}}, {"eos_ids": (3, 5)}),
        ({"eos_ids": torch.tensor([3, 5])}, {"eos_ids": (3, 5)}),
        ({"stop_ids": [np.int32(3), 4.0]}, {"stop_ids": (3, 4)}),
        ({"logit_bias": {3: 1}}, {"logit_bias": ((3, 1.0),)}),
        ({"logit_bias": [[3, np.float64(1.5)]]}, {"logit_bias": ((3, 1.5),)}),
        ({"top_k": 2.0, "seed": np.int64(7), "temperature": 1}, {"top_k": 2, "seed": 7, "temperature": 1.0}),
    ],
)
def test_what_can_be_meant_in_one_way_only_is_taken_so(given: dict[str, Any], held: dict[str, Any]) -> None:
    """2.2: a lone stop string is one, not its letters."""
    assert Sampling(4, **given) == Sampling(4, **held)
    for name, value in held.items():
        assert type(getattr(Sampling(4, **given), name)) is type(value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"max_new_tokens": True}, "max_new_tokens=True is not a whole number"),
        ({"top_k": 2.5}, "top_k=2.5 is not a whole number"),
        ({"logit_bias": [(3, 1.0), (3.0, 2.0)]}, "logit_bias names token 3 twice"),
        ({"logit_bias": [3, 1.0]}, "logit_bias=3 is no list of pairs"),
        ({"stop_strings": ["a", 5]}, "stop_strings=5 is not a text"),
        ({"eos_ids": [0, "a"]}, "eos_ids holds 'a' at place 1, which is not a token id"),
        ({"constraint": "[0-9]"}, r"constraint='\[0-9\]' is none; give Constraint"),
    ],
)
def test_what_is_refused_is_told_with_value_and_remedy(given: dict[str, Any], message: str) -> None:
    """2.2"""
    with pytest.raises(TrineError, match=message):
        Sampling(**{"max_new_tokens": 4, **given})


@pytest.mark.parametrize("kind", [None, "json", 5, ["regex"], "REGEX"])
def test_a_constraint_of_another_kind_is_refused(kind: Any) -> None:
    """2.2: in words, with the kinds there are."""
    with pytest.raises(TrineError, match=r"constraint's kind=.*json_schema, regex, lark"):
        Constraint(kind, "a")


@pytest.mark.parametrize("text", [None, 5, {"type": "string"}, b"a", "\ud800"])
def test_a_constraint_without_text_is_refused(text: Any) -> None:
    """2.2"""
    with pytest.raises(TrineError, match="text of the json_schema constraint"):
        Constraint("json_schema", text)


@pytest.mark.parametrize(
    "settings", [{"rows": 0}, {"rows": 2.5}, {"cache_bytes": "4G"}, {"weights": "int4"}, {"prefill_tokens": 0}]
)
def test_an_engine_cannot_be_made_with_what_it_cannot_do(settings: dict[str, Any]) -> None:
    """2.2: with no row, say, no request would ever start."""
    with pytest.raises(TrineError, match=next(iter(settings))):
        Engine(MODEL, **settings)
