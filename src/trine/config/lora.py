"""LoRA as a setting of every stage that trains a language model."""

from trine.config.base import Config, NonNegativeInt, OptimizerConfig, PositiveFloat


class LoraConfig(Config):
    """Low-rank adapters trained in place of the weights (Hu et al. 2021; rsLoRA: Kalajdzievski 2023)."""

    rank: NonNegativeInt = 0
    """rank of the adapters, the base weights being frozen; 0 trains all weights, without adapters"""
    alpha: PositiveFloat = 32.0
    """the adapters' output is multiplied by alpha / rank"""
    rank_stabilized: bool = False
    """rsLoRA: multiply by alpha / sqrt(rank) instead, so that a higher rank does not learn more slowly"""
    targets: str = "all"
    """matrices to adapt, by their Hugging Face names, separated by commas (q_proj,v_proj); all: every matrix"""
    learning_rate: PositiveFloat = 2e-4
    """peak learning rate of the adapters; they are trained by AdamW, whatever optimizer.kind is"""

    def optimizer(self, given: OptimizerConfig) -> OptimizerConfig:
        """What trains a stage's model: `given`, or where there are adapters AdamW at their learning rate.

        Not Muon: it orthogonalises the step of a weight matrix, and here that is a product of two.
        """
        changes = {"kind": "adamw", "learning_rate": self.learning_rate}
        return given.model_copy(update=changes) if self.rank else given
