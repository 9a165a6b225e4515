"""RSA and CKA of a campaign on Rooms: RSA_variants.csv, other correlations and the unbiased CKA; RSA_layers.csv, layer by layer;
RSA_starts.csv, RSA of trained networks with untrained ones and with the pixels; RSA_settling.csv, on more and more training views; RSA_views.jpg, RSA_views.csv
and RSA_nearest.csv, some test views, how alike networks find them, and which are the nearest to one of them."""
from pathlib import Path

LAYERS = [*(f'encoder.layers.{i}' for i in (2, 5, 8, 11, 14)), *(f'decoders.{{task}}.conv{i}' for i in (6, 7, 8, 9, 10))]

def pairs(table):
    "The pairs above the diagonal of a symmetric table: {'SD': value, …}."
    return {a + b: table.at[a, b] for i, a in enumerate(table) for b in list(table)[i + 1:]}

def settling(networks, images, counts, draws):
    "RSA and both kinds of CKA on samples of images: DataFrame score, images, draw, and a column for each pair."
    import pandas as pd
    from its_a_match.affinity.core import chosen_views, pairwise
    from its_a_match.affinity.representation import activations, alignment, correlations, dissimilarities
    features = [activations(net, k, images) for k, net in networks.items()]
    rows, matrices = [], [dissimilarities(f) for f in features]
    for n in counts:
        for draw in range(draws if n < len(images) else 1):
            views = chosen_views(len(images), n, draw)
            found = {'RSA': correlations([m[views][:, views] for m in matrices])}
            found |= {f'CKA{" unbiased"*u}': alignment([f[views] for f in features], u) for u in (False, True)}
            rows += [dict(score=s, images=n, draw=draw) | pairs(pairwise(t, networks)) for s, t in found.items()]
    return pd.DataFrame(rows).sort_values(['score', 'images', 'draw'], kind='stable')

def shown(images, matrices, out, many=24, nearest=4):
    "Writes the pictures: a row of `many` views, sorted so that like ones are neighbours, and below it one view with those that each network finds nearest."
    import numpy as np
    import pandas as pd
    import torch
    from PIL import Image
    from scipy.cluster.hierarchy import leaves_list, linkage
    from its_a_match.affinity.core import chosen_views
    from its_a_match.affinity.representation import ranks, triangle
    views = chosen_views(len(images), many)
    lines = torch.stack([ranks(triangle(m[views][:, views])) for m in matrices.values()])
    views = views[leaves_list(linkage(lines.mean(0).numpy(), 'average', optimal_ordering=True))]
    tables = [pd.DataFrame(m[views][:, views].numpy(), views, views).rename_axis('view').assign(task=k).set_index('task', append=True) for k, m in matrices.items()]
    pd.concat(tables).to_csv(out/'RSA_views.csv', float_format='%.2f')
    query = int(views[many//2])
    near  = {k: [query, *[j for j in m[query].argsort().tolist() if j != query][:nearest]] for k, m in matrices.items()}
    pd.DataFrame(near).rename_axis('place').to_csv(out/'RSA_nearest.csv')
    thumbs = (torch.nn.functional.avg_pool2d(images, 2)*255).round().byte().permute(0, 2, 3, 1).numpy()
    grid = [np.concatenate([thumbs[v] for v in row], 1) for row in ([*views], [query, *[v for row in near.values() for v in row[1:]]])]
    wide = max(g.shape[1] for g in grid)
    Image.fromarray(np.concatenate([np.pad(g, ((0, 0), (0, wide - g.shape[1]), (0, 0)), constant_values=255) for g in grid])).save(out/'RSA_views.jpg', quality=85)

def make(run, data, out):
    "Writes the files into the folder `out`."
    import json
    import pandas as pd
    import torch
    from its_a_match.affinity.core import image_batches
    from its_a_match.affinity.representation import activations, centred_kernel_alignment, correlations, dissimilarities, representation_similarity
    from its_a_match.campaign import load_network
    from its_a_match.models import get_model
    from its_a_match.taskonomy import TaskonomyDataset
    from its_a_match.tasks import LETTERS
    out, networks = Path(out), {k: load_network(run, k) for k in LETTERS}
    train, test = (torch.cat([*image_batches(TaskonomyDataset(data, split, 'N'))]) for split in ('train', 'test'))
    others = {f'RSA {c}': pairs(representation_similarity(networks, test, correlation=c)) for c in ('spearman', 'pearson', 'kendall')}
    others |= {f'CKA{" unbiased"*u}': pairs(centred_kernel_alignment(networks, test, unbiased=u)) for u in (False, True)}
    pd.DataFrame(others).T.rename_axis('score').to_csv(out/'RSA_variants.csv', float_format='%.5g')
    both = {'RSA': representation_similarity, 'CKA': centred_kernel_alignment}
    rows = [dict(score=s, layer=l) | pairs(f(networks, test, layer=l)) for s, f in both.items() for l in LAYERS]
    pd.DataFrame(rows).to_csv(out/'RSA_layers.csv', index=False, float_format='%.5g')
    matrices = {k: dissimilarities(activations(net, k, test)) for k, net in networks.items()}
    model = json.loads((Path(run)/'campaign.json').read_text())['model']
    fresh = {f'untrained, seed {s}': dissimilarities(activations(get_model(model, 'S', seed=s), 'S', test)) for s in range(5)} | {'pixels': dissimilarities(test)}
    every = matrices | fresh
    pd.DataFrame(correlations([*every.values()]).numpy(), list(every), list(every)).rename_axis('network').to_csv(out/'RSA_starts.csv', float_format='%.5g')
    shown(test, matrices, out)
    counts = [n for n in (25, 50, 100, 200, 300, 400, 500, 1000, 2000) if n <= len(train)]
    settling(networks, train, counts, 5).to_csv(out/'RSA_settling.csv', index=False, float_format='%.4g')
