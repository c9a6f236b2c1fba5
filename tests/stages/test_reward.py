"""The reward model ranks, its scores are normalised, and pairs give what rows alone give."""

import json
from pathlib import Path
from statistics import fmean

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from tests.conftest import PLAIN_CPU, reward_config
from tests.tiny import FAMILY_NAMES, random_ids, tiny_score_model
from trine.catalog.loading import open_hardware, open_model, open_score_model
from trine.data.files import read_preferences
from trine.model.heads import ScoreModel
from trine.records import Answer
from trine.rewards.closing import closing_of
from trine.rewards.model import ModelReward
from trine.runtime.errors import TrineError
from trine.runtime.files import read_json, read_jsonl
from trine.stages.preferences.normalization import fresh_answers
from trine.stages.preferences.reward import run
from trine.stages.preferences.reward_batches import AnswerScores, score_items
from trine.stages.preferences.reward_items import Item, Renderer, Standard, pair_item
from trine.stages.preferences.reward_objective import RewardObjective
from trine.stages.preferences.reward_records import read_reward_records

LENGTHS = ((5, 3, 9), (2, 7, 7), (11, 1, 4), (6, 6, 1))


def pairs_by_hand() -> list[Item]:
    return [
        pair_item(*(random_ids(length, seed=10 * number + part).tolist() for part, length in enumerate(lengths)))
        for number, lengths in enumerate(LENGTHS)
    ]


def scores_of(model: ScoreModel, items: list[Item]) -> list[tuple[float, ...]]:
    return score_items(AnswerScores(model), items, model.trunk.config.context, torch.device("cpu"))


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_answers_score_what_they_score_alone_however_they_are_packed(family: str) -> None:
    """Texts share rows, answers share prompts, and long rankings take several rows."""
    model = tiny_score_model(family)
    ranking = Item("ranking", [5, 6, 7], tuple(random_ids(40, seed=seed).tolist() for seed in range(5)))
    texts = [Item("label", [], (random_ids(length, seed=length).tolist(),)) for length in (3, 30, 17, 9)]
    items = [*pairs_by_hand(), *texts, ranking]
    for item, scores in zip(items, scores_of(model, items), strict=True):
        for score, answer in zip(scores, item.answers, strict=True):
            ids = torch.tensor([item.prompt + answer])
            with torch.no_grad():
                assert float(model(ids, torch.tensor([ids.shape[1] - 1]))[0]) == pytest.approx(score, abs=1e-4)


def test_scores_of_many_pairs_come_in_the_order_given() -> None:
    model, pairs = tiny_score_model(), pairs_by_hand() * 20
    alone = [scores_of(model, [pair])[0] for pair in pairs]
    assert_close(torch.tensor(scores_of(model, pairs)), torch.tensor(alone), rtol=1e-4, atol=1e-4)


def test_every_pair_comes_at_most_once_an_epoch_and_only_the_rest_is_left_out() -> None:
    pairs = [pair_item([index], [1] * (index % 9 + 1), [2]) for index in range(50)]
    objective = RewardObjective(tiny_score_model(), pairs, [], reward_config(Path("x"), Path("x"), Path("x")))
    assert objective.steps_per_epoch == 12
    for epoch in range(2):
        seen = [
            pair.prompt[0]
            for step in range(12)
            for batch in objective.batches(epoch * 12 + step)
            for pair in batch.items
        ]
        assert len(seen) == len(set(seen)) == 48


def test_it_learns_to_rank_what_it_saw(
    reward_run: Path, tmp_path: Path, finetune_run: Path, preferences_run: Path
) -> None:
    run(reward_config(tmp_path, finetune_run, preferences_run, epochs=20.0))
    rows = [row for row in read_jsonl(tmp_path / "metrics.jsonl") if "loss" in row]
    assert rows[0]["loss"] > 0.3 > rows[-1]["loss"]
    assert rows[-1]["accuracy"] == 1.0


def fresh_scores(reward: Path, policy: Path, preferences: Path, samples: int, seed: int) -> Tensor:
    """Scores of samples that nothing was fitted to, as PPO would take them."""
    config = reward_config(Path("unused"), policy, preferences, normalization_samples=samples, seed=seed)
    hardware = open_hardware(PLAIN_CPU)
    (model, tokenizer), reward_model = open_model(str(policy), hardware), open_score_model(reward, hardware)
    prompts = [Answer(preference.prompt, "") for preference in read_preferences(preferences / "train.jsonl")]
    answers = fresh_answers(model, tokenizer, prompts, config, model.config.context)
    assert {answer.prompt for answer in answers} <= {each.prompt for each in prompts} and len(answers) == samples
    return ModelReward(*reward_model).score(answers)


def test_other_fresh_samples_of_the_policy_score_0_and_vary_by_1(
    tmp_path: Path, finetune_run: Path, preferences_run: Path
) -> None:
    """1.21: not the rejected sides of its own pairs, which it has learned to score unlike any other answers."""
    reward = run(reward_config(tmp_path, finetune_run, preferences_run, epochs=10.0, normalization_samples=512))
    scores = fresh_scores(reward, finetune_run, preferences_run, 512, seed=99).double()
    assert float(scores.mean()) == pytest.approx(0, abs=4 * (2 / 512) ** 0.5)
    assert float(scores.std(unbiased=False)) == pytest.approx(1, abs=0.25)
    model, tokenizer = open_score_model(reward, open_hardware(PLAIN_CPU))
    config = reward_config(tmp_path, finetune_run, preferences_run)
    pairs = Renderer(model, tokenizer, config, Standard()).items(read_reward_records(config).train)
    assert abs(fmean(rejected for _, rejected in scores_of(model, pairs))) > 0.2  # what was called mean 0 before
    said = read_json(reward / "done.json")["normalization"]
    assert said["samples"] == 512 and 0 <= said["ended_share"] <= 1 and said["gain"] > 0


def test_scores_may_be_normalized_on_another_policy_or_left_as_they_are(
    tmp_path: Path, finetune_run: Path, pretrain_run: Path, preferences_run: Path, reward_run: Path
) -> None:
    """1.21: `reference` is the policy PPO will start from, where that is not what the reward model was made of."""
    other = run(reward_config(tmp_path / "other", finetune_run, preferences_run, reference=str(pretrain_run)))
    raw = run(reward_config(tmp_path / "raw", finetune_run, preferences_run, normalize="off"))
    ours, theirs, none = (read_json(each / "done.json")["normalization"] for each in (reward_run, other, raw))
    assert ours["gain"] != theirs["gain"]
    assert (none["gain"], none["offset"], none["samples"]) == (1.0, 0.0, 0)


def test_prompts_that_leave_no_room_for_a_sample_are_named(
    tmp_path: Path, finetune_run: Path, preferences_run: Path
) -> None:
    """1.21"""
    with pytest.raises(TrineError, match=r"no prompt of the training records leaves room for max_new_tokens=128"):
        run(reward_config(tmp_path, finetune_run, preferences_run, max_new_tokens=128))


def test_the_kind_of_text_decides_how_cut_answers_are_read_and_the_folder_keeps_it(
    tmp_path: Path, finetune_run: Path, preferences_run: Path, reward_run: Path
) -> None:
    """1.23: code by lines, prose where it was cut; what is asked for wins."""
    chosen = [preference.chosen for preference in read_preferences(preferences_run / "train.jsonl")]
    hardware = open_hardware(PLAIN_CPU)
    assert open_score_model(reward_run, hardware)[0].closed == closing_of(chosen)
    (tmp_path / "prose.jsonl").write_text(
        json.dumps({"prompt": "x", "chosen": "the cat sat. " * 9 + "\nIt is.", "rejected": "no"}) + "\n"
    )
    prose = run(
        reward_config(tmp_path / "prose", finetune_run, tmp_path / "prose.jsonl", batch_size=1, normalize="off")
    )
    assert open_score_model(prose, hardware)[0].closed == "end" == read_json(prose / "done.json")["closed"]
    asked = run(reward_config(tmp_path / "asked", finetune_run, preferences_run, closed="as_is"))
    assert open_score_model(asked, hardware)[0].closed == "as_is"


def test_a_tie_is_half_right_while_training_as_it_is_when_evaluated() -> None:
    """1.17: a figure has one definition."""
    same = pair_item([5, 6], [7, 3], [7, 3])
    objective = RewardObjective(
        tiny_score_model(), [same, same], [], reward_config(Path("x"), Path("x"), Path("x"), batch_size=2)
    )
    (batch,) = objective.batches(0)
    assert float(objective.terms(batch)["accuracy"].value) == 1.0


def test_results_stand_beside_baselines(reward_run: Path, preferences_run: Path) -> None:
    results = read_json(reward_run / "done.json")
    held_out = len(read_preferences(preferences_run / "held_out.jsonl"))
    assert results["pairs"] == len(results["chosen_scores"]) == len(results["rejected_scores"]) == held_out
    wins = [a > b for a, b in zip(results["chosen_scores"], results["rejected_scores"], strict=True)]
    assert results["accuracy"] == pytest.approx(sum(wins) / held_out)
    assert {"accuracy_length_only", "accuracy_bag_of_tokens", "accuracy_alike_lengths"} <= results.keys()


def test_a_pair_longer_than_the_context_is_named(tmp_path: Path, finetune_run: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"prompt": "x", "chosen": "y", "rejected": "' + "word " * 300 + '"}\n')
    with pytest.raises(TrineError, match=rf"{path}:1: the pair has \d+ tokens, more than the context of 128"):
        run(reward_config(tmp_path / "out", finetune_run, path))


def test_no_pairs_are_refused(tmp_path: Path, finetune_run: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text("")
    with pytest.raises(TrineError, match=r"pairs\.jsonl holds no preferences"):
        run(reward_config(tmp_path / "out", finetune_run, tmp_path / "pairs.jsonl"))
