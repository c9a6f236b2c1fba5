"""The measured model sizes, with random weights: speed does not depend on training."""

from pathlib import Path

from trine.model.config import gpt2_config
from trine.model.folder import save_model
from trine.model.gguf.writing import write_gguf
from trine.model.transformer import Transformer, initialize
from trine.tokenizer.bpe import train_tokenizer

SHAPES = {
    "small": gpt2_config(vocab_size=50304),
    "mini": gpt2_config(vocab_size=8192, context=256, layers=6, width=384, heads=6),
    "tiny": gpt2_config(vocab_size=512, context=1024, layers=2, width=64, heads=2),  # to try the harness itself
}


def write_model(shape: str, folder: Path) -> None:
    """One set of weights in `folder` three times: Hugging Face form, bf16.gguf, q8_0.gguf."""
    model = Transformer(SHAPES[shape])
    initialize(model, seed=0)
    save_model(model, folder)
    vocabulary = train_tokenizer([Path(__file__).read_text()], 320)  # unused, but required by GGUF
    write_gguf(model, vocabulary, folder / "bf16.gguf", "bfloat16", shape)
    write_gguf(model, vocabulary, folder / "q8_0.gguf", "q8_0", shape)
