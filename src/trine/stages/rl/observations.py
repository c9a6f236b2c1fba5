"""What is seen of every iteration: figures for the log, alarms, a second reward model, a table of samples.

Nothing here changes what is trained: an observer reads, and what it must remember is part of a checkpoint.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from trine.algorithms.masked import explained_variance, masked_mean
from trine.algorithms.text_groups import zero_variance
from trine.algorithms.text_statistics import mean_median_deviation
from trine.config.rl import PpoConfig
from trine.records import Answer, Rollout
from trine.rewards.base import Reward, RewardInParts
from trine.rewards.texts import asked
from trine.runtime.distributed import ALONE, World
from trine.runtime.progress import say
from trine.stages.rl.alarms import ALARMS, Watch
from trine.stages.rl.experience import Experience, padded_log_probs
from trine.stages.rl.followed import Followed
from trine.training.run_folder import RunFolder

Ends = dict[str, list[Any]]
"""Scores of an iteration, and the number of each one's prompt."""


class Observer:
    """Sees every iteration and every update of an objective; changes nothing.

    `held_out`: a reward that is never trained on. `folder`: where samples are logged. `followed`: what follows single
    samples through an update (`followed.py`). `world`: the processes, each of which has the answers to its prompts.
    """

    def __init__(
        self,
        config: PpoConfig,
        *,
        held_out: Reward | None = None,
        folder: RunFolder | None = None,
        followed: Followed | None = None,
        world: World = ALONE,
    ) -> None:
        self.config, self.held_out, self.folder, self.followed = config, held_out, folder, followed
        self.world = world
        self.watch = Watch(expects_end=config.form == "chat", critic_from=config.critic_warmup)
        self.ends: dict[str, Ends] = {}

    def iteration(self, iteration: int, experience: Experience, reward: Reward) -> dict[str, float]:
        """Figures of an iteration, before its updates; says which alarms begin to hold."""
        figures = rollout_statistics(experience) | part_means(reward, experience.answers, self.world)
        if self.config.advantage != "gae":
            figures.pop("explained_variance")  # of a critic that there is not
        if self.held_out is not None and iteration % self.config.held_out_every == 0:
            scores = self.held_out.score(experience.answers).to(self.world.device)
            figures |= _held_out_figures(self.world.all_gather(scores).cpu())
        figures |= self._alarms(iteration, figures)
        now = _ends(experience)
        self.ends = {"first": self.ends.get("first", now), "last": now}
        self._log_samples(iteration, experience)
        if self.followed is not None:
            self.followed.iteration(iteration, experience)
        return figures

    def update(self, rows: Sequence[int], log_probs: Tensor | None, values: Tensor | None) -> None:
        """What [N] an update finds of `rows`, before it changes the weights; None of a network that it leaves alone."""
        if self.followed is not None:
            self.followed.update(rows, log_probs, values)

    def finish(self) -> dict[str, Any]:
        """After the last update: for done.json, the scores of the first and the last iteration, and their prompts'
        numbers."""
        if self.followed is not None:
            self.followed.finish()
        return {"scores": self.ends}

    def _alarms(self, iteration: int, figures: dict[str, float]) -> dict[str, float]:
        before = self.watch.memory.holding
        found = self.watch.look(iteration, figures)
        for name, sentence in found.items():
            if name not in before:
                say(f"   ALARM, iteration {iteration + 1}: {sentence}; {ALARMS[name].advice}", style="bold yellow")
        return {f"alarm_{name}": 1.0 for name in found}

    def _log_samples(self, iteration: int, experience: Experience) -> None:
        """Rows of samples.jsonl: the first responses of the iteration, whose prompts are in random order."""
        every, config = self.config.samples_every, self.config
        if self.folder is None or not every or iteration % every:
            return
        step = iteration * config.steps_per_iteration + 1  # the row with its figures
        kl = response_kl(experience).tolist()
        self.folder.log_samples(
            [
                {
                    "step": step, "iteration": iteration, "prompt": asked(answer), "text": answer.response,
                    "score": float(experience.scores[row]), "kl": kl[row], "length": int(experience.mask[row].sum()),
                    "ended": answer.ended,
                }
                for row, answer in enumerate(experience.answers[: config.sample_count])
            ]
        )  # fmt: skip

    def state(self) -> dict[str, Any]:
        return {"watch": self.watch.state(), "ends": self.ends}

    def restore(self, state: dict[str, Any]) -> None:
        """What `state` gave; checkpoints of earlier versions have none."""
        if state:
            self.watch.restore(state["watch"])
            self.ends = dict(state["ends"])


def _ends(experience: Experience) -> Ends:
    known = ~experience.scores.isnan()
    return {
        "scores": experience.scores[known].tolist(),
        "prompts": prompt_groups(experience.rollouts)[known].tolist(),
    }


def _held_out_figures(scores: Tensor) -> dict[str, float]:
    scores = scores[~scores.isnan()]
    found = mean_median_deviation(scores.tolist())
    return {
        "held_out_score": found["mean"],
        "held_out_score_median": found["median"],
        "held_out_score_deviation": found["deviation"],
        "held_out_score_error": standard_error(scores),
    }


def part_means(reward: Reward, answers: Sequence[Answer], world: World = ALONE) -> dict[str, float]:
    """`part_NAME`: the mean of every part of the reward over the answers of all processes that it applies to, and
    `part_NAME_applies`, the share of answers that it applies to, where that is not all."""
    parts = reward.parts(answers) if isinstance(reward, RewardInParts) else {}
    everywhere = {name: world.all_gather(values.to(world.device)).cpu() for name, values in parts.items()}
    applied = {name: values[~values.isnan()] for name, values in everywhere.items()}
    shares = {name: len(values) / len(everywhere[name]) for name, values in applied.items()}
    means = {f"part_{name}": float(values.double().mean()) for name, values in applied.items() if len(values)}
    return means | {f"part_{name}_applies": share for name, share in shares.items() if share < 1}


def rollout_statistics(experience: Experience) -> dict[str, float]:
    """What to watch of an iteration; every mean is over responses, or over response tokens, never over padding.

    `score_applies`: the share of responses that the reward applies to, where that is not all. `*_error` is the standard
    error of the mean over responses. `sampled_entropy` is the mean of -log pi over the tokens that were sampled, an
    unbiased estimate of the entropy per token.
    """
    mask, rollouts = experience.mask, experience.rollouts
    scored = experience.scores[~experience.scores.isnan()]
    scores, lengths = mean_median_deviation(scored.tolist()), mask.sum(1).float()
    kl = response_kl(experience)
    applies = {"score_applies": len(scored) / len(rollouts)} if len(scored) < len(rollouts) else {}
    return applies | {
        "score": scores["mean"],
        "score_median": scores["median"],
        "score_deviation": scores["deviation"],
        "score_error": standard_error(scored),
        "zero_variance_share": zero_variance_share(rollouts, experience.scores),
        "kl": float(kl.mean()),
        "kl_error": standard_error(kl),
        "sampled_entropy": -float(masked_mean(experience.old_log_probs, mask)),
        "length": float(lengths.mean()),
        "length_shortest": float(lengths.min()),
        "length_longest": float(lengths.max()),
        "ended_share": sum(rollout.ended for rollout in rollouts) / len(rollouts),
        "explained_variance": explained_variance(experience.old_values, experience.returns, experience.learned),
        "engine_difference": float(masked_mean(_engine_difference(experience), mask)),
    }


def response_kl(experience: Experience) -> Tensor:
    """k1 of every response, [B] in float64: the sum over its tokens of log pi - log ref, in nats."""
    log_ratios = torch.where(experience.mask, experience.old_log_probs - experience.reference_log_probs, 0.0)
    return log_ratios.double().sum(1)


def zero_variance_share(rollouts: Sequence[Rollout], scores: Tensor) -> float:
    """The share of responses whose scores are those of all others to their prompt: groups that teach nothing.

    Prompts with a single response do not count; where all have one, all responses are the one group.
    """
    known = ~scores.isnan()
    groups, scores = prompt_groups(rollouts)[known], scores[known]
    several = groups.bincount()[groups] > 1
    if not several.any():
        groups, several = torch.zeros_like(groups), torch.ones_like(several)
    return float(zero_variance(scores[several], groups[several]).double().mean())


def prompt_groups(rollouts: Sequence[Rollout]) -> Tensor:
    """[B]: a number for every prompt."""
    known: dict[tuple[int, ...], int] = {}
    return torch.tensor([known.setdefault(rollout.prompt_ids, len(known)) for rollout in rollouts])


def standard_error(values: Tensor) -> float:
    """Of the mean of [B] values; 0 of a single one."""
    return float(values.double().std(unbiased=True)) / len(values) ** 0.5 if len(values) > 1 else 0.0


def _engine_difference(experience: Experience) -> Tensor:
    """|engine's log-probability - trainer's|, [B, R]."""
    return (padded_log_probs(experience.rollouts, experience.mask) - experience.old_log_probs).abs()
