"""`trine evaluate --models A B --tasks ...` as others script against it: text, JSON, exit code, answers, resuming."""

import json
from pathlib import Path

import pytest

from tests.conftest import Command
from tests.tiny import tiny_model, tiny_tokenizer
from trine.config.tasks import KINDS, ChoiceConfig, TaskKind, register_kind
from trine.data.exchanges import read_examples
from trine.model.folder import save_model
from trine.runtime.files import read_json, read_jsonl
from trine.stages.evaluation import evaluate
from trine.stages.evaluation.task import ItemResult, Metric, Subject, Task, TaskRun

ON = ("--hardware.device", "cpu", "--hardware.precision", "fp32", "--hardware.threads", "1")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tiny models, a task of choice and one of answers to read."""
    folder = tmp_path_factory.mktemp("evaluate")
    for number in range(2):
        (folder / f"model{number}").mkdir()
        save_model(tiny_model(vocab_size=320, context=128, seed=number), folder / f"model{number}")
        tiny_tokenizer().save(folder / f"model{number}")
    rows = [{"n": n, "parity": ("even", "odd")[n % 2]} for n in range(12)]
    (folder / "parity.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = 'template: "{{ n }} is"\nanswer: " {{ parity }}"\nseparator: "\\n"\nrecords: parity.jsonl\n'
    choice = f'kind: choice\nabout: Even or odd?\n{common}choices: [" even", " odd"]\nshots: [0, 1]\ndraws: 2\n'
    (folder / "parity.yaml").write_text(choice)
    (folder / "read.yaml").write_text(f"kind: answer\n{common}scoring: shown\nmax_new_tokens: 2\nmax_items: 2\n")
    return folder


def models(place: Path) -> tuple[str, str]:
    return str(place / "model0"), str(place / "model1")


def test_text_json_answers_and_report(place: Path, tmp_path: Path, command: Command) -> None:
    out = tmp_path / "run"
    asked = ("evaluate", "--models", *models(place), "--tasks", place / "parity.yaml", place / "read.yaml", *ON)
    code, text, _ = command(*asked, "--out", out)
    assert code == 0
    assert "parity: Even or odd?" in text
    assert "difference to model0" in text
    assert "accuracy_sum_1_shots" in text
    assert text.count(" is\n    ") == 4  # the answers that are only shown, of two items and two models

    code, printed, _ = command(*asked, "--out", out, "--json")
    results = json.loads(printed)
    assert code == 0
    assert results == read_json(out / "done.json")
    assert results["models"] == list(models(place))
    assert results["asked"] == ["parity", "read"]
    first, second = (results["tasks"]["parity"]["models"][name] for name in models(place))
    figure = first["figures"]["accuracy_sum_1_shots"]
    assert figure.keys() >= {"mean", "interval", "error", "items", "draws", "deviation"}
    assert figure["interval"][0] <= figure["mean"] <= figure["interval"][1]
    assert figure["items"] == second["items"] == 12

    rows = read_jsonl(next((out / "answers").glob("1-*/parity.jsonl")))
    assert [row["item"] for row in rows] == [f"parity.jsonl:{n}" for n in range(1, 13)]
    kept = [value for row in rows for value in row["values"]["accuracy_sum_1_shots"]]
    assert sum(kept) / len(kept) == pytest.approx(figure["mean"])
    assert len(rows[0]["answers"]) == 3  # without examples, and two draws

    code, report, _ = command("report", out)
    assert code == 0
    assert "accuracy_sum_1_shots" in report
    assert "not shown" not in report
    page = (out / "report.html").read_text()
    assert "examples in the prompt" in page
    assert "Answers of tasks" in page


def test_a_difference_whose_interval_holds_0_is_tied(place: Path, tmp_path: Path, command: Command) -> None:
    asked = ("evaluate", "--models", *models(place), "--tasks", place / "parity.yaml", "--out", tmp_path / "run", *ON)
    _, printed, _ = command(*asked, "--json")
    differences = json.loads(printed)["tasks"]["parity"]["differences"][models(place)[1]]
    _, text, _ = command(*asked)
    for name, difference in differences.items():
        low, high = difference["interval"]
        assert difference["tied"] == (low <= 0 <= high)
        row = next(line for line in text.splitlines() if line.startswith(f"{name} ") and " model1 " in line)
        assert ("tied (" in row) == difference["tied"]


class Fixed:
    """A task that the model called `better` gets all right, and the other nothing."""

    metrics = (Metric("right", "share"), Metric("distance", "mean", "lower"))

    def __init__(self, name: str, better: str) -> None:
        self.name, self.better = name, better

    def evaluate(self, subject: Subject) -> TaskRun:
        right = float(subject.name.endswith(self.better))
        values = {"right": (right,), "distance": (1.0 - right,)}
        return TaskRun([ItemResult(str(n), values) for n in range(10)])


def make_fixed(name: str, config: ChoiceConfig, seed: int) -> Task:
    return Fixed(name, "model0" if "first" in config.about else "model1")


@pytest.mark.parametrize(("better", "code"), [("first", 1), ("second", 0)])
def test_the_exit_code_tells_whether_a_model_is_worse(
    place: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch, better: str, code: int
) -> None:
    """A kind of task that was registered by others, too."""
    monkeypatch.setitem(KINDS, "fixed", KINDS["choice"])
    register_kind(TaskKind("fixed", "tests.cli.test_evaluate:FixedConfig", "tests.cli.test_evaluate:make_fixed"))
    (tmp_path / "fixed.yaml").write_text(f"kind: fixed\nabout: the {better} is better\nrecords: fixed.yaml\n")
    asked = ("evaluate", "--models", *models(place), "--tasks", tmp_path / "fixed.yaml", "--out", tmp_path / "run", *ON)
    assert command(*asked)[0] == 0
    assert command(*asked, "--fail-if-worse")[0] == code


def test_what_was_answered_is_not_asked_again(
    place: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that stopped after the first model's tasks goes on with the second's; its answers stay."""
    out = tmp_path / "run"
    asked = ("evaluate", "--models", *models(place), "--tasks", place / "parity.yaml", "--out", out, *ON)
    opened: list[str] = []
    open_model = evaluate.open_model

    def stopping(name: str, hardware: object) -> object:
        opened.append(Path(name).name)
        if len(opened) == 2:
            raise KeyboardInterrupt
        return open_model(name, hardware)  # type: ignore[arg-type]

    monkeypatch.setattr(evaluate, "open_model", stopping)
    assert command(*asked)[0] == 130
    [kept] = (out / "answers").glob("*/parity.jsonl")
    before = kept.stat().st_mtime_ns
    assert command(*asked)[0] == 0
    assert opened == ["model0", "model1", "model1"]
    assert kept.stat().st_mtime_ns == before
    assert command(*asked)[0] == 0
    assert len(opened) == 3


def test_without_out_the_folder_is_named_by_what_is_asked(
    place: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = ("evaluate", "--models", models(place)[0], "--tasks", place / "parity.yaml", *ON)
    assert command(*asked)[0] == command(*asked, "--json")[0] == 0
    assert len(list((tmp_path / "runs" / "evaluate").iterdir())) == 1
    assert command(*asked, "--seed", "1")[0] == 0
    assert len(list((tmp_path / "runs" / "evaluate").iterdir())) == 2


def test_another_task_is_another_run(place: Path, tmp_path: Path, command: Command) -> None:
    """What a task asks is compared by content: its settings, and its records."""
    task, records = tmp_path / "parity.yaml", tmp_path / "parity.jsonl"
    task.write_text((place / "parity.yaml").read_text())
    records.write_text((place / "parity.jsonl").read_text())
    asked = ("evaluate", "--models", models(place)[0], "--tasks", task, "--out", tmp_path / "run", *ON)
    assert command(*asked)[0] == 0
    records.write_text(records.read_text() + '{"n": 99, "parity": "odd"}\n')
    code, _, error = command(*asked)
    assert code == 2
    assert "tasks: its content has changed" in error


def test_examples_to_fine_tune_on_need_no_model(place: Path, tmp_path: Path, command: Command) -> None:
    (tmp_path / "few.yaml").write_text((place / "parity.yaml").read_text() + "max_items: 4\n")
    (tmp_path / "parity.jsonl").write_text((place / "parity.jsonl").read_text())
    asked = ("evaluate", "--tasks", tmp_path / "few.yaml", "--write-examples", "--out", tmp_path / "run", *ON)
    assert command(*asked)[0] == 0
    examples = read_examples(tmp_path / "run" / "examples" / "few.jsonl")
    assert len(examples) == 8
    assert all(each.response == ("even", "odd")[int(each.prompt[0].content.split()[0]) % 2] for each in examples)
    (tmp_path / "few.yaml").write_text((place / "parity.yaml").read_text())
    code, _, error = command(*asked[:5], tmp_path / "all", *ON)
    assert code == 2
    assert "nothing is left to fine-tune on" in error


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "give models and tasks to ask them"),
        (("--models", "{m}"), "give models and tasks to ask them"),
        (("--tasks", "gsm8k"), "give models and tasks"),
        (("--models", "{m}", "{m}", "--tasks", "gsm8k"), "is given twice"),
        (("--models", "{m}", "--tasks", "gsm8k"), "--data gsm8k=FILE"),
        (("--models", "{m}", "--tasks", "gsm9k"), "did you mean 'gsm8k'"),
        (("--models", "{m}", "--tasks", "translation-zh", "--chat", "other"), "chat names other, which is none of"),
        (("--before", "{m}", "--after", "{m}"), "the task ppo needs base, reward, held_out_reward, prompts too"),
        (("--models", "{m}", "--tasks", "ppo"), "the task ppo needs after, base"),
    ],
)
def test_what_cannot_be_asked_is_refused(place: Path, command: Command, arguments: tuple[str, ...], words: str) -> None:
    model = models(place)[0]
    code, out, error = command("evaluate", *(each.replace("{m}", model) for each in arguments), *ON)
    assert (code, out) == (2, "")
    assert words in error


def test_dry_run_reads_the_tasks(place: Path, command: Command) -> None:
    asked = ("evaluate", "--models", models(place)[0], "--dry-run", "--tasks")
    assert command(*asked, place / "parity.yaml")[0] == 0
    code, _, error = command(*asked, "sentiment")
    assert code == 2
    assert "--data sentiment=FILE" in error


class FixedConfig(ChoiceConfig):
    """The file of kind `fixed`."""

    kind: str = "fixed"  # type: ignore[assignment]
    template: str = ""
    answer: str = ""
    choices: tuple[str, ...] = ("a", "b")
