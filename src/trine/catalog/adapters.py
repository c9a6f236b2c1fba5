"""LoRA in a stage: adapters before training; after it `adapter/` in PEFT's form and a plain model to go on with."""

from pathlib import Path

from trine.catalog.locating import find_model, is_hub_name
from trine.config.lora import LoraConfig
from trine.model.adapter_folder import save_adapter
from trine.model.lora import LoraSettings, add_lora, has_lora, merge_lora
from trine.model.transformer import Transformer
from trine.runtime.files import write_folder


def begin_lora(model: Transformer, config: LoraConfig, seed: int) -> None:
    """Freeze `model` and give it the adapters that `config` asks for; nothing when its rank is 0."""
    if config.rank:
        targets = tuple(name.strip() for name in config.targets.split(","))
        add_lora(model, LoraSettings(config.rank, config.alpha, targets), seed)


def finish_lora(model: Transformer, folder: Path, base: str) -> None:
    """Write the adapters of `model`, if it has any, to `folder`, then merge them into it.

    `base` is the name the model was opened by: one of the hub is written as it is, so that it holds elsewhere too.
    """
    if has_lora(model):
        place = base if is_hub_name(base) else str(find_model(base))
        write_folder(folder, lambda aside: save_adapter(model, aside, base=place))
        merge_lora(model)
