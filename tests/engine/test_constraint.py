"""Answers of a given form, from models that know nothing: every one of them has it."""

import json
import re

import pytest

from tests.engine.helpers import responses
from tests.tiny import tiny_model, tiny_tokenizer
from trine.engine.constraint import Constraints
from trine.engine.engine import Engine
from trine.engine.sampling import Constraint, Sampling
from trine.records import Rollout
from trine.runtime.errors import TrineError

pytest.importorskip("llguidance", reason="constrained output needs llguidance")

TOKENIZER = tiny_tokenizer()
END = TOKENIZER.end_of_text
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"enum": ["cat", "mat", 'the "other" cat']},
        "count": {"type": "integer", "minimum": 0, "maximum": 99},
        "tags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3},
        "word": {"type": "string", "maxLength": 5},
    },
    "required": ["name", "count", "tags", "word"],
    "additionalProperties": False,
    "x-guidance": {"whitespace_flexible": False},
}
JSON = Constraint("json_schema", json.dumps(SCHEMA))
PATTERN = r"(the|a) (cat|mat)[0-9]{1,3}(, [a-z]{2,8}){0,2}\."
REGEX = Constraint("regex", PATTERN)
LARK = Constraint("lark", 'start: "def " NAME "(" [NAME ("," NAME)?] "):"\nNAME: /[a-z]{1,6}/')


def engine_of(native: bool, vocab_size: int = TOKENIZER.vocab_size, seed: int = 0, **more: int) -> Engine:
    model = tiny_model(vocab_size=vocab_size, context=256, seed=seed)
    return Engine(model, tokenizer=TOKENIZER, native=native, **more)


def settings(constraint: Constraint, seed: int = 0, temperature: float = 1.0) -> Sampling:
    return Sampling(200, temperature=temperature, seed=seed, eos_ids=(END,), constraint=constraint)


def text_of(rollout: Rollout) -> str:
    """The answer, which has to end with the end token; special tokens elsewhere would show."""
    assert rollout.stop_reason == "eos"
    assert rollout.response_ids[-1] == END
    return TOKENIZER.decode(rollout.response_ids[:-1], keep_special=True, skip="")


def check_json(text: str) -> None:
    answer = json.loads(text)
    assert list(answer) == ["name", "count", "tags", "word"]
    assert answer["name"] in SCHEMA["properties"]["name"]["enum"]  # type: ignore[index]
    assert type(answer["count"]) is int
    assert 0 <= answer["count"] <= 99
    assert len(answer["tags"]) <= 3
    assert all(type(tag) is bool for tag in answer["tags"])
    assert len(answer["word"]) <= 5


@pytest.mark.parametrize("vocab_size", [TOKENIZER.vocab_size, TOKENIZER.vocab_size + 45])
def test_answers_to_a_json_schema_parse_and_validate(vocab_size: int, native: bool) -> None:
    """Also where the model's vocabulary is larger than the tokenizer's."""
    engine = engine_of(native, vocab_size)
    texts = {text_of(each) for each in engine.generate([[1, 2]] * 12, settings(JSON))}
    assert len(texts) > 6
    for text in texts:
        check_json(text)


@pytest.mark.parametrize("temperature", [0.0, 3.0])
def test_a_schema_holds_at_any_temperature(temperature: float, native: bool) -> None:
    for seed in range(2):
        for rollout in engine_of(native, seed=seed).generate([[1], [2]], settings(JSON, temperature=temperature)):
            check_json(text_of(rollout))


def test_a_regular_expression_is_matched_from_end_to_end(native: bool) -> None:
    texts = [text_of(each) for each in engine_of(native).generate([[1, 2]] * 16, settings(REGEX))]
    assert all(re.fullmatch(PATTERN, text) for text in texts)
    assert len(set(texts)) > 8


def test_a_lark_grammar_is_followed(native: bool) -> None:
    texts = [text_of(each) for each in engine_of(native).generate([[1, 2]] * 8, settings(LARK))]
    assert all(re.fullmatch(r"def [a-z]{1,6}\(([a-z]{1,6}(,[a-z]{1,6})?)?\):", text) for text in texts)


def test_the_text_of_a_special_token_is_written_in_plain_tokens(native: bool) -> None:
    name = "<|im_end|>"
    assert name in TOKENIZER.special
    constraint = Constraint("regex", re.escape(name) + "!")
    for rollout in engine_of(native).generate([[1]] * 4, settings(constraint)):
        assert text_of(rollout) == name + "!"
        assert not set(rollout.response_ids[:-1]) & TOKENIZER.special_ids


def test_any_of_several_end_tokens_ends_an_answer(native: bool) -> None:
    ends = (END, TOKENIZER.special["<|im_end|>"])
    sampling = Sampling(200, eos_ids=ends, constraint=Constraint("regex", "[ab]{1,3}"))
    rollouts = engine_of(native).generate([[1]] * 40, sampling)
    assert {each.response_ids[-1] for each in rollouts} == set(ends)
    assert all(each.stop_reason == "eos" for each in rollouts)


def test_an_answer_that_can_only_go_on_is_cut_by_its_budget(native: bool) -> None:
    sampling = Sampling(10, eos_ids=(END,), constraint=Constraint("regex", "a{100}"))
    (rollout,) = engine_of(native).generate([[1]], sampling)
    assert rollout.stop_reason == "length"
    assert set(TOKENIZER.decode(rollout.response_ids)) == {"a"}


def test_cancelled_constrained_requests_leave_no_trace(native: bool) -> None:
    engine = engine_of(native, rows=2)
    expected = responses(engine_of(native).generate([[1, 2]], settings(JSON)))
    stream = engine.stream([1, 2], settings(JSON))
    next(stream)
    stream.close()
    assert responses(engine.generate([[1, 2]], settings(JSON))) == expected


def test_each_request_stands_at_its_own_place_in_the_grammar(native: bool) -> None:
    """Through two rows, of different lengths, and twice over: no state leaks from one to the next."""
    prompts, engine = [[1], [2, 3], [4, 5, 6], [7], [8]], engine_of(native, rows=2)
    each = [settings(constraint, seed=3) for constraint in (JSON, REGEX, JSON, REGEX, LARK)]
    alone = [
        responses(engine_of(native).generate([prompt], [one]))[0] for prompt, one in zip(prompts, each, strict=True)
    ]
    for _ in range(2):
        assert responses(engine.generate(prompts, each)) == alone


def test_plain_neighbours_keep_their_tokens(native: bool) -> None:
    engine, plain = engine_of(native), Sampling(40, seed=9)
    (alone,) = engine.generate([[3, 1, 4]], [plain])
    mixed = engine.generate([[1], [3, 1, 4], [2]], [settings(JSON), plain, settings(REGEX)])
    assert mixed[1].response_ids == alone.response_ids
    check_json(text_of(mixed[0]))
    assert re.fullmatch(PATTERN, text_of(mixed[2]))


def test_filters_act_on_what_the_constraint_leaves(native: bool) -> None:
    for filters in ({"top_k": 1}, {"top_p": 0.1}, {"min_p": 0.9}, {"repetition_penalty": 1.5}):
        sampling = Sampling(200, eos_ids=(END,), constraint=REGEX, **filters)  # type: ignore[arg-type]
        (rollout,) = engine_of(native).generate([[1]], sampling)
        assert re.fullmatch(PATTERN, text_of(rollout))


@pytest.mark.parametrize(
    "constraint",
    [
        Constraint("json_schema", '{"type": '),
        Constraint("json_schema", '{"type": "nonsense"}'),
        Constraint("json_schema", "[]"),
        Constraint("regex", "(unclosed"),
        Constraint("regex", "[z-a]"),
        Constraint("lark", "start: missing"),
        Constraint("lark", "no grammar at all"),
    ],
)
def test_a_constraint_that_is_none_is_refused_with_its_kind_before_it_starts(
    constraint: Constraint, native: bool
) -> None:
    engine = engine_of(native)
    with pytest.raises(TrineError, match=f"the {constraint.kind} of the request cannot be used"):
        engine.submit([1], settings(constraint))
    assert len(engine.generate([[1]], settings(REGEX))) == 1


def test_a_constraint_needs_end_tokens() -> None:
    with pytest.raises(TrineError, match="a constraint needs eos_ids"):
        Sampling(20, constraint=REGEX)


def test_a_constraint_needs_a_tokenizer(native: bool) -> None:
    engine = Engine(tiny_model(vocab_size=TOKENIZER.vocab_size, context=256), native=native)
    with pytest.raises(TrineError, match=r"constraint.*engine's tokenizer"):
        engine.submit([1], settings(REGEX))


def test_a_token_that_does_not_fit_is_refused() -> None:
    matcher = Constraints(TOKENIZER, TOKENIZER.vocab_size).matcher(Constraint("regex", "ab"), (END,))
    allowed = {TOKENIZER.token_bytes[token_id] for token_id in matcher.allowed().nonzero().flatten().tolist()}
    assert b"a" in allowed
    assert allowed <= {b"a", b"ab"}
    with pytest.raises(TrineError, match="does not fit the constraint"):
        matcher.accept(TOKENIZER.encode("b")[0])


def test_where_the_form_is_complete_only_the_end_is_left() -> None:
    matcher = Constraints(TOKENIZER, TOKENIZER.vocab_size).matcher(Constraint("regex", "ab"), (END,))
    for token_id in TOKENIZER.encode("ab"):
        matcher.accept(token_id)
    assert matcher.allowed().nonzero().flatten().tolist() == [END]
