"""The feature store: a folder of Parquet shards under one manifest (the names that other parts use)."""

from .manifest import MANIFEST, read_manifest
from .shards import Failure, ShardRows
from .store_reader import FeatureStore
from .store_writer import ExistingRows, FeatureStoreWriter

__all__ = [
    "MANIFEST",
    "ExistingRows",
    "Failure",
    "FeatureStore",
    "FeatureStoreWriter",
    "ShardRows",
    "read_manifest",
]
