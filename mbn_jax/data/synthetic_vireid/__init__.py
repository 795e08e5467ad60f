"""Synthetic pedestrians in two or three modalities, rendered by NumPy and OpenCV.

`config.config_from_name` returns a configuration and `render.render` an image of it.
This file imports neither, so that the package stays light.
"""
