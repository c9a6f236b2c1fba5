"""Kinds of tasks of `trine evaluate`: choices by likelihood, answers that are written, texts."""

import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import pytest

from tests.rule_tasks import ANSWER, CHOICE, CONTEXT, PARITY, Rule, parities, right, task_of
from tests.tiny import tiny_model, tiny_tokenizer
from trine.algorithms.text_similarity import edit_distance, edit_similarity
from trine.runtime.errors import TrineError
from trine.stages.evaluation.answer import last_number, marked_number
from trine.stages.evaluation.subject import ModelSubject
from trine.stages.evaluation.summary import figures
from trine.stages.evaluation.texts import next_line, windows


@pytest.fixture(scope="module")
def subject() -> ModelSubject:
    return ModelSubject("tiny", tiny_model(vocab_size=320, context=CONTEXT), tiny_tokenizer())


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
    task = task_of(tmp_path, parities(2), **ANSWER, scoring=["tests.stages.test_task_kinds:lengths"])
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
