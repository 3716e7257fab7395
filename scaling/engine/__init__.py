"""The one verb of execution: an ordered, windowed map of pure functions.

Results come in task order, at most ``window`` tasks are in flight, and no result is
handed over twice; so whoever folds the results gets the same bytes for any number of
threads or workers. A task is drawn when the consumer has done with the result that made room for
it, and not before: with a window of w, what a task is made of may depend on all results
but the last w - 1. That number, the staleness of an iterative algorithm, is then a
property of the plan and not of the machine.
"""

from tigon.kernels.threads import available_threads
from tigon.scaling.engine.cluster import ClusterEngine, ClusterError
from tigon.scaling.engine.connecting import Cluster
from tigon.scaling.engine.threads import ThreadEngine, threads_of

__all__ = [
    "Cluster",
    "ClusterEngine",
    "ClusterError",
    "ThreadEngine",
    "available_threads",
    "threads_of",
]
