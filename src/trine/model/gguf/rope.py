"""Scaled rotary positions in GGUF: linear scaling is two keys, Llama 3's is a tensor of factors.

The factors divide the frequencies (Dubey et al. 2024; `transformers`, `_compute_llama3_parameters`). With
wavelength w, old context o, low and high frequency factors l and h and s = (o / w - l) / (h - l):

    f = 1 where w < o / h      f = factor where w > o / l      1 / f = (1 - s) / factor + s between

The file stores f only. Since (o, l, h) and (k o, k l, k h) give the same f, l = 1 is assumed, as in every published
model; the other three are computed from f and accepted only if they reproduce the file's f.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from trine.model.gguf.container import Container
from trine.model.gguf.tables import ROPE_FACTORS
from trine.runtime.errors import TrineError

_PUBLISHED = (1.0, 4.0, 8192)
"""Llama 3's low and high frequency factors and old context."""
_NO_FIT = (1.0, 0.0, 0)
_TOLERANCE = 1e-4


def read_rope(container: Container, name: str, settings: dict[str, Any], head_dim: int, theta: float) -> dict[str, Any]:
    """`rope_theta` and `rope_parameters` of config.json; raises `TrineError` for an unsupported scaling."""
    factor = settings.get("rope.scaling.factor", settings.get("rope.scale_linear", 0.0))
    kind = settings.get("rope.scaling.type", "linear" if factor else "none")
    if kind not in ("none", "linear"):
        container.refuse(f"{name}.rope.scaling.type", f"is {kind!r}; supported are none, linear and Llama 3's factors")
    linear = kind == "linear" and factor not in (0.0, 1.0)
    if linear and not (type(factor) is float and factor > 1):
        container.refuse(f"{name}.rope.scaling.factor", f"is {factor!r}, not a number above 1")
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": theta}
    if linear:
        rope |= {"rope_type": "linear", "factor": factor}
    if ROPE_FACTORS in container.tensors:
        if linear or name != "llama":
            container.refuse(f"tensor {ROPE_FACTORS}", f"is not possible with {name}'s rope.scaling.type={kind!r}")
        factors = container.read(ROPE_FACTORS)
        if not (np.isfinite(factors).all() and (factors > 0).all() and factors.shape == (head_dim // 2,)):
            container.refuse(f"tensor {ROPE_FACTORS}", f"is not {head_dim // 2} positive factors")
        rope |= _recovered(container, factors, head_dim, theta, settings.get("rope.scaling.original_context_length"))
    return {"rope_theta": theta, "rope_parameters": rope}


def rope_settings(config: dict[str, Any]) -> tuple[dict[str, Any], NDArray[np.float32] | None]:
    """GGUF's keys for the rope scaling of a config.json, and the factors if it is Llama 3's."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type", "default")
    if kind == "default":
        return {}, None
    if kind == "linear":
        return {"rope.scaling.type": "linear", "rope.scaling.factor": float(rope["factor"])}, None
    if kind != "llama3" or config["model_type"] != "llama":
        raise TrineError(f"GGUF cannot represent {config['model_type']}'s rope scaling {kind!r}; export to hf instead")
    old_context = rope["original_max_position_embeddings"]
    factors = llama3_factors(
        config["head_dim"], config["rope_theta"], rope["factor"], rope["low_freq_factor"], rope["high_freq_factor"],
        old_context,
    )  # fmt: skip
    return {"rope.scaling.original_context_length": int(old_context)}, factors


def llama3_factors(
    head_dim: int, theta: float, factor: float, low: float, high: float, old_context: float
) -> NDArray[np.float32]:
    """The divisors of the head_dim / 2 frequencies."""
    turns = old_context / _wavelengths(head_dim, theta)
    share = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return (1 / ((1 - share) / factor + share)).astype(np.float32)


def _wavelengths(head_dim: int, theta: float) -> NDArray[np.float64]:
    return 2 * np.pi * theta ** (np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)


def _recovered(
    container: Container, factors: NDArray[np.float32], head_dim: int, theta: float, stated: int | None
) -> dict[str, Any]:
    """The Llama 3 parameters that reproduce `factors`."""
    factor = float(str(factors.max()))
    old = stated if type(stated) is int and stated > 0 else _PUBLISHED[2]
    for low, high, old_context in ((*_PUBLISHED[:2], old), _fitted(factors, head_dim, theta)):
        again = llama3_factors(head_dim, theta, factor, low, high, old_context) if high > low else np.zeros(1)
        if factor > 1 and np.allclose(again, factors, rtol=_TOLERANCE, atol=0):
            return {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": low,
                "high_freq_factor": high,
                "original_max_position_embeddings": old_context,
            }
    container.refuse(f"tensor {ROPE_FACTORS}", "holds factors that are not of Llama 3's form, the only one supported")


def _fitted(factors: NDArray[np.float32], head_dim: int, theta: float) -> tuple[float, float, int]:
    """(1, h, o) from the line s(1 / w): its slope is o / (h - l), its intercept -l / (h - l)."""
    factor = float(factors.max())
    between = (factors > 1 + _TOLERANCE) & (factors < factor * (1 - _TOLERANCE))
    share = (1 / factors[between].astype(np.float64) - 1 / factor) / (1 - 1 / factor)
    turns = 1 / _wavelengths(head_dim, theta)[between]
    if len(turns) < 2 or turns[0] == turns[-1]:
        return _NO_FIT
    slope = (share[0] - share[-1]) / (turns[0] - turns[-1])
    offset = share[0] - slope * turns[0]
    if not (0 < slope < np.inf and -np.inf < offset < 0):
        return _NO_FIT
    high = round(float(1 - 1 / offset), 3)
    return 1.0, high, round(float(slope) * (high - 1))
