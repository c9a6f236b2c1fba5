"""PPO's config refuses what cannot be trained, before anything is opened."""

import pytest

from trine.config.loading import validated
from trine.config.rl import PpoConfig
from trine.runtime.errors import TrineError

GIVEN = {"out": "out", "model": "model", "prompts": "prompts.jsonl", "reward": "package.module:function"}


@pytest.mark.parametrize("key", ["min_new_tokens", "min_length", "top_k", "top_p", "min_p", "repetition_penalty"])
def test_a_filter_of_sampling_is_refused_with_the_reason(key: str) -> None:
    """Checklist: sample without filters and without a minimum length, or replay them; ours are refused."""
    with pytest.raises(TrineError, match=f"{key}.*the ratio is not 1 and KL turns negative"):
        validated(PpoConfig, GIVEN | {key: 1}, "trine ppo")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch_size": 10, "minibatch_size": 4}, "batch_size=10 is not a multiple of minibatch_size=4"),
        ({"minibatch_size": 8, "micro_batch_size": 3}, "minibatch_size=8 is not a multiple of micro_batch_size=3"),
        ({"critic_warmup": 2}, "critic_warmup needs a critic of its own"),
        ({"kl": {"coefficient": 0, "target": 6}}, "coefficient=0 with target=6 stays 0 for ever"),
        ({"closed": "end"}, "closed=end is how a reward model reads, and reward=package.module:function is a function"),
        ({"reward": None}, "reward=null leaves nothing to learn from: name a reward, or, for on-policy distillation"),
        ({"reward": None, "reference": "teacher", "critic": "reward"}, "starts from a reward model, and there is none"),
        ({"query_tokens": [2, 8]}, "query_tokens are the first tokens of plain text: add form=text"),
        ({"query_tokens": [8, 2], "form": "text"}, r"query_tokens=\[8, 2\] are to be two numbers, fewest and most"),
        ({"form": "text", "user": "a:b"}, "a user answers in conversations"),
        ({"stop_strings": ["", "a"]}, "an empty stop string would end every response at once"),
        ({"critic": "reward"}, "critic=reward starts from a reward model, and reward=package.module:function is"),
    ],
)
def test_what_does_not_fit_together_is_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(TrineError, match=words):
        validated(PpoConfig, GIVEN | changes, "trine ppo")


def test_a_coefficient_of_zero_is_taken_where_it_stays_or_has_a_floor() -> None:
    """1.24: without a target it is fixed; a min_coefficient lifts it at the first iteration."""
    for kl in ({"coefficient": 0}, {"coefficient": 0, "target": 6, "min_coefficient": 0.01}):
        validated(PpoConfig, GIVEN | {"kl": kl}, "trine ppo")
