"""From the predictions of fits to one blend, its scores, and what it teaches the next round.

Read in this order:

metrics   scores, their intervals, calibration
judges    how predictions of one kind are judged whatever the metric
tasks     what a contest asks of its images: loss, decoding, metrics, settings
blend     out-of-fold predictions -> views, weights, temperatures
scores    the blend of a run, its nested score, the score to expect
teachers  what a later round learns from the models of the round before

May import all rooms up to modeling.
"""
