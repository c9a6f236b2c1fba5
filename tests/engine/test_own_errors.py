"""1.15, 2.1, 2.5: what goes wrong for one request ends that one with its reason; the others finish as if alone."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.engine.helpers import all_is_given_back, cache_of, finish, naive_greedy, responses
from tests.tiny import ragged_prompts, tiny_config, tiny_model, tiny_tokenizer
from trine.engine import sampler
from trine.engine.engine import Engine
from trine.engine.failures import GenerationError
from trine.engine.request import Request
from trine.engine.sampling import Constraint, Sampling
from trine.engine.worker import EngineWorker
from trine.model.transformer import Transformer
from trine.runtime.errors import TrineError

TOKENIZER = tiny_tokenizer()
END, VOCABULARY = TOKENIZER.end_of_text, TOKENIZER.vocab_size
A, B = (TOKENIZER.encode(letter)[0] for letter in "ab")
GREEDY = Sampling(12, temperature=0.0)
SAMPLED = Sampling(12, temperature=0.8, seed=4, top_k=9)
BAD = 9  # the token whose row of the embedding is damaged, where one is
DEADLINE = 60.0


@pytest.fixture(scope="module")
def model() -> Transformer:
    return tiny_model(vocab_size=VOCABULARY, context=256)


def constrained(kind: Any, text: str, *eos_ids: int) -> Sampling:
    return Sampling(20, eos_ids=eos_ids or (END,), constraint=Constraint(kind, text))


def check_alone(
    engine: Engine,
    model: Transformer,
    prompt: list[int],
    sampling: Sampling,
    message: str,
    spoil: Callable[[Request], None] = lambda _: None,
) -> None:
    """The request fails with `message`, between neighbours that keep their tokens."""
    prompts, settings = ([3, 4], [5], [6]), (GREEDY, SAMPLED, GREEDY)
    alone = [responses(Engine(model).generate([p], [s]))[0] for p, s in zip(prompts, settings, strict=True)]
    neighbours = [engine.submit(each, setting) for each, setting in zip(prompts, settings, strict=True)]
    failing = engine.submit(prompt, sampling)
    spoil(failing)
    last = engine.submit([3, 4], GREEDY)
    found = finish(engine, [*neighbours, last, failing])
    assert [tuple(ids) for ids in found[:4]] == [*alone, alone[0]]
    assert failing.stop_reason == "failed"
    assert message in str(failing.error)
    assert "<state>" not in str(failing.error)
    assert all_is_given_back(engine)


# Constraints


ENDLESS = {
    "a schema that refers to itself": constrained("json_schema", '{"$ref": "#"}'),
    "two that refer to each other": constrained(
        "json_schema", '{"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}'
    ),
    "an expression that nothing matches": constrained("regex", r"[^\s\S]"),
    "a rule that never ends": constrained("lark", "start: start"),
    "a rule that goes round": constrained("lark", "start: a\na: start"),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_a_form_that_no_text_has_is_refused_before_it_starts(name: str, model: Transformer, native: bool) -> None:
    """1.15: never an answer that ends as if it had the form."""
    pytest.importorskip("llguidance", reason="constrained output needs llguidance")
    engine, message = Engine(model, tokenizer=TOKENIZER, native=native), "cannot be used: there is no text of this form"
    fine = engine.submit([3, 4], GREEDY)
    for call in (engine.submit, engine.stream, lambda prompt, sampling: engine.generate([prompt], [sampling])):
        with pytest.raises(TrineError, match=message):
            call([1], ENDLESS[name])
    assert finish(engine, [fine]) == [naive_greedy(model, [3, 4], 12)]
    with EngineWorker(engine) as worker, pytest.raises(TrineError, match=message):
        worker.submit([1], ENDLESS[name])


HOPELESS = {
    "a hundred thousand letters": (constrained("lark", 'start: "a"~100000'), "Too many items"),
    "an end token that the form needs as a letter": (constrained("regex", "ab", A), "leave no token"),
    "the same in the middle": (constrained("regex", "ab", END, B), "leave no token"),
}


@pytest.mark.parametrize("name", HOPELESS)
def test_a_constraint_that_cannot_go_on_is_its_requests_error(name: str, model: Transformer, native: bool) -> None:
    """2.1: and nobody else's."""
    pytest.importorskip("llguidance", reason="constrained output needs llguidance")
    sampling, message = HOPELESS[name]
    engine = Engine(model, rows=3, tokenizer=TOKENIZER, native=native)
    check_alone(engine, model, [1], sampling, message)
    with EngineWorker(engine) as worker:
        fine, failing = worker.submit([3, 4], GREEDY), worker.submit([1], sampling)
        with pytest.raises(TrineError, match=message):
            failing.result(DEADLINE)
        assert list(fine.result(DEADLINE).response_ids) == naive_greedy(model, [3, 4], 12)


SCHEMAS = (
    '{"type": "string", "maxLength": 4}', '{"type": "integer", "minimum": 0, "maximum": 99}', '{"enum": ["a", "b ab"]}',
    '{"type": "array", "items": {"type": "boolean"}, "maxItems": 2}', '{"type": ["null", "boolean"]}',
)  # fmt: skip


@pytest.mark.parametrize("schema", SCHEMAS)
def test_an_answer_that_ends_by_itself_has_the_form_whatever_token_ends_it(schema: str, model: Transformer) -> None:
    """1.15, 2.1: ordinary tokens as `eos_ids` under a schema, one after another."""
    pytest.importorskip("llguidance", reason="constrained output needs llguidance")
    engine, matcher = Engine(model, tokenizer=TOKENIZER), Engine(model, tokenizer=TOKENIZER).constraints
    assert matcher is not None
    sampling = replace(constrained("json_schema", schema), max_new_tokens=60)
    ends = [B, A, *TOKENIZER.encode('"'), *TOKENIZER.encode("1"), *TOKENIZER.encode(" "), *TOKENIZER.encode("]")]
    fine = engine.submit([3, 4], GREEDY)
    requests = [
        engine.submit([1], replace(sampling, eos_ids=eos, seed=end)) for end in ends for eos in ((end,), (end, END))
    ]
    finish(engine, [fine, *requests])
    assert fine.ids == naive_greedy(model, [3, 4], 12)
    assert {request.stop_reason for request in requests} <= {"eos", "length", "failed"}
    assert any(request.stop_reason == "eos" for request in requests)
    for request in requests:
        if request.stop_reason == "eos":
            assert sampling.constraint is not None
            state = matcher.matcher(sampling.constraint, (END,))
            for token_id in request.ids[:-1]:
                state.accept(token_id)
            state.accept(END)  # raises where the form is not complete


class Panic(BaseException):
    """As a panic of Rust code arrives in Python: no `Exception`."""


class Broken:
    """A grammar of which nothing can be asked."""

    def __getattr__(self, name: str) -> Any:
        raise Panic("index out of bounds")


@pytest.mark.parametrize("first_mask_is_known", [False, True])
def test_a_panic_of_the_grammars_library_is_its_requests_error(
    first_mask_is_known: bool, model: Transformer, native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2.1: while it makes a mask, or takes a token."""
    pytest.importorskip("llguidance", reason="constrained output needs llguidance")

    def spoil(request: Request) -> None:
        assert request.matcher is not None
        request.matcher._inner = Broken()
        if not first_mask_is_known:
            request.matcher._mask = None
        monkeypatch.setattr("llguidance.numpy.fill_next_token_bitmask", lambda inner, bits: inner.fill(bits))

    engine = Engine(model, tokenizer=TOKENIZER, native=native)
    check_alone(engine, model, [1], constrained("regex", "[a-z]{9}"), "index out of bounds", spoil)


# Numbers that are none


def poisoned(value: float) -> Transformer:
    """A model whose logits are no numbers after token `BAD`, and sound everywhere else."""
    model = tiny_model("llama", vocab_size=VOCABULARY, context=256)
    with torch.no_grad():
        model.embedding.weight[BAD] = value
    return model


FILTERS: list[dict[str, Any]] = [
    {}, {"top_k": 5}, {"top_p": 0.9}, {"temperature": 0.0}, {"temperature": 0.0, "logit_bias": ((3, 1.0),)},
    {"top_log_probs": 3}, {"repetition_penalty": 1.2},
]  # fmt: skip


@pytest.mark.parametrize("settings", FILTERS, ids="+".join)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_row_whose_logits_are_no_numbers_fails_alone(settings: dict[str, Any], value: float, native: bool) -> None:
    """2.1: in a batch of unequal prompts, and in pages that others use afterwards."""
    model, clean = poisoned(value), tiny_model("llama", vocab_size=VOCABULARY, context=256)
    banned = tuple({BAD: -torch.inf}.items())
    fine = [Sampling(20, temperature, seed=7, logit_bias=banned) for temperature in (0.0, 1.0)]
    prompts = ragged_prompts((5, 40, 1, 33), vocab_size=9)
    expected = [responses(Engine(clean, native=native).generate([p], [s]))[0] for p in prompts for s in fine]
    engine = Engine(model, rows=4, cache_bytes=cache_of(clean.config, 12), native=native)
    requests: list[Request] = []
    for prompt in prompts:
        requests += [engine.submit(prompt, each) for each in fine]
        engine.submit([*prompt, BAD, *prompt], Sampling(9, **settings))
        engine.submit([BAD, *prompt], Sampling(9, **settings)).cancel()
    bad = [request for request in engine.admission.waiting if BAD in request.prompt_ids and not request.done]
    finish(engine, [*requests, *bad])
    assert [tuple(request.ids) for request in requests] == expected
    assert all("weights are damaged" in str(request.error) for request in bad)
    assert all_is_given_back(engine)


def test_a_damaged_prompt_cancelled_half_read_leaves_nothing_in_its_pages(native: bool) -> None:
    """2.1: nobody has looked at its logits, so nobody knows; the next owner of its pages must not see them."""
    model, clean = poisoned(torch.nan), tiny_model("llama", vocab_size=VOCABULARY, context=256)
    engine = Engine(model, rows=2, cache_bytes=cache_of(clean.config, 8), native=native, prefill_tokens=40)
    for length in (90, 17, 50):
        gone = engine.submit([BAD] * 100, GREEDY)
        engine.step()
        gone.cancel()
        (prompt,) = ragged_prompts((length,), vocab_size=9)
        banned = replace(GREEDY, logit_bias=((BAD, -torch.inf),))
        assert responses(engine.generate([prompt], banned)) == responses(Engine(clean).generate([prompt], banned))


# Whatever else may raise for one row


def break_for(monkeypatch: pytest.MonkeyPatch, place: str, is_bad: Callable[..., bool]) -> None:
    """The function at `place` raises where `is_bad` says so of its arguments."""
    owner: Any = Request if place == "_says_stop_string" else sampler
    whole = getattr(owner, place)

    def broken(*given: Any) -> Any:
        if is_bad(*given):
            raise OverflowError("as if one row's numbers were beyond it")
        return whole(*given)

    monkeypatch.setattr(owner, place, broken)


def filters_the_bad(logits: Tensor, sampling: Sampling, prompts: Sequence[Sequence[int]], *_: Any) -> bool:
    return any(tuple(prompt) == (1, 1) for prompt in prompts)


@pytest.mark.parametrize(
    ("place", "is_bad", "settings"),
    [
        ("filtered_logits", filters_the_bad, SAMPLED),
        ("_says_stop_string", lambda request, _: request.prompt_ids == (1, 1), Sampling(12, stop_strings=("the",))),
    ],
)
def test_a_step_that_raises_for_one_row_fails_that_row(
    place: str, is_bad: Callable[..., bool], settings: Sampling, model: Transformer, monkeypatch: pytest.MonkeyPatch,
    native: bool,
) -> None:  # fmt: skip
    """2.1: also where rows with the same settings pass the filters together."""
    break_for(monkeypatch, place, is_bad)
    check_alone(Engine(model, tokenizer=TOKENIZER, native=native), model, [1, 1], settings, "beyond it")


# What is finished stays


@pytest.mark.parametrize("shared", [False, True])
def test_a_batch_in_which_one_request_fails_keeps_the_answers_of_the_others(
    shared: bool, model: Transformer, native: bool
) -> None:
    """2.5: the error carries them, in order, and says why the one failed."""
    nothing = tuple((token_id, -torch.inf) for token_id in range(VOCABULARY))
    settings = [GREEDY, replace(GREEDY, logit_bias=nothing), SAMPLED, GREEDY]
    prompts = [[3, 4], [1], [5], [6]]
    engine = Engine(model, rows=2, native=native)
    alone = [responses(Engine(model).generate([prompts[i]], [settings[i]]))[0] for i in (0, 2, 3)]
    owner = EngineWorker(engine) if shared else engine
    with pytest.raises(GenerationError, match=r"1 of 4 requests failed.*number 1 .*leave no token") as raised:
        owner.generate(prompts, settings)
    if isinstance(owner, EngineWorker):
        owner.close()
    first, failed, *others = raised.value.rollouts
    assert failed is None
    assert [each.response_ids for each in (first, *others) if each is not None] == alone
    assert list(raised.value.errors) == [1]
    assert all_is_given_back(engine)


@pytest.mark.parametrize("shared", [False, True])
def test_log_probs_wait_for_the_memory_that_running_requests_hold(
    shared: bool, model: Transformer, native: bool
) -> None:
    """2.5: they say nothing of cache_bytes, and change no token."""
    config = tiny_config(vocab_size=VOCABULARY, context=256)
    engine = Engine(model, rows=4, cache_bytes=cache_of(config, 8), native=native)
    prompts, answers = ragged_prompts((60, 20), vocab_size=VOCABULARY), ragged_prompts((40, 9), vocab_size=VOCABULARY)
    expected = Engine(model, native=native).log_probs(prompts, answers)
    long = Sampling(60, temperature=0.0)
    if shared:
        with EngineWorker(engine) as worker:
            futures = [worker.submit([number], long) for number in range(3)]
            found = worker.log_probs(prompts, answers)
            ids = [list(future.result(DEADLINE).response_ids) for future in futures]
    else:
        requests = [engine.submit([number], long) for number in range(3)]
        engine.step()
        found = engine.log_probs(prompts, answers)
        ids = finish(engine, requests)
    torch.testing.assert_close(torch.tensor(found[0]), torch.tensor(expected[0]), atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.tensor(found[1]), torch.tensor(expected[1]), atol=1e-5, rtol=0)
    assert ids == [naive_greedy(model, [number], 60) for number in range(3)]
    with pytest.raises(TrineError, match="raise cache_bytes or shorten"):
        engine.log_probs([[1] * 120], [[1] * 20])
