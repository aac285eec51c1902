"""The face that WeightWatcher's users know: ``import layerscope.weightwatcher as ww``.

Layer ids, column names and definitions are those of weightwatcher 0.7.7; where it has a defect the number is the right
one, and docs/howto/weightwatcher.md lists every such place. An argument that is not supported raises
:class:`~layerscope.errors.UsageError` and says so: nothing is accepted and ignored.
"""

from layerscope.weightwatcher.names import *  # noqa: F403  their constants, as ww.PL and so on
from layerscope.weightwatcher.watcher import WeightWatcher as WeightWatcher
