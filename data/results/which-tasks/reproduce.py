"""Trains networks of losses.csv again, chosen at random, and tells how far their losses are from the committed ones.

    python reproduce.py [--networks 3] [--seed 0] [--data ROOMS]    # rooms are rendered where no folder is given"""
import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from its_a_match.campaign import collect, named, run
from its_a_match.grouping_study import GroupingResults
from its_a_match.recipes import Recipe
from its_a_match.rooms import render_rooms

def main(networks, seed, data):
    "Prints a line for each network; exit status 1 if a loss is further off than the spread over the committed seeds."
    r = GroupingResults(Path(__file__).parent)
    known = r.losses
    chosen = known.loc['test'].index[np.random.default_rng(seed).choice(len(known.loc['test']), networks, replace=False)]
    spread, worst = known.groupby(level=['split', 'network'])[r.keys].std(), 0.
    with TemporaryDirectory() as folder:
        for s, n in chosen:
            run(named([n], r.keys, (s,)), data or render_rooms(None, 'quick'), Path(folder)/str(s), model=r.setup['model'], recipe=Recipe(**r.setup['recipe']), processes=1)
            found = collect(Path(folder)/str(s))
            for split in ('val', 'test', 'early'):
                off = (found.loc[(split, s, n), r.keys] - known.loc[(split, s, n), r.keys]).abs().dropna()
                worst = max(worst, float((off/spread.loc[(split, n)].reindex(off.index)).max()))
                print(f'{n} (seed {s}), {split}: largest difference {off.max():.3g}' + ', equal to the last bit'*bool((off == 0).all()))
    print(f'The largest difference is {worst:.3g} times the standard deviation over seeds.')
    return int(worst > 1)

if __name__ == '__main__':
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument('--networks', type=int, default=3)
    options.add_argument('--seed', type=int, default=0, help='of the choice of networks')
    options.add_argument('--data', help='folder of Rooms quick')
    sys.exit(main(**vars(options.parse_args())))
