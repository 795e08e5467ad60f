import subprocess
import sys


def test_importing_the_evaluation_loads_neither_pictures_nor_data_sets():
    heavy = ("cv2", "grain", "matplotlib", "orbax", "tensorflow", "tensorflow_datasets")
    code = (
        "import sys, mbn_jax.evaluation; "
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
