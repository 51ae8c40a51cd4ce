"""A run: its stages in order, its fits, where they are computed and what they cost.

Read in this order:

pipeline    the stages in order: start here
run         what the stages share
preparing   audit, weights, shift, folds
rehearsal   --dry_run
plan        what fits cost, and what to leave out to end in time
costs       measuring that on this machine
planner     the fits in order, planned anew before each one
executor    where fits run: in this process, or as Ray tasks
fits        one fit: its targets, its training
predicting  a finished fit predicts
predictor   a finished run as one predictor for new images
export      the best single fit as an ONNX model
checks      the debug mode
trackers    TensorBoard and MLflow, fed by the event log

May import all other rooms; only the commands import it.
"""
