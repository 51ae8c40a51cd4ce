"""What a run needs of the machine and of the disk; nothing here knows an image, a class or a fit.

Read in this order:

stages     a unit of work as a folder that is complete or absent; locks; manifests
machine    disk space, memory, signals, faults, cores
log        events, sentences, clocks, bars
parallel   the same work for many items, in threads or processes
command    what all commands share: exit statuses, errors as one sentence

May import utils and config.
"""
