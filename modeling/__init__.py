"""A network and how it learns: from a batch to weights and predictions.

Read in this order:

weights        where pretrained weights come from
licences       what the licences of weights allow, by name
heads          pooled features -> logits
network        a timm backbone with a head
norms          batch norms: checkpointed, folded, adapted to other images
kernels        operations that are slow in bf16 on a CPU, computed another way
compute        arithmetic, memory format, torch.compile: the fastest by timing
augment        what happens to an image before the network sees it
losses         what the network is asked to do: objectives with one contract
optim          parameter groups, the learning rate of a step, the average of the weights
guard          whether a fit learns, beside the best constant answer
memory         less at a time where memory runs out
train          the training loop: fit()
inference      Predictions, views, the inference loop
evidence       where in an image a network sees a class
frozen         classifiers on the features of a network that is not trained
words          where an image holds text, which way up, and what it says
texts          classifiers on that
torch_private  private parts of torch, each behind a named function

May import utils, config, system, contest, data_loader and shift.
"""
import os

# asked when huggingface_hub is imported, which timm does
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
