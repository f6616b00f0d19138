"""The benchmarks are scripts, which find each other in their own folders."""

import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

for folder in (BENCHMARKS, BENCHMARKS / "engines"):
    sys.path.append(str(folder))
