"""Training of byte-level BPE in a process of its own, ended by a stop request within a fraction of a second.

The trainer of `tokenizers` is one long call of a program in Rust, during which Python sees no signal. The process reads
texts, each after its length, until one of no length says that there are no more; it writes tokenizer.json.
"""

import json
import os
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from select import select
from subprocess import Popen, TimeoutExpired

from trine.runtime.child_process import end_child, start_child
from trine.runtime.errors import TrineError
from trine.runtime.signals import stop_request
from trine.tokenizer.encoders import encodable

_LENGTH_BYTES, _NO_MORE = 8, 2**63
_CHECK_SECONDS = 0.2


def learned_pipeline(texts: Iterable[str], vocab_size: int, special_tokens: Sequence[str], max_piece_bytes: int) -> str:
    """tokenizer.json of a tokenizer learned from `texts`; at most `vocab_size` entries, special ones first."""
    settings = json.dumps([vocab_size, list(special_tokens), max_piece_bytes])
    with tempfile.TemporaryFile() as output:
        child = start_child(__name__, settings, output=output)
        try:
            for text in texts:
                data = encodable(text).encode()
                _send(child, len(data).to_bytes(_LENGTH_BYTES) + data)
            _send(child, _NO_MORE.to_bytes(_LENGTH_BYTES))
            _wait(child)
        except BrokenPipeError:  # it died: its status says how
            child.wait()
        finally:
            status = child.poll()
            end_child(child)
        if status != 0:
            raise TrineError(f"the process that trains the tokenizer ended with status {status} (-9: memory was short)")
        output.seek(0)
        return output.read().decode()


def _send(child: "Popen[bytes]", data: bytes) -> None:
    """Write to the child as it reads; a stop request interrupts that."""
    assert child.stdin is not None
    descriptor, left = child.stdin.fileno(), memoryview(data)
    os.set_blocking(descriptor, False)
    while left:
        stop_request.check()
        if select([], [descriptor], [], _CHECK_SECONDS)[1]:
            left = left[os.write(descriptor, left[:65536]) :]


def _wait(child: "Popen[bytes]") -> None:
    while child.poll() is None:
        stop_request.check()
        with suppress(TimeoutExpired):
            child.wait(_CHECK_SECONDS)


# The process itself


def _main() -> None:
    """Train on the texts of the input, then write tokenizer.json."""
    vocab_size, special_tokens, max_piece_bytes = json.loads(sys.argv[1])
    sys.stdout.write(_trained(_texts(), vocab_size, special_tokens, max_piece_bytes))


def _texts() -> Iterator[str]:
    """The texts, and then a thread that ends this process if its parent is killed."""
    while (size := int.from_bytes(_read(_LENGTH_BYTES))) < _NO_MORE:
        yield _read(size).decode()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _read(size: int) -> bytes:
    """So many bytes of the input. They end early if the parent was killed, and then this process does too."""
    data = sys.stdin.buffer.read(size)
    if len(data) < size:
        os._exit(1)
    return data


def _end_with_parent() -> None:
    os.read(sys.stdin.fileno(), 1)  # returns when the other end is closed; not through `sys.stdin`, which has a lock
    os._exit(1)


def _trained(texts: Iterable[str], vocab_size: int, special_tokens: list[str], max_piece_bytes: int) -> str:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    backend, split = Tokenizer(models.BPE()), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    cut = pre_tokenizers.FixedLength(max_piece_bytes)  # of what the split left: one character a byte
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, cut])  # type: ignore[assignment]
    backend.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special_tokens,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    backend.pre_tokenizer = split  # type: ignore[assignment]
    return backend.to_str(pretty=True)


if __name__ == "__main__":
    _main()
