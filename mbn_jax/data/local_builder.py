"""What all TFDS builders here share: their features, and that nothing is downloaded."""

import os
from typing import Any

import numpy as np
import tensorflow_datasets as tfds


class LocalBuilder(  # type: ignore[call-arg]
    tfds.core.DatasetBuilder, skip_registration=True
):
    """A builder whose images are on this machine, or are made on it."""

    def download_and_prepare(self, **kwargs: Any) -> None:
        """Prepares the data set if it is not there yet; arguments as in TFDS."""
        if os.path.exists(self.data_dir):
            super().download_and_prepare(**kwargs)
            return
        # No bucket has to be asked for a ready-made copy.
        kwargs.setdefault(
            "download_config", tfds.download.DownloadConfig(try_download_gcs=False)
        )
        # TFDS would show a bar without a total for every split, and write it into log
        # files.
        tfds.display_progress_bar(False)
        try:
            super().download_and_prepare(**kwargs)
        finally:
            tfds.display_progress_bar(True)

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    # JPEG would be used for arrays; files keep their own encoding.
                    "image": tfds.features.Image(
                        shape=(None, None, 3), encoding_format="jpeg"
                    ),
                    "identity": np.int32,
                    "camera": np.int32,
                    "modality": np.int32,
                    "name": tfds.features.Text(),
                }
            ),
            supervised_keys=None,
        )

    def _log_download_bytes(self) -> None:
        """Keeps TFDS from announcing a download: there is none."""

    def _log_download_done(self) -> None:
        """As above; the progress bar has said that the images are there."""
