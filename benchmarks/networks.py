"""The table in docs/networks.md: what each member of each family is and how it is tuned.

    python -m benchmarks.networks > table.md

Nothing is trained or downloaded: networks are built without memory. A test compares the page.
"""
import argparse
from types import SimpleNamespace

import timm
import torch

from config import BACKBONES, SCALES, OptimConfig
from modeling.network import drop_path_of
from modeling.optim import parameter_groups, peak_lr, traits_named
from modeling.weights import licence_of, without_weights

BATCH_SIZE = 40      # of 1,570 images
# fine-tuning rates of the same network or its class, with the batch if it is known
PUBLISHED = {
    "convnext_large_mlp": "AdamW 5e-5 at 512, layer decay 0.8 [1]",
    "swin_large_patch4_window12_384": "AdamW 2e-5 at 512 [2]; 5e-6 at 64 [3]",
    "beit_large_patch16_384": "AdamW 2e-5 at 512, layer decay 0.9 [4]",
    "tf_efficientnetv2_xl": "RMSProp 5e-4 at 512 [5]",
    "maxvit_large_tf_384": "AdamW 5e-5 at 512 [6]",
    "vit_large_patch16_384": "SGD 0.03 at 512 [7]",
}
HEADER = ("| scale | network and its tag | licence | million parameters | peak rate | first layers "
          "| stochastic depth | published rate |\n|---|---|---|---|---|---|---|---|")


def row(scale, name):
    """The line of one member."""
    backbone = without_weights(name)
    cfg = timm.get_pretrained_cfg(name)
    plain = name.split(".")[0]
    optim = OptimConfig(batch_size=BATCH_SIZE)
    network = SimpleNamespace(backbone=backbone, head=torch.nn.Linear(1, 1))
    peak = peak_lr(network, optim, pretrained=True)
    least = min(group["lr_scale"] for group in parameter_groups(network, optim, pretrained=True))
    depth = drop_path_of(name) if scale in ("large", "base") else 0.0
    return (f"| {scale} | {plain}.{cfg.tag} | {licence_of(name)} "
            f"| {traits_named(name).n_parameters / 1e6:.0f} | {peak:.1e} | {100 * least:.0f} % "
            f"| {depth:g} | {PUBLISHED.get(plain, '-')} |")


def table():
    """The lines of the table."""
    rows = [row(scale, names[i]) for i, scale in enumerate(SCALES)
            for names in BACKBONES.values()]
    return [*HEADER.split("\n"), *rows]


def main():
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    print("\n".join(table()))


if __name__ == "__main__":
    main()
