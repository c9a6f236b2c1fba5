"""Tasks of `trine evaluate`: their form and files, and the examples in their prompts."""

import json
import re
from pathlib import Path

import pytest

from tests.rule_tasks import ANSWER, CHOICE, Rule, parities, right, task_of
from tests.tiny import tiny_model, tiny_tokenizer
from trine.runtime.errors import TrineError
from trine.stages.evaluation.answer import AnswerTask
from trine.stages.evaluation.choice import ChoiceTask
from trine.stages.evaluation.evaluate import evaluate_tasks, task_results
from trine.stages.evaluation.in_context import DROPPED, LEFT_OUT, SHORTENED
from trine.stages.evaluation.records import Record
from trine.stages.evaluation.summary import figures
from trine.stages.evaluation.task import ItemResult, Metric, Subject, Task, TaskRun, as_turn
from trine.stages.evaluation.task_files import make_task, read_task, read_tasks, shipped_tasks, task_fingerprint

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
