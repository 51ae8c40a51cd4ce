"""Hours and memory of full_training on its target machine, an ESTIMATE from operations and bytes.

    python -m benchmarks.target [--scale large] [--tflops 30] [--train 1570 --test 3140]

Every backbone is traced on fake tensors (nothing is computed): floating-point operations of one
image forward, bytes that one micro-batch keeps for its backward pass in bf16, bytes of weights,
gradients, AdamW's two moments and the EMA. A training step counts as three forwards. --tflops: the
operations per second that the card should reach, 30e12 for an RTX 4090 Laptop (its tensor cores do
66e12 in bf16 with fp32 sums). With a GPU the same steps are also measured. Last it prints when 1,
8, 35 and 100 such GPUs would be done, one fit a GPU, in order of length and fold by fold.
"""
import argparse
import time
from dataclasses import replace

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.memory import network_of
from config import BACKBONES, SCALES, FitSpec, build_config, resolve
from modeling.memory import peak_memory_bytes, reset_peak_memory
from running.plan import Cost, Devices, Work, longest_first, make_plan
from system.log import duration

BYTES_PER_PARAMETER = 4 * 5        # weight, gradient, two moments, EMA


def traced(name, size_px, micro):
    """(operations of one image forward, bytes kept for a micro-batch's backward, parameters)"""
    # not fake: timm reads drop path rates from a tensor as it builds
    with torch.device("meta"):
        network = network_of(name, size_px)
    with FakeTensorMode(allow_non_fake_inputs=True):
        network.to_empty(device="cpu")
        kept, n = {}, sum(p.numel() for p in network.parameters())
        own = {id(p.untyped_storage()) for p in network.parameters()}

        def keep(tensor):
            storage = tensor.untyped_storage()
            if id(storage) not in own:
                kept[id(storage)] = (storage, storage.nbytes())
            return tensor

        images = torch.empty(micro, 3, size_px, size_px)
        with FlopCounterMode(display=False) as counter, torch.autograd.graph.saved_tensors_hooks(
            keep, lambda t: t), torch.autocast("cpu", dtype=torch.bfloat16):
            network(images)
    return counter.get_total_flops() / micro, sum(size for _, size in kept.values()), n


def measured(name, size_px, micro, device, steps=5):
    """(seconds of one training micro-batch, seconds of one prediction, peak bytes) on a GPU.

    Forward and backward alone.
    """
    network = network_of(name, size_px).to(device)
    images = torch.randint(0, 256, (micro, 3, size_px, size_px), dtype=torch.uint8, device=device)
    reset_peak_memory(device)

    def timed(training):
        for i in range(2 * steps):
            if i == steps:
                torch.cuda.synchronize()
                start = time.perf_counter()
            with torch.set_grad_enabled(training), torch.autocast("cuda", dtype=torch.bfloat16):
                loss = network(images).float().logsumexp(1).sum()
            if training:
                torch.autograd.grad(loss, list(network.parameters()), allow_unused=True)
        torch.cuda.synchronize()
        return (time.perf_counter() - start) / steps

    return timed(True), timed(False), peak_memory_bytes(device)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", default="large", choices=SCALES)
    parser.add_argument("--tflops", type=float, default=30.0)
    parser.add_argument("--train", type=int, default=1570)
    parser.add_argument("--test", type=int, default=3140)
    args = parser.parse_args()
    config = resolve(replace(build_config("full_training"), scale=args.scale), gpu_memory_bytes=0,
                     n_train=args.train)
    size_px, micro, views = (
        config.data.image_size_px,
        config.optim.micro_batch_size,
        config.predict.tta_views,
    )
    n_folds, batch = config.data.n_folds, config.optim.batch_size
    n_steps = -(-(args.train - args.train // n_folds) // batch)
    n_images = args.test + 2 * (args.train // n_folds)
    costs, works = {}, []
    print(
        f"ESTIMATE by operations and bytes: {args.scale}, {size_px} px, "
        f"batch {batch} in micro-batches of {micro}, bf16, "
        f"{args.tflops:g} TFLOP/s, {n_folds} folds, {config.optim.epochs} epochs, {views} views, "
        f"{args.train} + {args.test} images"
    )
    print(f"{'backbone':<32} parameters  GFLOP/image  kept/micro-batch  memory   one fit")
    for names in BACKBONES.values():
        name = names[SCALES.index(args.scale)]
        flops, kept, n = traced(name, size_px, micro)
        memory = BYTES_PER_PARAMETER * n + kept
        costs[name] = Cost(3 * flops * batch / args.tflops / 1e12,
                           views * flops / args.tflops / 1e12, 15.0, memory)
        mine = [Work(FitSpec(name, config.seed, 0, fold), n_steps, config.optim.epochs, n_images)
                for fold in range(n_folds)]
        works += mine
        print(
            f"{name:<32} {n / 1e6:>8.0f} M  {flops / 1e9:>11.0f}  "
            f"{kept / 2**30:>12.1f} GiB  {memory / 2**30:>4.1f} GiB  "
            f"{duration(mine[0].seconds(costs, config.optim.epochs)):>8}",
            flush=True,
        )
        if torch.cuda.is_available():
            train, predict, peak = measured(name, size_px, micro, torch.device("cuda"))
            print(
                f"{'':<32} measured on {torch.cuda.get_device_name()}: "
                f"{3 * flops * micro / train / 1e12:.0f} TFLOP/s in training, "
                f"{flops * micro / predict / 1e12:.0f} predicting, peak {peak / 2**30:.1f} GiB",
                flush=True,
            )
    print(f"{len(works)} fits: about {duration(make_plan(works, costs).seconds)}")
    works.sort(key=lambda work: work.spec.fold)      # the order of a run on one
    for n in (1, 8, 35, 100):
        ends = [make_plan(order, costs, devices=Devices(n)).seconds
                for order in (longest_first(works, costs), works)]
        print(f"{n:>4} GPUs: {duration(ends[0])}, fold by fold {duration(ends[1])}")


if __name__ == "__main__":
    main()
