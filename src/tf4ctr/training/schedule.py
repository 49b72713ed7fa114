"""When validation runs, and how many epochs are trained then."""

from typing import Any

from lightning import Trainer

from tf4ctr.errors import InputError


def check_schedule(interval: Any, every_n_epochs: Any) -> None:
    """Check trainer.val_check_interval and trainer.check_val_every_n_epoch.

    Raises:
        InputError: an option is invalid, or they do not fit together.
    """
    is_steps = isinstance(interval, int) and not isinstance(interval, bool) and interval >= 1
    if not is_steps and not (isinstance(interval, float) and 0 < interval <= 1):
        raise InputError(
            f"trainer.val_check_interval is {interval}: expected a fraction of an epoch, larger than 0 and at most 1.0"
            " (0.25: four validations per epoch), or a whole number of steps (1000: one every 1000 steps)"
        )
    if every_n_epochs is None and not is_steps:
        raise InputError(
            f"trainer.check_val_every_n_epoch is null and trainer.val_check_interval is {interval}: null counts steps"
            " across epochs, so give the interval as a whole number of steps"
        )
    if every_n_epochs is not None and (not isinstance(every_n_epochs, int) or every_n_epochs < 1):
        raise InputError(
            f"trainer.check_val_every_n_epoch is {every_n_epochs}: expected a whole number of epochs, at least 1; or"
            " null to count the steps of trainer.val_check_interval across epochs"
        )


def validates_inside_epochs(trainer: Trainer) -> bool:
    """Whether validations can be at other places than the ends of epochs."""
    return trainer.check_val_every_n_epoch is None or trainer.val_check_batch != trainer.num_training_batches


def epochs_trained(trainer: Trainer) -> int | float:
    """The epochs trained so far: 0.25 after a quarter of the first one, 1 at its end.

    Four decimals; an integer at the end of an epoch.
    """
    trained, batches = trainer.fit_loop.batch_idx + 1, int(trainer.num_training_batches)
    if trained == batches:
        return trainer.current_epoch + 1
    return round(trainer.current_epoch + trained / batches, 4)


def steps_to_pause(trainer: Trainer, batch_idx: int) -> int:
    """Steps after batch `batch_idx` until a validation or the end of the epoch.

    0 if one of them comes before the next step.
    """
    remaining = int(trainer.num_training_batches) - (batch_idx + 1)
    every_n_epochs, interval = trainer.check_val_every_n_epoch, trainer.val_check_batch
    if not trainer.enable_validation or not isinstance(interval, int):
        return remaining
    if every_n_epochs is None:  # the interval counts the steps across epochs
        return min(remaining, -(trainer.fit_loop.total_batch_idx + 1) % interval)
    if (trainer.current_epoch + 1) % every_n_epochs:
        return remaining
    return min(remaining, -(batch_idx + 1) % interval)
