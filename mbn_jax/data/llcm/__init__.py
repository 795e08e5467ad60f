"""LLCM: nine cameras, each of which sees visible and near-infrared light at night.

The builder is `llcm_dataset_builder.Builder`; `tree.scan` reads the folders. This file
imports neither, so that the package stays light.
"""
