"""Write a network of this project as ONNX."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sdk.errors import TrainingError
from sdk.files import replacing
from trainer.pretrain.shape import LICENCE


def write_network(
    network: nn.Module,
    example: Tensor,
    path: Path,
    *,
    inputs: Sequence[str],
    outputs: Sequence[str],
    sizes: dict[int, Any],
) -> None:
    """Write a network, which is on the CPU, with its licence in the metadata.

    Args:
        example: an input.
        inputs, outputs: their names.
        sizes: of the input that may vary: a torch.export.Dim by dimension.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about its own internals
        program = torch.onnx.export(
            network,
            (example,),
            dynamo=True,
            verbose=False,
            opset_version=20,
            input_names=inputs,
            output_names=outputs,
            dynamic_shapes=(sizes,),
        )
    if program is None:
        raise TrainingError(f"{path}: torch {torch.__version__} did not export the network")
    program.model.metadata_props["licence"] = LICENCE
    with replacing(path) as partial_path:
        program.save(str(partial_path), external_data=False)
