"""python -m demo_contest FOLDER SIZE SEED PART PARTS: one process's share of the drawing, see
`draw_contest`."""
import sys

from demo_contest import draw_part

folder, size, seed, part, parts = sys.argv[1:]
draw_part(folder, float(size), int(seed), int(part), int(parts))
