"""Mined tasks are split into parts that share nothing, all within their budgets."""

from pathlib import Path

import pytest

from tests.conftest import PLAIN_CPU
from trine.config.corpus import CorpusConfig
from trine.config.text import FunctionsConfig
from trine.data.corpus import open_corpus
from trine.data.exchanges import read_examples
from trine.data.functions import join_function, parses
from trine.records import Example
from trine.runtime.errors import TrineError
from trine.runtime.files import read_json
from trine.stages.tasks.functions import run
from trine.tokenizer.chat_format import ChatFormat
from trine.tokenizer.tokenizer import Tokenizer


@pytest.fixture
def parts(functions_run: Path) -> dict[str, list[Example]]:
    return {
        name: read_examples(functions_run / f"{name}.jsonl") for name in ("all", "train", "held_out_reward", "held_out")
    }


def test_training_and_held_out_reward_are_two_parts_of_all(parts: dict[str, list[Example]]) -> None:
    train, held_out_reward, together = (
        {example.name for example in parts[name]} for name in ("train", "held_out_reward", "all")
    )
    assert train and held_out_reward and not train & held_out_reward
    assert train | held_out_reward == together


def test_held_out_tasks_come_from_modules_never_trained_on(
    parts: dict[str, list[Example]], corpus: CorpusConfig
) -> None:
    assert not {example.group for example in parts["all"]} & {example.group for example in parts["held_out"]}
    assert {example.group for example in parts["held_out"]} == {
        d.group for d in open_corpus(corpus).documents("held_out")
    }


def test_every_task_joins_to_python(parts: dict[str, list[Example]]) -> None:
    for example in parts["all"] + parts["held_out"]:
        assert parses(join_function(example.prompt[0].content, example.response))


def test_counts_are_reported(functions_run: Path, parts: dict[str, list[Example]]) -> None:
    counts = read_json(functions_run / "done.json")
    assert {name: counts[name] for name in ("train", "held_out_reward", "held_out")} == {
        name: len(parts[name]) for name in ("train", "held_out_reward", "held_out")
    }


def test_budgets_are_kept_in_tokens(
    tmp_path: Path, corpus: CorpusConfig, tokenizer_run: Path, parts: dict[str, list[Example]]
) -> None:
    chat = ChatFormat(Tokenizer.load(tokenizer_run))
    prompts = {example.name: len(chat.prompt_ids(example.prompt)) for example in parts["all"]}
    answers = {example.name: len(chat.response_ids(example.response)) for example in parts["all"]}
    longest_prompt = sorted(prompts.values())[len(prompts) * 3 // 4]
    shortest, longest = sorted(answers.values())[len(answers) // 4], sorted(answers.values())[len(answers) * 3 // 4]
    config = FunctionsConfig(
        out=tmp_path, corpus=corpus, tokenizer=tokenizer_run, max_prompt_tokens=longest_prompt,
        max_response_tokens=longest,
        min_response_tokens=shortest, hardware=PLAIN_CPU,
    )  # fmt: skip
    kept = {example.name for example in read_examples(run(config) / "all.jsonl")}
    fitting = {name for name in prompts if prompts[name] <= longest_prompt and shortest <= answers[name] <= longest}
    assert kept == fitting and 0 < len(kept) < len(prompts)


def test_a_task_that_stands_twice_is_kept_once(tmp_path: Path, tokenizer_run: Path, corpus_folder: Path) -> None:
    text = (corpus_folder / "module_1.py").read_text()
    for name in ("a.py", "b.py"):
        (tmp_path / name).write_text(text)
    config = FunctionsConfig(
        out=tmp_path / "out", corpus=CorpusConfig(folders=(tmp_path,), held_out_share=0), tokenizer=tokenizer_run
    )
    assert len(read_examples(run(config) / "all.jsonl")) == 6


def test_a_corpus_without_fitting_functions_is_refused(tmp_path: Path, tokenizer_run: Path) -> None:
    (tmp_path / "a.txt").write_text("no code here, only words\n" * 9)
    config = FunctionsConfig(
        out=tmp_path / "out", corpus=CorpusConfig(folders=(tmp_path,), held_out_share=0), tokenizer=tokenizer_run
    )
    with pytest.raises(
        TrineError, match="no documented function of the corpus fits the budgets; raise max_prompt_tokens"
    ):
        run(config)
