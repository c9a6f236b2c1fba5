"""Names of tensors in strangers' files, without what wrapped the model when it was saved."""

import re
from collections.abc import Iterable

# Modules that wrap others without computing anything: torch.compile, DistributedDataParallel, FSDP, checkpointing.
_WRAPPERS = re.compile(r"(?<![^.])(_orig_mod|module|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module)\.")
_HEADS = ("lm_head.", "score.")


def plain_names(names: Iterable[str], embedding: str) -> list[tuple[str, str]]:
    """(plain name, name in the file) of every tensor; `embedding` is the plain name of the embeddings.

    A wrapper is a prefix of all names (`module.`, `base_model.model.`, whatever it is called) or one of the known ones,
    anywhere. A base model without head (`GPT2Model`, as GPT-2 itself is published) lacks the prefix of its tensors'
    names.

    >>> plain_names(["module.wte.weight", "module.ln_f.bias"], "transformer.wte.weight")
    [('transformer.wte.weight', 'module.wte.weight'), ('transformer.ln_f.bias', 'module.ln_f.bias')]
    """
    trunk = embedding.split(".", maxsplit=1)[0] + "."
    plain = [(_WRAPPERS.sub("", name), name) for name in names]
    for table, missing in ((embedding, ""), (embedding.removeprefix(trunk), trunk)):
        prefixes = [name.removesuffix(table) for name, _ in plain if f".{name}".endswith(f".{table}")]
        prefix = min(prefixes, key=len, default=None)
        if prefix is not None and all(name.startswith((prefix, *_HEADS)) for name, _ in plain):
            return [(_with_trunk(name.removeprefix(prefix), missing), written) for name, written in plain]
    return plain


def _with_trunk(name: str, trunk: str) -> str:
    return name if name.startswith(_HEADS) else trunk + name
