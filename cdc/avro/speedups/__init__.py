"""The inner loops of capture and appliers, as plain Python that Cython compiles to C: an optional speed-up.

Beside each module stands a .pxd that gives its names C types. Compiled (`COMPILED`; `hatch_build.py` does it), these
loops are up to four times as fast as the functions that `cdc.avro.packing` and `cdc.avro.compiled` make of source for
each table version. As Python they are slower than those, and not used: but right, so the tests run them both ways.

What they refuse, or don't know, they leave to others exactly as those functions do.
"""

from __future__ import annotations

from importlib.machinery import EXTENSION_SUFFIXES
from typing import Final

from cdc.avro.speedups import packing

COMPILED: Final = (packing.__file__ or "").endswith(tuple(EXTENSION_SUFFIXES))
