"""Configs of control tasks: train an agent in an environment, and look at what it does."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from trine.config.base import (
    Config,
    HardwareConfig,
    LoopConfig,
    NonNegativeInt,
    OptimizerConfig,
    PositiveInt,
    Share,
)
from trine.config.policy_gradient import PolicyGradientConfig
from trine.config.resumption import ChangesBits, Extends, MayChange

Algorithm = Literal["reinforce", "actor_critic", "ppo"]

# What the steps that lead to PPO change of the defaults, which are PPO's. Each takes one update from a rollout and
# throws it away: actor-critic wants short rollouts, REINFORCE larger steps, since it has few.
ALGORITHM_DEFAULTS: dict[str, dict[str, Any]] = {
    "ppo": {},
    "actor_critic": {
        "rollout_steps": 16, "epochs": 1, "minibatches": 1, "clip_range": None, "normalize_advantages": "none",
    },
    "reinforce": {
        "rollout_steps": None, "epochs": 1, "minibatches": 1, "clip_range": None, "normalize_advantages": "none",
        "gae_lambda": 1.0,
        "optimizer": {"learning_rate": 1e-2},
    },
}  # fmt: skip


class ControlConfig(PolicyGradientConfig):
    """Train an agent in a Gymnasium environment: REINFORCE, actor-critic or PPO."""

    first = ("algorithm", "out", "total_steps", "environments", "seed", "optimizer.learning_rate", "film")

    environment: str
    """id of a registered environment, such as CartPole-v1; package.module:Name-v0 imports what registers it first"""
    algorithm: Algorithm = "ppo"
    """reinforce: whole episodes, no critic; actor_critic: advantages from a critic, one update a rollout; ppo: several
    clipped updates a rollout. Defaults below are ppo's; config/control.py lists what the other two change"""
    out: MayChange[Path] = Path("runs/control")
    """run folder to write; unset: runs/control/ENVIRONMENT-ALGORITHM-SEED"""
    environment_options: dict[str, Any] = Field(default={})
    """keyword arguments of the environment, such as {continuous: true}"""
    environments: PositiveInt = 8
    """number of copies of the environment, stepped in parallel"""
    fresh_environments: bool = True
    """create a new environment for every episode, so that no state outlives a reset and a stopped run resumes exactly;
    false is faster where creating one is slow"""
    total_steps: Extends[PositiveInt] = 500_000
    """total environment steps, over all copies, rounded down to whole rollouts. More than a run has extends it"""
    rollout_steps: PositiveInt | None = 128
    """steps of each copy between updates; null: twice the environment's time limit, which is reinforce's default"""
    gamma: Share = 0.99
    """discount factor"""
    truncation: Literal["bootstrap", "terminal"] = "bootstrap"
    """an episode truncated by its time limit: bootstrap adds the critic's value of its last observation; terminal
    treats it as terminated, as older implementations do"""
    minibatches: PositiveInt = 4
    """optimizer steps in each pass"""
    normalize_advantages: Literal["rollout", "minibatch", "none"] = "rollout"
    """whiten advantages over the rollout (biased variance, as on text), over each minibatch (unbiased), or not"""
    normalize_observations: bool = False
    """normalize observations to mean 0 and variance 1, by running moments"""
    normalize_rewards: bool = False
    """divide rewards by the running standard deviation of the discounted return"""
    hidden: tuple[PositiveInt, ...] = (64, 64)
    """widths of the hidden layers (tanh) of actor and critic, which share no weights"""
    evaluation_episodes: MayChange[NonNegativeInt] = 100
    """evaluation episodes after training, as many with the stochastic as with the deterministic policy; 0: none"""
    film: MayChange[bool] = True
    """render an episode of the trained agent to film.gif, if the environment can be rendered"""
    resume: ChangesBits[Literal["exact", "new_episodes"]] = "exact"
    """after a stop: exact replays each copy's current episode, and refuses an environment that does not reproduce it;
    new_episodes resets all copies instead"""
    optimizer: OptimizerConfig = OptimizerConfig(
        kind="adamw", learning_rate=1e-3, beta2=0.999, epsilon=1e-5, clip_norm=0.5, warmup_share=0.0, decay="linear"
    )
    loop: LoopConfig = LoopConfig(save_every=500)
    hardware: HardwareConfig = HardwareConfig(device="cpu", precision="fp32", threads=1)

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, values: Any) -> Any:
        """Put in what the algorithm changes of the defaults, and the run folder's name."""
        if not isinstance(values, dict):
            return values
        algorithm = str(values.get("algorithm", "ppo"))
        values = _over(ALGORITHM_DEFAULTS.get(algorithm, {}), values)
        if values.get("out") is None and "environment" in values:
            name = str(values["environment"]).replace("/", "-").replace(":", "-")
            values["out"] = f"runs/control/{name}-{algorithm}-{values.get('seed', 0)}"
        return values

    @model_validator(mode="after")
    def _agree(self) -> "ControlConfig":
        """What belongs to one algorithm is refused with another, not passed over."""
        if self.algorithm != "ppo" and (self.epochs, self.minibatches, self.clip_range) != (1, 1, None):
            raise ValueError(
                f"{self.algorithm} takes one unclipped update from a rollout: epochs={self.epochs}, "
                f"minibatches={self.minibatches}, clip_range={self.clip_range} belong to algorithm ppo"
            )
        if self.algorithm == "reinforce" and self.gae_lambda != 1.0:
            raise ValueError(
                f"gae_lambda={self.gae_lambda}: reinforce has no critic, so that a lambda below 1 would only discount"
            )
        if self.algorithm == "reinforce" and self.value_clip_range is not None:
            raise ValueError(f"value_clip_range={self.value_clip_range}: reinforce has no critic")
        if (self.optimizer.kind, self.optimizer.weight_decay) != ("adamw", 0.0):
            raise ValueError(
                f"optimizer.kind={self.optimizer.kind!r}, optimizer.weight_decay={self.optimizer.weight_decay}: "
                "control tasks are trained by adamw without decay"
            )
        if self.hardware.precision == "bf16":
            raise ValueError("hardware.precision='bf16': control tasks are computed in fp32")
        return self


def _over(defaults: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """`given`, completed by `defaults`; nested mappings one by one."""
    merged = {**defaults, **given}
    for key, value in defaults.items():
        if isinstance(value, dict) and isinstance(given.get(key), dict):
            merged[key] = {**value, **given[key]}
    return merged


class PlayConfig(Config):
    """Watch a trained agent: play episodes, print their returns, write a video."""

    first = ("episodes", "deterministic", "show")

    run: Path
    """run folder of `trine control`"""
    episodes: PositiveInt = 5
    """number of episodes"""
    seed: NonNegativeInt = 1
    """random seed of the episodes"""
    deterministic: bool = True
    """deterministic policy: the most likely action; false samples, as in training"""
    show: Literal["film", "window", "none"] = "film"
    """film: write one more episode as a GIF; window: show the episodes while they play; none: print returns only"""
    film: Path | None = None
    """GIF to write; unset: film.gif in the run folder"""
    speed: Annotated[float, Field(gt=0)] = 1.0
    """playback speed of the video: 2 is twice as fast"""
