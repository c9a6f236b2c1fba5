"""Config of the stage evaluate."""

import warnings
from pathlib import Path

from pydantic import Field, model_validator

from trine.config.base import ModelName, NonNegativeInt, PositiveFloat, PositiveInt, StageConfig, Word
from trine.config.queries import check_query_tokens
from trine.config.resumption import ByContent, MayChange
from trine.config.rewards import OptionalReward
from trine.records import Closing, Form

BEFORE_AND_AFTER = "ppo"
"""the task that compares a policy before and after PPO; it has no file"""
# The option is called --json, as everywhere; pydantic's old method of that name is not used.
warnings.filterwarnings("ignore", 'Field name "json" in "EvaluateConfig" shadows', UserWarning)
_POLICIES = ("before", "after", "base", "reward", "held_out_reward", "prompts")


class EvaluateConfig(StageConfig):
    """Ask models tasks, with intervals; or compare a policy before and after PPO on held-out prompts.

    Tasks: names of those that come with Trine, or YAML files (docs/evaluation.md). The first model is what the others
    are compared with, item by item.
    """

    first = ("models", "tasks", "data", "json", "before", "after", "reward", "held_out_reward", "prompts")

    out: MayChange[Path] = Path("runs/evaluate")
    """run folder to write; the same command again resumes an unfinished run. Where it is not given, a folder in
    runs/evaluate, named by a hash of models, tasks and settings"""
    models: ByContent[tuple[ModelName, ...]] = ()
    """models to ask: run, model or adapter folders, .gguf files, smollm2, or owner/name on the Hugging Face hub"""
    tasks: ByContent[tuple[Word, ...]] = ()
    """tasks to ask them: names, or YAML files; ppo compares two policies (before, after, or two models)"""
    data: ByContent[dict[str, str]] = Field(default={})
    """files of records of tasks that name none: TASK=FILE"""
    chat: ByContent[tuple[ModelName, ...]] = ()
    """those of the models that are asked in their chat format, as fine-tuned ones are"""
    write_examples: bool = False
    """write what the tasks do not ask, nor duplicates of it, as examples/TASK.jsonl to fine-tune on; needs no models"""
    json: MayChange[bool] = False  # type: ignore[assignment]
    """print all figures as JSON instead of tables"""
    fail_if_worse: MayChange[bool] = False
    """exit with code 1 where a model is worse than the first in any figure, by an interval that leaves out 0"""
    before: ByContent[ModelName | None] = None
    """ppo: the policy before PPO"""
    after: ByContent[ModelName | None] = None
    """ppo: the policy after PPO"""
    base: ByContent[ModelName | None] = None
    """ppo, with form chat: the pretrained model, which completes the prompts as plain text"""
    reward: ByContent[OptionalReward] = None
    """ppo: reward that the policy was trained against: a reward model, or any that `trine ppo` takes"""
    held_out_reward: ByContent[OptionalReward] = None
    """ppo: held-out reward, one that the policy was not trained against"""
    prompts: ByContent[Path | None] = None
    """ppo: held-out examples, in any form that trine ppo reads; where all have an answer, a person's is shown too"""
    form: Form = "chat"
    """ppo: chat, conversations to answer; text: plain text to go on with"""
    query_tokens: tuple[PositiveInt, ...] = ()
    """ppo, with form text: two numbers: the query is only the first so many tokens of a record's text, a number between
    them that the seed draws for each, and what follows is a person's answer; empty: all of the text"""
    max_prompts: NonNegativeInt = 0
    """ppo: use at most this many of the prompts, chosen by seed; 0 uses all"""
    stop_strings: tuple[str, ...] = ()
    """ppo: a response ends with the first of these that it writes"""
    max_new_tokens: PositiveInt = 64
    """ppo: token budget of a response"""
    temperature: PositiveFloat = 1.0
    """ppo: sampling temperature"""
    samples: PositiveInt = 1
    """ppo: responses per prompt"""
    closed: Closing | None = None
    """ppo: how both reward models read a response that was cut at max_new_tokens; null: as each one's folder says"""
    shown: PositiveInt = 8
    """ppo: number of prompts whose responses the report shows side by side"""

    @model_validator(mode="after")
    def _complete(self) -> "EvaluateConfig":
        if not self.compares_policies and not (self.tasks and (self.models or self.write_examples)):
            raise ValueError("give models and tasks to ask them; or before, after and what else the task ppo needs")
        if self.compares_policies:
            values = [*self.policies, self.base, self.reward, self.held_out_reward, self.prompts]
            needed = [name for name in _POLICIES if name != "base" or self.form == "chat"]
            given = dict(zip(_POLICIES, values, strict=True))
            missing = [name for name in needed if given[name] is None]
            if missing:
                raise ValueError(f"the task {BEFORE_AND_AFTER} needs {', '.join(missing)} too")
        check_query_tokens(self.query_tokens, self.form)
        if self.asked_tasks and not self.models and not self.write_examples:
            raise ValueError("tasks need models to ask")
        for name in self.models:
            if self.models.count(name) > 1:
                raise ValueError(f"the model {name} is given twice")
        unknown = next((name for name in self.chat if name not in self.models), None)
        if unknown is not None:
            raise ValueError(f"chat names {unknown}, which is none of the models")
        return self

    def with_folder(self, digest: str) -> "EvaluateConfig":
        """The config with its run folder: as it was given, or named by the digest of what is asked."""
        return self if "out" in self.model_fields_set else self.model_copy(update={"out": self.out / digest[:12]})

    @property
    def compares_policies(self) -> bool:
        """Whether the task ppo is asked: by its name, or by what only it needs."""
        return BEFORE_AND_AFTER in self.tasks or self.before is not None or self.after is not None

    @property
    def asked_tasks(self) -> tuple[str, ...]:
        """The tasks that are asked of every model."""
        return tuple(name for name in self.tasks if name != BEFORE_AND_AFTER)

    @property
    def policies(self) -> tuple[str | None, str | None]:
        """Before and after: as they are named, or the first two models."""
        first, second = (*self.models, None, None)[:2]
        return self.before or first, self.after or second
