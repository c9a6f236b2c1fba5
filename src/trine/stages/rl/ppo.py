"""Step 4: proximal policy optimization against a reward, held near a reference by KL (Ziegler et al. 2019; Ouyang
et al. 2022).

The five steps of an iteration are `RolloutObjective.start_iteration`; here is what makes them PPO: advantages by GAE
against a critic, KL to the reference as a price on every token, clipped updates of policy and values. GRPO, RLOO and
REINFORCE++ are the same run with the advantages of `groups.py` and no critic.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trine.algorithms.advantages import generalized_advantages
from trine.algorithms.masked import masked_whiten
from trine.algorithms.text_groups import sequence_log_ratios
from trine.algorithms.text_importance import truncation
from trine.algorithms.text_kl import kl_loss
from trine.catalog.adapters import finish_lora
from trine.catalog.exchanges import read_exchanges, read_texts
from trine.catalog.rewards import open_reward
from trine.config.rewards import parts_of
from trine.config.rl import PpoConfig
from trine.model.lora import merge_lora
from trine.records import Answer, Rollout, Term
from trine.rewards.base import CanBeTried, Reward
from trine.rewards.mixture import leaves
from trine.rewards.model import ModelReward
from trine.rewards.no_reward import NoReward
from trine.runtime.progress import say
from trine.stages.policy_gradient import policy_terms, value_term
from trine.stages.rl.experience import TokenFigures, UpdateBatch
from trine.stages.rl.followed import Done, Followed, write_followed
from trine.stages.rl.groups import advantages_without_critic, groups_of
from trine.stages.rl.held_out import HeldOut
from trine.stages.rl.networks import (
    check_shares,
    critic_apart,
    open_critic,
    open_reference,
    together,
    whole_networks,
    write_policy,
)
from trine.stages.rl.observations import Observer
from trine.stages.rl.prompts import Prompt, columns_of, read_prompts
from trine.stages.rl.rollout_objective import RolloutObjective
from trine.stages.rl.show import show
from trine.tokenizer.chat_format import Chat
from trine.tokenizer.text_format import TextFormat, answer_format
from trine.training.stage_run import StageRun, stage_run


class PpoObjective(RolloutObjective):
    """GAE and clipped updates."""

    name = "ppo"

    def advantages(
        self, rollouts: Sequence[Rollout], scores: Tensor, figures: TokenFigures, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """By GAE, of the tokens' rewards; or against the group. Without a critic there are no returns."""
        config, rewards = self.config, self.token_rewards(scores, figures, mask)
        if config.advantage != "gae":
            advantages = advantages_without_critic(rewards, groups_of(rollouts), mask, config)
            return advantages, torch.zeros_like(advantages)
        return gae_of_responses(
            rewards, figures.old_values, mask,
            gamma=config.gamma, gae_lambda=config.gae_lambda, return_lambda=config.return_lambda,
        )  # fmt: skip

    def loss(self, log_probs: Tensor, entropy: Tensor, values: Tensor, batch: UpdateBatch) -> dict[str, Term]:
        """Clipped policy loss, value loss, entropy bonus, and the KL penalty where it is asked for in the loss."""
        config, advantages, now = self.config, batch.weights * batch.advantages, log_probs
        if config.ratio == "sequence":
            apart = sequence_log_ratios(log_probs - batch.old_log_probs, batch.owners, batch.responses)
            now = batch.old_log_probs + apart
        if config.old_log_probs == "corrected":
            advantages = batch.importance * advantages
        if config.old_log_probs == "engine":
            advantages = truncation(log_probs, batch.old_log_probs, config.importance_cap) * advantages
        terms = policy_terms(now, entropy, batch.old_log_probs, advantages, config)
        terms["value"] = value_term(values, batch.old_values, batch.returns, config)
        if config.kl.in_loss != "none":
            penalty = kl_loss(log_probs, batch.old_log_probs, batch.reference_log_probs, config.kl.in_loss)
            terms["kl_loss"] = Term((batch.weights * penalty).sum(), self.kl_coefficient)
        return terms


def gae_of_responses(
    rewards: Tensor,
    values: Tensor,
    mask: Tensor,
    *,
    gamma: float,
    gae_lambda: float,
    return_lambda: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Whitened advantages and unwhitened returns [B, R]; every response is terminal, cut ones too.

    `return_lambda`: that of the returns, where it is not `gae_lambda` (Yue et al. 2025, "VAPO", section 4.1).
    """
    nothing_follows = torch.zeros(len(values))

    def estimated(lambda_: float) -> tuple[Tensor, Tensor]:
        return generalized_advantages(
            rewards, values, mask, gamma=gamma, gae_lambda=lambda_, final_values=nothing_follows
        )

    advantages, returns = estimated(gae_lambda)
    if return_lambda is not None and return_lambda != gae_lambda:
        returns = estimated(return_lambda)[1]
    return masked_whiten(advantages, mask), returns


def run(config: PpoConfig) -> Path:
    """Train; write `policy/` and `critic/` in Hugging Face form, LoRA adapters merged in, and those as `adapter/`.

    With `config.show` samples are followed through the first update and printed instead, and nothing is written.
    """
    return show(config, train) if config.show else _run(config)


def train(config: PpoConfig, stage: StageRun, followed: Done | None = None) -> dict[str, Any]:
    """The stage's work; `followed` is given the samples that were followed through the first update."""
    world = stage.world
    check_shares(config, world)
    with world.main_first(f"opening of {stage.path}"):
        reward = open_reward(config.reward, stage.hardware, config.closed) if config.reward else NoReward()
        for part in leaves(reward):
            if isinstance(part, CanBeTried):
                part.try_out(sample_answers(config))
        policy, tokenizer = stage.open_trainable(config)
        reference = open_reference(config, stage, policy, tokenizer)
        model = open_critic(config, stage, policy).to(stage.hardware.device)
        chat = answer_format(tokenizer, config.form)
        room = min(policy.config.context, reference.config.context) - config.max_new_tokens
        prompts = read_prompts(config.prompts, chat, room, config.query_tokens, config.seed)
        _check_reads(reward, config, prompts, chat)
    parallel = together(config, model, world)
    objective = PpoObjective(model, reference, reward, prompts, chat, config, parallel)
    watch(objective, config, stage, followed or partial(write_followed, stage.path))
    steps = config.iterations * objective.steps_per_iteration
    say(f"ppo: {config.iterations} iterations of {config.batch_size} responses, {steps} steps")
    results = stage.train(config, objective, model, policy.config, steps, parallel, critic_apart(config, model))
    seen = objective.observer.finish()
    whole = whole_networks(model)
    with world.main_first(f"models of {stage.path}"):
        if world.is_main:
            finish_lora(whole.policy, stage.path / "adapter", config.model, config.adapter)
            merge_lora(whole)  # a critic of its own has adapters too
            write_policy(stage, whole, chat, has_critic=objective.needs_critic)
    counted = {"iterations": config.iterations, "kl_coefficient": objective.next_kl_coefficient}
    return results | counted | seen


def watch(objective: PpoObjective, config: PpoConfig, stage: StageRun, done: Done) -> None:
    """Let the objective be observed, and evaluated on held-out prompts.

    The main process alone follows samples, and where there are others it runs no forward pass for that.
    """
    world, reward = stage.world, objective.reward
    second = open_reward(config.held_out_reward, stage.hardware, config.closed) if config.held_out_reward else None
    share = config.minibatch_size // world.size
    forward = objective.outputs if world.size == 1 else None
    followed = Followed(config, objective.chat, done, share=share, forward=forward) if world.is_main else None
    objective.observer = Observer(config, held_out=second, folder=stage.folder, followed=followed, world=world)
    if config.held_out is not None:
        objective.held_out = HeldOut(config, stage, objective, second or reward)


INPUTS = (
    "model", "adapter", "reference", "prompts", "user", "reward", "critic_model", "held_out", "held_out_reward",
)  # fmt: skip
_run = stage_run(*INPUTS, several_processes=True)(train)


def sample_answers(config: PpoConfig) -> list[Answer]:
    """Every prompt with the answer of its record, or one made up: what a reward function is tried on."""
    if config.form == "text":
        return [
            Answer((), " and so on.", columns=example.columns, query=example.response)
            for example in read_texts(config.prompts)
        ]
    return [
        Answer(example.prompt, example.response or "An answer.", columns=columns_of(example))
        for example in read_exchanges(config.prompts, answered=False)
    ]


def _check_reads(reward: Reward, config: PpoConfig, prompts: Sequence[Prompt], chat: Chat | TextFormat) -> None:
    """Before anything is sampled it is known that a reward model can read the longest row, and how it reads cuts."""
    if not config.reward:
        return
    longest = max(len(prompt.ids) for prompt in prompts) + config.max_new_tokens
    for part, named in zip(leaves(reward), parts_of(config.reward), strict=True):
        if isinstance(part, ModelReward):
            part.check_reads(chat.tokenizer, longest, named.name)
            penalty = f"{config.missing_eos_penalty:g}"
            say(f"ppo: closed={part.closed} for answers cut at max_new_tokens, penalty {penalty}")
