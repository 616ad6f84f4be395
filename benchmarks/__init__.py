"""python -m benchmarks [name ...]: speed as ratios against named peers and ceilings, one JSON row each in results/."""
