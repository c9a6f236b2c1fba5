"""The bytes of a file, unpacked and in UTF-8, as they are read.

Whether a file is compressed (gzip, bzip2, xz, zstd) is decided by its first bytes, whatever it is called; a file that
is called compressed and is not is refused. Streams may follow each other; each must be whole, and nothing but zeros
may stand after the last: damage is an error, never less text. A byte order mark names the encoding and is removed."""

import bz2
import codecs
import errno
import gzip
import io
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from trine.runtime.errors import TrineError
from trine.runtime.files import read_errors
from trine.runtime.json_values import LONGEST_MARK, encoding_by_mark

CHUNK = 2**16
UTF8 = ("utf-8", "utf-8-sig")


def open_plain(path: Path) -> IO[bytes]:
    """The bytes of a file, unpacked."""
    with read_errors(path):
        file = open(path, "rb")  # noqa: SIM115  (closed by the reader)
        head = file.peek(16)
    name = next((name for name, magic in _MAGIC.items() if magic.match(head)), None)
    expected = Path(path).suffix.lower()
    if name is None and expected in _MAGIC:
        file.close()
        raise TrineError(
            f"{path} is damaged or not a {expected} file: it is {'empty' if not head else 'not compressed'}"
        )
    return file if name is None else _OPENERS[name](file)


def open_utf8(path: Path, encoding: str = "utf-8") -> IO[bytes]:
    """The text of a file as UTF-8; a byte order mark is removed, and goes before `encoding`.

    Text in UTF-8 is passed through as it is, sound or not; any other raises a `UnicodeError` where it does not decode.
    """
    stream = open_plain(path)
    head = stream.peek(LONGEST_MARK)  # type: ignore[attr-defined]
    found = encoding_by_mark(head) or encoding
    if codecs.lookup(found).name not in UTF8:
        return io.BufferedReader(_Recoded(stream, found))
    if head.startswith(codecs.BOM_UTF8):
        stream.read(len(codecs.BOM_UTF8))
    return stream


def plain_name(name: str) -> str:
    """A file's name without the suffix of a compression."""
    stem, dot, suffix = name.rpartition(".")
    return stem if f"{dot}{suffix}".lower() in _MAGIC else name


@contextmanager
def stream_errors(path: Path) -> Iterator[None]:
    """Raise errors of the system, of decompressors, decoders and pyarrow as a `TrineError` that names the file."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise TrineError(f"{path} is not {error.encoding.upper()} all through: {error.reason}; is it whole?") from error
    except OSError as error:
        if error.errno == errno.ENOSPC:  # of the temporary folder, into which compressed Parquet is unpacked
            raise TrineError(f"cannot unpack {path}: {error.strerror}; set TMPDIR to a folder with space") from error
        if error.errno:
            raise TrineError(f"cannot read {path}: {error.strerror or error}") from error
        raise _damaged(path, error) from error
    except (EOFError, zlib.error, lzma.LZMAError, pa.ArrowException) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> TrineError:
    return TrineError(f"{path} is damaged or not a {''.join(path.suffixes[-2:])} file: {error}")


class _Streams(io.RawIOBase):
    """What compressed streams one after the other hold. (`bz2.open` and `lzma.open` stop at a damaged second one.)"""

    def __init__(self, file: IO[bytes], make: Callable[[], Any]) -> None:
        self._file, self._make, self._decoder = file, make, make()

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()
        super().close()

    def readinto(self, buffer: Any) -> int:
        data = b""
        while not data:
            packed = b""
            if self._decoder.eof:
                packed = self._after_the_end()
                if not packed:
                    return 0
                self._decoder = self._make()
            elif self._decoder.needs_input:
                packed = self._file.read(CHUNK)
                if not packed:
                    raise EOFError("it ends in the middle of a compressed stream")
            data = self._decoder.decompress(packed, len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _after_the_end(self) -> bytes:
        """Packed bytes after the end of a stream, without a padding of zeros."""
        rest = bytes(self._decoder.unused_data).lstrip(b"\0")
        while not rest and (data := self._file.read(CHUNK)):
            rest = data.lstrip(b"\0")
        return rest


class _Recoded(io.RawIOBase):
    """Text of another encoding as UTF-8. Lone surrogates pass through, for the reader of the record to refuse."""

    def __init__(self, stream: IO[bytes], encoding: str) -> None:
        self._stream, self._decoder = stream, codecs.getincrementaldecoder(encoding)()
        self._ready, self._ended = b"", False

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._stream.close()
        super().close()

    def readinto(self, buffer: Any) -> int:
        while not self._ready and not self._ended:
            data = self._stream.read(CHUNK)
            self._ended = not data
            self._ready = self._decoder.decode(data, final=self._ended).encode("utf-8", "surrogatepass")
        part, self._ready = self._ready[: len(buffer)], self._ready[len(buffer) :]
        buffer[: len(part)] = part
        return len(part)


def _open_gz(file: IO[bytes]) -> Any:
    opened: Any = gzip.GzipFile(fileobj=file)
    opened.myfileobj = file  # which closing closes with it
    return opened


def _open_zst(file: IO[bytes]) -> IO[bytes]:
    return io.BufferedReader(pa.CompressedInputStream(pa.PythonFile(file, "r"), "zstd"))


_MAGIC = {
    ".gz": re.compile(rb"\x1f\x8b"),
    ".bz2": re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"),
    ".xz": re.compile(rb"\xfd7zXZ\0"),
    ".zst": re.compile(rb"\x28\xb5\x2f\xfd"),
}
_OPENERS: dict[str, Callable[[IO[bytes]], IO[bytes]]] = {
    ".gz": _open_gz,
    ".bz2": lambda file: io.BufferedReader(_Streams(file, bz2.BZ2Decompressor)),
    ".xz": lambda file: io.BufferedReader(_Streams(file, lzma.LZMADecompressor)),
    ".zst": _open_zst,
}
COMPRESSIONS = tuple(_MAGIC)
