"""Where fits run. One contract: run(jobs) yields results; the pipeline does not know which executor it has."""


class LocalExecutor:
    """One job after the other in this process."""

    def run(self, jobs):
        """(name, result) of each job as it is done. jobs: an iterable of (name, function without arguments), which is only
        advanced when a job can start."""
        for name, job in jobs:
            yield name, job()


EXECUTORS = {"local": LocalExecutor}


def make_executor(engine):
    return EXECUTORS[engine]()
