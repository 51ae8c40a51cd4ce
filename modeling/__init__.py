"""The learning part of the product. Read in this order:

network    a timm backbone, a head, where its weights come from
kernels    operations that torch computes slowly in bf16 on a CPU, another way
compute    arithmetic, memory format, torch.compile: the fastest by timing
augment    what happens to an image before the network sees it
losses     what the network is asked to do: objectives with one contract
optim      parameter groups, the learning rate of a step, the average of the weights
metrics    scores, intervals, calibration
memory     less at a time where memory runs out
inference  Predictions, views, the inference loop
train      the training loop: fit()
groups     classes that look alike or are few: augmented alike
traces     what an image tells about how it was made
orientation which way up the images are
shift      how the test images differ from the training images -> ShiftPolicy
targets    what a later round learns from the models of the round before
ensemble   out-of-fold predictions -> weights -> one blended prediction
plan       what a fit costs, and what to leave out to end in time
executor   where fits run
checks     the debug mode: is this machine, this folder, this network ready
report     result files, closing lines
review     what out-of-fold rows say: confusions, suspect labels, hard images, calibration
figures    numbers -> places on the page
fits       one fit: what it learns from, training, prediction
costs      how the steps of a backbone are computed here, and what they cost
planner    the fits in order, planned anew before each one
blend      predictions of the fits -> one blend, its scores, what the submission may expect
page       report.html, while a run goes on and at its end
predictor  a finished run as one predictor for new images
export     the best single fit as an ONNX model
trackers   TensorBoard and MLflow, fed by the event log
pipeline   the stages in order
"""
