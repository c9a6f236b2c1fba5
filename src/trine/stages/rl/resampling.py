"""Groups whose scores are all equal teach nothing: responses to other prompts take their place (DAPO; Yu et al. 2025,
section 3.2, "dynamic sampling").

Every process samples them all, so that there is nothing to gather, and the main one's reward scores them for all. What
is sampled depends on (seed, iteration, round) alone.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from trine.records import Answer, Rollout
from trine.rewards.base import Reward
from trine.runtime.seeds import derive_seed
from trine.stages.rl.exchange import sum_over_processes
from trine.stages.rl.groups import equal_groups
from trine.stages.rl.prompts import choose_prompts
from trine.stages.rl.sampler import Sampler


def resampled(
    sampler: Sampler, reward: Reward, iteration: int, rollouts: Sequence[Rollout], scores: Tensor
) -> tuple[list[Rollout], dict[int, Answer], Tensor, int]:
    """Rollouts and scores [B] in which groups were sampled again while their scores were equal.

    Also, by row, the answers that are new, and how many groups were sampled. Rows of a group lie together, in the order
    of their numbers.
    """
    kept, found, new, sampled = list(rollouts), scores.clone(), dict[int, Answer](), 0
    for number in range(sampler.config.groups.resample_rounds):
        equal = equal_groups(found, kept)
        groups = sorted({kept[row].prompt_index for row in equal.nonzero().flatten().tolist()})
        if not groups:
            break
        fresh, answers = _fresh(sampler, iteration, number, groups)
        values = reward.score(answers) if sampler.world.is_main else torch.zeros(len(answers))
        rows = _rows(groups, sampler.config.samples_per_prompt)
        found[rows] = sum_over_processes(sampler.world, values)
        for row, rollout, answer in zip(rows, fresh, answers, strict=True):
            kept[row], new[row] = rollout, answer
        sampled += len(groups)
    return kept, new, found, sampled


def _fresh(sampler: Sampler, iteration: int, number: int, groups: Sequence[int]) -> tuple[list[Rollout], list[Answer]]:
    """Responses to other prompts in place of those of `groups`, under the same numbers."""
    config = sampler.config
    prompts = choose_prompts(
        sampler.prompts, len(groups), number, derive_seed(config.seed, "resampled prompts", iteration)
    )
    seed = derive_seed(config.seed, "resampled", iteration, number)
    rollouts, asked = sampler.respond(prompts, seed, samples=config.samples_per_prompt)
    fresh = [replace(rollout, prompt_index=groups[rollout.prompt_index]) for rollout in rollouts]
    return fresh, sampler.answers(fresh, asked)


def _rows(groups: Sequence[int], samples: int) -> list[int]:
    return [group * samples + sample for group in groups for sample in range(samples)]
