"""Detectors for other programs: plain detectron2, TorchScript and ONNX, each checked against the detector itself."""

from __future__ import annotations

import importlib.util
import io
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from cuts3d_cli.detector.checkpoints import write_torch
from cuts3d_cli.detector.detectron2_config import config_tree, to_yaml
from cuts3d_cli.detector.loading import StoredDetector
from cuts3d_cli.errors import Cuts3dError, OccupiedError, Setting
from cuts3d_cli.files import atomic_file, atomic_write_bytes, check_folder, make_folder
from cuts3d_cli.wording import Say, cause

if TYPE_CHECKING:
    from detectron2.modeling.meta_arch import GeneralizedRCNN
    from torch import Tensor

Target = Literal["detectron2", "torchscript", "onnx"]
Outputs = tuple["Tensor", ...]
"""Boxes (N, 4), scores (N,), classes (N,) and masks (N, S, S) of one photo, as `OUTPUTS` describes them."""

OUTPUTS: Mapping[str, str] = {
    "boxes": "(N, 4) float32: x0, y0, x1, y1 in pixels of the resized photo",
    "scores": "(N,) float32 in [0, 1], the highest first",
    "classes": "(N,) int64, from 0",
    "masks": "(N, S, S) float32 in [0, 1], each over its box",
}
_FILES: Mapping[Target, Sequence[str]] = {
    "detectron2": ("model.pth", "config.yaml"),
    "torchscript": ("model.torchscript", "model.json"),
    "onnx": ("model.onnx", "model.json"),
}
_OPSET = 17
_LEFT_OUT = "resizing the photo, and pasting the masks into it"
_SIZES = ((256, 320), (331, 224))
"""(height, width) of the images on which an export is compared; the first is the one that it is traced with."""
_BOX, _VALUE = 0.5, 1e-3
"""Detections are the same if no corner differs by more pixels, nor score and mask by more than that."""
_LEAST_SAME = 0.9


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How the detections of an export compare with those of the detector, over some images.

    Attributes:
        detections: of the detector, or of the export where that has more.
        same: how many the two share.
        box: largest difference of a corner among these, pixels.
        score: largest difference of a score among these.
        mask: largest difference of a pixel's mask among these.
    """

    detections: int
    same: int
    box: float
    score: float
    mask: float

    def __str__(self) -> str:
        if not self.detections:
            return "no image of the test has a detection over the score, so this says nothing of how they compare"
        if self.same == self.detections and not any((self.box, self.score, self.mask)):
            return f"equal to the bit in {self.detections} detections"
        differ = f"boxes by {self.box:.1g} pixels, scores by {self.score:.1g}, masks by {self.mask:.1g}"
        return f"{self.same} of {self.detections} detections are the same, and differ by at most: {differ}"


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written.

    Attributes:
        files: the network first.
        comparison: with the detector; None where nothing could run the export.
    """

    files: Sequence[Path]
    comparison: Comparison | None

    def to_json(self) -> dict[str, Any]:
        """Return the facts as plain JSON values."""
        compared = None if self.comparison is None else vars(self.comparison)
        return {"files": [str(path) for path in self.files], "compared": compared}


def export_detector(stored: StoredDetector, *, to: Target, out: Path, overwrite: bool, say: Say) -> Exported:
    """Write a detector for another program, and compare what that computes with what the detector does.

    Args:
        stored: the detector, with the settings at test time that go along.
        to: "detectron2" for a .pth and a YAML file that its `DefaultPredictor` takes; "torchscript" or "onnx" for the
            network alone, as detectron2 traces it, with a JSON file that describes input and outputs.
        out: folder of the files; it is created.
        overwrite: replace such files that are there.
        say: prints a status line.

    Raises:
        OccupiedError: one of the files is there already.
        WeightsError: the weights do not fit the detector's network.
        FileError: a file cannot be written.
        Cuts3dError: torch cannot convert the network, or the export computes something else; then nothing is written.
    """
    files = [out / name for name in _FILES[to]]
    there = [path for path in files if path.exists()]
    if there and not overwrite:
        raise OccupiedError(f"{there[0]} already exists: choose another folder, or ", Setting("overwrite", True))
    check_folder(out, setting="out")
    network = stored.build()
    if to == "detectron2":
        return _to_detectron2(stored, network, files)
    images = [_image(size) for size in _SIZES]
    # Convert, and run what came out.
    data, run = _traced(network, images[0]) if to == "torchscript" else _onnx(network, images[0])
    comparison = None
    if run is None:
        say("the export is not compared with the detector: onnxruntime is not installed")
    else:
        comparison = _compare(_reference(network), run, images)
    # Write the network and its description.
    settings = stored.inference
    description = {
        "format": to,
        "detector": str(stored.architecture),
        "input": {
            "name": "image",
            "shape": [3, "height", "width"],
            "values": f"float32 in [0, 255], {stored.conventions.colours}",
            "shorter side": settings.min_size or "any",
            "longest side": settings.max_size,
        },
        "outputs": OUTPUTS,
        "not included": _LEFT_OUT,
        "score over": settings.score,
        "nms": settings.nms,
        "most detections": settings.detections,
    }
    make_folder(out)
    atomic_write_bytes(files[0], data)
    atomic_write_bytes(files[1], json.dumps(description, indent=2).encode() + b"\n")
    say(f"not in the file: {_LEFT_OUT}; {files[1]} describes input and outputs")
    return Exported(files=files, comparison=comparison)


def _to_detectron2(stored: StoredDetector, network: GeneralizedRCNN, files: Sequence[Path]) -> Exported:
    """Write weights and a configuration, and compare the network that plain detectron2 builds of them.

    Raises:
        Cuts3dError: it computes something else; then nothing is written.
    """
    from detectron2.modeling import build_model

    from cuts3d_cli.detector.detectron2_config import read_config

    weights, config = files
    tree = config_tree(stored.architecture, stored.conventions, stored.inference)
    tree["MODEL"]["WEIGHTS"] = str(weights.absolute())
    make_folder(config.parent)
    with atomic_file(config) as settings, atomic_file(weights) as file:
        write_torch(file, {"model": network.state_dict()})
        settings.write(to_yaml(tree))
        for written in (file, settings):
            written.flush()
        # What detectron2 makes of the two files, before they take their names.
        read = read_config(Path(settings.name), say=lambda line: None)
        read.MODEL.DEVICE = "cpu"
        theirs = build_model(read).eval()
        theirs.load_state_dict(torch.load(file.name, map_location="cpu", weights_only=True)["model"])
        comparison = _compare(_reference(network), _reference(theirs), [_image(size) for size in _SIZES])
    return Exported(files=files, comparison=comparison)


def _image(size: tuple[int, int]) -> Tensor:
    """Return an image of coloured blocks and noise, (3, height, width) float32 in [0, 255]: the same at each call."""
    generator = torch.Generator().manual_seed(size[0])
    blocks = torch.rand((1, 3, 5, 7), generator=generator)
    image = torch.nn.functional.interpolate(blocks, size, mode="nearest")[0]
    return (255 * (0.8 * image + 0.2 * torch.rand((3, *size), generator=generator))).round()


def _reference(network: GeneralizedRCNN) -> Callable[[Tensor], Outputs]:
    """Return what runs a network itself."""

    def run(image: Tensor) -> Outputs:
        with torch.no_grad():
            return _outputs(network, [{"image": image}])

    return run


def _outputs(network: GeneralizedRCNN, inputs: Sequence[Mapping[str, Any]]) -> Outputs:
    """Return the outputs of a network for one image, before masks are pasted."""
    (found,) = network.inference(inputs, do_postprocess=False)
    return found.pred_boxes.tensor, found.scores, found.pred_classes, found.pred_masks[:, 0]


def _adapter(network: GeneralizedRCNN, image: Tensor) -> torch.nn.Module:
    """Return the network with a tensor as its input and tensors as its outputs, by detectron2's own adapter."""
    from detectron2.export import TracingAdapter

    adapter: torch.nn.Module = TracingAdapter(network, [{"image": image}], _outputs)
    return adapter.eval()


def _traced(network: GeneralizedRCNN, image: Tensor) -> tuple[bytes, Callable[[Tensor], Outputs]]:
    """Return a network as TorchScript, and what runs that.

    Raises:
        Cuts3dError: torch cannot trace it.
    """
    buffer = io.BytesIO()
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of the tracer, on what is the same for every image
            torch.jit.save(torch.jit.trace(_adapter(network, image), (image,)), buffer)
            buffer.seek(0)
            script = torch.jit.load(buffer)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise Cuts3dError(f"torch {torch.__version__} cannot trace this detector: {cause(error)}") from error

    def run(image: Tensor) -> Outputs:
        with torch.no_grad():
            return tuple(script(image))

    return buffer.getvalue(), run


def _onnx(network: GeneralizedRCNN, image: Tensor) -> tuple[bytes, Callable[[Tensor], Outputs] | None]:
    """Return a network as ONNX, and what runs that; None without onnxruntime.

    Raises:
        Cuts3dError: torch cannot convert it.
    """
    buffer = io.BytesIO()
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            # torch's exporter of traces: the newer one cannot follow the number of detections.
            torch.onnx.export(
                _adapter(network, image),
                (image,),
                buffer,  # type: ignore[arg-type]  # this exporter takes it, its signature is that of both
                dynamo=False,
                opset_version=_OPSET,
                input_names=["image"],
                output_names=list(OUTPUTS),
                dynamic_axes={"image": {1: "height", 2: "width"}, **{name: {0: "detections"} for name in OUTPUTS}},
            )
    except (RuntimeError, TypeError, AttributeError, ImportError) as error:
        raise Cuts3dError(f"torch {torch.__version__} cannot convert this detector: {cause(error)}") from error
    if importlib.util.find_spec("onnxruntime") is None:
        return buffer.getvalue(), None
    import onnxruntime

    session = onnxruntime.InferenceSession(buffer.getvalue(), providers=["CPUExecutionProvider"])

    def run(image: Tensor) -> Outputs:
        return tuple(torch.from_numpy(item) for item in session.run(list(OUTPUTS), {"image": image.numpy()}))

    return buffer.getvalue(), run


def _compare(
    expected: Callable[[Tensor], Outputs], found: Callable[[Tensor], Outputs], images: Sequence[Tensor]
) -> Comparison:
    """Compare detections image by image. Rounding may swap the order of two, so the nearest ones are compared.

    Raises:
        Cuts3dError: too many of them differ.
    """
    count, same = 0, 0
    largest = [0.0, 0.0, 0.0]
    for image in images:
        ours, theirs = expected(image), found(image)
        count += max(len(ours[0]), len(theirs[0]))
        for box, score, label, mask in zip(*ours, strict=True):
            if not len(theirs[0]):
                continue
            # The nearest detection of the same class.
            far = (theirs[0] - box).abs().amax(dim=1) + (theirs[1] - score).abs() + (theirs[2] != label) * 1e9
            nearest = int(far.argmin())
            differences = [
                float((theirs[0][nearest] - box).abs().max()),
                float((theirs[1][nearest] - score).abs()),
                float((theirs[3][nearest] - mask).abs().max()),
            ]
            if theirs[2][nearest] == label and differences[0] <= _BOX and max(differences[1:]) <= _VALUE:
                same += 1
                largest = [max(pair) for pair in zip(largest, differences, strict=True)]
    if same < _LEAST_SAME * count:
        raise Cuts3dError(
            f"the export shares {same} of {count} detections with the detector in a test: it is not to be used"
        )
    return Comparison(detections=count, same=same, box=largest[0], score=largest[1], mask=largest[2])
