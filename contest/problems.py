"""What is wrong with a contest, collected so that one run reports everything."""
from dataclasses import dataclass

from utils import UserError


@dataclass(frozen=True)
class Problem:
    """Something wrong with the data. severity: "warning" (the run goes on) or "error" (it stops).
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
        self.problems.append(Problem(kind, "warning", text, tuple(map(str, sample_ids))))

    def fail(self, kind, text, sample_ids=()):
        self.problems.append(Problem(kind, "error", text, tuple(map(str, sample_ids))))

    def of_kind(self, kind):
        """The problems of one kind so far."""
        return [p for p in self.problems if p.kind == kind]

    def stop_if_fatal(self):
        """Raises one UserError with a line for each error."""
        errors = [p.text for p in self.problems if p.severity == "error"]
        if errors:
            raise UserError(*errors)
