"""What is wrong with a contest, collected before it is said."""
from dataclasses import dataclass

from utils import UserError

# ---------------------------------------------------------------- the folder

@dataclass(frozen=True)
class Problem:
    """Something wrong with the data: severity "warning" (the run goes on) or "error" (it cannot).
    """

    kind: str
    severity: str
    text: str
    sample_ids: tuple[str, ...] = ()


class Findings:
    """Collects problems, so that all are reported at once."""

    def __init__(self, problems=()):
        self.problems = list(problems)

    def warn(self, kind, text, sample_ids=()):
        self.problems.append(Problem(kind, "warning", text, tuple(str(s) for s in sample_ids)))

    def fail(self, kind, text, sample_ids=()):
        self.problems.append(Problem(kind, "error", text, tuple(str(s) for s in sample_ids)))

    def stop_if_fatal(self):
        errors = [p.text for p in self.problems if p.severity == "error"]
        if errors:
            raise UserError("\n".join(errors))
