"""How many floating-point operations a training step is, and the matrix products it is made of.

A token costs 6 for every parameter that takes part in a product (forward 2, backward 4; Kaplan et al. 2020): all but
the position table, tied embeddings once, since they are the output matrix. Attention adds 12 L T D (Chowdhery et al.
2022, appendix B), which counts the half of the scores above the diagonal too; a causal kernel need not compute it.
"""

from trine.model.config import ModelConfig


def flops_per_token(config: ModelConfig, tokens: int, *, causal: bool = False) -> float:
    """Of one training step over rows of `tokens`; `causal` leaves out the scores above the diagonal."""
    table = config.vocab_size * config.width
    unused = config.context * config.width if config.position == "learned" else 0
    unused += 0 if config.tied_embeddings else table  # the input table is looked up, not multiplied
    attention = 12 * config.layers * tokens * config.heads * config.head_dim
    return 6 * (config.parameter_count - unused) + attention * (0.5 if causal else 1.0)


def product_shapes(config: ModelConfig, positions: int) -> list[tuple[int, int, int]]:
    """(M, K, N) of every forward product of a step over `positions`, [M, K] by [K, N]: the blocks', then the head's."""
    heads = (config.heads + 2 * config.kv_heads) * config.head_dim
    gates = 2 if config.mlp == "swiglu" else 1
    block = [
        (positions, config.width, heads),
        (positions, config.heads * config.head_dim, config.width),
        (positions, config.width, gates * config.mlp_width),
        (positions, config.mlp_width, config.width),
    ]
    return block * config.layers + [(positions, config.width, config.vocab_size)]
