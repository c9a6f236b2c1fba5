"""Step 4: proximal policy optimization against a reward, held near a reference by KL (Ziegler et al. 2019; Ouyang
et al. 2022).

The five steps of an iteration are `RolloutObjective.start_iteration`; here is what makes them PPO: advantages by GAE
against a critic, KL to the reference as a price on every token, clipped updates of policy and values. GRPO, RLOO and
REINFORCE++ are the same run with the advantages of `groups.py` and no critic.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trine.algorithms.advantages import generalized_advantages
from trine.algorithms.masked import masked_whiten
from trine.algorithms.ppo import truncation
from trine.algorithms.text_groups import sequence_log_ratios
from trine.algorithms.text_kl import kl_loss
from trine.catalog.adapters import begin_lora, finish_lora
from trine.catalog.loading import open_score_model
from trine.catalog.rewards import open_reward
from trine.config.rl import PpoConfig
from trine.model.folder import save_model, save_score_model
from trine.model.heads import PolicyWithValue, ScoreModel
from trine.model.lora import merge_lora
from trine.model.transformer import Transformer
from trine.records import Answer, Rollout, Term
from trine.rewards.base import Reward
from trine.rewards.function import FunctionReward
from trine.rewards.model import ModelReward
from trine.runtime.distributed import World
from trine.runtime.progress import say
from trine.runtime.seeds import derive_seed
from trine.stages.language_modelling import whole_model
from trine.stages.policy_gradient import policy_terms, value_term
from trine.stages.rl.experience import TokenFigures, UpdateBatch
from trine.stages.rl.groups import advantages_without_critic, groups_of
from trine.stages.rl.held_out import HeldOut
from trine.stages.rl.observations import Observer
from trine.stages.rl.prompts import Prompt, read_prompt_records, read_prompts
from trine.stages.rl.rollout_objective import RolloutObjective
from trine.stages.rl.token_pass import TokenPass
from trine.tokenizer.chat_format import Chat, chat_format
from trine.training.parallel import is_sharded, parallelise
from trine.training.parallel import whole as unsharded
from trine.training.stage_run import StageRun, TrainedApart, stage_run


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


@stage_run(
    "model", "adapter", "prompts", "reward", "critic_model", "held_out", "held_out_reward", several_processes=True
)
def run(config: PpoConfig, stage: StageRun) -> dict[str, Any]:
    """Train; write `policy/` and `critic/` in Hugging Face form, LoRA adapters merged in, and those as `adapter/`."""
    world = stage.world
    check_shares(config, world)
    with world.main_first(f"opening of {stage.path}"):
        reward = open_reward(config.reward, stage.hardware, config.closed)
        if isinstance(reward, FunctionReward):
            reward.try_out(sample_answers(config.prompts))
        policy, tokenizer = stage.open_trainable(config)
        reference = policy if config.lora.rank else stage.open_model(config.model, config.adapter)[0]
        if reference is not policy:
            reference.requires_grad_(False)
        model = open_critic(config, stage, policy).to(stage.hardware.device)
        chat = chat_format(tokenizer)
        prompts = read_prompts(config.prompts, chat, policy.config.context - config.max_new_tokens)
        _check_reads(reward, config, prompts, chat)
    blocks = [*policy.blocks, *(model.critic.blocks if model.critic is not None else ())]
    module = TokenPass(model, config.temperature)
    parallel = parallelise(module, blocks, world, config.parallel, partly_used=config.trains_critic_alone)
    objective = PpoObjective(model, reference, reward, prompts, chat, config, parallel)
    second = open_reward(config.held_out_reward, stage.hardware, config.closed) if config.held_out_reward else None
    objective.observer = Observer(config, held_out=second, folder=stage.folder, world=world)
    if config.held_out is not None:
        objective.held_out = HeldOut(config, stage, objective, second or reward)
    steps = config.iterations * objective.steps_per_iteration
    say(f"ppo: {config.iterations} iterations of {config.batch_size} responses, {steps} steps")
    results = stage.train(config, objective, model, policy.config, steps, parallel, critic_apart(config, model))
    whole = whole_networks(model)
    with world.main_first(f"models of {stage.path}"):
        if world.is_main:
            finish_lora(whole.policy, stage.path / "adapter", config.model, config.adapter)
            merge_lora(whole)  # a critic of its own has adapters too
            write_policy(stage, whole, chat, has_critic=objective.needs_critic)
    return results | {"iterations": config.iterations, "kl_coefficient": objective.next_kl_coefficient}


def check_shares(config: PpoConfig, world: World) -> None:
    """Raise `TrineError` where a batch, or a minibatch, does not divide among the processes in whole groups."""
    world.share(config.batch_size // config.samples_per_prompt, "batch_size / samples_per_prompt")
    world.share(config.minibatch_size, "minibatch_size")


def critic_apart(config: PpoConfig, model: PolicyWithValue) -> TrainedApart | None:
    """The critic with an optimizer of its own, where it is asked for."""
    optimizer = config.critic_training.optimizer(config.optimizer)
    if optimizer is None or model.critic is None:
        return None
    return TrainedApart(("critic.", "value_head."), optimizer, model.critic.config)


def sample_answers(prompts: Path) -> list[Answer]:
    """Every prompt with the answer of its record, or one made up: what a reward function is tried on."""
    return [
        Answer(example.prompt, example.response or "An answer.", columns=example.columns)
        for example in read_prompt_records(prompts)
    ]


def _check_reads(reward: Reward, config: PpoConfig, prompts: Sequence[Prompt], chat: Chat) -> None:
    """Before anything is sampled it is known that a reward model can read the longest row, and how it reads cuts."""
    if isinstance(reward, ModelReward):
        longest = max(len(prompt.ids) for prompt in prompts) + config.max_new_tokens
        reward.check_reads(chat.tokenizer, longest, config.reward)
        say(f"ppo: closed={reward.closed} for answers cut at max_new_tokens, penalty {config.missing_eos_penalty:g}")


def open_critic(config: PpoConfig, stage: StageRun, policy: Transformer) -> PolicyWithValue:
    """The policy with its critic: a value head on it, or a critic of its own, with adapters of its own where LoRA is
    asked for."""
    if config.critic_model is not None:
        begun = open_score_model(config.critic_model, stage.hardware)[0]
    elif config.critic == "policy":
        begun = ScoreModel(stage.open_model(config.model, config.adapter)[0])
    elif config.critic == "reward":
        # Only the reward model's trunk: its head reads whole answers, and its scores of half an answer mislead the
        # policy (docs/LOG.md), so the values start at 0.
        begun = ScoreModel(open_score_model(config.reward, stage.hardware)[0].trunk)
    else:
        policy.recompute_blocks = config.recompute_blocks
        model = PolicyWithValue(policy)
        model.value_head.requires_grad_(config.advantage == "gae")
        return model
    begin_lora(begun.trunk, config.lora, derive_seed(config.seed, "critic"))
    model = PolicyWithValue(policy, begun.trunk)
    model.value_head, model.value_offset = begun.head, begun.offset
    policy.recompute_blocks = begun.trunk.recompute_blocks = config.recompute_blocks
    return model


def whole_networks(model: PolicyWithValue) -> PolicyWithValue:
    """`model` as one process uses it: itself, or a whole copy where it is sharded; every process calls this."""
    if not any(is_sharded(parameter) for parameter in model.parameters()):
        return model
    whole = PolicyWithValue(whole_model(model.policy), None if model.critic is None else whole_model(model.critic))
    whole.value_offset = model.value_offset
    with torch.no_grad():
        whole.value_head.weight.copy_(unsharded(model.value_head.weight))
    return whole


def write_policy(stage: StageRun, model: PolicyWithValue, chat: Chat, *, has_critic: bool) -> None:
    """Write `policy/`, and where there is one `critic/`: the value head, on the policy's trunk where they share one."""
    critic, pad = ScoreModel(model.critic or model.policy), chat.tokenizer.pad
    critic.head, critic.offset = model.value_head, model.value_offset
    stage.write_model(
        "policy",
        chat.tokenizer,
        lambda folder: save_model(model.policy, folder, eos_token_id=list(chat.end_ids), pad_token_id=pad),
    )
    if not has_critic:
        return
    stage.write_model("critic", chat.tokenizer, lambda folder: save_score_model(critic, folder, pad_token_id=pad))
