"""The reward model ranks, its scores are normalised, and pairs give what rows alone give."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from tests.conftest import PLAIN_CPU, reward_config
from tests.tiny import FAMILY_NAMES, random_ids, tiny_score_model
from trine.catalog.loading import open_hardware, open_model, open_score_model
from trine.data.files import read_preferences
from trine.rewards.closing import closing_of
from trine.rewards.model import ModelReward
from trine.runtime.errors import TrineError
from trine.runtime.files import read_json, read_jsonl
from trine.stages.preferences.normalization import fresh_answers
from trine.stages.preferences.pair_scores import Pair, render, score_all, score_pairs
from trine.stages.preferences.reward import RewardObjective, run
from trine.tokenizer.chat_format import ChatFormat

LENGTHS = ((5, 3, 9), (2, 7, 7), (11, 1, 4), (6, 6, 1))


def pairs_by_hand() -> list[Pair]:
    return [
        Pair(*(random_ids(length, seed=10 * number + part).tolist() for part, length in enumerate(lengths)))
        for number, lengths in enumerate(LENGTHS)
    ]


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_a_pair_scores_what_its_answers_score_alone(family: str) -> None:
    model = tiny_score_model(family)
    pairs = pairs_by_hand()
    with torch.no_grad():
        chosen, rejected = score_pairs(model, pairs)
        for index, pair in enumerate(pairs):
            for score, answer in ((chosen, pair.chosen), (rejected, pair.rejected)):
                ids = torch.tensor([pair.prompt + answer])
                assert_close(score[index], model(ids, torch.tensor([ids.shape[1] - 1]))[0], rtol=1e-4, atol=1e-4)


def test_scores_of_many_pairs_come_in_the_order_given() -> None:
    model, pairs = tiny_score_model(), pairs_by_hand() * 20
    together = score_all(model, pairs)
    with torch.no_grad():
        alone = [score_pairs(model, [pair]) for pair in pairs]
    assert_close(together[0], torch.cat([chosen for chosen, _ in alone]), rtol=1e-4, atol=1e-4)
    assert_close(together[1], torch.cat([rejected for _, rejected in alone]), rtol=1e-4, atol=1e-4)


def test_every_pair_comes_at_most_once_an_epoch_and_only_the_rest_is_left_out() -> None:
    pairs = [Pair([index], [1] * (index % 9 + 1), [2]) for index in range(50)]
    objective = RewardObjective(tiny_score_model(), pairs, [], reward_config(Path("x"), Path("x"), Path("x")))
    assert objective.steps_per_epoch == 12
    for epoch in range(2):
        seen = [
            pair.prompt[0] for step in range(12) for batch in objective.batches(epoch * 12 + step) for pair in batch
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
    prompts = [preference.prompt for preference in read_preferences(preferences / "train.jsonl")]
    answers = fresh_answers(model, tokenizer, prompts, config, model.config.context)
    assert {answer.prompt for answer in answers} <= set(prompts) and len(answers) == samples
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
    preferences = read_preferences(preferences_run / "train.jsonl")
    pairs = render(preferences, ChatFormat(tokenizer), model.trunk.config.context, preferences_run)
    assert abs(float(score_all(model, pairs)[1].mean())) > 0.2  # what was called mean 0 before
    said = read_json(reward / "done.json")["normalization"]
    assert said["samples"] == 512 and 0 <= said["ended_share"] <= 1 and said["gain"] > 0


def test_scores_may_be_normalized_on_another_policy_or_left_as_they_are(
    tmp_path: Path, finetune_run: Path, pretrain_run: Path, preferences_run: Path, reward_run: Path
) -> None:
    """1.21: `reference` is the policy PPO will start from, where that is not what the reward model was made of."""
    other = run(reward_config(tmp_path / "other", finetune_run, preferences_run, reference=str(pretrain_run)))
    raw = run(reward_config(tmp_path / "raw", finetune_run, preferences_run, normalize=False))
    ours, theirs, none = (read_json(each / "done.json")["normalization"] for each in (reward_run, other, raw))
    assert ours["gain"] != theirs["gain"]
    assert (none["gain"], none["offset"], none["samples"]) == (1.0, 0.0, 0)


def test_prompts_that_leave_no_room_for_a_sample_are_named(
    tmp_path: Path, finetune_run: Path, preferences_run: Path
) -> None:
    """1.21"""
    with pytest.raises(TrineError, match=r"no prompt of .*preferences leaves room for max_new_tokens=128 within 128"):
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
        reward_config(tmp_path / "prose", finetune_run, tmp_path / "prose.jsonl", batch_size=1, normalize=False)
    )
    assert open_score_model(prose, hardware)[0].closed == "end" == read_json(prose / "done.json")["closed"]
    asked = run(reward_config(tmp_path / "asked", finetune_run, preferences_run, closed="as_is"))
    assert open_score_model(asked, hardware)[0].closed == "as_is"


def test_a_tie_is_half_right_while_training_as_it_is_when_evaluated() -> None:
    """1.17: a figure has one definition."""
    objective = RewardObjective(tiny_score_model(), [], [], reward_config(Path("x"), Path("x"), Path("x")))
    same = Pair([5, 6], [7, 3], [7, 3])
    assert float(objective.terms([same, same])["accuracy"].value) == 1.0


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
