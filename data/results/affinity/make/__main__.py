"""Makes the tables of affinity scores on Rooms anew, for the notebooks 20 to 26.

    python data/results/affinity/make RUN DATA

DATA is Rooms `quick` (its_a_match render), RUN a folder, where the 36 networks are trained that are not there yet."""
import sys
from pathlib import Path

import pandas as pd
import torch

import attribution, gradients, injection, representation
from its_a_match.affinity import GradientProbe, score_run
from its_a_match.campaign import named, plan, run

OUT = Path(__file__).resolve().parents[1]

def train(out, data):
    "The networks of single tasks, of pairs and of all tasks, and those with an injected label."
    jobs = pd.concat([plan(sizes=1, orders=[1, 2], injections=True), named(['SDNKE'])])
    run(jobs, data, out, probes={'gradients': GradientProbe}, model='wide', recipe='quick')

def tables(out, data):
    "All scores, those of gradients also by the one network of all tasks, and what they cost."
    joint  = score_run(out, ['GS', 'GT'], [0], data, options=dict.fromkeys(['GS', 'GT'], dict(joint='all')))
    scored = score_run(out, None, [0], data, say=print)
    if lost := joint.lacking | scored.lacking: sys.exit('\n'.join(lost.values()))
    for name, table in scored.tables[0].items(): table.to_csv(OUT/f'{name}.csv', float_format='%.5g')
    for name, table in joint.tables[0].items():  table.to_csv(OUT/f'{name}_all.csv', float_format='%.5g')
    scored.costs.droplevel('seed').to_csv(OUT/'costs.csv', float_format='%.4g')

if __name__ == '__main__':
    if len(sys.argv) != 3: sys.exit(__doc__)
    folder, data = map(Path, sys.argv[1:])
    torch.set_num_threads(1)  # sums of another number of threads differ in their last digits
    train(folder, data)
    tables(folder, data)
    for part in (attribution, representation, injection, gradients): part.make(folder, data, OUT)
