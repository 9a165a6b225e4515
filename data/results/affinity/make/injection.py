"LI of a campaign on Rooms: the losses that it is made of (LI_losses.csv), and how it settles as test views are added (LI_settling.csv)."
from pathlib import Path

def view_losses(run, data, networks, batch=100):
    "Sums of the terms of every test view and how many there are, {network: float64 (2, views)}, for networks {name: target}."
    import pandas as pd
    from its_a_match.campaign import DataFolder, load_network, open_data
    from its_a_match.losses import TaskLosses
    from its_a_match.measuring import joined, measure, only, tasks_of
    from its_a_match.tasks import LETTERS, get_tasks
    test = open_data(DataFolder(str(data), get_tasks(LETTERS)))['test']
    statistics, found = pd.read_csv(Path(run)/'statistics.csv', index_col=['task', 'channel']), {}
    for name in networks:
        net = load_network(run, name)
        tasks, injected = tasks_of(net, test)
        both = joined(tasks, injected)
        normalise = TaskLosses(both, statistics).normalise
        found[name] = measure(net, only(test, both), TaskLosses(tasks, statistics), normalise, injected, batch)[:, :, 0].numpy()
    return found

def make(run, data, out):
    "Writes the three files into the folder `out`."
    import numpy as np
    import pandas as pd
    from its_a_match.affinity.core import chosen_views
    from its_a_match.affinity.injection import injection_networks
    from its_a_match.campaign import collect
    losses = collect(run).loc[('test', 0)]
    tasks  = [c for c in losses if c != 'cost']
    wanted = injection_networks(tasks)
    losses = losses.loc[list(wanted.values())]
    losses.to_csv(Path(out)/'LI_losses.csv', float_format='%.5g')
    views = view_losses(run, data, wanted.values())
    mean  = lambda v, rows: v[0, rows].sum(-1)/v[1, rows].sum(-1)
    for (a, _), name in wanted.items(): assert np.isclose(mean(views[name], slice(None)), losses.at[name, a], rtol=1e-4), name
    n, rng, rows = views[tasks[0]].shape[1], np.random.default_rng(0), []
    for k in (10, 20, 50, 100, 200, n):
        if k > n: continue
        sample, drawn = chosen_views(n, k), rng.integers(n, size=(1000, k))
        for (a, b), name in wanted.items():
            if b: rows.append([k, b, a, *(f(mean(views[a], s)/mean(views[name], s) - 1) for s, f in ((sample, float), (drawn, lambda x: x.std(ddof=1))))])
    pd.DataFrame(rows, columns=['images', 'partner', 'target', 'value', 'sd']).to_csv(Path(out)/'LI_settling.csv', index=False, float_format='%.5g')
