"""The counts of a model over all its loads: they go on where those of the engine before have ended."""

from collections import Counter
from dataclasses import replace

from vram_llm.engine.activity import EngineActivity
from vram_llm.engine.recent_load import RecentRates
from vram_llm.engine.stats import EngineStats, with_earlier
from vram_llm.fleet.replica_activity import joint_histograms


def after_end(activity: EngineActivity) -> EngineActivity:
    """The activity of a model whose engine has ended: its counts, and no process, request or cell."""
    return replace(
        activity,
        pid=None,
        uptime_s=None,
        totals=with_earlier(EngineStats(), activity.totals),
        recent=RecentRates(0.0, 0.0, None, None),
        requests=(),
    )


def with_history(activity: EngineActivity, before: EngineActivity | None) -> EngineActivity:
    """The activity of an engine with the counts of those before it; None: it is the first."""
    if before is None:
        return activity
    return replace(
        activity,
        n_restarts=before.n_restarts + activity.n_restarts,
        totals=with_earlier(activity.totals, before.totals),
        histograms=joint_histograms([before.histograms, activity.histograms]),
        endings=Counter(before.endings) + Counter(activity.endings),
        longest=max(before.longest, activity.longest),
    )
