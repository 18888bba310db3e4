"""Makes the files in qtl_utils/data/shipped/: features of the ants and bees, and two small backbones for the digits.

    python -m qtl_utils.training.ship ants_bees --data-dir hymenoptera_data --weights squeezenet1_1.safetensors
    python -m qtl_utils.training.ship tiny_vit
    python -m qtl_utils.training.ship tiny_resnet

Each writes NAME.safetensors and its card NAME.json, which says what the file holds and how it was made. Without
--data-dir and --weights the images and the ImageNet weights are downloaded.
"""

import argparse
import hashlib
import json
import platform
import sys
from pathlib import Path

import numpy as np
import PIL
import safetensors.numpy
import safetensors.torch
import torch
import torchvision

from qtl_utils.data.dataset import load_pixels
from qtl_utils.data.datasets import SAMPLE_KEYS, load_dataset
from qtl_utils.models import backbones
from qtl_utils.study import shipped_files
from qtl_utils.study.config import BackboneConfig
from qtl_utils.study.paths import atomic
from qtl_utils.training.sources import backbone_state, train_source

ANTS_BEES = {"model": "squeezenet1_1", "image_size": 224}
IMAGE_SIZE = 32  # pixels, of the digits
BACKBONES = {  # how the two are trained: on every image of the digits 0-4
    "tiny_vit": BackboneConfig(model="tiny_vit", init="source", source_epochs=30),
    "tiny_resnet": BackboneConfig(model="tiny_resnet", init="source", source_epochs=12),
}
HELD_OUT = 5  # every fifth image, of the training whose accuracy the card tells


def features_of_ants_and_bees(data_dir: str | None, weights: str | None) -> tuple[dict[str, np.ndarray], dict]:
    """The features (397, 512) of all images, and their card."""
    data = load_dataset("hymenoptera", data_dir=data_dir, cache_dir=Path("data"))
    model = ANTS_BEES["model"]
    size = ANTS_BEES["image_size"]
    backbone = backbones.load_backbone(model, size, "file" if weights else "imagenet", weights=weights)
    features = backbones.compute_features(backbone, load_pixels(data, size)).numpy()
    card = {
        "kind": shipped_files.FEATURES,
        "what": "Features of the 397 ants and bees of the PyTorch transfer-learning tutorial, float32 (397, 512)",
        **ANTS_BEES,
        "how": "short side to 256 px, centre 224 px, ImageNet mean and deviation, global average of the last feature "
        "maps; computed in float64 on a CPU and rounded",
        "weights": "ImageNet, torchvision's SqueezeNet1_1_Weights.IMAGENET1K_V1",
        "weights_sha256": backbones.digest(*backbone.network.state_dict().values()),
        "classes": list(data.classes),
    }
    rows = zip(data.ids, data.given, data.labels.tolist(), data.hashes, strict=True)
    return {"features": features}, card | {"samples": [dict(zip(SAMPLE_KEYS, row, strict=True)) for row in rows]}


def source_backbone(name: str) -> tuple[dict[str, np.ndarray], dict]:
    """The weights of a backbone trained on the digits 0-4, cut before its classifier, and their card."""
    config = BACKBONES[name]
    state = backbone_state(train_source(config, IMAGE_SIZE))
    card = {
        "kind": shipped_files.WEIGHTS,
        "what": f"{name} without its classifier, trained on scikit-learn's handwritten digits 0-4",
        "image_size": IMAGE_SIZE,
        "parameters": sum(value.numel() for key, value in state.items() if not key.endswith(backbones.BUFFERS)),
        "settings": config.model_dump(),
        "source_accuracy": round(held_out_accuracy(config), 4),
        "source_accuracy_is": "of the same training without every fifth image, on these",
    }
    return {key: value.numpy() for key, value in state.items()}, card


def held_out_accuracy(config: BackboneConfig) -> float:
    """The accuracy of the source training on every HELD_OUT-th image, which it then does without."""
    data = load_dataset(config.source_dataset)
    held_out = np.arange(len(data)) % HELD_OUT == 0
    model = train_source(config, IMAGE_SIZE, rows=np.flatnonzero(~held_out))
    logits = model.eval()(torch.from_numpy(load_pixels(data, IMAGE_SIZE)[held_out]))
    return float((logits.argmax(1).numpy() == data.labels[held_out]).mean())


def write(name: str, arrays: dict[str, np.ndarray], card: dict, folder: Path = shipped_files.FOLDER) -> None:
    """Writes `folder`/NAME.safetensors and NAME.json; the card gets the file's hash, the command and versions."""
    path = folder / f"{name}.safetensors"
    with atomic(path) as part:
        safetensors.numpy.save_file({key: np.array(value, order="C") for key, value in arrays.items()}, part)
    versions = {module.__name__: module.__version__ for module in (torch, torchvision, np, PIL)}
    card = {
        "name": name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "made_by": f"python -m qtl_utils.training.ship {name}",
        "versions": {"python": platform.python_version()} | versions,
    } | card
    samples = card.pop("samples", None)
    text = json.dumps(card, indent=1, ensure_ascii=False)
    if samples:  # one line each
        lines = ",\n".join("  " + json.dumps(sample, ensure_ascii=False) for sample in samples)
        text = f'{text.removesuffix("}").rstrip()},\n "samples": [\n{lines}\n ]\n}}'
    with atomic(folder / f"{name}.json") as part:
        part.write_text(text + "\n", encoding="utf-8")


def main(arguments: list[str] | None = None) -> None:
    """Makes one of the files again."""
    parser = argparse.ArgumentParser(prog="python -m qtl_utils.training.ship", description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=["ants_bees", *BACKBONES])
    parser.add_argument("--data-dir", help="the folder hymenoptera_data, for ants_bees")
    parser.add_argument("--weights", help="ImageNet weights of SqueezeNet 1.1, for ants_bees")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if options.name == "ants_bees":
        arrays, card = features_of_ants_and_bees(options.data_dir, options.weights)
    else:
        arrays, card = source_backbone(options.name)
    write(options.name, arrays, card)
    print(shipped_files.path_of(options.name))


if __name__ == "__main__":
    sys.exit(main())
