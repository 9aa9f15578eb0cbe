from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lirdrec_pyg.training import EpochResult, Trainer


class Callback:
    """Follows long work, and may stop it. Every method does nothing by default; override those of interest.

    Training calls the first five, :func:`~lirdrec_pyg.experiments.tune` also those of trials, and encoding features
    those of tasks.
    """

    def on_fit_start(self, trainer: "Trainer") -> None:
        """Called before the first epoch of this training.

        ``trainer.result.history`` already has the epochs of a race, or of the training that is resumed;
        :meth:`on_epoch_end` is not called for them.
        """

    def on_step_end(self, epoch: int, step: int) -> None:
        """Called after each step with epoch and step, both counted from 1."""

    def on_epoch_end(self, result: "EpochResult") -> None:
        """Called after each epoch, while the model holds the weights of that epoch."""

    def should_stop(self) -> bool:
        """Return whether to stop; asked before each epoch, after each step, and while a linear branch is chosen."""
        return False

    def on_fit_end(self, recommender: Any) -> None:
        """Called with the trained and evaluated :class:`~lirdrec_pyg.Recommender`, once its run is written."""

    def on_trial_start(self, number: int, settings: dict[str, Any]) -> None:
        """Called before the training of a trial."""

    def on_trial_end(self, result: Any, is_best: bool) -> None:
        """Called with the :class:`~lirdrec_pyg.experiments.TrialResult`, and whether it is the best so far."""

    def on_task_start(self, name: str, total: int, done: int = 0) -> None:
        """Called when ``total`` items are about to be processed, ``done`` of which are finished already."""

    def on_task_advance(self, count: int) -> None:
        """Called when ``count`` more items of the task are finished."""

    def on_task_end(self, name: str, record: dict[str, Any]) -> None:
        """Called with the record of a finished task, such as the provenance of a modality."""


class CallbackList(Callback):
    """Several callbacks as one; it asks to stop if any of them does."""

    def __init__(self, callbacks: Iterable[Callback] = ()) -> None:
        self.callbacks = tuple(callbacks)
        for name in vars(Callback):
            if name.startswith("on_"):
                setattr(self, name, partial(self._call_each, name))

    def _call_each(self, name: str, *args: Any) -> None:
        for callback in self.callbacks:
            getattr(callback, name)(*args)

    def should_stop(self) -> bool:
        return any(callback.should_stop() for callback in self.callbacks)
