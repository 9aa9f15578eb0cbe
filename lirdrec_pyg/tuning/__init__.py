"""The search for good settings by validation figures."""

from lirdrec_pyg.tuning.space import Range, Space
from lirdrec_pyg.tuning.study import Study, TrialResult, TuneHooks, tune

__all__ = ["Range", "Space", "Study", "TrialResult", "TuneHooks", "tune"]
