"""Where the tests marked `gpu` run: on a GPU, or they are skipped.

TRINE_GPU_TESTS_ON=cpu runs them on a CPU all the same, which shows that they are sound, not that a GPU is.
"""

import os

import pytest
import torch

NAME = os.environ.get("TRINE_GPU_TESTS_ON", "cuda")
ABSENT = NAME != "cpu" and not torch.cuda.is_available()
DEVICE = torch.device("cpu" if ABSENT else NAME)
GPU = [pytest.mark.gpu, pytest.mark.skipif(ABSENT, reason="PyTorch sees no GPU here")]
