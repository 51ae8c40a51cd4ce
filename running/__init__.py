"""A run: its stages in order, its fits, where they are computed and what they cost.

Read in this order:

pipeline      the stages in order: start here
run           the values that pass between them: Setup, Prepared, Fitted
introduction  what a run says and keeps before its first stage
networks      which networks are trained, and which are read as they are
preparing     audit, weights, shift, folds -> Prepared
rounds        which fits a round has, and which fits teach them
executor      where fits run: in this process, or as Ray tasks
place         a job's device, its loading processes, its log
predicting    a finished fit predicts
curves        loss and score of valid images while a fit trains
fits          one fit as a job: what it learns from, how it is trained
members       members that are not trained: a classifier in each fold on what is read once
frozen        features of networks that are not trained
words         the words in all images, each image read once
text          the member on them, and whether it is worth its time
first         the members that begin a run
plan          what fits cost, and what to leave out to end in time
costs         measuring that where fits run
threads       how many threads compute beside other programs
forecast      how long a run will take, said in its first seconds
choice        who gets no later rounds under a time budget
planner       the fits in order, planned anew before each one
hurry         how many epochs end in minutes, where nobody gave a size
rehearsal     --dry_run
stored        model.json: what a finished run left for that, checked
predictor     a finished run as one predictor for new images
makers        which versions made what a run uses
conclusion    submission, result files, predictor
export        the best single fit as an ONNX model
fetching      --fetch_weights: weights into a folder that can be carried
look          --look: what is understood of a folder, with pictures
prune         what a finished run can do without
heatmaps      what the networks looked at
checks        the debug mode
trackers      TensorBoard and MLflow, fed by the event log

May import all other rooms; only the commands import it.
"""
