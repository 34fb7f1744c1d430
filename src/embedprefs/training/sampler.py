"""The host's sampler protocol around `embedprefs.training.batches`: full batches without duplicates, no row lost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from sentence_transformers.base.sampler import DefaultBatchSampler

from embedprefs.training.batches import Batches, EpochPlan, split_texts

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Generator

__all__ = ["CoveringBatchSampler"]


class CoveringBatchSampler(DefaultBatchSampler):  # type: ignore[misc]  # the host is untyped
    """Batches in which no two rows share a text, while every row is used once an epoch and batches stay full.

    Give the class to the host: `SentenceTransformerTrainingArguments(batch_sampler=CoveringBatchSampler)`. The batches
    of an epoch follow from the seed and the epoch's number alone, so that a resumed run has the same.

    Where more rows share one text than there are full batches, there are as many batches as that text has rows, all
    nearly equally large: more cannot be without losing rows. `embedprefs train --plan` shows their size.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        drop_last: bool,
        valid_label_columns: list[str] | None = None,
        generator: Generator | None = None,
        seed: int = 0,
    ) -> None:
        """Take what the host's trainer gives; see `DefaultBatchSampler`.

        Args:
            dataset: Its columns of texts, all but labels, are what rows of a batch may not share; negatives, in columns
                whose names begin with "negative", may be shared with each other.
            batch_size: The most rows of a batch.
            drop_last: Whether all batches must have one size, as several processes need; rows beyond it are lost.
            valid_label_columns: Columns that hold no texts.
            generator: Not used: chance comes from `seed` and the epoch.
            seed: The same seed gives the same batches.
        """
        super().__init__(dataset, batch_size, drop_last, valid_label_columns, generator, seed)
        labels = {*(valid_label_columns or ()), "dataset_name"}
        columns: dict[str, Any] = {name: dataset[name] for name in dataset.column_names if name not in labels}
        own, negatives = split_texts(columns)
        self._batches = Batches(own, batch_size, seed=seed, negatives=negatives)
        self._length = len(self._plan(0).batches)
        if drop_last and self._length:
            # What shards batches over processes counts on every batch having this size.
            self.batch_size = len(self._plan(0).batches[0])

    def _plan(self, epoch: int) -> EpochPlan:
        plan = self._batches.epoch(epoch)
        return plan.in_equal_parts(self._batches.batch_size) if self.drop_last else plan

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the row numbers of each batch of the epoch that `set_epoch` named."""
        for batch in self._plan(self.epoch).batches:
            yield list(batch)

    def __len__(self) -> int:
        """Return the number of batches, the same in every epoch."""
        return self._length
