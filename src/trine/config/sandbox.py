"""What code under test may use, and how far tests believe it."""

from typing import Literal

from trine.config.base import Config, PositiveBytes, PositiveFloat, PositiveInt

MIB = 2**20


class Limits(Config):
    """What a piece of code may use in the sandbox, and what is asked of the isolation."""

    seconds: PositiveFloat = 10.0
    """by the clock, for the code and all its tests; on a busy machine give more, cpu_seconds ends endless loops"""
    cpu_seconds: PositiveInt = 5
    """of processor time, for each process"""
    memory: PositiveBytes = 512 * MIB
    """address space of each process; Python itself takes about 20 MiB of it"""
    output: PositiveBytes = MIB // 16
    """standard output and error together; more than that ends the run"""
    files: PositiveBytes = 16 * MIB
    """all files together that the code has written, which lie in memory"""
    processes: PositiveInt = 1
    """at a time, the first one included; needs isolation `namespaces` if it is more than 1, and threads then count as
    processes. With 1 no process can be started, and 31 threads"""
    objects: bool = False
    """tests believe what the code's own objects say of themselves (attributes, methods, operators), and see changes of
    the lists that they pass: for tests of classes. Without it plain values alone count, and other objects fail"""
    isolation: Literal["namespaces", "landlock", "none"] = "landlock"
    """the least that the kernel has to offer, else nothing is run: namespaces (sees no file, process or network of the
    machine), landlock (opens no file but Python's library, no network, no process), none (limits alone hold: only for
    code that you would run yourself)"""
