"""How test images differ from training images, and the distortions that make the two alike.

Read in this order:

distortions  every kind of distortion with its unit; ShiftPolicy
groups       classes augmented alike: by style, and by how few images they have
traces       what an image tells about how it was made
orientation  which way up the images are
mixtures     shares of classes in a mixture
bank         training images distorted with known values
reading      what a test set says about each kind, read with a bank
search       rounds of bank and reading
report       ShiftReport: what was measured
match        match_shift: all of the above

May import utils, config, system, contest and data_loader.
"""
