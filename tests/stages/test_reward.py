"""The reward model ranks, its scores are normalised, and pairs give what rows alone give."""

from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from tests.conftest import PLAIN_CPU, reward_config
from tests.tiny import FAMILY_NAMES, random_ids, tiny_score_model
from trine.catalog.loading import open_hardware, open_score_model
from trine.data.files import read_preferences
from trine.runtime.errors import TrineError
from trine.runtime.files import read_json, read_jsonl
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


def test_scores_of_sampled_answers_are_normalised(reward_run: Path, preferences_run: Path) -> None:
    model, tokenizer = open_score_model(reward_run, open_hardware(PLAIN_CPU))
    preferences = read_preferences(preferences_run / "train.jsonl")
    pairs = render(preferences, ChatFormat(tokenizer), model.trunk.config.context, preferences_run)
    _, rejected = score_all(model, pairs)
    assert float(rejected.mean()) == pytest.approx(0, abs=1e-3)
    assert float(rejected.std(unbiased=False)) == pytest.approx(1, abs=0.05)


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
