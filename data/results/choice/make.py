"""Trains what the choice of the default network and recipe rests on, and writes gains.csv.

    python make.py DATA RUNS    # DATA: Rooms `quick`; RUNS: a folder for the networks. Stopped, it goes on where it was."""
import sys
from pathlib import Path

import pandas as pd

from its_a_match.campaign import plan, run
from its_a_match.evaluation import pairwise_gains

TRIED, SEEDS = [('wide', 'quick'), ('fine', 'quick'), ('fine', 'balanced')], (0, 1, 2)

def rows(losses):
    "A row for each ordered pair: its gain, and the loss of the target's own network."
    gains = pairwise_gains(losses, 'full').reset_index().melt('partner', var_name='target', value_name='gain').query('partner != target')
    return gains.assign(alone=[losses.at[t, t] for t in gains.target])

if __name__ == '__main__':
    data, runs, found = sys.argv[1], Path(sys.argv[2]), {}
    for model, recipe in TRIED:
        losses = run(plan(orders=(1, 2), sizes=1, seeds=SEEDS), data, runs/f'{model}_{recipe}', model=model, recipe=recipe)
        found |= {(model, recipe, s, split): rows(losses.loc[(split, s)]) for s in SEEDS for split in ('val', 'test')}
    table = pd.concat(found, names=['model', 'recipe', 'seed', 'split']).reset_index(['model', 'recipe', 'seed', 'split'])
    columns = ['model', 'recipe', 'seed', 'split', 'partner', 'target', 'alone', 'gain']
    table[columns].to_csv(Path(__file__).parent/'gains.csv', index=False, float_format='%.5g')
