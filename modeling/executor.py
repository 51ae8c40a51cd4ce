"""Where fits run. One contract: run(jobs) -> results in the order of the jobs; the pipeline does not know which it has."""


class LocalExecutor:
    """One job after the other in this process."""

    def run(self, jobs):
        """jobs: an iterable of functions without arguments."""
        return [job() for job in jobs]


EXECUTORS = {"local": LocalExecutor}


def make_executor(engine):
    return EXECUTORS[engine]()
