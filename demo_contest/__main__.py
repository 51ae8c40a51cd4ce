"""python -m demo_contest FOLDER SIZE SEED PART PARTS: what one process of `draw_contest` draws."""
import sys

from demo_contest import draw_part

folder, size, seed, part, parts = sys.argv[1:]
draw_part(folder, float(size), int(seed), int(part), int(parts))
