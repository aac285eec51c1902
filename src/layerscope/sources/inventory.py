"""Names of checkpoint entries that hold optimizer state, in each format.

An entry with such a name is not a weight of the model and is ignored. The module imports nothing from the package, so
that the child process that reads HDF5 files starts quickly.
"""

from __future__ import annotations

import re

# Keys on the path to an array: at any level in a pytree, a dict or a Flax file, at the first level in Orbax.
JAX_OPTIMIZER_KEYS = frozenset({"opt_state"})
KERAS_OPTIMIZER_GROUPS = ("optimizer", "optimizer_weights")  # top-level groups of an HDF5 file
TORCH_OPTIMIZER_PREFIX = "optim"  # of a key in a pickled checkpoint, unless its value is a tensor
DCP_OPTIMIZER_PREFIXES = ("optim", "optimizer")  # of a full name in a distributed checkpoint
TENSORFLOW_OPTIMIZER_PREFIXES = ("optimizer/", "_optimizer/")  # of a key in a tensor bundle
TENSORFLOW_OPTIMIZER_ATTRIBUTE = "/.OPTIMIZER"  # anywhere in such a key: a slot variable stored next to its variable
TENSORFLOW_OPTIMIZER_NAME = re.compile(  # names of slot variables and counters in the program
    r"(.*/)?(Adam|Adam_1|Momentum|RMSProp|RMSProp_1|ExponentialMovingAverage|Adagrad|Adadelta|Ftrl|Ftrl_1"
    r"|adam_[mv]|beta[12]_power|global_step|save_counter|_CHECKPOINTABLE_OBJECT_GRAPH)(:0)?$",
    re.DOTALL,
)
