"""GPT-1's heads: what they read, and that `transformers` computes the same from the same folder."""

from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from tests.tiny import FAMILY_NAMES, tiny_config, tiny_model, tiny_tokenizer
from trine.catalog.rewards import open_reward
from trine.model.classifier import TaskModel, TaskSettings, TaskTokens, reading_ids
from trine.model.folder import load_model, load_score_model, load_task_model, read_task, save_task_model
from trine.model.growth import grow_vocabulary
from trine.records import Answer, Message, Task
from trine.runtime.device import choose_hardware
from trine.runtime.errors import TrineError
from trine.stages.finetuning.classify import template_of
from trine.tokenizer.growth import with_special_tokens, with_template
from trine.tokenizer.tokenizer import Tokenizer

CPU = torch.device("cpu")
TOKENS = TaskTokens()
TEXTS = ["The cat sat on the mat.", "def add(first, second):", "x"]


def tokenizer_with_tokens() -> Tokenizer:
    return with_template(with_special_tokens(tiny_tokenizer(), TOKENS.names), *template_of(TOKENS))


def task_model(task: Task, labels: tuple[str, ...], family: str = "qwen3") -> TaskModel:
    trunk = tiny_model(tiny_config(family, vocab_size=320))
    grow_vocabulary(trunk, 320, 3, seed=0)
    model = TaskModel(trunk, TaskSettings(task, labels))
    model.initialize_head(seed=0)
    model.classifier.weight.data.mul_(20)
    return model


def read(texts: tuple[str, ...]) -> list[int]:
    tokenizer = tokenizer_with_tokens()
    tokens = [tokenizer.special[name] for name in TOKENS.names]
    return reading_ids(tokens, [tokenizer.encode(text) for text in texts], 1000)[0]


@torch.no_grad()
def logits_of(model: TaskModel, examples: list[list[tuple[str, ...]]]) -> torch.Tensor:
    """Each example's readings alone in a row of their own."""
    rows = [read(texts) for readings in examples for texts in readings]
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    ends = torch.tensor([(row, len(ids) - 1) for row, ids in enumerate(rows)])
    owners = torch.tensor([place for place, readings in enumerate(examples) for _ in readings])
    return model(ids, ends, owners)[1]


def saved(model: TaskModel, folder: Path) -> Path:
    tokenizer = tokenizer_with_tokens()
    save_task_model(model, folder, pad_token_id=tokenizer.pad)
    tokenizer.save(folder)
    return folder


@pytest.mark.parametrize("family", FAMILY_NAMES)
@torch.no_grad()
def test_transformers_gives_the_same_logits_from_text(tmp_path: Path, family: str) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = task_model("classify", ("bad", "so-so", "good"), family)
    saved(model, tmp_path)
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    found = theirs(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    assert_close(found, logits_of(model, [[(text,)] for text in TEXTS]), atol=1e-4, rtol=1e-4)
    assert theirs.config.id2label == {0: "bad", 1: "so-so", 2: "good"}
    assert type(theirs).__name__.endswith("ForSequenceClassification")


@torch.no_grad()
def test_transformers_gives_the_same_logits_of_two_texts_and_of_options(tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    (tmp_path / "entail").mkdir(), (tmp_path / "similar").mkdir(), (tmp_path / "choose").mkdir()
    entail, similar = task_model("entail", ("no", "yes")), task_model("similar", ("no", "yes"))
    choose = task_model("choose", ("option",))
    tokenizer = AutoTokenizer.from_pretrained(saved(entail, tmp_path / "entail"))

    def theirs(folder: Path, first: list[str], second: list[str]) -> torch.Tensor:
        batch = tokenizer(first, second, padding=True, return_tensors="pt")
        model = AutoModelForSequenceClassification.from_pretrained(folder)
        return model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits

    first, second = ["The cat", "number is 10"], ["sat", "the other"]
    pairs = list(zip(first, second, strict=True))
    assert_close(
        theirs(tmp_path / "entail", first, second), logits_of(entail, [[p] for p in pairs]), atol=1e-4, rtol=1e-4
    )
    saved(similar, tmp_path / "similar")
    both = theirs(tmp_path / "similar", first, second) + theirs(tmp_path / "similar", second, first)
    assert_close(both, logits_of(similar, [[p, p[::-1]] for p in pairs]), atol=1e-4, rtol=1e-4)
    saved(choose, tmp_path / "choose")
    options = theirs(tmp_path / "choose", ["The cat"] * 3, ["sat", "x", "number"])
    ours = logits_of(choose, [[("The cat", option) for option in ("sat", "x", "number")]])
    assert_close(options.T, ours, atol=1e-4, rtol=1e-4)


def test_a_similarity_does_not_depend_on_the_order_of_its_texts() -> None:
    model = task_model("similar", ("no", "yes"))
    one, other = ("The cat", "sat on"), ("sat on", "The cat")
    assert torch.equal(logits_of(model, [[one, other]]), logits_of(model, [[other, one]]))


def test_options_are_read_apart_and_absent_ones_are_no_choice() -> None:
    model = task_model("choose", ("option",))
    options = [("The cat", "sat"), ("The cat", "number"), ("The cat", "x")]
    logits = logits_of(model, [options, options[:2]])
    assert logits.shape == (2, 3)
    assert logits[1, 2] == float("-inf")
    assert_close(logits[0, :2], logits[1, :2])
    assert_close(logits_of(model, [options[::-1]])[0], logits[0].flip(0))


@torch.no_grad()
def test_what_is_loaded_computes_what_was_saved(tmp_path: Path) -> None:
    model = task_model("entail", ("no", "yes"), "llama")
    saved(model, tmp_path)
    again = load_task_model(tmp_path, torch.float32, CPU)
    assert again.settings == model.settings == read_task(tmp_path)
    pair = [[("The cat", "sat")]]
    assert torch.equal(logits_of(again, pair), logits_of(model, pair))


@torch.no_grad()
def test_as_a_reward_two_labels_score_the_log_odds_of_the_second(tmp_path: Path) -> None:
    model = task_model("classify", ("neg", "pos"))
    saved(model, tmp_path)
    reward = open_reward(str(tmp_path), choose_hardware("cpu", "fp32", 1))
    prompts = ["The cat", "def add", ""]
    responses = [" sat on the mat.", "(first):", "number"]
    answers = [Answer((Message("user", p),), r) for p, r in zip(prompts, responses, strict=True)]
    logits = logits_of(model, [[(p + r,)] for p, r in zip(prompts, responses, strict=True)])
    # A prompt and its answer are one text to the classifier, as the reviews that it learned from.
    assert_close(reward.score(answers), logits[:, 1] - logits[:, 0], atol=1e-5, rtol=1e-5)
    alone = torch.cat([reward.score([answer]) for answer in answers])
    assert_close(reward.score(answers), alone, atol=1e-5, rtol=1e-5)
    head = load_score_model(tmp_path, torch.float32, CPU).head.weight
    assert_close(head[0], model.classifier.weight[1] - model.classifier.weight[0])


@torch.no_grad()
def test_as_a_reward_a_choice_scores_an_answer_and_a_similarity_both_orders(tmp_path: Path) -> None:
    answers = [Answer((Message("user", "The cat"),), each) for each in ("sat", "number")]
    for task, labels in (("choose", ("option",)), ("similar", ("no", "yes"))):
        model = task_model(task, labels)  # type: ignore[arg-type]
        (tmp_path / task).mkdir()
        reward = open_reward(str(saved(model, tmp_path / task)), choose_hardware("cpu", "fp32", 1))
        if task == "choose":
            expected = logits_of(model, [[("The cat", "sat"), ("The cat", "number")]])[0]
        else:
            both = logits_of(model, [[("The cat", each), (each, "The cat")] for each in ("sat", "number")])
            expected = both[:, 1] - both[:, 0]
        assert_close(reward.score(answers), expected, atol=1e-5, rtol=1e-5)


def test_a_classifier_of_three_labels_is_no_reward_and_no_language_model(tmp_path: Path) -> None:
    saved(task_model("classify", ("a", "b", "c")), tmp_path)
    with pytest.raises(TrineError, match=r"3 labels \(a, b, c\) is no reward"):
        open_reward(str(tmp_path), choose_hardware("cpu", "fp32", 1))
    with pytest.raises(TrineError, match="holds a classifier"):
        load_model(tmp_path, torch.float32, CPU)


@pytest.mark.parametrize(
    ("lengths", "room", "kept"),
    [((5,), 7, (5,)), ((5,), 6, (4,)), ((3, 4), 10, (3, 4)), ((3, 9), 10, (3, 4)), ((9, 3), 10, (4, 3)),
     ((9, 9), 10, (3, 4)), ((9, 8), 11, (4, 4))],
)  # fmt: skip
def test_too_long_a_reading_loses_the_end_of_its_longest_text(
    lengths: tuple[int, ...], room: int, kept: tuple[int, ...]
) -> None:
    texts = [[place * 100 + token for token in range(length)] for place, length in enumerate(lengths)]
    ids, of_text = reading_ids((997, 998, 999), texts, room)
    assert len(ids) == len(of_text) <= room
    assert [token for token, of in zip(ids, of_text, strict=True) if of] == [
        token for text, length in zip(texts, kept, strict=True) for token in text[:length]
    ]
    assert [token for token, of in zip(ids, of_text, strict=True) if not of] == [997, *[998] * (len(texts) - 1), 999]
    left = [token for token in reading_ids((997, 998, 999), texts, room, "left")[0] if token < 900]
    assert left == [token for text, length in zip(texts, kept, strict=True) for token in text[len(text) - length :]]
