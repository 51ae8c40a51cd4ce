"""What a run leaves names no folder above its own: .../shapes instead of /home/ann/shapes.

    short = ShortPaths(["/home/ann/shapes"])
    short({"data_path": "/home/ann/shapes", "n": 3})      # {"data_path": ".../shapes", "n": 3}
"""
import re
from pathlib import Path

from utils import plain, printable

CUT = "..."


class ShortPaths:
    """Shortens the absolute paths in the texts of a value, whatever words are around them.

    folders: keep their own name and lose what lies above it. None leaves every path as it is.
    """

    def __init__(self, folders=()):
        above = set()
        for folder in map(Path, folders):
            for spelled in (folder.absolute(), folder.resolve()):
                above.update(parent for parent in spelled.parents if parent != parent.parent)
        found = {text for parent in above for text in spellings(parent)}
        longest_first = sorted(found, key=len, reverse=True)
        self.pattern = None
        if found:
            either = "|".join(map(re.escape, longest_first))
            # a whole path, and not the end of another
            self.pattern = re.compile(rf"(?<![\w.~-])(?:{either})(?=[/\\\s'\"),:;\]&]|$)")

    def __call__(self, value):
        """The value as `plain` makes it, its paths shortened."""
        return self.shortened(plain(value)) if self.pattern else value

    def shortened(self, value):
        if isinstance(value, dict):
            return {key: self.shortened(v) for key, v in value.items()}
        if isinstance(value, list):
            return [self.shortened(v) for v in value]
        if isinstance(value, str):
            return self.pattern.sub(CUT, value)
        return value


def spellings(path):
    """The ways in which texts write a path: as it is, in a repr, escaped, quoted for a shell."""
    text = str(path)
    return {text, path.as_posix(), repr(text)[1:-1], printable(text), text.replace("'", "'\"'\"'")}
