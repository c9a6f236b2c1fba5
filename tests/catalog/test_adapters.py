"""LoRA through the stages: the base stays, its adapters learn, and every later stage opens a plain model."""

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close
from transformers import AutoModelForCausalLM

from tests.conftest import PLAIN_CPU, Command, finetune_config, reward_config
from tests.stages.test_ppo import collected, objective_of, policy_of
from tests.tiny import random_ids, random_tensor, tiny_model
from trine.catalog.loading import open_hardware, open_model, open_score_model
from trine.cli.arguments import parse
from trine.config.base import LoopConfig, OptimizerConfig
from trine.config.finetuning import FinetuneConfig
from trine.config.lora import LoraConfig
from trine.config.rl import PpoConfig
from trine.data.rows import Batch
from trine.model.adapter_merging import merge_adapter
from trine.model.heads import PolicyWithValue
from trine.model.lora import LoraSettings, add_lora, lora_parameters
from trine.model.transformer import Transformer
from trine.runtime.errors import TrineError
from trine.runtime.files import read_json, read_jsonl
from trine.runtime.signals import Interrupted, stop_request
from trine.stages.finetuning import finetune
from trine.stages.preferences import reward
from trine.stages.rl import ppo
from trine.stages.rl.ppo import PpoObjective
from trine.training import stage_run
from trine.training.checkpoints import load_checkpoint
from trine.training.optimizers import make_optimizers

LORA = LoraConfig(rank=4, learning_rate=0.01)
HARDWARE = open_hardware(PLAIN_CPU)


def model_in(folder: Path) -> Transformer:
    return open_model(folder, HARDWARE)[0]


# Settings


def test_options_and_yaml_ask_for_adapters(tmp_path: Path) -> None:
    required = ["--out", "o", "--model", "m", "--examples", "e"]
    config, _ = parse("finetune", FinetuneConfig, [*required, "--lora.rank", "8", "--lora.targets", "q_proj,v_proj"])
    assert config.lora == LoraConfig(rank=8, targets="q_proj,v_proj")
    (tmp_path / "c.yaml").write_text("lora: {rank: 2, alpha: 4}")
    config, _ = parse("finetune", FinetuneConfig, ["--config", str(tmp_path / "c.yaml"), *required])
    assert config.lora == LoraConfig(rank=2, alpha=4.0)
    assert parse("finetune", FinetuneConfig, required)[0].lora.rank == 0


def test_adapters_are_trained_by_adamw_at_their_own_rate_and_nothing_else_is() -> None:
    given = OptimizerConfig(kind="muon", weight_decay=0.5)
    assert LoraConfig().optimizer(given) == given
    model = tiny_model("qwen3")
    add_lora(model, LoraSettings(4, 8.0), seed=0)
    (optimizer,) = make_optimizers(model.named_parameters(), LORA.optimizer(given), model.config, torch.float32)
    assert isinstance(optimizer, torch.optim.AdamW)
    trained, *others = optimizer.param_groups
    assert {id(each) for each in trained["params"]} == {id(each) for each in lora_parameters(model).values()}
    assert (trained["peak"], trained["weight_decay"]) == (0.01, 0.5)
    assert not any(group["params"] for group in others)


# Fine-tuning


@pytest.fixture(scope="module")
def lora_run(tmp_path_factory: pytest.TempPathFactory, pretrain_run: Path, functions_run: Path) -> Path:
    out = tmp_path_factory.mktemp("lora") / "finetune"
    return finetune.run(finetune_config(out, pretrain_run, functions_run, lora=LORA))


def test_finetuning_with_adapters_learns(lora_run: Path) -> None:
    losses = [row["loss"] for row in read_jsonl(lora_run / "metrics.jsonl") if "loss" in row]
    assert losses[-1] < losses[0] - 0.1


@torch.no_grad()
def test_the_model_written_is_the_base_and_its_adapter_in_one(lora_run: Path, pretrain_run: Path) -> None:
    merged, adapted, ids = model_in(lora_run), model_in(pretrain_run), random_ids(2, 9)
    assert (merged(ids) - adapted(ids)).abs().max() > 0.01
    merge_adapter(adapted, lora_run / "adapter")
    assert_close(merged(ids), adapted(ids), atol=1e-4, rtol=1e-4)
    for name in ("embedding.weight", "norm.weight", "blocks.0.mlp_norm.weight"):
        assert torch.equal(merged.get_parameter(name), adapted.get_parameter(name))


@torch.no_grad()
def test_peft_opens_the_run_s_adapter_on_the_base_it_names(lora_run: Path, pretrain_run: Path) -> None:
    base = read_json(lora_run / "adapter" / "adapter_config.json")["base_model_name_or_path"]
    assert Path(base) == pretrain_run / "model"
    theirs = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), lora_run / "adapter")
    ours, ids = model_in(lora_run), random_ids(2, 9)
    assert (theirs(ids).logits - ours(ids) @ ours.output_weight.T).abs().max() < 1e-4


def test_a_checkpoint_holds_only_adapters_and_a_stopped_run_ends_in_the_same_bytes(
    lora_run: Path, tmp_path: Path, pretrain_run: Path, functions_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = finetune_config(tmp_path / "run", pretrain_run, functions_run, lora=LORA)
    config = config.model_copy(update={"loop": LoopConfig(save_every=0)})
    batches = finetune.FinetuneObjective.batches

    def stop_at_step_5(self: finetune.FinetuneObjective, step: int) -> Sequence[Batch]:
        if step == 4:
            stop_request.received = signal.SIGTERM
        return batches(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(finetune.FinetuneObjective, "batches", stop_at_step_5)
        patch.setattr(stop_request, "received", None)
        with pytest.raises(Interrupted):
            finetune.run(config)
    tensors, state = load_checkpoint(config.out / "checkpoints") or ({}, {})
    saved = [name for name in tensors if name.startswith("model/")]
    assert state["step"] == 5 and saved and all(".lora_" in name for name in saved)
    finetune.run(config)
    for file in ("model/model.safetensors", "adapter/adapter_model.safetensors"):
        assert (config.out / file).read_bytes() == (lora_run / file).read_bytes()


def test_wrong_targets_end_the_command_with_the_names_there_are(
    tmp_path: Path, pretrain_run: Path, functions_run: Path, command: Command
) -> None:
    code, _, words = command(
        "finetune", "--out", tmp_path / "out", "--model", pretrain_run, "--examples", functions_run / "all.jsonl",
        "--row_tokens", "128", "--lora.rank", "4", "--lora.targets", "q_proj,c_attn", "--hardware.device", "cpu",
    )  # fmt: skip
    assert code == 2
    assert "['c_attn'] are not modules of qwen3; choose from q_proj, k_proj, v_proj, o_proj, gate_proj" in words


# Reward


def test_a_reward_model_with_adapters_ranks_what_it_saw(
    tmp_path: Path, finetune_run: Path, preferences_run: Path
) -> None:
    reward.run(reward_config(tmp_path, finetune_run, preferences_run, epochs=20.0, lora=LORA))
    rows = [row for row in read_jsonl(tmp_path / "metrics.jsonl") if "loss" in row]
    assert rows[0]["loss"] > 0.3 > rows[-1]["loss"]
    trunk, base = open_score_model(tmp_path, HARDWARE)[0].trunk, model_in(finetune_run)
    assert torch.equal(trunk.embedding.weight, base.embedding.weight)
    assert not torch.equal(trunk.blocks[0].attention.qkv.weight, base.blocks[0].attention.qkv.weight)


# PPO


def with_adapters(model: Transformer) -> Transformer:
    """Adapters that have already moved away from the base."""
    add_lora(model, LoraSettings(4, 8.0), seed=0)
    for index, parameter in enumerate(lora_parameters(model).values()):
        parameter.data.add_(random_tensor(*parameter.shape, seed=index), alpha=0.05)
    return model


@pytest.mark.parametrize("family", ["gpt2", "qwen3"])
def test_with_adapters_off_the_policy_is_its_own_reference(family: str) -> None:
    plain = objective_of(family)
    model = PolicyWithValue(with_adapters(policy_of(family, torch.float32)))
    objective = collected(
        PpoObjective(model, model.policy, plain.reward, plain.sampler.prompts, plain.chat, plain.config)
    )
    plain.reference = policy_of(family, torch.float32)
    padded = objective.pad(objective.experience.rollouts)
    with torch.no_grad():
        found, expected = objective.reference_log_probs(padded), plain.reference_log_probs(padded)
    assert torch.equal(found, expected)
    observed = objective.observations()
    assert abs(observed["kl"]) > 0.01
    assert observed["engine_difference"] < 1e-4


@pytest.mark.parametrize("critic", ["shared", "policy", "reward"])
def test_ppo_with_adapters_loads_no_second_model_and_leaves_the_base(
    critic: Any, tmp_path: Path, finetune_run: Path, functions_run: Path, reward_run: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    opened: list[Path] = []

    def counted(path: Path, hardware: Any, adapter: Any) -> Any:
        opened.append(path)
        return open_model(path, hardware, adapter)

    monkeypatch.setattr(stage_run, "open_model", counted)
    config = PpoConfig(
        out=tmp_path / "ppo", model=finetune_run, prompts=functions_run / "all.jsonl", reward=str(reward_run),
        critic=critic, iterations=2, batch_size=8, minibatch_size=4, micro_batch_size=4, max_new_tokens=16,
        lora=LORA, hardware=PLAIN_CPU,
    )  # fmt: skip
    run = ppo.run(config)
    assert len(opened) == (2 if critic == "policy" else 1)  # that critic is a model of its own

    rows = [row for row in read_jsonl(run / "metrics.jsonl") if "kl" in row]
    assert rows[0]["kl"] == 0.0 != rows[-1]["kl"]
    policy, base = load_file(run / "policy" / "model.safetensors"), load_file(finetune_run / "model/model.safetensors")
    changed = {name.split(".")[-2] for name in base if not torch.equal(policy[name], base[name])}
    assert changed == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    adapted, ids = model_in(finetune_run), random_ids(2, 9)
    merge_adapter(adapted, run / "adapter")
    with torch.no_grad():
        assert_close(adapted(ids), model_in(run / "policy")(ids), atol=1e-4, rtol=1e-4)
    critic_weights = load_file(run / "critic" / "model.safetensors")
    same = torch.equal(critic_weights["model.layers.0.mlp.up_proj.weight"], policy["model.layers.0.mlp.up_proj.weight"])
    assert same == (critic == "shared")


def test_another_rank_is_another_run(lora_run: Path, pretrain_run: Path, functions_run: Path) -> None:
    config = finetune_config(lora_run, pretrain_run, functions_run, lora=LoraConfig(rank=2, learning_rate=0.01))
    with pytest.raises(TrineError, match=r"lora\.rank: 4 → 2"):
        finetune.run(config)
