"The frame of all affinity scores: tables, the registry, evidence, images and costs."
import math

import numpy as np, pandas as pd, pytest, torch

from its_a_match.affinity import SCORES, Evidence, Score, compute, get_scores, pairwise, score, settling
from its_a_match.affinity.core import NEEDS, autocast, check_networks, chosen_views, counted, image_batches
from its_a_match.memory import MemoryDataset
from its_a_match.models import get_model
from its_a_match.published import match_scores
from its_a_match.tasks import Task

@pytest.fixture
def registered():
    "The registry, afterwards as it was."
    held = dict(SCORES)
    yield SCORES
    SCORES.clear(); SCORES.update(held)

def of(table, **about): return Score('X', lambda: table, 'X', **dict(symmetric=False, needs='nothing', range=(-1, 1)) | about)

# tables

def test_pairwise_puts_taskonomy_s_tasks_first():
    t = pairwise(np.arange(9).reshape(3, 3), ['own', 'D', 'S'])
    assert list(t) == list(t.index) == ['S', 'D', 'own'] and (t.index.name, t.columns.name) == ('partner', 'target')
    assert t.loc['own', 'D'] == 1 and t.loc['D', 'own'] == 3 and np.isnan(np.diag(t)).all()

@pytest.mark.parametrize('keys', [['a', 'a'], ['a', 1]])
def test_pairwise_wants_names(keys):
    with pytest.raises(ValueError, match='a table takes names, each of them once'): pairwise(np.ones((2, 2)), keys)

def test_infinity_is_not_a_score():
    with pytest.raises(ValueError, match='D with S is inf; what is undefined is NaN'): of(pairwise([[0, np.inf], [0, 0]], 'SD'), range=(-np.inf, np.inf))()

def test_the_name_of_the_table_of_costs_is_taken():
    with pytest.raises(ValueError, match='the name of the table of costs'): Score('costs', None, 'Costs', True, 'nothing', (0, 1))

def test_pairwise_takes_tensors_and_leaves_them():
    x = torch.ones(2, 2, requires_grad=True)
    assert pairwise(x, 'SD').loc['S', 'D'] == 1 and x[0, 0] == 1

def test_pairwise_wants_a_number_for_each_two():
    with pytest.raises(ValueError, match='the 2 tasks S, D take 2 times 2 numbers'): pairwise(np.ones((3, 3)), 'SD')

@pytest.mark.parametrize('table, why', [
    (pd.DataFrame(np.ones((2, 2)), list('SD'), list('SD')), 'the diagonal is to be NaN'), (np.eye(2), 'a ndarray, not a pairwise table'),
    (pairwise([[0, 2], [0, 0]], 'SD'), 'S with D is 2, which is not from -1 to 1|D with S is 2'), (pairwise(np.zeros((2, 2)), 'SD').loc[['D', 'S']], 'the partners are D, S')])
def test_a_table_that_contradicts_its_score_is_refused(table, why):
    with pytest.raises(ValueError, match="score 'X': .*(" + why + ')'): of(table)()

def test_the_message_says_which_way_round():
    "Row partner, column target: 'target with partner'."
    with pytest.raises(ValueError, match='D with S is 2'): of(pairwise([[0, 2], [0, 0]], 'SD'))()

def test_symmetry_holds_to_rounding():
    of(pairwise([[0, .5], [.5 + 1e-9, 0]], 'SD'), symmetric=True)()
    of(pairwise([[0, np.nan], [np.nan, 0]], 'SD'), symmetric=True)()
    for other in (.5 + 1e-4, np.nan):
        with pytest.raises(ValueError, match='said to be symmetric'): of(pairwise([[0, .5], [other, 0]], 'SD'), symmetric=True)()

@pytest.mark.parametrize('about, why', [(dict(needs='luck'), "needs 'luck'"), (dict(range=(1, -1)), 'not from low to high')])
def test_a_score_that_cannot_be(about, why):
    with pytest.raises(ValueError, match=why): of(None, **about)

# the registry

def test_the_six_of_match_cka_and_ta():
    assert set(SCORES) == {'TD', 'IAS', 'RSA', 'CKA', 'LI', 'TA', 'GS', 'GT'}

def test_what_scores_say_of_themselves_is_what_table_7_says():
    for name, row in match_scores().iterrows():
        s = SCORES[name]
        assert s.symmetric == row.symmetric and s.needs == row.needs and s.needs in NEEDS and 'Match' in s.paper
        assert s.label.lower() == row['name'].lower().replace('gradients', 'gradient')
        assert (s.range[0], s.range[1]) == (row.printed_low, row.printed_high) or (s.range[0] >= row.printed_low and s.range[1] <= row.printed_high)

def test_a_name_is_taken_once(registered):
    @score('MINE', 'Mine', needs='nothing', symmetric=True)
    def mine(tasks): return pairwise(np.zeros((len(tasks),)*2), [t.key for t in tasks])
    first = SCORES['MINE']
    def other(): pass
    with pytest.raises(ValueError, match="score 'MINE': there is one already, Mine"): score('MINE', 'Other', needs='nothing', symmetric=True)(other)
    assert SCORES['MINE'] is first and first.takes == ['tasks'] and first.compute is mine

def test_a_cell_that_is_run_again_replaces_its_score(registered):
    for value in (1, 2):
        @score('MINE', 'Mine', needs='nothing', symmetric=True)
        def mine(tasks): return pairwise(np.full((2, 2), value), 'SD')
    assert SCORES['MINE'](()).loc['S', 'D'] == 2

def test_get_scores():
    assert list(get_scores('RSA, TD')) == ['RSA', 'TD'] and list(get_scores()) == list(SCORES)
    with pytest.raises(ValueError, match="score 'ABC': it is none of TD, IAS"): get_scores(['ABC'])

# evidence

A, B = Task('a', 'A'), Task('b', 'B')

@pytest.fixture
def data(): return MemoryDataset([A, B], torch.rand(10, 3, 8, 8), {'A': torch.rand(10, 1, 8, 8), 'B': torch.rand(10, 1, 8, 8)})

def test_networks_are_put_into_the_order_of_columns():
    net = get_model('small', 'SDN', seed=0)
    assert list(check_networks({'N': net, 'S': net})) == ['S', 'N']

@pytest.mark.parametrize('networks, why', [
    ({}, '2 networks are needed, and there are 0'), ({'S': 'S'}, '2 networks are needed, and there is 1'), ({'S': 'S', 'D': 'S'}, "task 'D': its network has only S"),
    ({'S': 'S', 'D': 'D<N'}, "task 'D': its network is given the label of N")])
def test_networks_that_cannot_serve(networks, why):
    made = {k: get_model('small', n[0], injected=n[2:] or None) for k, n in networks.items()}
    with pytest.raises(ValueError, match=why): check_networks(made)

@pytest.mark.parametrize('networks, why', [([1, 2], 'given as a list, not as a dictionary'), ({'S': torch.nn.Linear(1, 1), 'D': 1}, "task 'S': its network is a Linear, not a MultiTaskNet")])
def test_what_is_no_network(networks, why):
    with pytest.raises(ValueError, match=why): check_networks(networks)

def test_views_are_nested_and_spread():
    small, large = chosen_views(1000, 50), chosen_views(1000, 200)
    assert set(small) < set(large) and (np.diff(small) > 0).all() and small.min() < 100 and small.max() > 900
    assert list(chosen_views(5)) == list(range(5)) and len(chosen_views(5000)) == 2048
    assert set(chosen_views(1000, 50, 1)) != set(small)

@pytest.mark.parametrize('images', [0, 11, 2.5, -1, True])
def test_views_that_are_not_there(images):
    with pytest.raises(ValueError, match=f'{images} images are wanted, and there are 10'): chosen_views(10, images)

def test_images_of_a_data_set_and_of_a_tensor_are_the_same(data):
    images = data.batch(range(10))[0]
    one, two = (torch.cat([*image_batches(d, 6, batch=4)]) for d in (data, images))
    assert torch.equal(one, two) and torch.equal(one, images[chosen_views(10, 6)]) and one.dtype == torch.float32

def test_precision():
    with autocast('cpu', 'bf16'): assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    with autocast('cpu'): assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
    with pytest.raises(ValueError, match="precision 'fp16': choose fp32 or bf16"): autocast('cpu', 'fp16')

# costs

def test_passes_are_counted_for_encoders_that_are_shared_and_hooks_go():
    net = get_model('small', 'SD', seed=0)
    with counted([net, net.only('S')]) as n:
        with torch.no_grad(): net(torch.rand(3, 3, 16, 16))
        out = net.encode(torch.rand(2, 3, 16, 16))
        for _ in range(2): torch.autograd.grad(out.sum(), net.shared_parameters(), retain_graph=True)
    assert (n.forward, n.backward) == (5, 4)
    net(torch.rand(2, 3, 16, 16))['S'].sum().backward()
    assert (n.forward, n.backward) == (5, 4) and not net.encoder._forward_hooks

def test_hooks_go_after_an_error():
    net = get_model('small', 'S', seed=0)
    with pytest.raises(KeyError):
        with counted([net]): raise KeyError
    assert not net.encoder._forward_hooks

def test_compute_gives_a_score_what_it_takes(registered, data):
    @score('MINE', 'Mine', needs='nothing', symmetric=True)
    def mine(networks, data, images=None, factor=1):
        for x in image_batches(data, images):
            for net in networks.values(): net(x)
        return pairwise(np.full((2, 2), factor), list(networks))
    nets = {k: get_model('small', [t], seed=0) for k, t in (('A', A), ('B', B))}
    tables, costs = compute(Evidence(networks=nets, data=data), ['MINE'], {'MINE': dict(factor=3, images=7)})
    assert tables['MINE'].loc['A', 'B'] == 3
    assert costs.loc['MINE', ['forward', 'backward']].tolist() == [14, 0] and costs.loc['MINE', 'seconds'] > 0 and math.isnan(costs.loc['MINE', 'networks'])
    with pytest.raises(ValueError, match="score 'MINE': it takes networks, and there are none"): compute(Evidence(data=data), 'MINE')
    with pytest.raises(ValueError, match="score 'MINE': it has no option 'factr'"): compute(Evidence(networks=nets, data=data), 'MINE', {'MINE': dict(factr=2)})

def test_settling(registered):
    @score('MEAN', 'Mean', needs='nothing', symmetric=True)
    def mean(data, images=None): return pairwise(np.full((2, 2), float(torch.cat([*image_batches(data, images)]).mean())), 'SD')
    images = torch.rand(8, 3, 2, 2)
    found = settling('MEAN', Evidence(data=images), [2, 8])
    assert list(found) == ['images', 'partner', 'target', 'value'] and len(found) == 4
    np.testing.assert_allclose(found[found.images == 8].value, float(images.mean()), rtol=1e-6)
