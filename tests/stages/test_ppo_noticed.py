"""What a user sees of `trine ppo`: which weights an iteration moves, what it samples, and which prompts it takes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import PLAIN_CPU, QUIET_LOOP
from tests.tiny import make_likely, tiny_chat, tiny_config, tiny_model, tiny_tokenizer
from trine.config.rl import KlConfig, PpoConfig
from trine.data.files import write_examples
from trine.model.config import ModelConfig
from trine.model.folder import save_model
from trine.records import Example, Message
from trine.runtime.errors import TrineError
from trine.runtime.files import read_jsonl
from trine.stages.rl.ppo import run

CONTEXT, QUESTION = 64, "Add."


def spread(prompts: list[str], responses: list[str]) -> list[float]:
    """A reward that tells nearly any two responses apart."""
    return [sum(ord(letter) * place for place, letter in enumerate(text, 1)) % 1009 / 1009 for text in responses]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder and, beside it, a file with one prompt."""
    return started(tmp_path_factory.mktemp("start"), tiny_config("gpt2", vocab_size=320, context=CONTEXT))


def started(folder: Path, shape: ModelConfig) -> Path:
    """The same of a model of this shape."""
    model = tiny_model(shape)
    make_likely(model, 3, 2.0)
    save_model(model, folder)
    tiny_tokenizer().save(folder)
    write_examples(folder / "prompts.jsonl", [Example((Message("user", QUESTION),), "4")])
    return folder


def trained(start: Path, out: Path, **changes: Any) -> Path:
    settings: dict[str, Any] = {
        "out": out, "model": str(start), "prompts": start / "prompts.jsonl", "reward": f"{__name__}:spread",
        "critic": "policy", "batch_size": 8, "minibatch_size": 4, "micro_batch_size": 2, "max_new_tokens": 8,
        "entropy_weight": 0.5, "kl": KlConfig(coefficient=0.5, in_loss="k1"), "loop": QUIET_LOOP,
        "hardware": PLAIN_CPU,
    }  # fmt: skip
    return run(PpoConfig(**settings | changes))


def moved(folder: Path, start: Path) -> set[str]:
    """The tensors of `folder` that are no longer those of the model the run started from."""
    before, after = (load_file(each / "model.safetensors") for each in (start, folder))
    return {name for name, tensor in before.items() if name in after and not torch.equal(tensor, after[name])}


def iterations(folder: Path) -> list[dict[str, Any]]:
    return [row for row in read_jsonl(folder / "metrics.jsonl") if "score" in row]


def test_the_critic_alone_learns_while_it_warms_up(start: Path, tmp_path: Path) -> None:
    """Neither the policy loss, nor the entropy bonus, nor a KL penalty in the loss moves the policy by one bit."""
    folder = trained(start, tmp_path, critic_warmup=2, iterations=2)
    assert moved(folder / "policy", start) == set()
    assert len(moved(folder / "critic", start)) > 5


def test_the_policy_learns_from_the_iteration_after_the_warm_up(start: Path, tmp_path: Path) -> None:
    assert moved(trained(start, tmp_path, critic_warmup=1, iterations=2) / "policy", start)


def test_every_iteration_samples_other_responses_to_the_same_prompt_of_the_same_policy(
    start: Path, tmp_path: Path
) -> None:
    """The policy does not move while the critic warms up, so only the seed can tell the iterations apart."""
    rows = iterations(trained(start, tmp_path, critic_warmup=4, iterations=4))
    assert len({row["score"] for row in rows}) == len(rows) == 4


def test_a_prompt_that_leaves_exactly_the_budget_is_taken_and_one_token_more_is_not(
    start: Path, tmp_path: Path
) -> None:
    room = CONTEXT - len(tiny_chat().prompt_ids((Message("user", QUESTION),)))
    rows = iterations(trained(start, tmp_path / "fits", iterations=1, max_new_tokens=room))
    assert 0 < rows[0]["length"] <= room
    with pytest.raises(TrineError, match="max_new_tokens"):
        trained(start, tmp_path / "exceeds", iterations=1, max_new_tokens=room + 1)
