"""Writes a trained run's weights for other runs to start from: the demo's stand-ins for ImageNet's weights.

``make weights`` trains the scale ``pretraining`` and writes the files in ``pipeline/synthetic/weights`` with this
module.
"""

import json
import sys
from pathlib import Path

from safetensors.torch import save_file

from pipeline.config.project import Project
from pipeline.stage import Outputs, run_stage
from pipeline.training.model import RETRAINED_HEADS
from pipeline.training.record import TrainingRecord, weights_to_use
from pipeline.training.starting_weights import stored_strides
from pointrend.files import atomic_output
from pointrend.weights import read_state_dict


def write_initial_weights(trained: Path, file: Path) -> None:
    """Writes the weights of a trained run, whole or not at all.

    The heads, which other runs never take from it, are left out. The others are rounded to half precision, which
    halves the file. The metadata say what the weights are: the run's configuration (``config``), the digest of its data
    (``data``) and the version of the code that trained it (``code``); and if its strides are in the 1x1 convolutions,
    that (``structure``).

    Args:
        trained: the folder of the training.
        file: the ``.safetensors`` file.

    Raises:
        FileNotFoundError, UnreadableRecordError: if there is no such training.
    """
    record, weights = TrainingRecord.read(trained), weights_to_use(trained)
    kept = {
        name: tensor.half().contiguous() if tensor.is_floating_point() else tensor
        for name, tensor in read_state_dict(weights).items()
        if not name.startswith(RETRAINED_HEADS)
    }
    metadata = {"config": record.config.model_dump_json(), "data": record.data, "code": record.code}
    if stored_strides(weights):
        metadata["structure"] = json.dumps({"stride_in_1x1": True})
    with atomic_output(file) as temporary:
        save_file(kept, temporary, metadata)
        temporary.chmod(0o644)  # safetensors writes files that only their owner can read


def main() -> None:
    run, file = sys.argv[1:]
    root = Path.cwd()
    outputs = Outputs(root, Project(root).params().scale)
    write_initial_weights(outputs.trained(run), Path(file))


if __name__ == "__main__":
    run_stage(main)
