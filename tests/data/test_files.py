"""Examples and preferences come back as they were written, and wrong lines are named."""

from pathlib import Path

import pytest

from trine.data.exchanges import read_examples
from trine.data.files import read_preferences, write_examples, write_preferences
from trine.records import Example, Message, PreferencePair
from trine.runtime.errors import TrineError

PROMPT = (Message("system", "Be brief."), Message("user", "Größe?\u2028\n"))


def test_examples_round_trip(tmp_path: Path) -> None:
    examples = [Example(PROMPT, "eins\nzwei", "a:1", "a"), Example(PROMPT[1:], "", "b", "b")]
    write_examples(tmp_path / "examples.jsonl", examples)
    assert read_examples(tmp_path / "examples.jsonl") == examples


def test_comparisons_round_trip(tmp_path: Path) -> None:
    preferences = [PreferencePair(PROMPT, "good", "bad", rejected_ended=False, name="n", group="g")]
    write_preferences(tmp_path / "pairs.jsonl", preferences)
    assert read_preferences(tmp_path / "pairs.jsonl") == preferences


def test_a_prompt_may_be_a_plain_string(tmp_path: Path) -> None:
    path = tmp_path / "examples.jsonl"
    path.write_text('{"prompt": "Why?", "response": "Because."}\n')
    assert read_examples(path) == [Example((Message("user", "Why?"),), "Because.", f"{path}:1", f"{path}:1")]


@pytest.mark.parametrize(
    "row, words",
    [
        ('{"prompt": "x"}', "field 'response' must be a string, found None"),
        ('{"prompt": "x", "response": 5}', "field 'response' must be a string, found 5"),
        ('{"prompt": 5, "response": "x"}', "field 'prompt' must be a string, found 5"),
        ('{"prompt": [{"role": "user"}], "response": "x"}', "field 'prompt[0].content' must be a string"),
        ('{"response": "x"}', "field 'prompt' must be"),
        ('{"prompt": [], "response": "x"}', "field 'prompt' must be"),
        ('{"prompt": [{"role": "user", "content": 3}], "response": "x"}', "field 'prompt[0].content' must be a string"),
        ('{"prompt": [{"role": "robot", "content": "x"}], "response": "x"}', "role"),
    ],
)
def test_a_wrong_field_is_named_by_file_line_and_key(tmp_path: Path, row: str, words: str) -> None:
    path = tmp_path / "examples.jsonl"
    path.write_text('{"prompt": "x", "response": "y"}\n\n' + row + "\n")
    with pytest.raises(TrineError) as caught:
        read_examples(path)
    assert str(caught.value).startswith(f"{path}:3: ") and words in str(caught.value)


@pytest.mark.parametrize("key", ["chosen", "rejected"])
def test_a_comparison_needs_both_answers(tmp_path: Path, key: str) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"prompt": "x", "chosen": "a", "rejected": "b"}\n'.replace(f'"{key}"', '"other"'))
    with pytest.raises(TrineError, match=f"{path}:1: field '{key}' must be a string"):
        read_preferences(path)
