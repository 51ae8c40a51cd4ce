"""Hours and memory of the modes on their target machine, an ESTIMATE from operations and bytes.

    python -m benchmarks.target [--scale large] [--tflops 30] [--train 1570 --test 3140]

Every backbone is traced on fake tensors (nothing is computed): floating-point operations of one
image forward, bytes that one micro-batch keeps for its backward pass in bf16, bytes of weights,
gradients, AdamW's two moments and the EMA. A training step counts as three forwards, as four where
gradients are checkpointed (on a card of --gib), and as one more per teacher; a prediction as one
per view; a checkpoint of 16 bytes a parameter is written at --write GB/s as often as a fit does.
Before its fits a mode reads the images, if not too many, with each of its networks as it is;
fitting classifiers on what they say is left out.
--tflops: the operations per second that the card should reach, 30e12 for an RTX 4090 Laptop (its
tensor cores do 66e12 in bf16 with fp32 sums). Last it prints when 1, 8, 35 and 100 such GPUs would
be done with full_training, one fit a GPU, in order of length and fold by fold.
`benchmarks.gpu` measures on a card.
"""
import argparse
from dataclasses import replace

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.memory import network_of
from config import GRAD_CHECKPOINTING_BELOW_GIB, SCALES, build_config, resolve
from ensemble.teachers import distillers
from modeling.train import LARGE_CHECKPOINT_BYTES, SAVED_PER_PARAMETER
from running.networks import MOST_IMAGES, reading_passes
from running.plan import Cost, Devices, Work, longest_first, make_plan
from running.rounds import planned_specs, round_epochs, teachers_of
from system.log import duration

BYTES_PER_PARAMETER = 4 * 5        # weight, gradient, two moments, EMA
MODES = ("quick_test", "full_training", "competition_ready")


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


def cost_of(flops, n_parameters, kept_bytes, is_checkpointed, config, args):
    """The Cost of a backbone from its operations and bytes."""
    forward = flops / args.tflops / 1e12
    step = (4 if is_checkpointed else 3) * forward * config.optim.batch_size
    saved_bytes = SAVED_PER_PARAMETER * n_parameters
    return Cost(step, config.predict.tta_views * forward, 15.0,
                BYTES_PER_PARAMETER * n_parameters + kept_bytes,
                teach_seconds=forward * config.optim.batch_size,
                save_seconds=saved_bytes / args.write / 1e9,
                is_large=saved_bytes >= LARGE_CHECKPOINT_BYTES)


def works_of(config, n_train, n_test):
    """[Work] of all fits of a mode on a contest of this size, as `running.costs.work_of` has it."""
    works = []
    for spec in planned_specs(config):
        round_ = config.rounds[spec.round]
        n_valid = 0 if spec.fold is None else n_train // config.data.n_folds
        n_images = n_train - n_valid + n_test * round_.unlabelled
        teachers = []
        if round_.alpha:
            teachers = distillers(spec, teachers_of(config, spec), round_.max_teachers)
        works.append(Work(spec, -(-n_images // config.optim.batch_size),
                          round_epochs(config, spec.round), n_test + 2 * n_valid,
                          tuple(teacher.backbone for teacher in teachers)))
    return works


def frozen_seconds(config, flops, args):
    """[(backbone, seconds)] in which a mode's networks are read before all fits, those that it
    trains. flops: {backbone: operations of one image forward}."""
    if args.train + args.test > MOST_IMAGES:
        return []
    passes = reading_passes(config, args.train, args.test)
    return [(name, passes * flops[name] / args.tflops / 1e12) for name in config.model.backbones]


def is_checkpointed_on(gib, name):
    """Whether a fit of this backbone checkpoints gradients from the start on a card of `gib`."""
    return gib < GRAD_CHECKPOINTING_BELOW_GIB.get(name.split(".")[0], 0)


def resolved(mode, args):
    return resolve(replace(build_config(mode), scale=args.scale), gpu_memory_bytes=0,
                   n_train=args.train)


def print_devices(works, costs, frozen):
    """When several GPUs would be done. frozen: as `frozen_seconds`, the first one read alone."""
    for n in (1, 8, 35, 100):
        devices = Devices(n)
        before = devices.seconds(frozen[:1]) + devices.seconds(frozen[1:])
        ends = [before + make_plan(order, costs, devices=devices).seconds
                for order in (longest_first(works, costs), works)]
        print(f"{n:>4} GPUs: {duration(ends[0])}, fold by fold {duration(ends[1])}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", default="large", choices=SCALES)
    parser.add_argument("--tflops", type=float, default=30.0)
    parser.add_argument("--train", type=int, default=1570)
    parser.add_argument("--test", type=int, default=3140)
    parser.add_argument("--gib", type=float, default=16.0)
    parser.add_argument("--write", type=float, default=1.0, help="GB/s of the disk")
    args = parser.parse_args()
    config = resolved("full_training", args)
    size_px, micro = config.data.image_size_px, config.optim.micro_batch_size
    print(f"ESTIMATE by operations and bytes: {args.scale}, {size_px} px, batch "
          f"{config.optim.batch_size} in micro-batches of {micro}, bf16, {args.tflops:g} TFLOP/s, "
          f"{args.train} + {args.test} images")
    print(f"{'backbone':<54} parameters  GFLOP/image  kept/micro-batch  memory   one fit")

    works = works_of(config, args.train, args.test)
    traces = {}
    for name in config.model.backbones:
        traces[name] = flops, kept, n = traced(name, size_px, micro)
        is_checkpointed = is_checkpointed_on(args.gib, name)
        cost = cost_of(flops, n, kept, is_checkpointed, config, args)
        first = next(work for work in works if work.spec.backbone == name)
        print(f"{name:<54} {n / 1e6:>8.0f} M  {flops / 1e9:>11.0f}  {kept / 2**30:>12.1f} GiB  "
              f"{cost.peak_memory_bytes / 2**30:>4.1f} GiB  "
              f"{duration(first.seconds({name: cost}, config.optim.epochs)):>8}"
              f"{'  checkpointed' if is_checkpointed else ''}", flush=True)

    for mode in MODES:
        config = resolved(mode, args)
        costs = {name: cost_of(flops, n, kept, is_checkpointed_on(args.gib, name), config, args)
                 for name, (flops, kept, n) in traces.items()}
        works = works_of(config, args.train, args.test)
        frozen = frozen_seconds(config, {name: flops for name, (flops, *_) in traces.items()}, args)
        before = sum(seconds for _, seconds in frozen)
        print(f"{mode}: {len(works)} fits, about "
              f"{duration(before + make_plan(works, costs).seconds)}")
        print(f"  {len(frozen)} networks read before them, {duration(before)}")
        for number in range(1, len(config.rounds)):
            later = [work for work in works if work.spec.round == number]
            print(f"  round {number}: {later[0].n_epochs} epochs of {later[0].n_steps} steps, "
                  f"{duration(sum(w.seconds(costs, w.n_epochs) for w in later))}")
        if mode == "full_training":
            print_devices(works, costs, frozen)


if __name__ == "__main__":
    main()
