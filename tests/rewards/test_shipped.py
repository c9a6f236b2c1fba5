"""16.5: the rewards that come along: what they measure, and how each is cheated, as its docstring says."""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from trine.config.rewards import SHIPPED
from trine.records import Answer, Message
from trine.rewards.shipped import shipped_reward
from trine.runtime.errors import TrineError


def score(name: str, response: str, prompt: str = "Write it.", **columns: Any) -> float:
    return float(shipped_reward(name).score([Answer((Message("user", prompt),), response, columns=columns)]))


def fenced(code: str) -> str:
    return f"Here it is:\n\n```python\n{code}\n```\nThat is all."


def docstring(name: str) -> str:
    module, _, cls = SHIPPED[name].partition(":")
    return " ".join((getattr(import_module(module), cls).__doc__ or "").split())


@pytest.mark.parametrize("name", SHIPPED)
def test_each_says_how_it_is_cheated(name: str) -> None:
    assert "How it is cheated: by" in docstring(name), name


HEAD = 'def double(x):\n    """Twice x."""'


@pytest.mark.parametrize(
    ("response", "prompt", "expected"),
    [
        ("x = 1", "Write it.", 1),
        ("x = = 1", "Write it.", 0),
        (fenced("x = 1"), "Write it.", 1),
        (fenced("x = = 1"), "Write it.", 0),
        ("return 2 * x", HEAD, 1),
        ("if x:\nreturn 2 * x", HEAD, 0),
        ("", HEAD, 0),
        ("Here is a function.", "Write it.", 0),
    ],
)
def test_parses(response: str, prompt: str, expected: float) -> None:
    assert score("parses", response, prompt) == expected


def test_parses_is_cheated_by_nothing_at_all() -> None:
    assert score("parses", "pass") == score("parses", "# no idea") == score("parses", "Hello") == 1
    assert score("parses", "pass", HEAD) == 1


TESTS = ["assert double(4) == 8", "assert double(0) == 0", "assert double(-3) == -6"]


@pytest.mark.parametrize(
    ("response", "all_pass", "share"),
    [
        (fenced("def double(x):\n    return 2 * x"), 1, 1),
        ("return 2 * x", 1, 1),
        ("return x * x - 8", 0, 1 / 3),
        ("return", 0, 0),
        ("while True: pass", 0, 0),
        ("This is no Python.", 0, 0),
    ],
)
def test_tests(response: str, all_pass: float, share: float) -> None:
    """Run in the sandbox; an endless loop is ended and fails."""
    answers = [Answer((Message("user", HEAD),), response, columns={"tests": TESTS})]
    options = {"seconds": 1}
    assert shipped_reward("tests", options).score(answers).tolist() == [all_pass]
    assert shipped_reward("tests:share=true", options).score(answers).tolist() == pytest.approx([share])


def test_tests_is_cheated_by_what_the_tests_expect() -> None:
    table = "return {4: 8, 0: 0, -3: -6}[x]"
    assert score("tests", table, HEAD, tests=TESTS) == 1
    assert score("tests", table, HEAD, tests=["assert double(5) == 10"]) == 0  # a test that it has not seen


def test_tests_does_not_apply_without_tests() -> None:
    """Where the field is null; a record without the field is a mistake in the file."""
    reward = shipped_reward("tests:field=checks")
    answers = [Answer((Message("user", HEAD),), "return 2 * x", columns={"checks": each}) for each in (None, TESTS[0])]
    assert reward.score(answers).isnan().tolist() == [True, False]
    with pytest.raises(TrineError, match="reward tests asks for the field 'tests'"):
        score("tests", "return 1", HEAD)


@pytest.mark.parametrize(
    ("response", "answer", "expected"),
    [
        ("6 * 7 = 42\n#### 42", "So it is.\n#### 42", 1),
        ("#### 1,000", 1000.0, 1),
        ("#### $42", "42", 1),
        ("#### 41", "#### 42", 0),
        ("#### 42 then #### 41", "42", 0),
        ("The answer is 42.", "#### 42", 0),
        ("42", 42, 0),
        ("#### Paris", "#### Paris", 1),
        ("#### Rome", "Paris", 0),
        ("#### ", "Paris", 0),
    ],
)
def test_exact_answer(response: str, answer: Any, expected: float) -> None:
    assert score("exact_answer", response, answer=answer) == expected


def test_exact_answer_takes_the_last_number_where_it_is_told_to() -> None:
    assert score("exact_answer:marked=false", "It is 42.", answer="#### 42") == 1
    assert score("exact_answer:field=solution", "#### 42", solution=42) == 1


def test_exact_answer_is_cheated_by_chance() -> None:
    assert score("exact_answer", "I like turtles. #### 42", answer="6 * 7 = 42 #### 42") == 1
    assert max(score("exact_answer", f"#### {number}", answer="#### 3") for number in range(10)) == 1


def test_regex() -> None:
    assert score(r"regex:^\d+$", "42") == 1 and score(r"regex:^\d+$", "42 or so") == 0
    assert score("regex:a=1, b: c", "with a=1, b: c in it") == 1  # the text behind the colon as it stands
    with pytest.raises(TrineError, match=r"reward regex:\(: .*no regular expression: missing"):
        shipped_reward("regex:(")
    with pytest.raises(TrineError, match=r"reward regex:.* raised TimeoutError.*the first to the prompt 'Write it.'"):
        shipped_reward("regex:^(a|aa)+$", {"seconds": 0.05}).score(
            [Answer((Message("user", "Write it."),), "a" * 40 + "!")]
        )


def test_regex_is_cheated_by_the_form() -> None:
    assert score("regex:<answer>.+</answer>", "<answer>?</answer>") == 1


@pytest.fixture
def schema(tmp_path: Path) -> str:
    pytest.importorskip("jsonschema", reason="pip install 'trine[rewards]'")
    person = {
        "type": "object", "properties": {"name": {"type": "string"}, "age": {"$ref": "#/$defs/age"}},
        "required": ["name"], "$defs": {"age": {"type": "integer", "minimum": 0}},
    }  # fmt: skip
    (tmp_path / "person.json").write_text(json.dumps(person))
    return f"json_schema:{tmp_path / 'person.json'}"


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ('{"name": "Ada", "age": 36}', 1),
        ('Here:\n```json\n{"name": "Ada"}\n```', 1),
        ('{"name": "Ada", "age": -1}', 0),
        ('{"age": 36}', 0),
        ('{"name": "Ada",}', 0),
        ('{"name": "Ada", "name": "Eve"}', 0),
        ('{"name": "Ada", "age": NaN}', 0),
        ('"Ada"', 0),
        ("Ada", 0),
        ("", 0),
    ],
)
def test_json_schema(schema: str, response: str, expected: float) -> None:
    assert score(schema, response) == expected


def test_each_record_may_have_a_schema_of_its_own(schema: str) -> None:
    number, text = {"type": "integer"}, json.dumps({"type": "string"})
    answers = [Answer((Message("user", "?"),), "7", columns={"schema": each}) for each in (number, text, None)]
    scores = shipped_reward("json_schema").score(answers)
    assert scores[:2].tolist() == [1, 0] and bool(scores[2].isnan())
    with pytest.raises(TrineError, match="asks for the field 'schema'"):
        score("json_schema", "7")
    with pytest.raises(TrineError, match="field 'schema' is no JSON schema: 'objekt'"):
        score("json_schema", "7", schema={"type": "objekt"})


def test_json_schema_is_cheated_by_the_smallest_value(schema: str) -> None:
    assert score(schema, '{"name": ""}') == 1


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('{"type": "objekt"}', "is no JSON schema: 'objekt'"),
        ("{", "is not readable JSON"),
        ('{"$ref": "http://127.0.0.1:9/s.json"}', "Unresolvable"),
    ],
)
def test_a_schema_that_is_none_or_elsewhere_is_refused(schema: str, content: str, told: str) -> None:
    """Nothing is fetched."""
    place = schema.partition(":")[2] + "2.json"
    Path(place).write_text(content)
    with pytest.raises(TrineError, match=told):
        score(f"json_schema:{place}", "{}")


@pytest.mark.parametrize(
    ("name", "words", "expected"),
    [
        ("length", 200, 1),
        ("length", 300, 0.5),
        ("length:max=10", 10, 1),
        ("length:10", 15, 0.5),
        ("length:max=10", 20, 0),
        ("length:max=10", 99, 0),
        ("length:min=10", 5, 0.5),
        ("length:min=10", 1000, 1),
        ("length:min=10,max=20", 0, 0),
        ("length:min=10,max=20", 20, 1),
        ("length:min=10,max=20,unit=characters", 5, 1),
    ],
)
def test_length(name: str, words: int, expected: float) -> None:
    text = "a! " * words if "characters" not in name else "abc " * words
    assert score(name, text.strip()) == expected


def test_length_is_cheated_by_padding() -> None:
    assert score("length:min=50", "very " * 50) == 1


def test_repetition() -> None:
    assert score("repetition", "the cat sat on the mat and the dog lay down") == 0
    assert score("repetition", "so it goes so it goes so it goes") == pytest.approx(3 / 7 - 1)
    assert score("repetition:n=1", "a b a B, a!") == pytest.approx(2 / 5 - 1)
    assert score("repetition", "好" * 12) == pytest.approx(-0.9)


def test_repetition_is_cheated_by_few_words_and_by_a_counter() -> None:
    assert score("repetition", "") == score("repetition", "so so") == 0
    assert score("repetition", " ".join(f"so {n}" for n in range(50))) == 0


def test_words_wanted() -> None:
    assert score("words_wanted:cat, dog,red house", "The Red house has a dog.") == pytest.approx(2 / 3)
    assert score("words_wanted:cat", "A category, concatenated.") == 0  # whole words
    assert score("words_wanted", "The cat.", words=["cat", "dog"]) == 0.5
    assert score("words_wanted", "猫在哪里", words="猫,狗") == 0.5
    with pytest.raises(TrineError, match="holds no words to want"):
        score("words_wanted", "x", words=", ,")


def test_words_wanted_is_cheated_by_a_list() -> None:
    assert score("words_wanted:photosynthesis,chlorophyll", "photosynthesis chlorophyll") == 1


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("length:mx=3", "unknown key 'mx'; did you mean 'max'"),
        ("length:max=many", "not a whole number"),
        ("length:max=3,5", "write length:option=value"),
        ("length:max=3,min=5", "max=3 is less than min=5"),
        ("parses:now", "has no options"),
    ],
)
def test_an_option_that_there_is_not_is_refused(name: str, told: str) -> None:
    with pytest.raises(TrineError, match=told):
        shipped_reward(name)
