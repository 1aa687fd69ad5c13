"""The interaction log, cleaned and split: what every model is trained and measured on."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import polars as pl

from .cleaning import CleanLog, clean
from .config import InteractionsConfig
from .errors import InputError
from .pairs import Pairs
from .splits import COLD_SPLITS, SPLITS, check_no_leak, choose_cold_items, split_labels

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """Ids (of their own type; position = user_idx, item_idx), splits, and an account of what was dropped."""

    user_ids: pl.Series  # ascending
    item_ids: pl.Series  # catalogue order, or ascending ids of the log without a catalogue
    splits: dict[str, Pairs]  # train, validation, test; with cold items also validation_cold and test_cold
    withheld_items: np.ndarray  # item_idx of the items in the cold splits, ascending
    report: dict[str, int]
    train_times: np.ndarray | None = None  # (n,) of the pairs of train; None: the log has no times

    @property
    def n_users(self) -> int:
        return len(self.user_ids)

    @property
    def n_items(self) -> int:
        return len(self.item_ids)

    def evaluable_users(self, split: str) -> np.ndarray:
        """The user_idx, ascending, with interactions in `split` and in train."""
        return np.intersect1d(self.splits[split].users(), self.splits["train"].users(), assume_unique=True)


def prepare(log_table: pl.DataFrame, catalog_ids: pl.Series | None, config: InteractionsConfig) -> Dataset:
    """Clean and split a log with one row per interaction.

    With `cold_items`, a random share of the items that have interactions is withheld: the interactions of one
    half of these items make up validation_cold, of the other test_cold, and none is in another split. A user
    with one interaction is in train only, unless times or a column decide. Held-out users without
    a training interaction stay in the splits (`report["cold_users"]` counts them) but are not evaluable.

    Raises InputError for what `cleaning.clean` refuses, for a pair in two splits, and when a split that was
    asked for has no user that can be evaluated.
    """
    clean_log = clean(log_table, catalog_ids, config)
    splits, withheld, train_times = _split(clean_log, config)
    check_no_leak(splits, clean_log.user_ids, clean_log.item_ids)
    report = clean_log.report | {"cold_users": _count_cold_users(splits)}
    dataset = Dataset(clean_log.user_ids, clean_log.item_ids, splits, withheld, report, train_times)
    _require_evaluable(dataset, config)
    sizes = ", ".join(f"{name} {len(pairs)}" for name, pairs in splits.items())
    log.info("%d users, %d items; %s", dataset.n_users, dataset.n_items, sizes)
    log.info("interactions: %s", ", ".join(f"{name} {count}" for name, count in report.items()))
    return dataset


def _split(
    clean_log: CleanLog, config: InteractionsConfig
) -> tuple[dict[str, Pairs], np.ndarray, np.ndarray | None]:
    """The splits, the withheld items, and the times of train; random parts depend on the seed, not on the
    order of the log."""
    users, items, times = clean_log.user_idx, clean_log.item_idx, clean_log.times
    cold_rng, split_rng = np.random.default_rng([config.seed, 0]), np.random.default_rng([config.seed, 1])
    cold = [np.empty(0, dtype=np.int64)] * len(COLD_SPLITS)
    if config.cold_items > 0:
        by_id = clean_log.item_ids.arg_sort().to_numpy()  # a reordered catalogue withholds the same items
        used = np.bincount(items, minlength=len(by_id)) > 0
        cold = choose_cold_items(by_id[used[by_id]], config.cold_items, cold_rng)
    cold_label = np.full(len(clean_log.item_ids), -1, dtype=np.int8)
    for label, chosen in enumerate(cold):
        cold_label[chosen] = label
    row_cold = cold_label[items]
    warm = row_cold < 0
    labels = clean_log.labels
    if labels is None:
        labels = np.full(len(users), -1, dtype=np.int8)
        labels[warm] = split_labels(users[warm], None if times is None else times[warm], config, split_rng)
    masks = {name: warm & (labels == label) for label, name in enumerate(SPLITS)}
    if config.cold_items > 0:
        masks |= {name: row_cold == label for label, name in enumerate(COLD_SPLITS)}
    splits = {name: Pairs(users[mask], items[mask]) for name, mask in masks.items()}
    return splits, np.sort(np.concatenate(cold)), None if times is None else times[masks["train"]]


def _count_cold_users(splits: dict[str, Pairs]) -> int:
    held_out = np.unique(np.concatenate([pairs.users() for name, pairs in splits.items() if name != "train"]))
    return len(np.setdiff1d(held_out, splits["train"].users(), assume_unique=True))


def _require_evaluable(dataset: Dataset, config: InteractionsConfig) -> None:
    if not len(dataset.splits["train"]):  # only a column can do that: the other splits refuse it themselves
        raise InputError(
            f"interactions: the training split is empty; label rows of the column '{config.split_column}' as "
            "'train', of items that cold_items does not withhold"
        )
    shares: dict[str, float] = dict(zip(SPLITS, config.ratios, strict=True))
    for name, pairs in dataset.splits.items():
        if len(pairs) and not len(dataset.evaluable_users(name)):
            raise InputError(
                f"interactions: all {len(pairs.users())} users of '{name}' are cold: none has a training "
                f"interaction, so nobody can be evaluated. {_against_cold_users(name)}"
            )
        if not len(pairs) and config.split == "column":
            log.warning("the split column has no '%s' interactions", name)
        elif not len(pairs) and (config.split == "leave-one-out" or shares.get(name)):
            raise InputError(
                f"interactions: '{name}' is empty: {_why_empty(name, shares[name], config.split)}"
            )


def _against_cold_users(name: str) -> str:
    if name in COLD_SPLITS:
        return "Lower interactions.cold_items, or change interactions.seed."
    return "Use split = 'ratio' or 'leave-one-out', which leave every user a training interaction."


def _why_empty(name: str, share: float, split: str) -> str:
    """What a split that was asked for would have needed, in the settings of its kind alone."""
    if split == "leave-one-out":
        needed = 3 if name == "validation" else 2
        return (
            f"split = 'leave-one-out' takes it from users with at least {needed} interactions, and there is "
            "none. Use a longer log, or split = 'temporal'."
        )
    if split == "temporal":
        return (
            f"no timestamp falls into its share of {share} in interactions.ratios: the log is short, or many "
            "interactions share one time. Raise that share, or use split = 'ratio'."
        )
    return (
        f"no user has enough interactions for its share of {share} in interactions.ratios. Raise that share, "
        "or use split = 'leave-one-out' or a longer log."
    )
