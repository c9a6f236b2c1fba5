"""Online RL on text as five steps, which PPO, GRPO, RLOO and REINFORCE++ share.

An algorithm says two things: how advantages are made of scores (step 4; `ppo.py` with a critic, `groups.py` without)
and what the loss of an update is (step 5). `start_iteration` reads top to bottom:

    1 sample    2 score    3 log-probabilities and values    4 advantages    5 epochs x minibatches of updates

Invariants: the old log-probabilities are the trainer's own, taken in the very micro-batches of the first epoch, so that
the first ratio is exactly 1. Temperature is the same wherever a log-probability is taken. Dropout does not exist in
Trine's models. Everything random is a function of (seed, iteration). Of several processes each samples and scores its
share of the prompts; then all know the whole iteration, and of every minibatch each trains its share, so that neither
what is learned from nor its order depends on how many there are. A checkpoint may be taken after any step: within an
iteration it holds all that was computed at its start, so that the old policy need not be known any more.
"""

import itertools
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trine.algorithms.advantages import generalized_advantages
from trine.algorithms.masked import explained_variance
from trine.algorithms.text_groups import aggregation_count
from trine.algorithms.text_log_probs import target_log_probs
from trine.algorithms.text_regression import ridge_regression
from trine.algorithms.text_rewards import token_rewards
from trine.config.rl import PpoConfig
from trine.engine.engine import Engine
from trine.model.heads import PolicyWithValue
from trine.model.transformer import Transformer
from trine.records import Answer, Rollout, Term
from trine.rewards.base import Reward
from trine.runtime.errors import TrineError
from trine.stages.policy_gradient import POLICY_TERMS
from trine.stages.rl.exchange import sum_over_processes
from trine.stages.rl.experience import (
    Experience,
    PaddedRollouts,
    TokenFigures,
    UpdateBatch,
    fill_rows,
    importance_weights,
    pad_rollouts,
    padded_log_probs,
    response_mask,
)
from trine.stages.rl.groups import learned_responses
from trine.stages.rl.minibatches import dealt, minibatches_of
from trine.stages.rl.observations import Observer
from trine.stages.rl.phases import Phases
from trine.stages.rl.prompts import Prompt
from trine.stages.rl.resampling import resampled
from trine.stages.rl.running_state import RunningState
from trine.stages.rl.sampler import Sampler
from trine.stages.rl.scoring import Scorer, moved_scores
from trine.stages.rl.shaping import paid_scores
from trine.stages.rl.token_pass import Part, TokenPass, token_outputs
from trine.tokenizer.chat_format import Chat
from trine.tokenizer.text_format import TextFormat
from trine.training.iterations import IterationObjective
from trine.training.parallel import Parallel, is_sharded, reshard, shard_like


class RolloutObjective(IterationObjective[list[int]]):
    """Iterations of rollouts and updates; a micro-batch is a list of rows of the current iteration's experience.

    `reference` may be the policy itself when that has LoRA adapters: its frozen base is what it started from.
    `parallel`: the processes, and the `TokenPass` of `model` that they train together. `held_out` gives the figures of
    an evaluation.
    """

    def __init__(
        self,
        model: PolicyWithValue,
        reference: Transformer,
        reward: Reward,
        prompts: Sequence[Prompt],
        chat: Chat | TextFormat,
        config: PpoConfig,
        parallel: Parallel | None = None,
    ) -> None:
        minibatches = config.batch_size // config.minibatch_size
        super().__init__(config.steps_per_iteration // minibatches, minibatches)
        self.model, self.reference, self.reward, self.chat, self.config = model, reference, reward, chat, config
        parallel = parallel or Parallel()
        self.world, self.device = parallel.world, model.policy.output_weight.device
        self.module: nn.Module = parallel.module or TokenPass(model, config.temperature)
        self.sampler = Sampler(model.policy, prompts, chat, config, self.world)
        self.scorer = Scorer(reward, background=config.reward_overlap > 0)
        self.running, self.phases = RunningState(config), Phases()
        self.held_out: Callable[[], dict[str, Any]] = dict
        self.needs_critic = config.advantage == "gae"
        self.shares_prompts = config.samples_per_prompt > 1 and model.policy.can_share_prompts
        self.iteration = self._resampled = 0
        self._part: Part = "both"
        self.observer = Observer(config)
        self._experience: Experience | None = None
        self._moved: Tensor | None = None

    # What an algorithm decides

    @abstractmethod
    def advantages(
        self, rollouts: Sequence[Rollout], scores: Tensor, figures: TokenFigures, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Advantages and returns [B, R] of scores [B] and of what is known of every token [B, R]."""

    @abstractmethod
    def loss(self, log_probs: Tensor, entropy: Tensor, values: Tensor, batch: UpdateBatch) -> dict[str, Term]:
        """The terms of an update on N response tokens; all tensors are [N]."""

    def token_rewards(self, scores: Tensor, figures: TokenFigures, mask: Tensor) -> Tensor:
        """Rewards [B, R]: the score [B] on the last token, less beta times the log-ratio (k1) on each, unless KL is in
        the loss."""
        log_ratios = torch.where(mask, figures.old_log_probs - figures.reference_log_probs, 0.0)
        charged = self.kl_coefficient if self.config.kl.in_loss == "none" else 0.0
        rewards = token_rewards(scores, log_ratios, mask, charged)
        return rewards if self._moved is None else rewards + torch.where(mask, self._moved, 0.0)

    # An iteration, top to bottom

    def start_iteration(self, iteration: int) -> None:
        """Steps 1 to 4: all that stays fixed during the iteration's updates."""
        self.iteration = iteration
        self.running.begin(self.accepted)

        # 1. Sample responses from the policy as it is now. GRPO and RLOO: several a prompt, a group.
        rollouts, answers = self.sample(iteration)

        # 2. Score them: a reward model, a function, any `Reward`. With `reward_overlap` a thread does, beside 1 and 3.
        scores = self.score()
        if self.config.groups.equal == "resample":
            rollouts, answers, scores = self.resample(iteration, rollouts, answers, scores())

        # 3. Log-probabilities of policy and reference, and the critic's values. Without a critic the values are unused.
        if self.needs_critic and iteration == 0 and self.config.value_head == "fitted":
            self.fit_value_head(rollouts, self.paid(scores(), rollouts))
        written = response_mask(rollouts)
        figures = self.token_figures(rollouts, written, iteration)

        # 4. Advantages. PPO: GAE over tokens, against the critic's values. GRPO: the score less its group's mean, over
        #    the group's deviation, for every token alike. RLOO: the score less the mean of the others in its group.
        paid, mask = self.paid(scores(), rollouts), written & ~scores().isnan().unsqueeze(1)
        self._moved = self.moved(written)
        with self.phases.of("advantages"):
            advantages, returns = self.advantages(rollouts, paid, figures, mask)

        # 5. Epochs x minibatches of updates: the loop asks `batches` for rows and `terms` for their loss. PPO: clipped
        #    ratio and value loss. GRPO: the ratio and a KL term. RLOO: the plain policy gradient.
        self._experience = Experience(
            rollouts, scores(), written, figures.old_log_probs, figures.old_values, figures.reference_log_probs,
            advantages, returns, self.token_rewards(paid, figures, mask),
            self.importance(rollouts, figures.old_log_probs, written),
            written & learned_responses(scores(), rollouts, self.config).unsqueeze(1), answers,
        )  # fmt: skip
        self._observe(iteration)

    def sample(self, iteration: int) -> tuple[list[Rollout], list[Answer]]:
        """The responses of all processes, and this one's own as rewards see them; the scorer is given these too."""
        answers: list[Answer] = []

        def take(part: list[Answer]) -> None:
            answers.extend(part)
            self.scorer.add(part)

        with self.phases.of("sampling"):
            return self.sampler.iteration(iteration, take), answers

    def resample(
        self, iteration: int, rollouts: list[Rollout], answers: list[Answer], scores: Tensor
    ) -> tuple[list[Rollout], list[Answer], Callable[[], Tensor]]:
        """The same with responses to other prompts in place of the groups whose scores are all equal."""
        with self.phases.of("sampling"):
            found, new, scores, self._resampled = resampled(self.sampler, self.reward, iteration, rollouts, scores)
        first = self.world.rank * len(answers)
        return found, [new.get(first + row, answer) for row, answer in enumerate(answers)], lambda: scores

    def score(self) -> Callable[[], Tensor]:
        """A function that gives the scores [B] of all processes, once the thread that scores has them."""
        found: list[Tensor] = []

        def scores() -> Tensor:
            if not found:
                with self.phases.of("reward"):
                    found.append(self.world.all_gather(self.scorer.scores().to(self.world.device)).cpu())
                if bool(found[0].isnan().all()):
                    raise TrineError("the reward applies to none of the iteration's responses: all scores are NaN")
            return found[0]

        if not self.config.reward_overlap:
            scores()
        return scores

    def paid(self, scores: Tensor, rollouts: Sequence[Rollout]) -> Tensor:
        """What the responses are paid for their scores [B]; 0 where the reward does not apply (NaN)."""
        return paid_scores(scores, rollouts, self.running.take_in_scores(scores), self.config).nan_to_num(0.0)

    def moved(self, written: Tensor) -> Tensor | None:
        """[B, R], of a per-token reward: what its scores are at their tokens, in the unit of what is paid."""
        moved = moved_scores(self.scorer, written, self.world)
        if moved is None or self.config.score_scaling == "none":
            return moved
        return moved / self.running.next_moments.deviation

    def importance(self, rollouts: Sequence[Rollout], old_log_probs: Tensor, mask: Tensor) -> Tensor:
        """Weights [B, R] of the tokens' policy losses: 1, unless the engine's probabilities are corrected for."""
        if self.config.old_log_probs != "corrected":
            return torch.ones(mask.shape)
        return importance_weights(rollouts, old_log_probs, mask, self.config.importance_cap)

    @torch.no_grad()
    def fit_value_head(self, rollouts: Sequence[Rollout], scores: Tensor) -> None:
        """Give the value head the weights that predict the scores [B] best from what it reads at each token."""
        size, hidden, targets = self.config.micro_batch_size, [], []
        for start in range(0, len(rollouts), size):
            padded = self.pad(rollouts[start : start + size])
            hidden.append(self._run(padded, "value_hidden")[0].float().cpu())
            targets.append(scores[padded.owners.cpu() + start])
        reshard(self.module)
        weight = self.model.value_head.weight
        found = ridge_regression(torch.cat(hidden), torch.cat(targets)).expand(weight.shape).to(self.device)
        weight.copy_(shard_like(found, weight) if is_sharded(weight) else found)

    @torch.no_grad()
    def token_figures(self, rollouts: Sequence[Rollout], mask: Tensor, iteration: int) -> TokenFigures:
        """One number per response token of every rollout, [B, R] on the CPU; each process computes its share."""
        engine = self.config.old_log_probs == "engine"
        part: Part = "policy" if not self.needs_critic else "critic" if engine else "both"
        tables = [torch.zeros(mask.shape) for _ in range(3)]
        with self.phases.of("log_probs"):
            for rows in itertools.chain(*self._epoch(iteration, 0, rollouts)):
                padded = self.pad([rollouts[row] for row in rows])
                log_probs, _, values = self._forward(padded, part)
                for table, flat in zip(tables, (log_probs, values, self.reference_log_probs(padded)), strict=True):
                    fill_rows(table, mask, rows, flat)
            old_log_probs, old_values, reference = (sum_over_processes(self.world, table) for table in tables)
        return TokenFigures(padded_log_probs(rollouts, mask) if engine else old_log_probs, old_values, reference)

    # Updates

    def micro_batches(self, iteration: int, epoch: int, minibatch: int) -> list[list[int]]:
        """This process's share of an update; none where neither policy nor critic has anything left to learn."""
        self.iteration = iteration
        policy, critic = self.trains_policy(epoch), self.trains_critic(epoch)
        if not policy and not (critic and self.config.own_critic):
            self.running.skipped += 1
            return []
        self._part = "both" if policy and critic else "policy" if policy else "critic"
        experience = self.experience
        if not bool(experience.learned[self._minibatches(iteration, epoch, experience.rollouts)[minibatch]].any()):
            return []
        return self._epoch(iteration, epoch, experience.rollouts)[minibatch]

    def trains_policy(self, epoch: int) -> bool:
        """Whether the policy learns in this pass: not in the critic's warm-up, nor once it moved too far."""
        return epoch < self.config.epochs and not self.running.warming_up and not self.running.stopped

    def trains_critic(self, epoch: int) -> bool:
        """Whether the critic learns in this pass."""
        return self.needs_critic and epoch < (self.config.critic_training.epochs or self.config.epochs)

    def counts(self, batch: list[int]) -> dict[str, float]:
        learned, config = self.experience.learned[batch], self.config
        weighted = aggregation_count(learned, config.aggregation, config.max_new_tokens)
        tokens = dict.fromkeys((*POLICY_TERMS, "value"), float(learned.sum()))
        return {**tokens, "policy": weighted, "kl_loss": weighted}

    def terms(self, batch: list[int]) -> dict[str, Term]:
        padded = self.pad([self.experience.rollouts[row] for row in batch])
        update = self.experience.update_batch(batch, self.device, self.config.aggregation)
        found = self._forward(padded, self._part)
        self.observer.update(
            batch,
            found[0].detach() if self._part != "critic" else None,
            found[2].detach() if self._part != "policy" else None,
        )
        log_probs, entropy, values = (self.experience.learned_of(batch, flat) for flat in found)
        terms = self.loss(log_probs, entropy, values, update)
        if self._part == "critic":
            return {"value": terms["value"]}
        if self._part == "policy":
            terms.pop("value", None)
        apart = (log_probs - update.old_log_probs).detach().abs()
        return {
            **terms,
            "peak_log_ratio": Term(apart.max() if len(apart) else apart.sum(), weight=0.0, reduction="max"),
        }

    @property
    def engine(self) -> Engine:
        """What samples."""
        return self.sampler.engine

    @property
    def experience(self) -> Experience:
        """What the current iteration learns from."""
        if self._experience is None:
            raise RuntimeError("no iteration has started: call batches with the first step of one")
        return self._experience

    def _minibatches(self, iteration: int, epoch: int, rollouts: Sequence[Rollout]) -> list[list[int]]:
        return minibatches_of(rollouts, self.config, iteration, epoch, by_prompt=self.shares_prompts)

    def _epoch(self, iteration: int, epoch: int, rollouts: Sequence[Rollout]) -> list[list[list[int]]]:
        """Row numbers of this process by minibatch and micro-batch."""
        return dealt(self._minibatches(iteration, epoch, rollouts), self.config.micro_batch_size, self.world)

    # Forward passes

    def pad(self, rollouts: Sequence[Rollout]) -> PaddedRollouts:
        return pad_rollouts(rollouts, self.chat.tokenizer.pad, self.device, share_prompts=self.shares_prompts)

    def _run(self, padded: PaddedRollouts, part: Part) -> tuple[Tensor, ...]:
        found: tuple[Tensor, ...] = self.module(
            padded.ids, padded.rows, padded.columns, padded.targets, part, **padded.seen
        )
        return found

    def _forward(self, padded: PaddedRollouts, part: Part) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities, entropies and values [N] of the response tokens; zeros for what `part` leaves out."""
        return token_outputs(self._run(padded, part), part)

    @torch.no_grad()
    def outputs(self, rollouts: Sequence[Rollout]) -> tuple[Tensor, Tensor]:
        """Log-probabilities and values [N] of the response tokens, by the weights of this moment."""
        log_probs, _, values = self._forward(self.pad(rollouts), "both" if self.needs_critic else "policy")
        return log_probs, values

    def reference_log_probs(self, padded: PaddedRollouts) -> Tensor:
        """Log-probabilities [N] of the response tokens under the reference."""
        if self.reference is self.model.policy:
            return self._run(padded, "reference")[0]
        hidden = self.reference(padded.ids, **padded.seen)[padded.rows, padded.columns]
        return target_log_probs(hidden, self.reference.output_weight, padded.targets, self.config.temperature)

    # State and figures

    @property
    def kl_coefficient(self) -> float:
        """That of this iteration."""
        return self.running.kl_coefficient

    @property
    def next_kl_coefficient(self) -> float:
        """That of the next iteration."""
        return self.running.next_kl_coefficient(self.accepted)

    def may_save(self, step: int) -> bool:
        """After any step."""
        return True

    def state(self) -> dict[str, Any]:
        seen = {"updates": self.updates, "observer": self.observer.state()}
        return self.running.state(self.accepted) | seen

    def restore(self, state: dict[str, Any]) -> None:
        self.running.restore(state)
        self.updates = list(state.get("updates", self.updates))
        self.observer.restore(state.get("observer", {}))

    def tensors(self, step: int) -> dict[str, Tensor]:
        """Within an iteration, what it learns from."""
        return self.experience.tensors() if step % self.steps_per_iteration else {}

    def restore_tensors(self, tensors: dict[str, Tensor]) -> None:
        self._experience = Experience.of_tensors(tensors) if tensors else None

    def note(self, figures: dict[str, float]) -> None:
        self.phases.add("gradients", figures["gradient_seconds"])
        self.running.take_in_update(figures)

    def observations(self, taken: bool = True) -> dict[str, float]:
        """An iteration's figures once; where the time of every step went; how many updates were skipped so far."""
        skipped = {"updates_skipped": float(self.running.skipped)} if self.running.skipped else {}
        return {**super().observations(taken), **self.phases.take(), **skipped}

    def evaluate(self, final: bool) -> dict[str, Any]:
        return self.held_out()

    def _observe(self, iteration: int) -> None:
        """Note the iteration's figures; the KL coefficient and the critic's warm-up follow them."""
        experience = self.experience
        self.observed = {"iteration": float(iteration), **self.observer.iteration(iteration, experience, self.reward)}
        self.observed["kl_coefficient"] = self.kl_coefficient
        if self.config.groups.equal == "resample":
            self.observed["resampled_groups"] = float(self._resampled)
        self.running.take_in_kl(iteration, self.observed["kl"])
        if self.needs_critic:
            earned = self.earned(experience)
            explained = explained_variance(experience.old_values, earned, experience.learned)
            self.observed["explained_variance_of_earnings"] = explained
            self.running.take_in_explained_variance(iteration, explained)

    def earned(self, experience: Experience) -> Tensor:
        """What each response earns from a token on, [B, R]: the discounted sum of rewards; no value is part of it."""
        return generalized_advantages(
            experience.rewards, experience.old_values, experience.learned, gamma=self.config.gamma, gae_lambda=1.0
        )[1]
