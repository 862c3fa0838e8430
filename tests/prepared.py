"""What a process does before it imports tests: shape checks, Hypothesis' profile, threads, garbage.

Shapes in signatures are checked here and nowhere else: the hook wraps each function of the package
as it is imported.
"""

import functools
import gc
import os
import random
import sys
import typing

import jaxtyping
import pytest
import torch
from checked import checked
from hypothesis import settings

# beartype looks at random items of containers, and would draw them from the generator that views
# are drawn from, in whichever
# thread: it gets a generator of its own
with pytest.MonkeyPatch.context() as patch:
    patch.setattr(random, "getrandbits", random.Random(0).getrandbits)
    import beartype.door

    assert beartype.door.is_bearable([0], list[int])  # imports the rest of it

# whether an object is of a protocol is asked at each checked call: Python 3.12 keeps a protocol's
# members, earlier ones look for them each time
if sys.version_info < (3, 12):
    typing._get_protocol_attrs = functools.cache(typing._get_protocol_attrs)

# the rooms are imported checked: a conftest.py imports them in its functions
assert "kdcache.runtime" not in sys.modules
# the numeric tower is PEP 484's: an int passes for a float
jaxtyping.jaxtyped = checked  # what the hook puts on every function
jaxtyping.install_import_hook(
    "kdcache",
    "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True, violation_type=TypeError))",
)

settings.register_profile("kdcache", deadline=None, max_examples=50, derandomize=True)
settings.load_profile("kdcache")

# The models are tiny: threads cost more than they bring. Subprocesses do the same, for sums depend
# on the number of threads.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"


# What is imported and collected lives to the end: half a million objects, which the collector of
# garbage need not look at again and again.
gc.disable()
