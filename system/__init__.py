"""What a run needs from the machine and the disk. Nothing here knows an image, a class or a fit.

Read in this order:

installed  whether Python and the packages will do, before any is imported
versions   versions of Python and packages, system, GPU
stages     work kept in folders, each complete or absent; manifests; locks
machine    disk space, memory, signals, faults, cores
log        events, sentences, clocks, bars
privacy    paths without what lies above a run's own folders
parallel   the same work for many items, in threads or processes
command    what all commands share: exit statuses, errors told in one sentence

May import utils and config.
"""
