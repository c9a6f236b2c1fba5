"""Which keys of a stranger's file may be passed over: those that cannot change the numbers.

A key of a family's table is read, and so is one whose value must be a certain one (families.py). Of all other keys one
may be passed over when

1. its value is null, false or empty: whatever it is called, it is switched off; or
2. its name says that it concerns something else than logits: the file's origin, training, generation, other heads,
   token ids, caches (`harmless_name`).

Every other key could change the numbers and is refused by its name. Who knows better says so with that name
(`--ignore_config_keys`), and the file is read as if it did not have the key.
"""

import re
from collections.abc import Iterable
from typing import Any

ORIGIN = {
    "architectures", "model_type", "dtype", "_name_or_path", "finetuning_task", "task_specific_params",
    "is_llama_config", "predict_special_tokens", "trine", "name", "model_name", "author", "authors", "description",
    "license", "language", "languages", "tags", "date", "datasets", "base_model", "framework", "library_name",
    "pipeline_tag", "revision", "seed", "use_bfloat16", "torchscript", "is_decoder", "tie_encoder_decoder",
    "tf_legacy_loss", "prefix",
}  # fmt: skip
# Outputs and caches; initialisation; heads other than the language modelling head.
OTHERS = {
    "use_cache", "return_dict", "output_attentions", "output_hidden_states", "output_router_logits",
    "keys_to_ignore_at_inference", "num_labels", "id2label", "label2id", "problem_type", "summary_activation",
    "summary_proj_to_labels", "summary_type", "summary_use_proj", "initializer_range", "initializer_factor",
}  # fmt: skip
# Settings of generation, which old versions of transformers wrote into config.json (see generation_config.py).
GENERATION = {
    "do_sample", "temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff",
    "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size", "penalty_alpha", "num_beams", "num_beam_groups",
    "early_stopping", "max_length", "min_length", "max_new_tokens", "min_new_tokens", "max_time", "stop_strings",
    "bad_words_ids", "force_words_ids", "suppress_tokens", "begin_suppress_tokens", "sequence_bias",
    "forced_decoder_ids", "constraints", "num_return_sequences", "output_scores", "output_logits",
    "return_dict_in_generate", "return_legacy_cache", "remove_invalid_values", "renormalize_logits",
    "guidance_scale", "watermarking_config", "cache_implementation",
    "cache_config", "prompt_lookup_num_tokens", "max_matching_ngram_size", "dola_layers", "low_memory",
    "compile_config", "disable_compile", "continuous_batching_config", "max_cache_len", "prefill_chunk_size",
    "is_assistant", "num_assistant_tokens", "num_assistant_tokens_schedule", "assistant_confidence_threshold",
    "assistant_early_exit", "assistant_ensemble_weight", "assistant_lookbehind", "target_lookbehind",
    "speculation_type", "token_healing", "use_mtp",
}  # fmt: skip
_HARMLESS = re.compile(
    r"_.*"  # private by convention
    r"|(unsloth|transformers|torch_dtype|tokenizer|training_|train_|wandb|gradient_checkpointing).*"
    r"|.*(dropout|drop_path|layerdrop).*|.*_pdrop"
    r"|.*_token_ids?|(bos|eos|pad|unk|sep|cls|mask)_token"
    r"|.*_penalty|.*_version|.*loss_(coef|coefficient|weight)|.*attn_implementation"
)


def harmless_name(key: str) -> bool:
    """Whether the name alone says that the key cannot change the logits."""
    return key in ORIGIN or key in OTHERS or key in GENERATION or _HARMLESS.fullmatch(key) is not None


def switched_off(value: Any) -> bool:
    """null, false, or empty; 0 is a number like others."""
    return value is None or value is False or value in ("", [], {})


def could_change_numbers(described: dict[str, Any], known: Iterable[str]) -> list[str]:
    """The keys of `described` that are not `known` and cannot be passed over, in order of name."""
    return sorted(
        key
        for key, value in described.items()
        if key not in known and not switched_off(value) and not harmless_name(key)
    )


def how_to_ignore(keys: Iterable[str]) -> str:
    """What to type for a model whose keys are known to be harmless after all."""
    return (
        f"if you know that it makes no difference, add --ignore_config_keys {','.join(keys)} to trine import "
        "(every command opens what that writes), generate, chat or export"
    )
