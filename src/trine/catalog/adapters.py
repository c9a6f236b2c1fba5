"""LoRA in a stage: adapters before training; after it `adapter/` in PEFT's form and a plain model to go on with."""

import os
from pathlib import Path

from trine.catalog.locating import BASE_FILE, find_adapter, find_model, is_hub_name
from trine.config.lora import LoraConfig
from trine.model.adapter_folder import save_adapter
from trine.model.lora import LoraSettings, add_lora, has_lora, merge_lora
from trine.model.transformer import Transformer
from trine.runtime.files import write_folder, write_json


def begin_lora(model: Transformer, config: LoraConfig, seed: int) -> None:
    """Freeze `model` and give it the adapters that `config` asks for; nothing when its rank is 0."""
    if config.rank:
        targets = tuple(name.strip() for name in config.targets.split(","))
        add_lora(model, LoraSettings(config.rank, config.alpha, targets, config.rank_stabilized), seed)


def finish_lora(model: Transformer, folder: Path, base: str, adapter: str | None = None) -> None:
    """Write the adapters of `model`, if it has any, to `folder`, then merge them into it.

    `base` is the name the model was opened by, `adapter` that of the adapter it was opened with: the new one's base is
    the old one. A name of the hub is written as it is, so that it holds elsewhere too; a path as it is here, and beside
    it as it lies from `folder`, for a recipe folder that is moved.
    """
    if not has_lora(model):
        return
    name = adapter or base
    on_hub = is_hub_name(name)
    place = Path(name) if on_hub else find_model(base) if adapter is None else find_adapter(adapter)

    def fill(aside: Path) -> None:
        save_adapter(model, aside, base=str(place))
        if not on_hub:
            write_json(aside / BASE_FILE, {"base": os.path.relpath(place, folder)})

    write_folder(folder, fill)
    merge_lora(model)
