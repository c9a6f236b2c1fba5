"""What the policy makes of prompts that it is not trained on, and the best policy so far by that.

At every evaluation the policy answers the held-out prompts, with the same seed each time, so that evaluations differ by
the policy alone. The best one whose KL is within a bound lies in `best/`, in Hugging Face form, and `best.json` says
which step it is of; a resumed run goes on comparing with it. A reward rises when a policy over-optimises it; a bound on
the KL, or a reward of its own for these prompts, keeps the best from being the most over-optimised.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trine.config.rl import PpoConfig
from trine.model.folder import save_model
from trine.records import Answer, Rollout
from trine.rewards.base import Reward
from trine.runtime.files import read_json, write_json
from trine.runtime.progress import say
from trine.runtime.seeds import derive_seed
from trine.stages.language_modelling import whole_model
from trine.stages.rl.prompts import read_prompts
from trine.training.stage_run import StageRun

if TYPE_CHECKING:
    from trine.stages.rl.rollout_objective import RolloutObjective

BEST, RECORD = "best", "best.json"
SCORE, KL = "held_out/score", "held_out/kl"


class HeldOut:
    """Called at every evaluation, in every process: each answers its share of the prompts; returns the figures."""

    def __init__(self, config: PpoConfig, stage: StageRun, objective: "RolloutObjective", reward: Reward) -> None:
        assert config.held_out is not None
        self.config, self.stage, self.objective, self.reward = config, stage, objective, reward
        room = objective.model.policy.config.context - config.max_new_tokens
        self.prompts = read_prompts(config.held_out, objective.chat, room, config.query_tokens, config.seed)
        self.prompts = self.prompts[: config.held_out_size]

    def __call__(self) -> dict[str, Any]:
        rollouts, answers = self._respond()
        numbers = {"score": self.reward.score(answers), "kl": self._kl(rollouts), "length": _lengths(rollouts)}
        found = {f"held_out/{name}": self._mean(each) for name, each in numbers.items()}
        if self.config.keep_best:
            self._keep(found[SCORE], found[KL])
        return found

    def _respond(self) -> tuple[list[Rollout], list[Answer]]:
        """This process's share of responses, as many as the others': a prompt too many is answered and not counted."""
        sampler, world = self.objective.sampler, self.stage.world
        sampler.refresh()
        share = -(-len(self.prompts) // world.size)
        own = [self.prompts[index % len(self.prompts)] for index in range(world.rank * share, (world.rank + 1) * share)]
        seed = derive_seed(self.config.seed, "held-out responses")
        rollouts, prompts = sampler.respond(own, seed, world.rank * share)
        return rollouts, sampler.answers(rollouts, prompts)

    def _mean(self, own: Tensor) -> float:
        """Over the held-out responses of all processes, those without a number left out."""
        found = self.stage.world.all_gather(own.to(self.stage.world.device))[: len(self.prompts)]
        return float(found.double().nanmean())

    @torch.no_grad()
    def _kl(self, rollouts: list[Rollout]) -> Tensor:
        """Of each response, k1 in nats: the engine's log-probabilities less the reference's."""
        objective, size = self.objective, self.config.micro_batch_size
        found = torch.zeros(len(rollouts))
        for start in range(0, len(rollouts), size):
            padded = objective.pad(rollouts[start : start + size])
            owners = padded.owners.cpu() + start
            found.index_add_(0, owners, -objective.reference_log_probs(padded).float().cpu())
        return found + torch.tensor([sum(rollout.log_probs) for rollout in rollouts])

    def _keep(self, score: float, kl: float) -> None:
        """Of several alike, the first: what was trained less."""
        world, bound, before = self.stage.world, self.config.best_max_kl, self.best()
        worse = (bound is not None and kl > bound) or (before is not None and score <= before["score"])
        if not world.all_reduce_max({"best": float(world.is_main and not worse)})["best"]:
            return  # the main process decides, which alone knows when it writes
        policy = whole_model(self.objective.model.policy)
        if world.is_main:
            self._write(policy, {"score": score, "kl": kl, "step": self.stage.folder.step})

    def _write(self, policy: Any, record: dict[str, Any]) -> None:
        chat, step = self.objective.chat, record["step"]
        self.stage.write_model(
            BEST,
            chat.tokenizer,
            lambda folder: save_model(policy, folder, eos_token_id=list(chat.end_ids), pad_token_id=chat.tokenizer.pad),
        )
        write_json(self.stage.path / RECORD, record)
        say(
            f"ppo: step {step}: held-out score {record['score']:.4g} at KL {record['kl']:.3g}, the best so far: {BEST}/"
        )

    def best(self) -> dict[str, Any] | None:
        """Score, KL and step of the policy in `best/`; None where there is none."""
        record = self.stage.path / RECORD
        return dict(read_json(record)) if record.exists() and (self.stage.path / BEST).exists() else None


def _lengths(rollouts: list[Rollout]) -> Tensor:
    return torch.tensor([float(len(rollout.response_ids)) for rollout in rollouts])
