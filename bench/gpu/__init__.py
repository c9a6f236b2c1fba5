"""`make bench-gpu`: the GPU rows of the speed table and the tests marked `gpu`, in eight minutes (README.md)."""

from bench.gpu.stand_ins import install

install()
