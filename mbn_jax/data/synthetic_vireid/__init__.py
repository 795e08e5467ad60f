"""Synthetic visible-infrared pedestrians, rendered by NumPy and OpenCV.

The builder is `synthetic_vireid_dataset_builder.Builder`, the images come from
`render.render`; this file imports neither, so that the package stays light.
"""
