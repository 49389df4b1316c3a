import sys
from pathlib import Path

# `oracles` stands beside the tests, which importlib does not look at.
sys.path.insert(0, str(Path(__file__).parent))
