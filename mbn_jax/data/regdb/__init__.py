"""RegDB: 412 people, ten visible and ten thermal images of each, and ten splits.

The builder is `regdb_dataset_builder.Builder`; `tree.scan` reads the folders. This file
imports neither, so that the package stays light.
"""
