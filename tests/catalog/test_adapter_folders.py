"""Adapter folders of PEFT and of Trine open wherever a model does: beside a base, or alone where they name theirs."""

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

import trine
from tests.conftest import PLAIN_CPU, Command, finetune_config
from tests.model.test_adapter_merging import learn
from tests.tiny import random_ids, tiny_model, tiny_score_model, tiny_tokenizer
from trine.catalog.loading import open_hardware, open_language_model, open_score_model
from trine.catalog.locating import find_adapter, find_model, is_adapter, place_model
from trine.catalog.publishing import model_card
from trine.config.lora import LoraConfig
from trine.model.folder import save_model, save_score_model
from trine.model.gguf.writing import write_gguf
from trine.model.transformer import Transformer
from trine.runtime.errors import TrineError
from trine.stages.finetuning import finetune
from trine.training.inputs import model_fingerprint

IDS = random_ids(2, 9)
HARDWARE = open_hardware(PLAIN_CPU)


def logits_of(model: Transformer) -> torch.Tensor:
    return (model(IDS) @ model.output_weight.T).detach()


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "base"
    folder.mkdir()
    save_model(tiny_model("llama", vocab_size=320), folder, eos_token_id=3, pad_token_id=1)
    tiny_tokenizer().save(folder)
    return folder


def adapter_of(base: Path, folder: Path, *, named: str | None = None, **changes: Any) -> tuple[Path, torch.Tensor]:
    """An adapter that PEFT wrote, and the logits of its model."""
    settings = {"r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "down_proj"]} | changes
    theirs = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), peft.LoraConfig(**settings)).eval()
    learn(theirs)
    theirs.save_pretrained(folder)
    rename_base(folder, str(base) if named is None else named)
    return folder, theirs(IDS).logits.detach()


def rename_base(folder: Path, name: str | None) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": name}))


def opened(name: Path | str, adapter: str | None = None) -> Transformer:
    return open_language_model(name, HARDWARE, adapter=adapter).model


def test_an_adapter_opens_alone_and_beside_its_base(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """4.3: by the base's path as written, from the adapter's folder or from the working folder."""
    adapter, logits = adapter_of(base, tmp_path / "adapter")
    names = (str(base), "../base", "base")
    monkeypatch.chdir(tmp_path)
    for name in names:
        rename_base(adapter, name)
        assert_close(logits_of(opened(adapter)), logits, atol=1e-4, rtol=1e-4)
    rename_base(adapter, None)
    assert_close(logits_of(opened(base, str(adapter))), logits, atol=1e-4, rtol=1e-4)
    write_gguf(opened(base), tiny_tokenizer(), tmp_path / "base.gguf", "float32", "base")
    assert_close(logits_of(opened(tmp_path / "base.gguf", str(adapter))), logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("named", [None, "", "nowhere/at/all", "/nowhere", "x" * 5000, "\0", 3])
def test_a_base_that_is_not_there_is_named_with_what_to_type(named: Any, base: Path, tmp_path: Path) -> None:
    """4.3: the way out is another name for it."""
    adapter, _ = adapter_of(base, tmp_path / "adapter")
    rename_base(adapter, named)
    with pytest.raises(TrineError, match=r"adapter_config\.json.*--model BASE --adapter .*adapter"):
        opened(adapter)


def test_an_adapter_of_an_adapter_opens_and_circles_are_refused(base: Path, tmp_path: Path) -> None:
    """4.3: training that went on from an adapter."""
    first, _ = adapter_of(base, tmp_path / "first")
    (tmp_path / "merged").mkdir()
    save_model(opened(first), tmp_path / "merged")
    second, logits = adapter_of(tmp_path / "merged", tmp_path / "second", named="../first", r=3)
    assert place_model(second).paths == (base, second / "../first", second)
    assert_close(logits_of(opened(second)), logits, atol=1e-4, rtol=1e-4)
    rename_base(first, "../second")
    with pytest.raises(TrineError, match="is named as its own base"):
        opened(second)


def test_a_folder_is_an_adapter_where_it_holds_no_weights_of_a_model(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """4.3: some tools write the base's config.json beside the adapter; some write the merged model there too."""
    adapter, logits = adapter_of(base, tmp_path / "adapter")
    shutil.copy(base / "config.json", adapter)
    assert is_adapter(find_model(adapter))
    assert_close(logits_of(opened(adapter)), logits, atol=1e-4, rtol=1e-4)
    both = tmp_path / "both"
    shutil.copytree(base, both)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(adapter / name, both)
    capsys.readouterr()
    assert torch.equal(logits_of(opened(both)), logits_of(opened(base)))
    assert f"--adapter {both} adds the other" in "".join(capsys.readouterr())
    assert_close(logits_of(opened(base, str(both))), logits, atol=1e-4, rtol=1e-4)


def test_an_adapter_brings_its_tokenizer_and_a_larger_vocabulary(base: Path, tmp_path: Path) -> None:
    """4.3: tokens that were added for the fine-tuning (the embeddings are saved whole then)."""
    theirs = AutoModelForCausalLM.from_pretrained(base)
    theirs.resize_token_embeddings(326)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = peft.get_peft_model(theirs, peft.LoraConfig(r=2, target_modules=["v_proj"])).eval()
        learn(wrapped)
        wrapped.save_pretrained(tmp_path / "adapter", save_embedding_layers=True)
    tiny_tokenizer(310).save(tmp_path / "adapter")
    model = open_language_model(tmp_path / "adapter", HARDWARE, adapter=None)
    assert model.model.config.vocab_size == 326
    assert model.tokenizer.vocab_size == 310
    assert_close(logits_of(model.model), wrapped(IDS).logits.detach(), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_an_adapter_of_a_classifier_is_a_reward_model(base: Path, tmp_path: Path) -> None:
    """4.3: TRL's reward trainer saves LoRA and the score head (modules_to_save), on a plain language model."""
    classifier = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1, pad_token_id=1)
    settings = peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules="all-linear", modules_to_save=["score"])
    wrapped = peft.get_peft_model(classifier, settings).eval()
    learn(wrapped)
    wrapped.save_pretrained(tmp_path / "adapter")
    model, _ = open_score_model(tmp_path / "adapter", HARDWARE)
    ids = IDS.clamp(min=2)
    assert_close(model(ids, torch.tensor([8, 8])), wrapped(ids).logits[:, 0], atol=1e-4, rtol=1e-4)
    with pytest.raises(TrineError, match="is the adapter of a reward model"):
        opened(tmp_path / "adapter")
    with pytest.raises(TrineError, match=r"holds no reward model: neither it nor its base has score\.weight"):
        open_score_model(adapter_of(base, tmp_path / "other")[0], HARDWARE)


def test_a_pickled_adapter_is_named_with_the_way_out(base: Path, tmp_path: Path) -> None:
    """4.3, 4.5: nothing is unpickled."""
    adapter, _ = adapter_of(base, tmp_path / "adapter")
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(TrineError, match=r"adapter_model\.bin, a pickle, .*save_pretrained"):
        opened(adapter)


def test_what_is_no_adapter_is_refused_by_name(base: Path, tmp_path: Path) -> None:
    with pytest.raises(TrineError, match=r"base holds no adapter \(no adapter_config\.json there, nor in adapter/\)"):
        opened(base, str(base))
    run = tmp_path / "run"
    run.mkdir()
    adapter, _ = adapter_of(base, run / "adapter")
    assert find_adapter(run) == find_model(run) == adapter


def test_parts_of_an_adapter_are_refused_by_name(base: Path, tmp_path: Path) -> None:
    """4.3: a matrix without its other half, or of a module that the config does not name."""
    adapter, _ = adapter_of(base, tmp_path / "adapter")
    path = adapter / "adapter_model.safetensors"
    weights = load_file(path)
    half = "base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight"
    save_file({name: tensor for name, tensor in weights.items() if name != half}, path)
    with pytest.raises(TrineError, match=r"layers\.1\.self_attn\.q_proj lacks lora_B\.weight"):
        opened(adapter)
    save_file({name: tensor for name, tensor in weights.items() if "layers.1.self" not in name}, path)
    with pytest.raises(TrineError, match=r"says that modules \['model\.layers\.1\.self_attn\.q_proj'\]"):
        opened(adapter)


# Commands


def test_every_command_that_takes_a_model_takes_an_adapter(base: Path, tmp_path: Path, command: Command) -> None:
    """4.3: import, export, generate, and the Python door, by both spellings."""
    adapter, logits = adapter_of(base, tmp_path / "adapter")
    for number, names in enumerate((["--model", adapter], ["--model", base, "--adapter", adapter])):
        out = tmp_path / f"out{number}"
        assert command("import", *names, "--out", out)[0] == 0
        assert_close(logits_of(opened(out)), logits, atol=1e-4, rtol=1e-4)
        assert command("export", *names, "--to", "gguf", "--out", f"{out}.gguf")[0] == 0
        assert_close(logits_of(opened(f"{out}.gguf")), logits, atol=1e-4, rtol=1e-4)
        options = (
            "--temperature",
            "0",
            "--max_new_tokens",
            "5",
            "--hardware.device",
            "cpu",
            "--hardware.precision",
            "fp32",
        )
        code, text, words = command("generate", *names, "--prompt", "def", *options)
        assert code == 0, words
        door = {"device": "cpu", "precision": "fp32"}
        model = trine.load(base, adapter=adapter, **door) if number else trine.load(adapter, **door)  # type: ignore[arg-type]
        assert text == f"def{model.generate('def', temperature=0, max_new_tokens=5)}\n"


def test_a_key_that_could_change_the_numbers_can_be_named_away(base: Path, tmp_path: Path, command: Command) -> None:
    """4.2: the message says exactly what to type, and that opens the model."""
    path = base / "config.json"
    described = json.loads(path.read_text())
    path.write_text(json.dumps(described | {"logit_scale": 1.0, "mup_width": 8}))
    code, _, words = command("import", base, "--out", tmp_path / "out")
    assert code == 2
    said = " ".join(words.split())
    assert "unknown keys ['logit_scale', 'mup_width']" in said
    assert "add --ignore_config_keys logit_scale,mup_width to trine import" in said
    assert command("import", base, "--out", tmp_path / "out", "--ignore_config_keys", "logit_scale,mup_width")[0] == 0
    assert json.loads((tmp_path / "out" / "config.json").read_text())["hidden_size"] == 32
    assert trine.load(base, ignore_config_keys=["logit_scale", "mup_width"], device="cpu").context == 64


def test_a_reward_model_of_others_can_be_imported_with_keys_named_away(tmp_path: Path, command: Command) -> None:
    """4.2: stages take no such option, so that import is the way for reward models too."""
    folder = tmp_path / "reward"
    folder.mkdir()
    model = tiny_score_model("llama", vocab_size=320)
    save_score_model(model, folder, pad_token_id=1)
    tiny_tokenizer().save(folder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"reward_scale": 2.0}))
    assert command("import", folder, "--out", tmp_path / "out")[0] == 2
    assert command("import", folder, "--out", tmp_path / "out", "--ignore_config_keys", "reward_scale")[0] == 0
    again, _ = open_score_model(tmp_path / "out", HARDWARE)
    assert torch.equal(again.head.weight, model.head.weight)
    assert again.offset == model.offset


def test_the_card_of_an_adapter_names_its_base(base: Path, tmp_path: Path) -> None:
    """4.3: an adapter folder can be pushed too."""
    adapter, _ = adapter_of(base, tmp_path / "adapter", named="owner/base")
    assert "| LoRA adapter of | owner/base |" in model_card(adapter, adapter)


# Stages


def test_training_starts_from_an_adapter_and_its_own_adapter_opens_on_that(
    tmp_path: Path, pretrain_run: Path, functions_run: Path
) -> None:
    """4.3: finetune, reward and ppo merge the adapter first; what they write opens alone, wherever the recipe lies."""
    recipe = tmp_path / "recipe"
    recipe.mkdir()
    shutil.copytree(pretrain_run, recipe / "pretrain")
    first, logits = adapter_of(recipe / "pretrain" / "model", recipe / "first")
    lora = LoraConfig(rank=2, learning_rate=0.01)
    out = recipe / "finetune"
    changes = {"epochs": 1.0, "lora": lora, "adapter": str(first)}
    finetune.run(finetune_config(out, recipe / "pretrain", functions_run, **changes))
    trained = logits_of(opened(out))
    assert (trained - logits).abs().max() > 1e-3
    assert_close(logits_of(opened(out / "adapter")), trained, atol=1e-4, rtol=1e-4)
    rename_base(first, "../pretrain/model")
    recipe.rename(tmp_path / "moved")
    assert_close(logits_of(opened(tmp_path / "moved" / "finetune" / "adapter")), trained, atol=1e-4, rtol=1e-4)


def test_the_contents_of_an_adapter_and_of_its_base_are_what_a_run_depends_on(base: Path, tmp_path: Path) -> None:
    """4.3: a run that started from an adapter notices another base."""
    adapter, _ = adapter_of(base, tmp_path / "adapter")
    before = model_fingerprint(str(adapter))
    assert model_fingerprint(str(base)) in before
    save_model(tiny_model("llama", seed=5, vocab_size=320), base)
    assert model_fingerprint(str(adapter)) != before
