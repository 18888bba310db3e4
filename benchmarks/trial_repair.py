"""How much of the accuracy that a fault costs does `repair` win back, and does it harm healthy models?

    .venv/bin/python benchmarks/trial_repair.py --out DIR [--seeds 5] [--minutes 0.4]

Writes trials.csv (a row per fault and seed), recovered.csv (a row per fault, then all together) and healthy.csv. Takes
about ten minutes on one core. `qtl_utils.analyses.repairs` says what is measured.
"""

import argparse
import warnings
from pathlib import Path

import pandas as pd

from qtl_utils.analyses.repairs import ON_TRIAL, harmless, recovered, won_back
from qtl_utils.doctor.faults import HEALTHY


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the folder for the tables")
    parser.add_argument("--seeds", type=int, default=5, help="broken models of each fault")
    parser.add_argument("--minutes", type=float, default=0.4, help="what repair may take for each")
    parser.add_argument("--healthy-seeds", type=int, default=3)
    parser.add_argument("--healthy-minutes", type=float, default=0.25)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    options.out.mkdir(parents=True, exist_ok=True)
    trials = []
    for name in ON_TRIAL:
        trials.append(won_back(name, range(options.seeds), options.minutes))
        print(recovered(trials[-1]).iloc[0].to_dict(), flush=True)
    table = pd.concat(trials, ignore_index=True)
    table.to_csv(options.out / "trials.csv", index=False)
    recovered(table).to_csv(options.out / "recovered.csv", index=False)
    rows = []
    for name in HEALTHY:
        rows.append(harmless(name, range(options.healthy_seeds), options.healthy_minutes))
        print(rows[-1], flush=True)
    pd.DataFrame(rows).to_csv(options.out / "healthy.csv", index=False)


if __name__ == "__main__":
    main()
