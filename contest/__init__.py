"""From a contest folder as downloaded to audited images, labels and the form of a submission.

Read in this order:

problems    what is wrong with a contest, collected so that one run reports everything
decoding    one file -> an upright uint8 RGB array
files       what lies in the folder; which file an id means
targets     what a label is: a class, a set of classes, numbers
host        folds that the host gives
sheets      Parquet files and Excel sheets as rows of text
tables      which table holds labels, which is the sample submission
units       several images an id
catalog     Catalog: the samples of a split. Contest: two catalogs and a form
labels      where the labels are: a table, class folders, file names
submission  Form: columns, rows and values of the submission
fixes       label_fixes.csv: labels mended in a report
intake      read_contest: all of the above
pixels      the images of a split, reduced, in one mapped file
likeness    whether two images show one picture: turned, mirrored, cropped, brightened
duplicates  which images show the same picture
audit       one inspection of every image, as a stage

May import utils, config and system.
"""
