"""What computes here: versions of Python and of packages, system, GPU. Every stage keeps it.

    changes(makers_of(stage.folder)[0], here())      # [("torch", "2.11.0", "2.15.0")]
"""
import functools
import importlib.metadata as metadata
import platform
import sys

# what numbers may depend on beside a stage's key
PACKAGES = ("torch", "torchvision", "timm", "albumentations", "numpy", "scipy", "scikit-learn",
            "opencv-python-headless", "pillow", "safetensors")


@functools.cache
def here():
    """{"python", "platform", "gpu", "packages": {name: version}} of this process."""
    import torch  # here, because the menu starts without it

    return {"python": sys.version.split()[0], "platform": platform.platform(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "packages": {name: metadata.version(name) for name in PACKAGES}}


def versions_of(maker):
    """{name: version} of Python and of the packages of what `here` returned, maybe elsewhere."""
    packages = maker.get("packages")
    return {"python": maker.get("python"), **(packages if isinstance(packages, dict) else {})}


def changes(before, now):
    """[(name, version before, version now)] where two makers have another version."""
    old = versions_of(before)
    return [(name, old[name], version) for name, version in versions_of(now).items()
            if old.get(name) not in (None, version)]
