"""`trine import` and `trine export`: models in from elsewhere, and out for other programs.

Both open the whole model first, so that nothing is written that Trine could not open again.
"""

import sys
from pathlib import Path

from trine.catalog.loading import (
    OpenedModel,
    is_reward_model,
    open_hardware,
    open_language_model,
    open_score_model,
)
from trine.config.base import HardwareConfig
from trine.config.use import ExportConfig, ImportConfig, ModelConfig
from trine.model.families import family_of
from trine.model.folder import save_model, save_score_model
from trine.model.generation_config import write_generation_defaults
from trine.model.gguf.writing import write_gguf
from trine.model.weight_files import StoredDtype
from trine.runtime.errors import TrineError
from trine.runtime.files import write_folder
from trine.runtime.progress import say

_ON_CPU = HardwareConfig(device="cpu", precision="fp32")


def import_model(config: ImportConfig) -> None:
    """Write the model as a folder, in the dtype it comes in."""
    _check_free(config.out, overwrite=config.overwrite)
    if config.adapter is None and is_reward_model(config.model):
        _import_reward_model(config)
    else:
        opened = _open(config)
        write_model_folder(opened, config.out, opened.dtype)
        _describe(opened, opened.dtype)
    say(f"import: done, in {config.out}")


def export_model(config: ExportConfig) -> None:
    """Write the model as a folder or as a GGUF file, in the dtype asked for."""
    if (config.to == "gguf") != (config.out.suffix == ".gguf"):
        raise TrineError(f"--out {config.out}: name a file that ends in .gguf with --to gguf, a folder with --to hf")
    _check_free(config.out, overwrite=config.overwrite)
    if config.to == "hf" and config.dtype == "q8_0":
        raise TrineError("--dtype q8_0 is a form of GGUF; choose --to gguf, or float32, float16 or bfloat16")
    opened = _open(config)
    if config.to == "gguf":
        write_gguf(opened.model, opened.tokenizer, config.out, config.dtype, name=_title(config.model))
    elif config.dtype != "q8_0":
        write_model_folder(opened, config.out, config.dtype)
    _describe(opened, config.dtype)
    say(f"export: done, in {config.out}")


def _open(config: ModelConfig) -> OpenedModel:
    return open_language_model(
        config.model, open_hardware(_ON_CPU), adapter=config.adapter, ignored=config.ignore_config_keys
    )


def _import_reward_model(config: ImportConfig) -> None:
    model, tokenizer = open_score_model(config.model, open_hardware(_ON_CPU), ignored=config.ignore_config_keys)

    def fill(aside: Path) -> None:
        save_score_model(model, aside, pad_token_id=tokenizer.pad)
        tokenizer.save(aside)

    write_folder(config.out, fill)


def write_model_folder(opened: OpenedModel, folder: Path, dtype: StoredDtype) -> None:
    """Write `folder` in Hugging Face form, in one step."""

    def fill(aside: Path) -> None:
        generation = opened.generation
        ends = list(generation.eos_token_ids)
        eos = ends[0] if len(ends) == 1 else ends or None
        save_model(
            opened.model, aside, eos_token_id=eos, pad_token_id=generation.pad_token_id,
            bos_token_id=generation.bos_token_id, dtype=dtype,
        )  # fmt: skip
        write_generation_defaults(aside, generation)
        opened.tokenizer.save(aside)

    write_folder(folder, fill)


def _check_free(path: Path, *, overwrite: bool) -> None:
    """Nothing of the user's is replaced unless it is a model and they said so."""
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if not overwrite:
        raise TrineError(f"--out {path} exists; name another place, or add --overwrite true")
    if not (path.suffix == ".gguf" if path.is_file() else (path / "config.json").exists()):
        raise TrineError(f"--out {path} holds no model and would be replaced whole; name another place")


def _title(name: str) -> str:
    """A model's name for the file's metadata: the last part of what it was opened by."""
    return Path(name).name.removesuffix(".gguf")


def _describe(opened: OpenedModel, dtype: str) -> None:
    config, tokenizer = opened.model.config, opened.tokenizer
    spelling = "byte-level BPE" if tokenizer.spelling.byte_level else "BPE with byte fallback"
    rows = {
        "family": family_of(config).model_type,
        "parameters": f"{config.parameter_count / 1e6:,.1f}M",
        "dtype": dtype,
        "context": f"{config.context:,} tokens",
        "tokenizer": f"{tokenizer.vocab_size:,} entries, {spelling}",
        "template": "none" if tokenizer.chat_template is None else "chat template of its own",
    }
    sys.stdout.write("".join(f"{name:<12}{value}\n" for name, value in rows.items()))
