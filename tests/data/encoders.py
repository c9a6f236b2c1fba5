"""Encoders that a worker process can make: a byte is a token."""

import os
import sys
import time
from functools import partial

import numpy as np
from numpy.typing import NDArray

from trine.config.corpus import FilterConfig
from trine.data.encoding import Encoding
from trine.data.shard_making import Target
from trine.records import EncodeArray

END = 256


def byte_encoder(delay: float = 0.0) -> EncodeArray:
    """`delay`: seconds a document takes. A text `die` ends the process, `fail` raises, `modules` tells of PyTorch."""

    def encode(text: str) -> NDArray[np.uint32]:
        time.sleep(delay)
        if text == "die":
            os._exit(9)
        if text == "fail":
            raise ValueError("no such token")
        if text == "modules":
            return np.array(["torch" in sys.modules, os.getpid() % 2**16], np.uint32)
        return np.frombuffer(text.encode("utf-8", "replace"), np.uint8).astype(np.uint32)

    return encode


def byte_encoding(filters: FilterConfig | None = None, delay: float = 0.0) -> Encoding:
    return Encoding(partial(byte_encoder, delay), END, filters or FilterConfig())


def byte_target(filters: FilterConfig | None = None, delay: float = 0.0, vocab_size: int = 257) -> Target:
    return Target("bytes", vocab_size, byte_encoding(filters, delay))
