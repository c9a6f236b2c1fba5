"""The networks of online RL: opened, shared out among processes, gathered again, written."""

import torch

from trine.catalog.adapters import begin_lora
from trine.catalog.loading import open_score_model
from trine.config.rewards import parts_of
from trine.config.rl import PpoConfig
from trine.model.folder import save_model, save_score_model
from trine.model.heads import PolicyWithValue, ScoreModel
from trine.model.transformer import Transformer
from trine.runtime.distributed import World
from trine.runtime.errors import TrineError
from trine.runtime.seeds import derive_seed
from trine.stages.language_modelling import whole_model
from trine.stages.rl.token_pass import TokenPass
from trine.tokenizer.chat_format import Chat
from trine.tokenizer.text_format import TextFormat
from trine.tokenizer.tokenizer import Tokenizer
from trine.training.parallel import Parallel, is_sharded, parallelise
from trine.training.parallel import whole as unsharded
from trine.training.stage_run import StageRun, TrainedApart


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
        begun = ScoreModel(open_score_model(parts_of(config.reward)[0].name, stage.hardware)[0].trunk)
    else:
        policy.recompute_blocks = config.recompute_blocks
        return PolicyWithValue(policy, valued=config.advantage == "gae")
    begin_lora(begun.trunk, config.lora, derive_seed(config.seed, "critic"))
    model = PolicyWithValue(policy, begun.trunk)
    model.value_head, model.value_offset = begun.head, begun.offset
    policy.recompute_blocks = begun.trunk.recompute_blocks = config.recompute_blocks
    return model


def together(config: PpoConfig, model: PolicyWithValue, world: World) -> Parallel:
    """The processes of `world`, and the `TokenPass` of `model` that they train together."""
    blocks = [*model.policy.blocks, *(model.critic.blocks if model.critic is not None else ())]
    module = TokenPass(model, config.temperature)
    return parallelise(module, blocks, world, config.parallel, partly_used=config.trains_critic_alone)


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


def whole_networks(model: PolicyWithValue) -> PolicyWithValue:
    """`model` as one process uses it: itself, or a whole copy where it is sharded; every process calls this."""
    if not any(is_sharded(parameter) for parameter in model.parameters()):
        return model
    critic, valued = model.critic, hasattr(model, "value_head")
    whole = PolicyWithValue(whole_model(model.policy), None if critic is None else whole_model(critic), valued=valued)
    whole.value_offset = model.value_offset
    if valued:
        with torch.no_grad():
            whole.value_head.weight.copy_(unsharded(model.value_head.weight))
    return whole


def write_policy(stage: StageRun, model: PolicyWithValue, chat: Chat | TextFormat, *, has_critic: bool) -> None:
    """Write `policy/`, and where there is one `critic/`: the value head, on the policy's trunk if they share one."""
    pad = chat.tokenizer.pad
    stage.write_model(
        "policy",
        chat.tokenizer,
        lambda folder: save_model(model.policy, folder, eos_token_id=list(chat.end_ids), pad_token_id=pad),
    )
    if not has_critic:
        return
    critic = ScoreModel(model.critic or model.policy)
    critic.head, critic.offset = model.value_head, model.value_offset
    stage.write_model("critic", chat.tokenizer, lambda folder: save_score_model(critic, folder, pad_token_id=pad))
