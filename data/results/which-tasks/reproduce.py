"""Trains networks of losses.csv again, chosen at random, and tells how far their losses are from the committed ones.

    python reproduce.py [--networks 3] [--seed 0] [--data ROOMS]    # rooms are rendered where no folder is given"""
import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from its_a_match.campaign import collect, named, run
from its_a_match.grouping_methods import GroupingResults
from its_a_match.recipes import Recipe
from its_a_match.rooms import render_rooms

def main(networks, seed, data):
    "Prints a line for each network and split; exit status 1 if a loss is off by more than three times what it varies between seeds."
    r = GroupingResults(Path(__file__).parent)
    known, rows = r.losses[r.keys], r.losses.loc['test'].index
    by = known.groupby(level=['split', 'network'])
    usual = (by.std()/by.mean()).groupby(level='split').median()  # relative, of a typical network
    worst = 0.
    for s, n in rows[np.random.default_rng(seed).choice(len(rows), networks, replace=False)]:
        with TemporaryDirectory() as folder:
            run(named([n], r.keys, (s,)), data or render_rooms(None, 'quick'), folder, model=r.setup['model'], recipe=Recipe(**r.setup['recipe']), progress=False)
            found = collect(folder).loc[:, lambda t: [k for k in r.keys if k in t]]
        for split in ('val', 'test', 'early'):
            off = (found.loc[(split, s, n)]/known.loc[(split, s, n)] - 1).abs().dropna()
            worst = max(worst, float((off/usual.loc[split]).max()))
            print(f'{n} (seed {s}), {split}: ' + ('equal to the last bit' if (off == 0).all() else f'off by {100*off.max():.2g} %'), flush=True)
    print(f'The largest difference is {worst:.2g} times what losses vary between seeds.')
    return int(worst > 3)

if __name__ == '__main__':
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument('--networks', type=int, default=3)
    options.add_argument('--seed', type=int, default=0, help='of the choice of networks')
    options.add_argument('--data', help='folder of Rooms quick')
    sys.exit(main(**vars(options.parse_args())))
