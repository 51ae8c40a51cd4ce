"""The best single fit as an ONNX model, its preprocessing and classes written down, checked.

    print(export_onnx(predictor.fast(), Path("docs.onnx")))      # docs.onnx and docs.json
"""
import importlib.util
import json
import logging
import warnings

import numpy as np
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from data_loader import LETTERBOX_FILL
from utils import RunError, UserError, import_extra, plain, write_json

TOLERANCE = 1e-3
RESIZE = {
    "letterbox": "scale so that the long side is S, centre on a square of colour {fill}",
    "squash": "stretch to S x S",
    "crop": "cut out the largest centred square, scale it to S x S",
}


class Exported(nn.Module):
    """images (B, 3, S, S) uint8 RGB -> probabilities (B, C) float32, as `predict.py --fast`."""

    def __init__(self, network, temperature, decode):
        super().__init__()
        self.network = network
        self.temperature = temperature
        self.decode = decode

    def forward(self, images):
        return self.decode(self.network(images) / self.temperature)


def description(predictor):
    """What someone without this repository must know to use the model."""
    data = predictor.config.data
    spec = predictor.best
    side = data.image_size_px
    return {
        "input": {
            "name": "images",
            "dtype": "uint8",
            "shape": ["batch", 3, side, side],
            "layout": "NCHW, RGB, 0..255",
        },
        "preprocessing": [
            "decode, turn by the EXIF orientation, RGB of 8 bits, transparent on white",
            f"levels of 16-bit grey images: times 255 / {predictor.white_level}",
            f"where the long side is above {predictor.long_side_px} px, shrink it to that by area "
            "averaging",
            f"S = {side}: {RESIZE[data.resize].format(fill=LETTERBOX_FILL)}; shrink by area "
            "averaging, grow bicubic",
            "mean and standard deviation are inside the model",
        ],
        "resize": data.resize,
        "image_size_px": side,
        "long_side_px": predictor.long_side_px,
        "output": {
            "name": "probabilities",
            "dtype": "float32",
            "shape": ["batch", len(predictor.classes)],
        },
        "task": predictor.task.name,
        "classes": predictor.classes,
        "class_names": predictor.class_names,
        "cuts": predictor.blend.cuts,
        "temperature": predictor.blend.temperature[spec.name],
        "fit": spec.title,
        "backbone": spec.backbone,
    }


def export_onnx(predictor, path):
    """Write the predictor's best fit to path (.onnx) and its description to path.json.

    Returns a sentence about both, with the largest difference from torch.
    """
    if predictor.best.text:
        raise UserError("--export onnx writes a network, and the run's blend has only the text "
                        "member: use predict.py with images")
    onnx = import_extra("onnx", "--export onnx")
    import_extra("onnxscript", "--export onnx")      # torch's exporter needs it
    module = Exported(predictor.network(predictor.best).cpu(),
                      predictor.blend.temperature[predictor.best.name],
                      predictor.task.decode).eval()
    facts = plain(description(predictor))
    images = coarse_noise(facts["image_size_px"])
    try:
        # attention as plain products: MaxViT's fused one does not convert
        with torch.no_grad(), quiet(), sdpa_kernel(SDPBackend.MATH):
            torch.onnx.export(module, (torch.from_numpy(images[:2]),), path, input_names=["images"],
                              dynamo=True, verbose=False, output_names=["probabilities"],
                              dynamic_shapes=({0: torch.export.Dim("batch")},), external_data=False)
    except torch.onnx.OnnxExporterError as error:
        raise RunError(
            f"torch cannot write {predictor.best.backbone} as ONNX ({str(error).splitlines()[0]}): "
            "use predict.py with images, or weights.safetensors in timm") from None
    model = onnx.load(path)
    forget_paths(model)
    onnx.helper.set_model_props(model, {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in facts.items()})
    onnx.save(model, path)
    write_json(path.with_suffix(".json"), facts)
    return f"{path} and {path.with_suffix('.json').name}: {checked(module, images, path)}"


def forget_paths(model):
    """Remove what torch notes of each part of the model: lines of the code, by absolute paths."""
    parts = [model.graph, *model.functions]
    for part in (model.graph, *model.functions):
        parts += [*part.node, *part.value_info]
    parts += [*model.graph.input, *model.graph.output, *model.graph.initializer]
    for part in parts:
        part.ClearField("metadata_props")
        part.ClearField("doc_string")


def coarse_noise(side_px):
    """Three images (3, 3, S, S) uint8 of noise in squares of 8 pixels."""
    shape = (3, 3, side_px // 8, side_px // 8)
    small = np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)
    return small.repeat(8, axis=2).repeat(8, axis=3)


class quiet(warnings.catch_warnings):
    """Without the exporter's warnings and log lines, which are about its own inside."""

    def __enter__(self):
        super().__enter__()
        warnings.simplefilter("ignore")
        self.level = logging.root.manager.disable
        logging.disable(logging.WARNING)

    def __exit__(self, *error):
        logging.disable(self.level)
        super().__exit__(*error)


@torch.inference_mode()
def checked(module, images, path):
    """Compare with torch on images (B, 3, S, S) uint8.

    RunError beyond TOLERANCE, after removing the file.
    """
    if importlib.util.find_spec("onnxruntime") is None:
        return "not compared with torch: onnxruntime is not installed (requirements-extras.txt)"
    runtime = import_extra("onnxruntime", "--export onnx")
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    got, = session.run(None, {"images": images})
    difference = float(np.abs(got - module(torch.from_numpy(images)).numpy()).max())
    if not difference <= TOLERANCE:
        path.unlink()
        raise RunError(f"the ONNX model's probabilities must be torch's to {TOLERANCE}, but differ "
                       f"by {difference:.2g}")
    return f"probabilities as torch's to {difference:.1g}"
