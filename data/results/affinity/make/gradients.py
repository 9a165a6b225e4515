"""GS and GT of a campaign on Rooms: gradients.csv, every probe of the joint networks, with the learning rate; gradients_ways.csv, GT by each kind of look-ahead
while a network of all tasks trains once more; gradients_batches.csv, what eight batches an epoch say one by one."""
from pathlib import Path

def ways(run, data, out):
    "Trains a network of all tasks with three probes, about two minutes on a core; writes the last two files and gives the learning rate of each step."
    import json
    import pandas as pd
    from its_a_match.affinity.gradients import GradientProbe
    from its_a_match.campaign import DataFolder, open_data
    from its_a_match.models import get_model
    from its_a_match.recipes import Recipe
    from its_a_match.tasks import LETTERS, get_tasks
    from its_a_match.training import Callback, fit
    class Rates(Callback):
        def before_fit(self, t): self.lr = {}
        def before_step(self, t): self.lr[t.step] = t.optimizer.param_groups[0]['lr']
    run, out, tasks = Path(run), Path(out), ''.join(LETTERS)
    info, views = json.loads((run/'campaign.json').read_text()), open_data(DataFolder(str(data), get_tasks(LETTERS)))
    statistics, rates = pd.read_csv(run/'statistics.csv', index_col=['task', 'channel']), Rates()
    probes = {'sgd': GradientProbe(batches=8), 'first-order': GradientProbe(look_ahead='first-order'), 'optimizer': GradientProbe(look_ahead='optimizer')}
    fit(get_model(info['model'], tasks, seed=0, **info['options']), views['train'], views['val'], Recipe(**info['recipe']), [rates, *probes.values()], seed=0, statistics=statistics)
    tables = {w: p.table() for w, p in probes.items()}
    middle = tables['first-order'].step.unique()
    one = pd.concat([t[t.step.isin(middle)].assign(way=w) for w, t in tables.items()])
    one[['way', 'epoch', 'partner', 'target', 'GS', 'GT']].to_csv(out/'gradients_ways.csv', index=False, float_format='%.5g')
    many = tables['sgd'].assign(batch=lambda d: d.groupby(['epoch', 'partner', 'target']).cumcount())
    many.groupby(['batch', 'partner', 'target'], sort=False)[['GS', 'GT']].mean().to_csv(out/'gradients_batches.csv', float_format='%.5g')
    return rates.lr

def make(run, data, out):
    "Writes the three files into the folder `out`."
    import pandas as pd
    from its_a_match.tasks import LETTERS
    lr, run, tasks = ways(run, data, out), Path(run), ''.join(LETTERS)
    names  = [*(a + b for i, a in enumerate(tasks) for b in tasks[i + 1:]), tasks]
    probes = pd.concat([pd.read_csv(run/'networks'/n/'seed-0'/'gradients.csv').assign(network=n) for n in names])
    probes = probes.assign(lr=probes.step.map(lr))[['network', 'epoch', 'step', 'partner', 'target', 'GS', 'GT', 'loss', 'lr']]
    probes.to_csv(Path(out)/'gradients.csv', index=False, float_format='%.5g')
