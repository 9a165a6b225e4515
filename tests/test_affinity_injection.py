"LI: its formula, on tables and on networks trained for the test; what is missing, and what cannot be."
import warnings
from itertools import permutations

import numpy as np, pandas as pd, pytest, torch
from torch import nn

from its_a_match.affinity.core import SCORES, Evidence, compute
from its_a_match.affinity.injection import injection_networks, label_injection
from its_a_match.batches import MemoryDataset
from its_a_match.measuring import evaluate
from its_a_match.models import MultiTaskNet
from its_a_match.recipes import Recipe
from its_a_match.tasks import LETTERS, Task
from its_a_match.training import fit

def losses_of(tasks, rng):
    "A table of all the networks that label injection asks for, with random losses."
    names = injection_networks(tasks)
    rows = {n: {t: rng.uniform(.1, 3) if t == a else np.nan for t in tasks} for (a, _), n in names.items()}
    return pd.DataFrame.from_dict(rows, 'index').rename_axis('network').assign(cost=1.)

@pytest.fixture
def five(): return losses_of(LETTERS, np.random.default_rng(0))

def test_score_says_what_it_is():
    s = SCORES['LI']
    assert (s.symmetric, s.needs, s.range, s.takes) == (False, 'extra training', (-1, np.inf), ['losses'])

def test_formula(five):
    found = label_injection(five)
    assert list(found.index) == list(found.columns) == list(LETTERS) and (found.index.name, found.columns.name) == ('partner', 'target')
    for a, b in permutations(LETTERS, 2):
        alone, given = five.at[a, a], five.at[f'{a}<{b}', a]
        assert found.loc[b, a] == (alone - given)/given
    assert np.isnan(np.diag(found)).all() and found.min().min() > -1

@pytest.mark.parametrize('tasks', [['seg', 'depth'], ['seg', 'depth', 'age of the room'], ['a', 'b', 'c'], ['E', 'S', 'age']])
def test_own_tasks(tasks):
    t = losses_of(tasks, np.random.default_rng(1))
    found = label_injection(t)
    assert sorted(found.columns) == sorted(tasks)
    for a, b in permutations(tasks, 2): assert found.loc[b, a] == t.at[a, a]/t.at[f'{a}<{b}', a] - 1 or np.isclose(found.loc[b, a], t.at[a, a]/t.at[f'{a}<{b}', a] - 1, 1e-12)

def test_what_does_not_matter(five):
    want = label_injection(five)
    shuffled = five.sample(frac=1, random_state=0)[['K', 'cost', 'S', 'E', 'D', 'N']]
    assert label_injection(shuffled).equals(want)
    assert label_injection(five.reset_index()).equals(want)
    more = pd.DataFrame(9., ['SD', 'S@0.5', 'S½', 'S<D@0.5', 'S<D+gradnorm', 'D+mgda', 'my network'], five.columns)
    assert label_injection(pd.concat([more.drop(index='S½'), five])).equals(want)
    pd.testing.assert_frame_equal(label_injection(five*[1000, .01, 1, 7, 3, 1]), want)

def test_ranks_are_those_of_the_gain(five):
    li = label_injection(five)
    gain = pd.DataFrame({a: {b: 1 - five.at[f'{a}<{b}', a]/five.at[a, a] for b in LETTERS if b != a} for a in LETTERS}).reindex(list(LETTERS))
    np.testing.assert_allclose(li, gain/(1 - gain))
    assert li.stack().rank().equals(gain.stack().rank().reindex(li.stack().index))

def test_missing_networks_are_named_in_one_sentence(five):
    with pytest.raises(ValueError) as e: label_injection(five.drop(index=['D', 'S<D', 'E<K']))
    assert str(e.value) == 'label injection lacks the losses of D, S<D, E<K'
    with pytest.raises(ValueError, match='lacks the losses of depth<seg'): label_injection(losses_of(['seg', 'depth'], np.random.default_rng(0)).drop(index='depth<seg'))

@pytest.mark.parametrize('network, loss, words', [
    ('S<N', np.nan, "network 'S<N' has no loss for task 'S'"), ('K', np.nan, "network 'K' has no loss for task 'K'"),
    ('S<N', -.5, "network 'S<N' has the loss -0.5 for task 'S'"), ('K', -1e-3, "network 'K' has the loss -0.001"), ('K', np.inf, "network 'K', column 'K'")])
def test_losses_that_cannot_be(five, network, loss, words):
    five.at[network, network[0]] = loss
    five.loc['SDNKE'] = 1.  # so that the table as such is sound
    if np.isnan(loss): five.at[network, 'E' if network[0] != 'E' else 'S'] = 1.
    with pytest.raises(ValueError, match=words): label_injection(five)

def test_one_network_under_two_names(five):
    five.loc['S+mine'], five.loc['S@1'] = five.loc['S'], five.loc['S']
    with pytest.raises(ValueError, match="listed twice, as 'S' and 'S@1'"): label_injection(five)

def test_zero_losses(five):
    five.at['S<N', 'S'] = 0
    with pytest.warns(UserWarning, match="network 'S<N' has the loss 0 for task 'S'") as said: found = SCORES['LI'](five)
    assert len(said) == 1 and np.isnan(found.loc['N', 'S']) and found.isna().sum().sum() == 6
    five.at['S<N', 'S'], five.at['K', 'K'] = 1, 0
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert (label_injection(five).K.drop('K') == -1).all()

def test_one_task(five):
    with pytest.raises(ValueError, match='two tasks or more, and S is the only one'): label_injection(five.loc[['S'], ['cost', 'S']])

def test_compute(five):
    tables, costs = compute(Evidence(losses=five), ['LI'])
    assert tables['LI'].equals(label_injection(five)) and costs.forward['LI'] == 0
    with pytest.raises(ValueError, match="score 'LI': it takes losses"): compute(Evidence(), 'LI')

# a toy that is trained: a coin for each pixel, a copy with one wrong in ten, and another coin

TASKS = [Task(n, kind='classes', channels=2) for n in ('coin', 'copy', 'other')]

def tosses(seed, n=48):
    g = torch.Generator().manual_seed(seed)
    coin, other = torch.randint(2, (2, n, 8, 8), generator=g)
    copy = coin ^ (torch.rand(n, 8, 8, generator=g) < .1)
    return MemoryDataset(TASKS, torch.rand(n, 3, 8, 8, generator=g), dict(coin=coin, copy=copy, other=other))

def networks(train, val):
    "The networks of label injection for the data's tasks, which see one pixel at a time, trained."
    by, nets = {t.key: t for t in train.tasks}, {}
    recipe = Recipe('toy', lr=.05, batch=16, epochs=8, weight_decay=0, flip=False)
    for (a, b), name in injection_networks([*by]).items():
        torch.manual_seed(0)
        encoder = nn.Sequential(nn.Conv2d(3 + (2 if b else 0), 8, 1), nn.ReLU())
        nets[name] = fit(MultiTaskNet(encoder, {by[a]: nn.Conv2d(8, 2, 1)}, injected=by.get(b)), train, val, recipe, device='cpu').net
    return nets

def measured(nets, test):
    "Their losses, as a table of candidates."
    return pd.DataFrame({n: evaluate(net, test) for n, net in nets.items()}).T.rename_axis('network').assign(cost=1.)

def test_formula_on_a_trained_toy():
    "LI from the networks' own outputs, cross-entropies written out, and what theory says it should be."
    test = tosses(2)
    nets = networks(tosses(0), tosses(1))
    images, targets, _ = test.batch(np.arange(len(test)))
    found = label_injection(measured(nets, test))
    def loss(name, a, b=None):
        x = images if b is None else torch.cat([images, nn.functional.one_hot(targets[b].long(), 2).permute(0, 3, 1, 2)], 1)
        with torch.no_grad(): p = nets[name](x)[a].double().softmax(1)
        return -p.gather(1, targets[a][:, None].long()).log().mean().item()
    for a, b in permutations([t.key for t in TASKS], 2):
        alone, given = loss(a, a), loss(f'{a}<{b}', a, b)
        assert np.isclose(found.loc[b, a], (alone - given)/given, rtol=1e-4, atol=1e-5)
    h = -.1*np.log(.1) - .9*np.log(.9)
    for a, b in permutations(['coin', 'copy']): assert abs(found.loc[b, a] - (np.log(2)/h - 1)) < .15
    assert found.loc['other', ['coin', 'copy']].abs().max() < .03 and found['other'].abs().max() < .03

def test_label_that_tells_all():
    "A task's own label under another name makes LI large."
    def twins(seed):
        images, targets, _ = (d := tosses(seed)).batch(np.arange(len(d)))
        return MemoryDataset([TASKS[0], Task('same', kind='classes', channels=2)], images, dict(coin=targets['coin'], same=targets['coin']))
    found = label_injection(measured(networks(twins(0), twins(1)), twins(2)))
    assert (found.stack().dropna() > 10).all()
