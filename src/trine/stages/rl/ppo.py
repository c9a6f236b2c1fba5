"""Step 4: proximal policy optimization against a reward, held near a reference by KL (Ziegler et al. 2019; Ouyang
et al. 2022).

The five steps of an iteration are `RolloutObjective.start_iteration`; here is what makes them PPO: advantages by GAE
against a critic, KL to the reference as a price on every token, clipped updates of policy and values.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from trine.algorithms.advantages import generalized_advantages
from trine.algorithms.masked import masked_whiten
from trine.algorithms.text_kl import kl_loss
from trine.algorithms.text_rewards import token_rewards
from trine.catalog.adapters import begin_lora, finish_lora
from trine.catalog.loading import open_hardware, open_model, open_score_model
from trine.catalog.locating import find_model
from trine.catalog.rewards import open_reward, reward_source
from trine.config.rl import PpoConfig
from trine.model.folder import save_model, save_score_model
from trine.model.heads import PolicyWithValue, ScoreModel
from trine.model.lora import merge_lora
from trine.model.transformer import Transformer
from trine.records import Rollout, Term
from trine.rewards.base import Reward
from trine.rewards.model import ModelReward
from trine.runtime.errors import TrineError
from trine.runtime.files import write_folder
from trine.runtime.progress import say
from trine.runtime.seeds import derive_seed, seed_torch
from trine.stages.policy_gradient import policy_terms, value_term
from trine.stages.rl.experience import TokenFigures, UpdateBatch
from trine.stages.rl.prompts import Prompt, read_prompts
from trine.stages.rl.rollout_objective import RolloutObjective
from trine.tokenizer.chat_format import Chat, chat_format
from trine.training.loop import Loop
from trine.training.optimizers import make_optimizers
from trine.training.run_folder import fingerprint, open_run


class PpoObjective(RolloutObjective):
    """GAE and clipped updates."""

    name = "ppo"

    def advantages(
        self, rollouts: Sequence[Rollout], scores: Tensor, figures: TokenFigures, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The score on the last token, less beta times the log-ratio on each (k1), unless KL is in the loss."""
        log_ratios = torch.where(mask, figures.old_log_probs - figures.reference_log_probs, 0.0)
        charged = self.kl_coefficient if self.config.kl.in_loss == "none" else 0.0
        rewards = token_rewards(scores, log_ratios, mask, charged)
        return gae_of_responses(
            rewards, figures.old_values, mask, gamma=self.config.gamma, gae_lambda=self.config.gae_lambda
        )

    def loss(self, log_probs: Tensor, entropy: Tensor, values: Tensor, batch: UpdateBatch) -> dict[str, Term]:
        """Clipped policy loss, value loss, entropy bonus, and the KL penalty where it is asked for in the loss."""
        config = self.config
        weight = 0.0 if self.iteration < config.critic_warmup else 1.0
        terms = policy_terms(log_probs, entropy, batch.old_log_probs, batch.advantages, config, weight)
        terms["value"] = value_term(values, batch.old_values, batch.returns, config)
        if config.kl.in_loss != "none":
            penalty = kl_loss(log_probs, batch.old_log_probs, batch.reference_log_probs, config.kl.in_loss)
            terms["kl_loss"] = Term(penalty.sum(), self.kl_coefficient * weight)
        return terms


def gae_of_responses(
    rewards: Tensor, values: Tensor, mask: Tensor, *, gamma: float, gae_lambda: float
) -> tuple[Tensor, Tensor]:
    """Whitened advantages and unwhitened returns [B, R]; every response is terminal, cut ones too."""
    nothing_follows = torch.zeros(len(values))
    advantages, returns = generalized_advantages(
        rewards, values, mask, gamma=gamma, gae_lambda=gae_lambda, final_values=nothing_follows
    )
    return masked_whiten(advantages, mask), returns


def run(config: PpoConfig) -> Path:
    """Train; write `policy/` and `critic/` in Hugging Face form, LoRA adapters merged in, and those as `adapter/`."""
    _check(config)
    hardware = open_hardware(config.hardware)
    inputs = {"model": fingerprint(find_model(config.model)), "prompts": fingerprint(config.prompts)}
    source = reward_source(config.reward)
    inputs["reward"] = config.reward if source is None else fingerprint(source)
    with open_run(config.model_dump(mode="json"), inputs) as folder:
        if folder.finished:
            return folder.path
        seed_torch(config.seed)
        policy, tokenizer = open_model(config.model, hardware)
        reference = policy if config.lora.rank else open_model(config.model, hardware)[0].requires_grad_(False)
        model = _with_critic(policy, config)
        chat = chat_format(tokenizer)
        prompts = read_prompts(config.prompts, chat, policy.config.context - config.max_new_tokens)
        reward = open_reward(config.reward, hardware)
        _check_reward(reward, prompts, chat, config)
        objective = PpoObjective(model.to(hardware.device), reference, reward, prompts, chat, config)
        steps = config.iterations * objective.steps_per_iteration
        say(f"ppo: {config.iterations} iterations of {config.batch_size} responses, {steps} steps")
        optimizer = config.lora.optimizer(config.optimizer)
        optimizers = make_optimizers(model.named_parameters(), optimizer, policy.config, hardware.compute_dtype)
        Loop(objective, model, optimizers, steps, (config.loop, optimizer), folder).train()
        finish_lora(policy, folder.path / "adapter", config.model)
        merge_lora(model)  # a critic of its own has adapters too
        _write(folder.path, model, chat)
        folder.finish({"iterations": config.iterations, "kl_coefficient": objective.next_kl_coefficient})
    return folder.path


def _check(config: PpoConfig) -> None:
    sizes = (
        ("batch_size", config.batch_size, "minibatch_size", config.minibatch_size),
        ("minibatch_size", config.minibatch_size, "micro_batch_size", config.micro_batch_size),
    )
    if config.critic_warmup and config.critic == "shared":
        raise TrineError(
            "critic_warmup needs a critic of its own: set critic to policy or reward, or critic_warmup to 0"
        )
    if config.critic == "reward" and reward_source(config.reward) is None:
        raise TrineError(f"critic=reward needs a reward model, and reward={config.reward} is a function: set critic")
    for name, size, part_name, part in sizes:
        if size % part:
            raise TrineError(f"{name}={size} is not a multiple of {part_name}={part}")


def _check_reward(reward: Reward, prompts: Sequence[Prompt], chat: Chat, config: PpoConfig) -> None:
    """Before anything is sampled: what a reward model reads is long enough."""
    if isinstance(reward, ModelReward):
        longest = max(len(prompt.ids) for prompt in prompts) + config.max_new_tokens
        reward.check_reads(chat.tokenizer, longest, config.reward)


def _with_critic(policy: Transformer, config: PpoConfig) -> PolicyWithValue:
    """Policy and critic, each with adapters of its own where LoRA is asked for."""
    begin_lora(policy, config.lora, config.seed)
    if config.critic == "shared":
        return PolicyWithValue(policy)
    hardware = open_hardware(config.hardware)
    if config.critic == "policy":
        critic = open_model(config.model, hardware)[0]
    else:
        # Only the reward model's trunk: its head reads whole answers, and its scores of half an answer mislead the
        # policy (docs/LOG.md), so the values start at 0.
        critic = open_score_model(config.reward, hardware)[0].trunk
    begin_lora(critic, config.lora, derive_seed(config.seed, "critic"))
    return PolicyWithValue(policy, critic)


def _write(folder: Path, model: PolicyWithValue, chat: Chat) -> None:
    tokenizer = chat.tokenizer

    def fill_policy(aside: Path) -> None:
        save_model(model.policy, aside, eos_token_id=list(chat.end_ids), pad_token_id=tokenizer.pad)
        tokenizer.save(aside)

    def fill_critic(aside: Path) -> None:
        critic = ScoreModel(model.critic or model.policy)
        critic.head = model.value_head
        save_score_model(critic, aside, pad_token_id=tokenizer.pad)
        tokenizer.save(aside)

    write_folder(folder / "policy", fill_policy)
    write_folder(folder / "critic", fill_critic)
