"""Tasks of `trine evaluate`: what a model is asked, what its answers are worth, and what is made of that.

Most are asked of a stand-in that answers by rule, so that what is right is known without a model.
"""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import tiny_model, tiny_tokenizer
from trine.algorithms.text_similarity import edit_distance, edit_similarity
from trine.engine.sampling import Sampling
from trine.records import Rollout
from trine.runtime.errors import TrineError
from trine.stages.evaluation.answer import AnswerTask, last_number, marked_number
from trine.stages.evaluation.choice import ChoiceTask
from trine.stages.evaluation.evaluate import evaluate_tasks, task_results
from trine.stages.evaluation.in_context import DROPPED, LEFT_OUT, SHORTENED
from trine.stages.evaluation.records import Record
from trine.stages.evaluation.subject import ModelSubject
from trine.stages.evaluation.summary import figures
from trine.stages.evaluation.task import ItemResult, Metric, Prompt, Subject, Task, TaskRun, as_turn
from trine.stages.evaluation.task_files import make_task, read_task, read_tasks, shipped_tasks, task_fingerprint
from trine.stages.evaluation.texts import next_line, windows

CONTEXT = 160


class Rule:
    """A subject whose prompts are kept, and whose answers a function of the prompt gives. Characters are its tokens."""

    name, asks_in_chat = "rule", False
    tokenizer = tiny_tokenizer()

    def __init__(self, answer: Callable[[str], str] = lambda prompt: "", context: int = 10_000, *, chat: bool = False):
        self.answer, self.context, self.asks_in_chat = answer, context, chat
        self.prompts: list[str] = []

    def prompt_ids(self, prompt: Prompt) -> list[int]:
        turns = [f"<{each.role}>{each.content}" for each in prompt] if isinstance(prompt, tuple) else [prompt]
        return [ord(character) for character in "".join(turns)]

    def continuation_ids(self, prompt: Prompt, responses: Sequence[str]) -> list[tuple[list[int], list[int]]]:
        return [(self.prompt_ids(prompt), [ord(each) for each in response]) for response in responses]

    def log_probs(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[list[float]]:
        """The answer's characters are likely, any other text's are not."""
        found = []
        for before, after in pairs:
            prompt, response = ("".join(map(chr, ids)) for ids in (before, after))
            self.prompts.append(prompt)
            found.append([-0.1 if response == self.answer(prompt) else -1.0] * len(after))
        return found

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, samples: int = 1, *, answering: bool = False
    ) -> list[Rollout]:
        self.prompts += ["".join(map(chr, ids)) for ids in prompts]
        return [
            Rollout(tuple(ids), tuple(ord(each) for each in self.answer("".join(map(chr, ids)))), (), "stop")
            for ids in prompts
            for _ in range(samples)
        ]

    def text(self, rollout: Rollout, stop_strings: Sequence[str] = (), *, answering: bool = False) -> str:
        text = "".join(map(chr, rollout.response_ids))
        return text[: min((text.find(stop) for stop in stop_strings if stop in text), default=len(text))]


@pytest.fixture(scope="module")
def subject() -> ModelSubject:
    return ModelSubject("tiny", tiny_model(vocab_size=320, context=CONTEXT), tiny_tokenizer())


def task_of(folder: Path, rows: Sequence[Mapping[str, Any]], seed: int = 0, **settings: object) -> Task:
    """The task that a YAML file (JSON is YAML) of these settings makes of the records."""
    (folder / "records.jsonl").write_text("".join(json.dumps(each, ensure_ascii=False) + "\n" for each in rows))
    (folder / "task.yaml").write_text(json.dumps({"records": "records.jsonl", **settings}, ensure_ascii=False))
    return make_task(read_task(str(folder / "task.yaml"), {}), seed)


def parities(count: int) -> list[dict[str, Any]]:
    return [{"n": n, "parity": "odd" if n % 2 else "even"} for n in range(count)]


PARITY = {"template": "{{ n }} is", "answer": " {{ parity }}", "separator": "\n"}
CHOICE = {**PARITY, "kind": "choice", "choices": [" even", " odd"]}
ANSWER = {**PARITY, "kind": "answer", "max_new_tokens": 8}


def right(prompt: str) -> str:
    """What a model that knows says; of a question without content, always the same."""
    asked = prompt.split()[-2]
    return " odd" if asked.isdecimal() and int(asked) % 2 else " even"


# The form of a task


class Parity:
    """A task that is no class of Trine's."""

    name = "parity"
    metrics = (Metric("accuracy", "share"),)

    def evaluate(self, subject: Subject) -> TaskRun:
        return TaskRun([ItemResult(str(n), {"accuracy": (float(n % 2),)}) for n in range(10)], {"odd": 5})


def test_any_object_of_the_form_is_a_task() -> None:
    task: Task = Parity()
    found = evaluate_tasks(tiny_model(vocab_size=320), tiny_tokenizer(), [task])
    assert found["parity/accuracy"]["mean"] == 0.5
    results = task_results(task, {"a": task.evaluate(Rule()), "b": task.evaluate(Rule())})
    assert results["differences"]["b"]["accuracy"]["tied"]
    assert results["models"]["a"]["counts"] == {"odd": 5}


def test_models_are_compared_on_the_items_that_both_have() -> None:
    metric = Metric("accuracy", "share")
    runs = {
        "a": TaskRun([ItemResult(str(n), {"accuracy": (1.0,)}) for n in range(20)]),
        "b": TaskRun([ItemResult(str(n), {"accuracy": (float(n < 5),)}) for n in range(19, -1, -2)]),
    }
    task = Parity()
    task.metrics = (metric,)
    difference = task_results(task, runs)["differences"]["b"]["accuracy"]
    assert (difference["items"], difference["mean"]) == (10, pytest.approx(-0.8))
    assert not difference["tied"]


# Examples in the prompt


def test_an_item_is_never_an_example_of_itself_nor_is_its_duplicate(tmp_path: Path) -> None:
    """lm-evaluation-harness#4145. Case, blanks and punctuation do not make another text."""
    twice = [{"n": "Seven", "parity": "odd"}, {"n": " seven! ", "parity": "odd"}, {"n": "SEVEN", "parity": "even"}]
    task = task_of(tmp_path, [*twice, *parities(4)], **CHOICE, shots=[4], draws=30)
    rule = Rule()
    task.evaluate(rule)
    for prompt in rule.prompts:
        *examples, question = prompt.lower().split("\n")
        assert len(examples) == 4
        assert len({example.split(" is ")[0].strip(" !") for example in examples}) == 4
        assert not any(
            example.split(" is")[0].strip(" !") == question.split(" is")[0].strip(" !") for example in examples
        )


def test_a_draw_has_one_set_of_examples_and_draws_differ(tmp_path: Path) -> None:
    task = task_of(tmp_path, parities(40), **ANSWER, shots=[2], draws=5, max_items=6)
    rule = Rule()
    task.evaluate(rule)
    openings = [tuple(prompt.split("\n")[:2]) for prompt in rule.prompts]
    each = [set(openings[start : start + 6]) for start in range(0, 30, 6)]
    assert all(len(found) <= 3 for found in each)  # but for items that would have been shown themselves
    assert len(set().union(*each)) >= 5
    again = Rule()
    task_of(tmp_path, parities(40), **ANSWER, shots=[2], draws=5, max_items=6).evaluate(again)
    assert again.prompts == rule.prompts
    other = Rule()
    task_of(tmp_path, parities(40), seed=1, **ANSWER, shots=[2], draws=5, max_items=6).evaluate(other)
    assert other.prompts != rule.prompts


def test_examples_come_from_the_pool_where_there_is_one(tmp_path: Path) -> None:
    pool = [{"n": n, "parity": "odd" if n % 2 else "even"} for n in range(100, 104)]
    (tmp_path / "pool.jsonl").write_text("\n".join(map(json.dumps, pool)))
    rule = Rule()
    task_of(tmp_path, parities(5), **ANSWER, pool="pool.jsonl", shots=[3], draws=2).evaluate(rule)
    assert all(int(line.split()[0]) >= 100 for prompt in rule.prompts for line in prompt.split("\n")[:-1])


def test_what_does_not_fit_drops_examples_from_the_front_and_is_counted(tmp_path: Path) -> None:
    """A prompt is 4 examples of 10 characters or so and a question of 4: with 8 for the answer, 40 hold 2 of them."""
    task = task_of(tmp_path, parities(9), **ANSWER, shots=[4], draws=2)
    long, short = Rule(), Rule(context=40)
    task.evaluate(long)
    run = task.evaluate(short)
    assert all(len(prompt) + 8 <= 40 for prompt in short.prompts)
    assert all(whole.endswith(cut) for whole, cut in zip(long.prompts, short.prompts, strict=True))
    assert {prompt.count("\n") for prompt in short.prompts} == {2, 3} - ({3} if run.counts[DROPPED] == 36 else set())
    assert run.counts[DROPPED] == sum(4 - prompt.count("\n") for prompt in short.prompts)
    assert run.counts[SHORTENED] == 18


def test_an_item_that_does_not_fit_alone_is_left_out_and_counted(tmp_path: Path) -> None:
    records = [*parities(5), {"n": "9" * 50, "parity": "odd"}]
    run = task_of(tmp_path, records, **ANSWER, shots=[0, 1]).evaluate(Rule(context=40))
    assert len(run.items) == 5
    assert run.counts[LEFT_OUT] == 1
    with pytest.raises(TrineError, match="no item fits the context of rule, 4 tokens"):
        task_of(tmp_path, records, **ANSWER).evaluate(Rule(context=4))


def test_a_pool_that_is_too_small_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrineError, match=r"4 examples are asked for and the pool has 2 .* ask for fewer shots"):
        task_of(tmp_path, parities(3), **ANSWER, shots=[4]).evaluate(Rule())


def test_a_chat_model_is_asked_in_turns(tmp_path: Path) -> None:
    rule = Rule(chat=True)
    settings = {**ANSWER, "instruction": "Say it. ", "shots": [1], "draws": 1, "max_items": 1}
    task_of(tmp_path, parities(2), **settings).evaluate(rule)
    assert rule.prompts in (
        ["<user>Say it. 1 is<assistant>odd<user>0 is"],
        ["<user>Say it. 0 is<assistant>even<user>1 is"],
    )


def test_indentation_is_no_blank_that_joins() -> None:
    assert [as_turn(text) for text in (" yes", "\nyes", "    return x", "yes", "")] == [
        "yes", "yes", "    return x", "yes", "",
    ]  # fmt: skip


def test_what_is_not_asked_is_there_to_fine_tune_on(tmp_path: Path) -> None:
    task = task_of(tmp_path, [*parities(10), {"n": "0!", "parity": "even"}], **ANSWER, max_items=6)
    assert isinstance(task, AnswerTask)
    asked = {question.text for question in task.asked.questions}
    examples = task.asked.examples_to_train_on()
    assert {each.prompt[0].content for each in examples} >= {f"{n} is" for n in range(1, 10)} - asked
    assert {each.response for each in examples} <= {"even", "odd"}
    keys = {each.prompt[0].content.replace("!", "") for each in examples}
    assert not keys & {text.replace("!", "") for text in asked}


# Choice by likelihood


def test_the_most_likely_choice_is_counted_where_it_is_right(tmp_path: Path) -> None:
    task = task_of(tmp_path, parities(10), **CHOICE, shots=[0, 2], draws=3)
    found = figures(task.metrics, task.evaluate(Rule(right)))
    assert found["accuracy_sum_0_shots"]["mean"] == found["accuracy_sum_2_shots"]["mean"] == 1.0
    assert found["accuracy_sum_2_shots"]["draws"] == 3
    assert found["accuracy_sum_2_shots"]["deviation"] == 0.0
    wrong = figures(task.metrics, task.evaluate(Rule(lambda prompt: " even")))
    assert wrong["accuracy_sum_0_shots"]["mean"] == 0.5


def test_each_way_to_compare_likelihoods_is_a_figure_of_its_own(tmp_path: Path) -> None:
    """Golden vector E6: in sum Paris is most likely, per character and byte the city of lights."""
    texts = {" Paris": (-4.0, 1), " the city of lights": (-6.0, 4), " 巴黎": (-5.0, 2)}

    class Golden(Rule):
        def log_probs(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[list[float]]:
            sums = [texts["".join(map(chr, after))] for _, after in pairs]
            return [[total / tokens] * tokens for total, tokens in sums]

    ways = ["sum", "per_token", "per_character", "per_byte"]
    settings = {"kind": "choice", "template": "Where?", "choices": list(texts), "scoring": ways}
    task = task_of(tmp_path, [{}], **settings, answer=" the city of lights")
    values = task.evaluate(Golden()).items[0].values
    assert values == {
        "accuracy_sum_0_shots": (0.0,), "accuracy_per_token_0_shots": (1.0,),
        "accuracy_per_character_0_shots": (1.0,), "accuracy_per_byte_0_shots": (1.0,),
    }  # fmt: skip


def test_calibration_takes_away_what_the_labels_have_without_a_question(tmp_path: Path) -> None:
    """Zhao et al. 2021: a model that says "even" to everything, and a little less so where the answer is odd."""

    class Biased(Rule):
        def log_probs(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[list[float]]:
            found = []
            for before, after in pairs:
                prompt, response = ("".join(map(chr, ids)) for ids in (before, after))
                self.prompts.append(prompt)
                asked = prompt.split()[-2] if len(prompt.split()) > 1 else ""
                odd = asked.isdecimal() and int(asked) % 2
                prior = {" even": 0.8, " odd": 0.2} if odd else {" even": 0.9, " odd": 0.1}
                found.append([math.log(prior[response])])
            return found

    task = task_of(tmp_path, parities(10), **CHOICE, calibrate=True, content_free=["N/A"])
    subject = Biased()
    found = figures(task.metrics, task.evaluate(subject))
    assert found["accuracy_sum_0_shots"]["mean"] == 0.5
    # even questions tie with the prior, and the first choice of several alike is taken
    assert found["accuracy_sum_0_shots_calibrated"]["mean"] == 1.0
    assert "N/A is" in subject.prompts


def test_the_wrong_choices_of_an_item_never_stand_in_its_prompt(tmp_path: Path) -> None:
    records = [{"n": n, "parity": f"answer {n}"} for n in range(9)]
    settings = {**PARITY, "kind": "choice", "distractors": 3, "shots": [3], "draws": 4}
    task = task_of(tmp_path, records, **settings)
    run = task.evaluate(Rule())
    for item in run.items:
        for answer in item.answers:
            shown = {int(place.split(":")[1]) - 1 for place in answer["examples"]}
            offered = {int(text.split()[-1]) for text in answer["choices"]}
            own = int(item.item.split(":")[1]) - 1
            assert len(offered) == 4
            assert own in offered
            assert not shown & offered
            assert int(answer["choices"][answer["right"]].split()[-1]) == own


def test_an_answer_that_is_no_choice_is_refused_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(TrineError, match=r"records.jsonl:2: task: the answer 'maybe' is neither one of the choices"):
        task_of(tmp_path, [{"n": 1, "parity": "odd"}, {"n": 2, "parity": "maybe"}], **CHOICE)


def test_the_choices_may_be_a_field_and_the_answer_a_place_in_it(tmp_path: Path) -> None:
    records = [{"n": 7, "of": [" even", " odd"], "right": 1}]
    settings = {"kind": "choice", "template": "{{ n }} is", "answer": "{{ right }}", "choices_field": "of"}
    run = task_of(tmp_path, records, **settings).evaluate(Rule(right))
    assert run.items[0].values == {"accuracy_sum_0_shots": (1.0,)}


def test_a_choice_is_as_likely_as_the_model_says(subject: ModelSubject, tmp_path: Path) -> None:
    """Against the engine, one text at a time, with the ids that the whole text has."""
    task = task_of(tmp_path, parities(3), **CHOICE)
    for item in task.evaluate(subject).items:
        number = int(item.item.split(":")[1]) - 1
        for text, log_prob in zip(item.answers[0]["choices"], item.answers[0]["log_probs"], strict=True):
            prompt, ids = tiny_tokenizer().encode(f"{number} is"), tiny_tokenizer().encode(f"{number} is{text}")
            assert ids[: len(prompt)] == prompt
            [alone] = subject.engine.log_probs([prompt], [ids[len(prompt) :]])
            assert log_prob == pytest.approx(sum(alone), abs=1e-4)


def test_a_token_over_the_end_of_the_prompt_is_the_responses_for_all_responses(subject: ModelSubject) -> None:
    """ " the" is one token: where it is, nothing can be said of " t" alone, and all responses are cut there."""
    pairs = subject.continuation_ids("cat t", ["he", "x"])
    assert len({tuple(before) for before, _ in pairs}) == 1
    assert [tiny_tokenizer().decode([*before, *after]) for before, after in pairs] == ["cat the", "cat tx"]
    assert [before + after for before, after in pairs] == [
        tiny_tokenizer().encode(each) for each in ("cat the", "cat tx")
    ]


# Answers that are written


def test_answers_are_cut_at_a_stop_and_compared(tmp_path: Path) -> None:
    task = task_of(tmp_path, parities(4), **ANSWER, scoring=["exact", "edit_similarity"])
    found = figures(task.metrics, task.evaluate(Rule(lambda prompt: f"{right(prompt)} \nand more")))
    assert found["exact_0_shots"]["mean"] == found["edit_similarity_0_shots"]["mean"] == 1.0
    half = figures(task.metrics, task.evaluate(Rule(lambda prompt: " even")))
    assert half["exact_0_shots"]["mean"] == 0.5
    assert half["edit_similarity_0_shots"]["mean"] == pytest.approx((2 * 1.0 + 2 * edit_similarity("even", "odd")) / 4)


def test_edit_distances() -> None:
    assert [edit_distance(*each) for each in (("kitten", "sitting"), ("", "ab"), ("same", "same"))] == [3, 2, 0]
    assert (edit_similarity("", ""), edit_similarity("return x", "return y")) == (1.0, 0.875)


@pytest.mark.parametrize(
    ("text", "marked", "last"),
    [
        ("6 * 7 = 42\n#### 42", 42, 42),
        ("#### 1,000.0", 1000, 1000),
        ("#### $18", 18, 18),
        ("first #### 3 then #### -4 apples", -4, -4),
        ("so it is 17.", None, 17),
        ("between 3 and 5.50", None, Fraction(11, 2)),
        ("#### none", None, None),
        ("no number", None, None),
    ],
)
def test_numbers_in_the_form_of_gsm8k(text: str, marked: int | None, last: int | None) -> None:
    assert (marked_number(text), last_number(text)) == (marked, last)


def test_gsm8ks_form_compares_numbers_not_texts(tmp_path: Path) -> None:
    records = [
        {"question": "6 * 7?", "answer": "6 * 7 = 42\n#### 42"},
        {"question": "10 * 100?", "answer": "#### 1,000"},
    ]
    settings = {"kind": "answer", "template": "{{ question }}", "answer": " {{ answer }}", "stop": ["Question"]}
    task = task_of(tmp_path, records, **settings, scoring=["number", "last_number"])
    said = {"6 * 7?": " It is 42.", "10 * 100?": " #### 1000.00 Question 3"}
    found = figures(task.metrics, task.evaluate(Rule(said.__getitem__)))
    assert (found["number_0_shots"]["mean"], found["last_number_0_shots"]["mean"]) == (0.5, 1.0)


def lengths(prompts: list[str], answers: list[str], parity: list[str]) -> list[float]:
    return [len(answer) + 100 * (kind == "odd") for answer, kind in zip(answers, parity, strict=True)]


def test_any_function_of_the_answers_is_a_score(tmp_path: Path) -> None:
    task = task_of(tmp_path, parities(2), **ANSWER, scoring=["tests.stages.test_tasks:lengths"])
    found = figures(task.metrics, task.evaluate(Rule(lambda prompt: "abc")))
    assert found["lengths_0_shots"]["mean"] == pytest.approx(53.0)


def test_several_samples_of_a_prompt_are_clustered(tmp_path: Path) -> None:
    """The same 4 samples of each of 10 prompts say as much as one: the interval is that of 10."""
    one = task_of(tmp_path, parities(10), **ANSWER)
    run_of_one = one.evaluate(Rule(lambda prompt: " even"))
    four = task_of(tmp_path, parities(10), **ANSWER, samples=4, temperature=1)
    run_of_four = four.evaluate(Rule(lambda prompt: " even"))
    a, b = figures(one.metrics, run_of_one)["exact_0_shots"], figures(four.metrics, run_of_four)["exact_0_shots"]
    assert (b["samples"], b["items"], b["mean"]) == (4, 10, a["mean"])
    assert b["interval"] == pytest.approx(a["interval"], abs=0.02)


def test_an_unknown_score_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrineError, match=r"scoring 'exakt' is unknown: exact, edit_similarity, number, last_number"):
        task_of(tmp_path, parities(2), **ANSWER, scoring=["exakt"])


# Texts


def test_bits_per_byte_are_all_bits_over_all_bytes(subject: ModelSubject, tmp_path: Path) -> None:
    """Each token once, whatever the length; a text without anything is counted."""
    texts = ["def add(first, second):\n    return first + second\n" * 20, "cat", "", "日本"]
    task = task_of(tmp_path, [{"text": text} for text in texts], kind="bits_per_byte")
    run = task.evaluate(subject)
    tokens = [len(tiny_tokenizer().encode(text)) for text in texts if text]
    assert max(tokens) > 2 * CONTEXT
    assert [item.answers[0]["tokens"] for item in run.items] == tokens
    assert run.counts == {"empty texts, left out": 1}
    nats, size = (sum(item.answers[0][key] for item in run.items) for key in ("nats", "bytes"))
    assert figures(task.metrics, run)["bits_per_byte"]["mean"] == pytest.approx(nats / size / math.log(2))
    start = [tiny_tokenizer().end_of_text]
    [alone] = subject.engine.log_probs([start], [tiny_tokenizer().encode("cat")])
    assert run.items[1].answers[0]["nats"] == pytest.approx(-sum(alone), abs=1e-4)


def test_windows_hold_every_token_once_behind_half_a_context(subject: ModelSubject) -> None:
    text = "the number is 7 and " * 60
    parts = list(windows(subject, text))
    assert [token for _, response in parts for token in response] == tiny_tokenizer().encode(text)
    assert all(len(before) + len(response) - 1 <= CONTEXT for before, response in parts)
    assert all(len(before) >= CONTEXT // 2 for before, _ in parts[1:])


def test_the_next_line_has_to_stand_behind_a_line_break(tmp_path: Path) -> None:
    assert [next_line(text) for text in ("\n    return x\nmore", " + y\n    return x", "\n\nreturn", "", "\nx  ")] == [
        "    return x", "", "", "", "x",
    ]  # fmt: skip
    records = [{"text": f"def f{n}():\n    return {n}\n"} for n in range(6)]
    task = task_of(tmp_path, records, kind="next_line")
    rule = Rule(lambda prompt: f"\n    return {prompt[5]}\n\n")
    found = figures(task.metrics, task.evaluate(rule))
    assert (found["exact"]["mean"], found["edit_similarity"]["mean"]) == (1.0, 1.0)
    assert set(rule.prompts) == {f"def f{n}():" for n in range(6)}
    other = figures(task.metrics, task.evaluate(Rule(lambda prompt: "\nreturn 0\n")))
    assert other["exact"]["mean"] == 0.0
    assert 0.5 < other["edit_similarity"]["mean"] < 1.0


# Files


def test_every_task_that_is_shipped_says_what_it_needs() -> None:
    assert {"sentiment", "function-bodies", "translation-zh", "gsm8k"} <= set(shipped_tasks())
    with pytest.raises(TrineError, match=r"task sentiment names no records; give the file: --data sentiment=FILE"):
        read_task("sentiment", {})


def test_sentiment_takes_the_clear_sentences_of_the_users_file(tmp_path: Path) -> None:
    rows = [{"id": str(n), "score": score, "text": f"film {n}"} for n, score in enumerate((-2.5, -0.9, 0.0, 1.0, 3.1))]
    (tmp_path / "vader.jsonl").write_text("\n".join(map(json.dumps, rows * 1)))
    task = make_task(read_task("sentiment", {"sentiment": str(tmp_path / "vader.jsonl")}), 0)
    assert isinstance(task, ChoiceTask)
    assert [(each.text, each.answer) for each in task.asked.questions] == [
        ("Review: film 0\nSentiment:", " negative"),
        ("Review: film 3\nSentiment:", " positive"),
        ("Review: film 4\nSentiment:", " positive"),
    ]


def test_the_zero_shot_translation_is_shown() -> None:
    task = make_task(read_task("translation-zh", {}), 0)
    assert isinstance(task, AnswerTask)
    rule = Rule(lambda prompt: "今天是个好日子")
    run = task.evaluate(rule)
    assert rule.prompts == ["请把以下英文翻译为中文：Today is a good day"]
    assert (task.metrics, run.items[0].answers[0]["text"]) == ((), "今天是个好日子")


def test_a_tasks_fingerprint_is_its_settings_and_content(tmp_path: Path) -> None:
    def printed(folder: str, **settings: object) -> str:
        (tmp_path / folder).mkdir(exist_ok=True)
        task_of(tmp_path / folder, parities(4), **{**CHOICE, **settings})
        return task_fingerprint(read_task(str(tmp_path / folder / "task.yaml"), {}))

    assert printed("a") == printed("b")
    assert printed("a") != printed("a", shots=[1])
    (tmp_path / "b" / "records.jsonl").write_text('{"n": 1, "parity": "odd"}\n')
    assert task_fingerprint(read_task(str(tmp_path / "b" / "task.yaml"), {})) != printed("a")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"kind": "chioce"}, "kind 'chioce' is unknown; did you mean 'choice'"),
        ({"shot": [1]}, "unknown key 'shot'"),
        ({"choices": []}, "give one of choices, choices_field and distractors"),
        ({"shots": [1, 1]}, "names a number twice"),
        ({"template": "{{ n"}, "no Jinja2 template"),
        ({"template": "{{ m }}"}, r"records.jsonl:1.*'m' is undefined \(fields: n, parity\)"),
        ({"where": "{{ n > 99 }}"}, "holds no records that count"),
        ({"records": "none.jsonl"}, "none.jsonl does not exist"),
        (
            {"records": "package:nothing_of_that_name/x.jsonl"},
            "the package nothing_of_that_name, which is not installed",
        ),
        ({"calibrate": True, "choices": ["{{ n }}", "0"]}, "choices that are the same for every item"),
    ],
)
def test_a_mistake_in_a_file_is_named(tmp_path: Path, settings: dict[str, object], words: str) -> None:
    with pytest.raises(TrineError, match=words):
        task_of(tmp_path, parities(3), **{**CHOICE, **settings})


def test_names_and_data_of_tasks_are_checked(tmp_path: Path) -> None:
    with pytest.raises(TrineError, match=r"task 'sentimant' is neither a file nor comes with Trine; did you mean"):
        read_task("sentimant", {})
    with pytest.raises(TrineError, match="data: 'sentiment' is no task that is asked"):
        read_tasks(["translation-zh"], {"sentiment": "x.jsonl"})
    with pytest.raises(TrineError, match="'translation-zh' is given twice"):
        read_tasks(["translation-zh", "translation-zh"], {})


def test_a_template_cannot_leave_its_sandbox(tmp_path: Path) -> None:
    from trine.stages.evaluation.records import Template

    attack = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    with pytest.raises(TrineError, match=r"unsafe|undefined"):
        Template(attack, "template").fill(Record("x:1", {}))


@pytest.mark.parametrize("page", ["evaluation.md", "evaluation.zh-CN.md"])
def test_the_task_that_the_page_shows_is_one(page: str, tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / page).read_text("utf-8")
    (tmp_path / "parity.yaml").write_text(re.search(r"```yaml\n(.*?)```", text, re.DOTALL)[1])  # type: ignore[index]
    (tmp_path / "numbers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in parities(20)))
    task = make_task(read_task(str(tmp_path / "parity.yaml"), {}), 0)
    assert figures(task.metrics, task.evaluate(Rule(right)))["accuracy_sum_4_shots_calibrated"]["draws"] == 5
    assert {name for name in shipped_tasks() if name in text} >= {"sentiment", "function-bodies", "gsm8k"}
