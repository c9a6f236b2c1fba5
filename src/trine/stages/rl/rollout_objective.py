"""Online RL on text as five steps, which PPO, GRPO, RLOO and REINFORCE++ share.

An algorithm is a subclass that says two things: how advantages are made of scores (step 4) and what the loss of an
update is (step 5). `start_iteration` reads top to bottom:

    1 sample    2 score    3 log-probabilities and values    4 advantages    5 epochs x minibatches of updates

Invariants: the old log-probabilities are the trainer's own, taken in the very micro-batches of the first epoch, so that
the first ratio is exactly 1. Temperature is the same wherever a log-probability is taken. Dropout does not exist in
Trine's models. Everything random is a function of (seed, iteration).
"""

import itertools
import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from trine.algorithms.text_kl import adapted_kl_coefficient
from trine.algorithms.text_log_probs import target_log_probs, token_log_probs
from trine.algorithms.text_regression import ridge_regression
from trine.algorithms.text_rewards import token_rewards
from trine.config.rl import PpoConfig
from trine.engine.engine import Engine
from trine.engine.sampling import Sampling
from trine.model.heads import PolicyWithValue
from trine.model.lora import lora_off
from trine.model.transformer import Transformer
from trine.records import Rollout, Term
from trine.rewards.base import Reward
from trine.runtime.progress import say
from trine.runtime.seeds import derive_seed, generator_for
from trine.stages.policy_gradient import POLICY_TERMS
from trine.stages.rl.experience import (
    Experience,
    PaddedRollouts,
    TokenFigures,
    UpdateBatch,
    fill_rows,
    final_scores,
    pad_rollouts,
    response_mask,
)
from trine.stages.rl.observations import Observer
from trine.stages.rl.prompts import Prompt, choose_prompts
from trine.stages.rl.turns import sample_turns
from trine.stages.rl.user import import_user
from trine.tokenizer.chat_format import Chat
from trine.tokenizer.text_format import TextFormat
from trine.training.iterations import IterationObjective


class RolloutObjective(IterationObjective[list[int]]):
    """Iterations of rollouts and updates; a micro-batch is a list of rows of the current iteration's experience.

    `reference` may be the policy itself when that has LoRA adapters: its frozen base is what it started from.
    """

    def __init__(
        self,
        model: PolicyWithValue,
        reference: Transformer,
        reward: Reward,
        prompts: Sequence[Prompt],
        chat: Chat | TextFormat,
        config: PpoConfig,
    ) -> None:
        super().__init__(config.epochs, config.batch_size // config.minibatch_size)
        self.model, self.reference, self.reward, self.prompts = model, reference, reward, prompts
        self.chat, self.config = chat, config
        self.user = import_user(config.user) if config.user else None
        self.engine = Engine(model.policy, rows=config.batch_size, tokenizer=chat.tokenizer)
        self.device = model.policy.output_weight.device
        self.kl_coefficient = self._adapted = max(config.kl.coefficient, _floor(config))
        self.iteration = 0
        self.observer = Observer(config)
        self._experience: Experience | None = None

    # What an algorithm decides

    def token_rewards(self, scores: Tensor, figures: TokenFigures, mask: Tensor) -> Tensor:
        """Rewards [B, R]: the score [B] on the last token, less beta times the log-ratio (k1) on each, unless KL is in
        the loss."""
        log_ratios = torch.where(mask, figures.old_log_probs - figures.reference_log_probs, 0.0)
        charged = self.kl_coefficient if self.config.kl.in_loss == "none" else 0.0
        return token_rewards(scores, log_ratios, mask, charged)

    @abstractmethod
    def advantages(
        self, rollouts: Sequence[Rollout], scores: Tensor, figures: TokenFigures, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Advantages and returns [B, R] of scores [B] and of what is known of every token [B, R]."""

    @abstractmethod
    def loss(self, log_probs: Tensor, entropy: Tensor, values: Tensor, batch: UpdateBatch) -> dict[str, Term]:
        """The terms of an update on N response tokens; all tensors are [N]."""

    # An iteration, top to bottom

    def start_iteration(self, iteration: int) -> None:
        """Steps 1 to 4: all that stays fixed during the iteration's updates."""
        config, self.iteration = self.config, iteration
        self.kl_coefficient = self.next_kl_coefficient

        # 1. Sample responses from the policy as it is now. GRPO and RLOO: several a prompt, a group.
        rollouts, prompts = self.sample(iteration)

        # 2. Score them: a reward model, a function, any `Reward`.
        answers = [
            prompt.answer(rollout, self.chat, config.stop_strings)
            for prompt, rollout in zip(prompts, rollouts, strict=True)
        ]
        scores = self.reward.score(answers)

        paid = final_scores(scores, rollouts, config.missing_eos_penalty, config.missing_eos_score)

        # 3. Log-probabilities of policy and reference, and the critic's values. Without a critic the values are unused.
        if iteration == 0 and config.value_head == "fitted":
            self.fit_value_head(rollouts, paid)
        mask = response_mask(rollouts)
        figures = self.token_figures(rollouts, mask, iteration)

        # 4. Advantages. PPO: GAE over tokens, against the critic's values. GRPO: the score less its group's mean, over
        #    the group's deviation, for every token alike. RLOO: the score less the mean of the others in its group.
        advantages, returns = self.advantages(rollouts, paid, figures, mask)

        # 5. Epochs x minibatches of updates: the loop asks `batches` for rows and `terms` for their loss. PPO: clipped
        #    ratio and value loss. GRPO: the ratio and a KL term. RLOO: the plain policy gradient.
        self._experience = Experience(
            rollouts, scores, mask, figures.old_log_probs, figures.old_values, figures.reference_log_probs,
            advantages, returns, self.token_rewards(paid, figures, mask), answers,
        )  # fmt: skip
        self._observe(iteration)

    def sample(self, iteration: int) -> tuple[list[Rollout], list[Prompt]]:
        """The iteration's responses, and the prompt of each; in a conversation that of its last turn."""
        config = self.config
        prompts = choose_prompts(self.prompts, config.batch_size, iteration, config.seed)
        sampling = Sampling(
            max_new_tokens=config.max_new_tokens,
            temperature=config.temperature,
            seed=derive_seed(config.seed, "rollout", iteration),
            eos_ids=self.chat.end_ids,
            stop_strings=config.stop_strings,
        )
        self.engine.refresh()
        if self.user is not None and not isinstance(self.chat, TextFormat):
            return sample_turns(self.engine, self.chat, prompts, sampling, self.user, config.max_turns)
        return self.engine.generate([prompt.ids for prompt in prompts], sampling), prompts

    @torch.no_grad()
    def fit_value_head(self, rollouts: Sequence[Rollout], scores: Tensor) -> None:
        """Give the value head the weights that predict the scores [B] best from what it reads at each token."""
        size, hidden, targets = self.config.micro_batch_size, [], []
        for start in range(0, len(rollouts), size):
            padded = self.pad(rollouts[start : start + size])
            hidden.append(self.model.value_hidden(padded.ids, padded.rows, padded.columns).float().cpu())
            targets.append(scores[padded.rows.cpu() + start])
        self.model.value_head.weight.copy_(ridge_regression(torch.cat(hidden), torch.cat(targets)))

    @torch.no_grad()
    def token_figures(self, rollouts: Sequence[Rollout], mask: Tensor, iteration: int) -> TokenFigures:
        """One number per response token of every rollout, [B, R] on the CPU."""
        old_log_probs, old_values, reference = (torch.zeros(mask.shape) for _ in range(3))
        for rows in itertools.chain(*self._epoch(iteration, 0, rollouts)):
            padded = self.pad([rollouts[row] for row in rows])
            log_probs, _, values = self._forward(padded)
            fill_rows(old_log_probs, mask, rows, log_probs)
            fill_rows(old_values, mask, rows, values)
            fill_rows(reference, mask, rows, self.reference_log_probs(padded))
        return TokenFigures(old_log_probs, old_values, reference)

    # Updates

    def micro_batches(self, iteration: int, epoch: int, minibatch: int) -> list[list[int]]:
        return self._epoch(iteration, epoch, self.experience.rollouts)[minibatch]

    def counts(self, batch: list[int]) -> dict[str, float]:
        tokens = float(self.experience.mask[batch].sum())
        return dict.fromkeys((*POLICY_TERMS, "value", "kl_loss"), tokens)

    def terms(self, batch: list[int]) -> dict[str, Term]:
        padded = self.pad([self.experience.rollouts[row] for row in batch])
        update = self.experience.update_batch(batch, self.device)
        log_probs, entropy, values = self._forward(padded)
        self.observer.update(batch, log_probs.detach(), values.detach())
        peak = (log_probs - update.old_log_probs).detach().abs().max()
        return {
            **self.loss(log_probs, entropy, values, update),
            "peak_log_ratio": Term(peak, weight=0.0, reduction="max"),
        }

    @property
    def experience(self) -> Experience:
        """What the current iteration learns from."""
        if self._experience is None:
            raise RuntimeError("no iteration has started: call batches with the first step of one")
        return self._experience

    def _epoch(self, iteration: int, epoch: int, rollouts: Sequence[Rollout]) -> list[list[list[int]]]:
        """Row numbers by minibatch and micro-batch, a fresh permutation every epoch.

        Within a minibatch rows are sorted by length, so that micro-batches hold little padding.
        """
        size, micro = self.config.minibatch_size, self.config.micro_batch_size
        order = generator_for(self.config.seed, "minibatch", iteration, epoch).permutation(len(rollouts)).tolist()
        lengths = [len(rollout.prompt_ids) + len(rollout.response_ids) for rollout in rollouts]
        minibatches = [
            sorted(order[start : start + size], key=lengths.__getitem__) for start in range(0, len(order), size)
        ]
        return [[rows[start : start + micro] for start in range(0, size, micro)] for rows in minibatches]

    # Forward passes

    def pad(self, rollouts: Sequence[Rollout]) -> PaddedRollouts:
        return pad_rollouts(rollouts, self.chat.tokenizer.pad, self.device)

    def _forward(self, padded: PaddedRollouts) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities, entropies and values [N] of the response tokens."""
        hidden, values = self.model(padded.ids, padded.rows, padded.columns)
        log_probs, entropy = token_log_probs(
            hidden, self.model.policy.output_weight, padded.targets, self.config.temperature
        )
        return log_probs, entropy, values

    @torch.no_grad()
    def outputs(self, rollouts: Sequence[Rollout]) -> tuple[Tensor, Tensor]:
        """Log-probabilities and values [N] of the response tokens, by the weights of this moment."""
        log_probs, _, values = self._forward(self.pad(rollouts))
        return log_probs, values

    def reference_log_probs(self, padded: PaddedRollouts) -> Tensor:
        """Log-probabilities [N] of the response tokens under the reference."""
        with lora_off(self.reference):
            hidden = self.reference(padded.ids)[padded.rows, padded.columns]
        return target_log_probs(hidden, self.reference.output_weight, padded.targets, self.config.temperature)

    # State and figures

    @property
    def next_kl_coefficient(self) -> float:
        """That of the next iteration: adapted, unless the guard dropped all that this one would have learned."""
        return self._adapted if self.accepted else self.kl_coefficient

    def state(self) -> dict[str, Any]:
        return {"kl_coefficient": self.next_kl_coefficient, "observer": self.observer.state()}

    def restore(self, state: dict[str, Any]) -> None:
        self.kl_coefficient = self._adapted = float(state["kl_coefficient"])
        self.observer.restore(state.get("observer", {}))

    def _observe(self, iteration: int) -> None:
        """Note the iteration's figures; the KL coefficient follows them in the next iteration."""
        config = self.config
        self.observed = {
            "iteration": float(iteration),
            **self.observer.iteration(iteration, self.experience, self.reward),
            "kl_coefficient": self.kl_coefficient,
        }
        kl = self.observed["kl"]
        if not math.isfinite(kl):
            say(
                f"   KL of iteration {iteration} is {kl}: the reference gives a sampled token no probability; "
                f"kl.coefficient stays {self.kl_coefficient:.4g}",
                style="yellow",
            )
        if config.kl.target is not None:
            adapted = adapted_kl_coefficient(
                self.kl_coefficient, kl,
                target=config.kl.target, horizon=config.kl.horizon, episodes=config.batch_size,
            )  # fmt: skip
            self._adapted = max(_floor(config), adapted)


def _floor(config: PpoConfig) -> float:
    """The least KL coefficient; a fixed one has none."""
    return 0.0 if config.kl.target is None else config.kl.min_coefficient
