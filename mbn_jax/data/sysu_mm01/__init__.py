"""SYSU-MM01: six cameras, two of them near-infrared, and 491 people.

The builder is `sysu_mm01_dataset_builder.Builder`; `tree.scan` reads the folders. This
file imports neither, so that the package stays light.
"""
