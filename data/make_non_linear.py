"""Writes data/non_linear.csv: y = 3.1 x^2 - 1.7 x + U(0.01, 0.99), 200 rows from x = -10.0.

The seed text prints the first five rows of its table; those are kept as printed, the noise of
the others is drawn here from a fixed seed.
"""

import csv
import random
from pathlib import Path

PRINTED = {-10.0: 327.79, -9.9: 321.39, -9.8: 314.48, -9.7: 308.51, -9.6: 302.86}
N_ROWS = 200


def rows() -> list[tuple[float, float]]:
    """The table's rows: x with one decimal, y with two."""
    noise = random.Random(20250430)
    table = []
    for index in range(N_ROWS):
        x = round(-10.0 + 0.1 * index, 1)
        y = 3.1 * x**2 - 1.7 * x + noise.uniform(0.01, 0.99)
        table.append((x, PRINTED.get(x, round(y, 2))))
    return table


def main() -> None:
    """Writes the file beside this script."""
    with Path(__file__).with_name("non_linear.csv").open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["x", "y"])
        writer.writerows((f"{x:.1f}", f"{y:.2f}") for x, y in rows())


if __name__ == "__main__":
    main()
