"""What stages open: models and tokenizers from the folders other stages wrote."""

from pathlib import Path

from trine.config.base import HardwareConfig
from trine.model.folder import load_model, load_score_model
from trine.model.heads import ScoreModel
from trine.model.transformer import Transformer
from trine.runtime.device import Hardware, choose_hardware
from trine.runtime.errors import TrineError
from trine.tokenizer.tokenizer import Tokenizer


def open_hardware(config: HardwareConfig) -> Hardware:
    return choose_hardware(config.device, config.precision, config.threads)


def model_folder(path: Path) -> Path:
    """The folder with config.json: `path` itself, or the `model` or `policy` inside a run folder."""
    for candidate in (path, path / "model", path / "policy"):
        if (candidate / "config.json").exists():
            return candidate
    raise TrineError(
        f"{path} holds no model (no config.json there, nor in model/ or policy/); name a run or model folder"
    )


def open_model(path: Path, hardware: Hardware) -> tuple[Transformer, Tokenizer]:
    """A language model and its tokenizer."""
    folder = model_folder(path)
    return load_model(folder, hardware.compute_dtype, hardware.device), Tokenizer.load(folder)


def open_score_model(path: Path, hardware: Hardware) -> tuple[ScoreModel, Tokenizer]:
    """A reward model and its tokenizer."""
    folder = model_folder(path)
    return load_score_model(folder, hardware.compute_dtype, hardware.device), Tokenizer.load(folder)
