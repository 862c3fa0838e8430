"""What the fork server imports before its first child; `nursery` and `kdcache.tools.recode` bring
the library.

None of it is garbage, and a child that looked for garbage in it would copy all of its memory.
"""

import gc
from importlib import import_module

NAMES = (
    "nursery",
    "tiny_models",
    "kdcache.tools.recode",
    "kdcache_cli.commands",
    "kdcache.train.run",
    "timm",
    "timm.optim",
    "timm.scheduler",
    "sklearn.datasets",
)

gc.disable()
for name in NAMES:
    import_module(name)
gc.freeze()
gc.enable()
