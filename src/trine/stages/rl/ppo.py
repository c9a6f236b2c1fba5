"""Step 4: proximal policy optimization against a reward, held near a reference by KL (Ziegler et al. 2019; Ouyang
et al. 2022).

The five steps of an iteration are `RolloutObjective.start_iteration`; here is what makes them PPO: advantages by GAE
against a critic, KL to the reference as a price on every token, clipped updates of policy and values.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trine.algorithms.advantages import generalized_advantages
from trine.algorithms.masked import masked_whiten
from trine.algorithms.text_kl import kl_loss
from trine.catalog.adapters import begin_lora, finish_lora
from trine.catalog.exchanges import read_exchanges, read_texts
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
from trine.rewards.no_reward import NoReward
from trine.runtime.errors import TrineError
from trine.runtime.progress import say
from trine.runtime.seeds import derive_seed
from trine.stages.policy_gradient import policy_terms, value_term
from trine.stages.rl.experience import TokenFigures, UpdateBatch
from trine.stages.rl.followed import Done, Followed, write_followed
from trine.stages.rl.observations import Observer
from trine.stages.rl.prompts import Prompt, read_prompts
from trine.stages.rl.rollout_objective import RolloutObjective
from trine.stages.rl.show import show
from trine.tokenizer.chat_format import Chat
from trine.tokenizer.text_format import TextFormat, answer_format
from trine.tokenizer.tokenizer import Tokenizer
from trine.training.stage_run import StageRun, stage_run


class PpoObjective(RolloutObjective):
    """GAE and clipped updates."""

    name = "ppo"

    def advantages(
        self, rollouts: Sequence[Rollout], scores: Tensor, figures: TokenFigures, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """By GAE, of the tokens' rewards."""
        rewards = self.token_rewards(scores, figures, mask)
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
    """Train; write `policy/` and `critic/` in Hugging Face form, LoRA adapters merged in, and those as `adapter/`.

    With `config.show` samples are followed through the first update and printed instead, and nothing is written.
    """
    return show(config, train) if config.show else _run(config)


def train(config: PpoConfig, stage: StageRun, followed: Done | None = None) -> dict[str, Any]:
    """The stage's work; `followed` is given the samples that were followed through the first update."""
    reward = open_reward(config.reward, stage.hardware, config.closed) if config.reward else NoReward()
    if isinstance(reward, FunctionReward):
        reward.try_out(sample_answers(config))
    policy, tokenizer = stage.open_trainable(config)
    reference = open_reference(config, stage, policy, tokenizer)
    model = PolicyWithValue(policy, _critic(config, stage)).to(stage.hardware.device)
    chat = answer_format(tokenizer, config.form)
    room = min(policy.config.context, reference.config.context) - config.max_new_tokens
    prompts = read_prompts(config.prompts, chat, room, config.query_tokens, config.seed)
    _check_reads(reward, config, prompts, chat)
    objective = PpoObjective(model, reference, reward, prompts, chat, config)
    held_out = open_reward(config.held_out_reward, stage.hardware, config.closed) if config.held_out_reward else None
    done = followed or partial(write_followed, stage.path)
    objective.observer = Observer(
        config, held_out=held_out, folder=stage.folder,
        followed=Followed(config, chat, done, share=config.minibatch_size, forward=objective.outputs),
    )  # fmt: skip
    steps = config.iterations * objective.steps_per_iteration
    say(f"ppo: {config.iterations} iterations of {config.batch_size} responses, {steps} steps")
    stage.train(config, objective, model, policy.config, steps)
    objective.observer.finish()
    finish_lora(policy, stage.path / "adapter", config.model, config.adapter)
    merge_lora(model)  # a critic of its own has adapters too
    write_policy(stage, model, chat)
    return {"iterations": config.iterations, "kl_coefficient": objective.next_kl_coefficient}


def open_reference(config: PpoConfig, stage: StageRun, policy: Transformer, tokenizer: Tokenizer) -> Transformer:
    """What KL is measured to: the model that is named, else what the policy starts from (with LoRA its frozen base)."""
    if config.reference is None:
        return policy if config.lora.rank else stage.open_model(config.model, config.adapter)[0].requires_grad_(False)
    reference, its_tokenizer = stage.open_model(config.reference)
    if its_tokenizer.fingerprint != tokenizer.fingerprint or reference.config.vocab_size < tokenizer.vocab_size:
        raise TrineError(
            f"reference {config.reference} has another tokenizer than {config.model}: it has to read the very token "
            "ids that the policy samples; name a model of the same tokenizer"
        )
    return reference.requires_grad_(False)


_run = stage_run("model", "adapter", "reference", "prompts", "user", "reward", "held_out_reward")(train)


def sample_answers(config: PpoConfig) -> list[Answer]:
    """Every prompt with the answer of its record, or one made up: what a reward function is tried on."""
    if config.form == "text":
        return [
            Answer((), " and so on.", columns=example.columns, query=example.response)
            for example in read_texts(config.prompts)
        ]
    return [
        Answer(example.prompt, example.response or "An answer.", columns=example.columns)
        for example in read_exchanges(config.prompts, answered=False)
    ]


def _check_reads(reward: Reward, config: PpoConfig, prompts: Sequence[Prompt], chat: Chat | TextFormat) -> None:
    """Before anything is sampled it is known that a reward model can read the longest row, and how it reads cuts."""
    if isinstance(reward, ModelReward) and config.reward:
        longest = max(len(prompt.ids) for prompt in prompts) + config.max_new_tokens
        reward.check_reads(chat.tokenizer, longest, config.reward)
        say(f"ppo: closed={reward.closed} for answers cut at max_new_tokens, penalty {config.missing_eos_penalty:g}")


def _critic(config: PpoConfig, stage: StageRun) -> Transformer | None:
    """A critic of its own, with adapters of its own where LoRA is asked for; None: a value head on the policy."""
    if config.critic == "shared":
        return None
    if config.critic == "policy":
        critic = stage.open_model(config.model, config.adapter)[0]
    else:
        assert config.reward is not None  # the config says so
        # Only the reward model's trunk: its head reads whole answers, and its scores of half an answer mislead the
        # policy (docs/LOG.md), so the values start at 0.
        critic = open_score_model(config.reward, stage.hardware)[0].trunk
    begin_lora(critic, config.lora, derive_seed(config.seed, "critic"))
    return critic


def write_policy(stage: StageRun, model: PolicyWithValue, chat: Chat | TextFormat) -> None:
    """Write `policy/` and `critic/`: the value head, on the policy's trunk where they share one."""
    critic, pad = ScoreModel(model.critic or model.policy), chat.tokenizer.pad
    critic.head = model.value_head
    stage.write_model(
        "policy",
        chat.tokenizer,
        lambda folder: save_model(model.policy, folder, eos_token_id=list(chat.end_ids), pad_token_id=pad),
    )
    stage.write_model("critic", chat.tokenizer, lambda folder: save_score_model(critic, folder, pad_token_id=pad))
