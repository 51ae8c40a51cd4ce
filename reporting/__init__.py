"""What a run tells at its end: files for programs, lines for the terminal, a page to look at.

Read in this order:

summary   training_results.json and the closing lines
review    what out-of-fold rows say: confusions, suspect labels, hard images, calibration
figures   numbers -> places on the page
pictures  images with what is said of them
sets      the page's part on images of any number of classes
numbers   the page's part on images with numbers
texts     the page's part on words in images
curves    what fits knew of valid images while they trained
render    a template -> a page on disk
page      report.html, while a run goes on and at its end
runs      index.html: all runs, and what each changed
compare   two runs on the images that both have predicted

May import all rooms up to ensemble.
"""
