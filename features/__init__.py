"""Catalogue, views, images, encoders and the Parquet feature store; knows items, never users."""
