"""Interface compatible with WeightWatcher: ``import layerscope.weightwatcher as ww``.

Layer ids, column names and definitions are those of weightwatcher 0.7.7. Where weightwatcher 0.7.7 has a defect, the
value here is the corrected one; docs/howto/weightwatcher.md lists all such differences. An unsupported argument raises
:class:`~layerscope.errors.UsageError`; no argument is silently ignored.
"""

from layerscope.weightwatcher.names import *  # noqa: F403  WeightWatcher's constants, such as ww.PL
from layerscope.weightwatcher.watcher import WeightWatcher as WeightWatcher
