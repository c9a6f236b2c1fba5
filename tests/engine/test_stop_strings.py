"""Stop strings: found wherever token borders fall, in the answer only, as soon as they are complete."""

import pytest

from tests.engine.helpers import finish, responses
from tests.tiny import tiny_model, tiny_tokenizer
from trine.engine.engine import Engine
from trine.engine.request import Request, SampledToken
from trine.engine.sampling import Sampling
from trine.model.transformer import Transformer
from trine.runtime.errors import TrineError

TOKENIZER = tiny_tokenizer()
VOCABULARY = TOKENIZER.vocab_size


def bytes_of(ids: list[int] | tuple[int, ...]) -> bytes:
    return b"".join(TOKENIZER.token_bytes[token_id] for token_id in ids)


def letters(text: str) -> list[int]:
    """`text` a byte at a time."""
    return [TOKENIZER.token_bytes.index(bytes([byte])) for byte in text.encode()]


def told(ids: list[int], *stops: str, prompt: str = "") -> tuple[int, str | None]:
    """How many of `ids` a request takes before it is done, and why."""
    sampling = Sampling(len(ids) + 5, stop_strings=stops)
    request = Request(tuple(TOKENIZER.encode(prompt)), sampling, seed=0)
    for token_id in ids:
        request.accept(SampledToken(token_id, 0.0), TOKENIZER)
        if request.done:
            break
    return len(request.ids), request.stop_reason


@pytest.mark.parametrize("stop", ["t", "cat", " cat s", "at on", "the c"])
def test_a_stop_string_ends_an_answer_with_the_letter_that_completes_it(stop: str) -> None:
    text = "the cat sat on the mat"
    assert told(letters(text), stop) == (text.index(stop) + len(stop), "stop")


def test_token_borders_do_not_matter() -> None:
    text, stop = "def add(first, second):\n    return first", "):\n  "
    ids = TOKENIZER.encode(text)
    assert len(ids) < len(text)
    taken, reason = told(ids, stop)
    assert reason == "stop"
    assert stop.encode() in bytes_of(ids[:taken])
    assert stop.encode() not in bytes_of(ids[: taken - 1])


def test_a_stop_string_in_the_middle_of_a_token_counts() -> None:
    long = max(range(256, VOCABULARY), key=lambda token_id: len(TOKENIZER.token_bytes[token_id]))
    middle = TOKENIZER.token_bytes[long][1:-1].decode()
    assert len(middle) >= 1
    assert told([*letters("xyz"), long, *letters("rest")], middle) == (4, "stop")


def test_the_first_token_can_be_the_end() -> None:
    assert told(letters("return"), "r") == (1, "stop")


def test_the_first_of_several_ends_it_whatever_their_lengths() -> None:
    text = "one two three four"
    assert told(letters(text), "four", "wo th", "a string far longer than the whole answer") == (10, "stop")
    assert told(letters(text), "never", "nowhere") == (len(text), None)


def test_overlapping_beginnings_are_not_missed() -> None:
    assert told(letters("aaaab"), "aab") == (5, "stop")
    assert told(letters("ababac"), "abac") == (6, "stop")
    assert told(letters("\n\n\n"), "\n\n") == (2, "stop")


def test_characters_of_several_bytes_are_found_by_their_bytes() -> None:
    text = "naïve – 東京 🙂 end"
    for stop in ("ï", "–", "京", "🙂", "東京 🙂"):
        assert told(letters(text), stop) == (len(text[: text.index(stop) + len(stop)].encode()), "stop")


def test_half_a_character_is_no_stop() -> None:
    assert told(letters("é")[:1] + letters("a"), "é") == (2, None)


def test_the_prompts_text_stops_nothing() -> None:
    assert told(letters("add the rest"), "def add", "def a", prompt="def ") == (12, None)
    assert told(letters("add"), "def", prompt="def") == (3, None)


def test_an_end_token_goes_before_a_stop_string() -> None:
    end = TOKENIZER.end_of_text
    sampling = Sampling(9, eos_ids=(end,), stop_strings=(TOKENIZER.token_bytes[end].decode(),))
    request = Request((1,), sampling, seed=0)
    request.accept(SampledToken(end, 0.0), TOKENIZER)
    assert request.stop_reason == "eos"


def test_an_id_beyond_the_tokenizers_vocabulary_says_nothing() -> None:
    assert told([*letters("ca"), VOCABULARY + 3, *letters("t")], "cat") == (4, "stop")
    assert told([VOCABULARY + 3], "a") == (1, None)


def test_a_stop_string_completed_by_the_last_token_of_the_budget_is_a_stop() -> None:
    request = Request((1,), Sampling(3, stop_strings=("cat",)), seed=0)
    for token_id in letters("cat"):
        request.accept(SampledToken(token_id, 0.0), TOKENIZER)
    assert request.stop_reason == "stop"


# In the engine


@pytest.fixture(scope="module")
def model() -> Transformer:
    return tiny_model(vocab_size=VOCABULARY, context=256)


def border(ids: tuple[int, ...]) -> tuple[int, str] | None:
    """A place where two plain tokens meet, and the letters on both sides, which do not meet before."""
    for place in range(8, len(ids)):
        stop = bytes_of(ids[place - 1 : place])[-1:] + bytes_of(ids[place : place + 1])[:1]
        if stop.isascii() and len(stop) == 2 and stop not in bytes_of(ids[:place]):
            return place, stop.decode()
    return None


def test_an_answer_is_cut_after_the_token_that_completes_a_stop_string(model: Transformer, native: bool) -> None:
    """Also within several steps at once, of which the rest is dropped; the neighbour goes on."""
    engine, found = Engine(model, tokenizer=TOKENIZER, native=native), 0
    for seed in range(5):
        (whole,) = engine.generate([[5, 6]], [Sampling(50, seed=seed)])
        spot = border(whole.response_ids)
        if spot is None:
            continue
        found += 1
        place, stop = spot
        settings = [Sampling(50, seed=seed, stop_strings=(stop,)), Sampling(50, seed=seed)]
        cut, neighbour = engine.generate([[5, 6]] * 2, settings)
        assert (cut.response_ids, cut.stop_reason) == (whole.response_ids[: place + 1], "stop")
        assert len(cut.log_probs) == place + 1
        assert neighbour.response_ids == whole.response_ids
        assert cut.ended
    assert found >= 3


def test_a_second_turn_after_a_stop_string_is_right(model: Transformer, native: bool) -> None:
    """Tokens decoded beyond the stop are in the pages, and must not count as known."""
    engine = Engine(model, tokenizer=TOKENIZER, native=native)
    prompt = list(range(40, 70))
    for seed in range(4):
        stops = tuple("aeiou \n(")
        (first,) = engine.generate([prompt], [Sampling(60, seed=seed, stop_strings=stops)])
        second = [*prompt, *first.response_ids, 66, *range(50, 70)]
        expected = responses(Engine(model, native=False).generate([second], Sampling(5, temperature=0.0)))
        assert responses(engine.generate([second], Sampling(5, temperature=0.0))) == expected


def test_a_stream_ends_with_the_stop_string(model: Transformer, native: bool) -> None:
    engine = Engine(model, tokenizer=TOKENIZER, native=native)
    (whole,) = engine.generate([[5, 6]], [Sampling(50, seed=1, stop_strings=("e",))])
    parts = engine.stream([5, 6], Sampling(50, seed=1, stop_strings=("e",)))
    assert [token_id for part in parts for token_id in part] == list(whole.response_ids)


def test_without_a_tokenizer_stop_strings_are_refused(model: Transformer, native: bool) -> None:
    engine = Engine(model, native=native)
    with pytest.raises(TrineError, match=r"stop_strings.*engine's tokenizer"):
        engine.generate([[1]], Sampling(4, stop_strings=("a",)))
    finish(engine, [engine.submit([1], Sampling(4))])
