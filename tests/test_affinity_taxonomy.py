"TD: the published table, trees recovered from their distances, trees grown from tables, and what is refused."
from itertools import combinations, permutations

import matplotlib.pyplot as plt, numpy as np, pandas as pd, pytest
from scipy.cluster.hierarchy import cophenet, linkage
from scipy.spatial.distance import squareform

from its_a_match.affinity.core import SCORES, Evidence, compute
from its_a_match.affinity.taxonomy import (apart, check_tree, draw_tree, four_points, grow_tree, layout, leaves, path_lengths, published_tree, recover_tree,
                                           taxonomical_distance)
from its_a_match.published import match_affinities
from its_a_match.tasks import Task, get_tasks

NAMES = [f't{i}' for i in range(12)]

def table(values, names=NAMES):
    "A pairwise table of an array, diagonal NaN."
    x = np.array(values, float)
    np.fill_diagonal(x, np.nan)
    return pd.DataFrame(x, pd.Index(names[:len(x)], name='partner'), pd.Index(names[:len(x)], name='target'))

def random_tree(T, rng, whole=False):
    "A tree with the leaves t0, t1, …: each new leaf hangs on a point in the middle of an edge, or on one that is there."
    length = lambda: float(rng.integers(1, 9)) if whole else rng.uniform(.1, 2)
    rows = [['t0', 't1', length()]]
    for i in range(2, T):
        inner = sorted({n for a, b, _ in rows for n in (a, b) if n[0] == 'p'})
        if inner and rng.random() < .3: at = rng.choice(inner)
        else:
            a, b, w = rows.pop(rng.integers(len(rows)))
            at = f'p{i}'
            rows += [[a, at, w/2], [at, b, w/2]]
        rows.append([at, f't{i}', length()])
    return pd.DataFrame(rows, columns=['from', 'to', 'length'])

def random_table(T, rng, symmetric=True):
    x = rng.uniform(-1, 1, (T, T))
    return table((x + x.T)/2 if symmetric else x)

def sides(tree):
    "The splits of a tree: for every edge the leaves on one side, whichever does not hold t0."
    tips, found = set(leaves(tree)), set()
    for i in range(len(tree)):
        cut, inside, grown = tree.drop(index=i), {tree.iloc[i]['from']}, True
        while grown:
            more = {n for a, b in zip(cut['from'], cut['to']) if a in inside or b in inside for n in (a, b)} - inside
            inside, grown = inside | more, bool(more)
        one = frozenset(tips & inside)
        found.add(one if 't0' not in one else frozenset(tips - one))
    return found

# the published table

def test_published_tree_gives_table_1_exactly():
    printed = match_affinities()['TD']
    found = taxonomical_distance('SDNKE')
    np.testing.assert_array_equal(found, printed)
    assert list(found.index) == list(found.columns) == ['S', 'D', 'N', 'K', 'E'] and found.index.name == 'partner' and found.columns.name == 'target'
    assert found.equals(SCORES['TD'](get_tasks('SDNKE')))
    tables, costs = compute(Evidence(tasks=get_tasks('DNE')), 'TD')
    np.testing.assert_array_equal(tables['TD'], printed.loc[list('DNE'), list('DNE')])
    assert costs.forward['TD'] == costs.backward['TD'] == 0

def test_score_says_what_it_is():
    s = SCORES['TD']
    assert (s.symmetric, s.needs, s.range, s.takes) == (True, 'nothing', (-np.inf, 0), ['tasks'])

def test_order_of_tasks_does_not_matter():
    want = taxonomical_distance('SDNKE')
    for order in ('EKNDS', ['normal', 'S', 'E', 'depth_zbuffer', 'K']): assert taxonomical_distance(order).equals(want)

@pytest.mark.parametrize('tasks, words', [
    (['S', 'age'], "task 'age': it is not in the tree, which has"), ([*get_tasks('SD'), Task('age')], "task 'age'"),
    ('S', 'two tasks or more, and S is named'), (['S', 'segment_semantic'], "task 'S': it comes twice"), ([], 'none is named')])
def test_tasks_that_have_no_distance(tasks, words):
    with pytest.raises(ValueError, match=words): taxonomical_distance(tasks)

def test_own_tree():
    tree = pd.DataFrame([('a', 'm', 1), ('m', 'b', 2.5), ('m', 'c', 0)], columns=['from', 'to', 'length'])
    found = taxonomical_distance(['c', 'a', 'b'], tree)
    assert found.loc['a', 'b'] == -3.5 and found.loc['c', 'a'] == -1 and np.isnan(found.loc['a', 'a'])
    assert (taxonomical_distance(['a', 'b', 'c'], tree, lengths='counted').stack().dropna() == -2).all()
    with pytest.raises(ValueError, match="task 'S'"): taxonomical_distance('SD', tree)

# trees from distances

@pytest.mark.parametrize('seed', range(30))
def test_random_trees_are_recovered(seed):
    rng = np.random.default_rng(seed)
    T, whole = int(rng.integers(2, 10)), seed % 2 == 0
    tree = random_tree(T, rng, whole)
    d = path_lengths(tree, NAMES[:T])
    assert np.allclose(d, d.T, rtol=1e-12)
    for root in (None, NAMES[T - 1]):
        back = recover_tree(d, root)
        assert sorted(leaves(back)) == sorted(NAMES[:T])
        np.testing.assert_allclose(path_lengths(back, d.index), d, rtol=1e-9, atol=1e-9)
        if T > 2: assert sides(back) == sides(tree)
        np.testing.assert_array_equal(path_lengths(back, d.index, 'counted'), path_lengths(tree, d.index, 'counted'))
    order = rng.permutation(NAMES[:T])
    assert sides(recover_tree(d.loc[order, order])) == sides(back)

@pytest.mark.parametrize('seed', range(10))
def test_distances_of_no_tree_name_the_tasks_at_fault(seed):
    rng = np.random.default_rng(seed)
    tree = random_tree(6, rng)
    d, steps = path_lengths(tree, NAMES[:6]), path_lengths(tree, NAMES[:6], 'counted').to_numpy()
    a, b = np.argwhere(steps == steps.max())[0]  # not two on one branching point, which another tree could move
    d.iloc[a, b] = d.iloc[b, a] = d.iloc[a, b] + .05
    with pytest.raises(ValueError) as e: recover_tree(d)
    named = [t for t in NAMES[:6] if f"'{t}'" in str(e.value)]
    assert len(named) in (3, 4) and {NAMES[a], NAMES[b]} <= {*named}, str(e.value)
    if len(named) == 4:
        (_, middle, largest), = four_points(d.loc[named, named]).to_numpy()
        assert largest > middle + 1e-6

def test_a_detour_that_is_shorter():
    d = pd.DataFrame([[0, 9, 4], [9, 0, 3], [4, 3, 0.]], ['a', 'b', 'c'], ['a', 'b', 'c'])
    with pytest.raises(ValueError, match="from 'a' to 'b' it is 9, but over 'c' only 7"): recover_tree(d)

def test_four_points_are_all_sums():
    d = path_lengths(random_tree(6, np.random.default_rng(0)), NAMES[:6])
    found = four_points(d)
    assert len(found) == 15 and '+'.join(NAMES[1:5]) in found.index
    for q in combinations(NAMES[:6], 4):
        sums = {round(d.loc[a, b] + d.loc[c, e], 9) for a, b, c, e in permutations(q)}
        assert sums == {round(x, 9) for x in found.loc['+'.join(q)]}
    assert list(four_points(-match_affinities()['TD']).index) == ['SDNK', 'SDNE', 'SDKE', 'SNKE', 'DNKE']

@pytest.mark.parametrize('change, words', [
    (lambda d: d.replace(5., np.nan), 'is nan'), (lambda d: -d, 'is -'), (lambda d: d.replace(5., np.inf), 'is inf'),
    (lambda d: d.assign(t0=[0, 1, 2, 3]), "from 't0' to 't1'"), (lambda d: d.iloc[:3], 'should be the same'), (lambda d: d.iloc[:1, :1], 'two tasks or more')])
def test_what_is_no_distance(change, words):
    d = pd.DataFrame([[0, 5, 6, 7], [5, 0, 7, 8], [6, 7, 0, 3], [7, 8, 3, 0.]], NAMES[:4], NAMES[:4])
    with pytest.raises(ValueError, match=words): recover_tree(change(d))

def test_names_that_inner_nodes_would_have():
    d = path_lengths(random_tree(3, np.random.default_rng(0)), NAMES[:3]).set_axis(['a', 'b', 'b+a'], axis=0).set_axis(['a', 'b', 'b+a'], axis=1)
    found = path_lengths(recover_tree(d), d.index)
    np.testing.assert_allclose(found, d)
    d = d.set_axis(['r', 'a', 'b'], axis=0).set_axis(['r', 'a', 'b'], axis=1)
    more = pd.DataFrame(2*(1 - np.eye(4)), ['r', 'a', 'b', 'a+b'], ['r', 'a', 'b', 'a+b'])
    with pytest.raises(ValueError, match=r"task 'a\+b'"): recover_tree(more)
    with pytest.raises(ValueError, match=r"task 'r\+a'"): grow_tree(-more.rename(index={'a+b': 'r+a'}, columns={'a+b': 'r+a'}), 'single', itself=0)

@pytest.mark.parametrize('rows, words', [
    ([('a', 'b', 1), ('b', 'c', 1), ('c', 'a', 1)], "from 'c' to 'a' closes a circle"), ([('a', 'a', 1)], 'closes a circle'),
    ([('a', 'b', 1), ('c', 'd', 1)], "no path leads from 'a' to 'c'"), ([('a', 'b', 'far')], 'length nan'), ([('a', 'b', np.inf)], 'length inf'),
    ([('a', 'b', -1)], 'length -1'), ([], 'no edge')])
def test_what_is_no_tree(rows, words):
    with pytest.raises(ValueError, match=words): check_tree(pd.DataFrame(rows, columns=['from', 'to', 'length']))

# grown trees

@pytest.mark.parametrize('method', ['single', 'complete', 'average', 'weighted', 'ward'])
def test_grown_trees_are_those_of_scipy(method):
    for seed in range(5):
        t = random_table(7, np.random.default_rng(seed))
        far = squareform(apart(t), checks=False)
        found = path_lengths(grow_tree(t, method), t.index)
        np.testing.assert_allclose(squareform(found.to_numpy(), checks=False), cophenet(linkage(far, method)), rtol=1e-9)

@pytest.mark.parametrize('how', [dict(), dict(by='partners'), dict(by='targets')])
def test_grown_tree_does_not_depend_on_the_order_of_tasks(how):
    rng = np.random.default_rng(1)
    t = random_table(8, rng)
    order = list(rng.permutation(t.index))
    a, b = taxonomical_distance(NAMES[:8], grow_tree(t, **how)), taxonomical_distance(NAMES[:8], grow_tree(t.loc[order, order], **how))
    pd.testing.assert_frame_equal(a, b)

def test_what_a_constant_changes():
    t = random_table(7, np.random.default_rng(2))
    for method in ('average', 'single', 'complete'):
        near, far = (taxonomical_distance(NAMES[:7], grow_tree(t, method, itself=s)) for s in (1, 3))
        np.testing.assert_allclose(near - far, table(np.full((7, 7), 2.)), rtol=1e-9)

def test_ultrametrics_come_back():
    d = path_lengths(grow_tree(random_table(8, np.random.default_rng(3))), NAMES[:8])
    for method in ('average', 'single', 'complete'):
        np.testing.assert_allclose(path_lengths(grow_tree(-d, method, itself=0), d.index), d, rtol=1e-9)

def test_by_partners_and_targets_by_hand():
    t = table([[0, 1, 2], [3, 0, 5], [7, 8, 0]])
    rows, columns = apart(t, by='partners'), apart(t, by='targets')
    assert [rows.iloc[0, 1], rows.iloc[0, 2], rows.iloc[1, 2]] == [abs(2 - 5), abs(1 - 8), abs(3 - 7)]
    assert [columns.iloc[0, 1], columns.iloc[0, 2], columns.iloc[1, 2]] == [abs(7 - 8), abs(3 - 5), abs(1 - 2)]
    np.testing.assert_array_equal(apart(t.T, by='targets'), rows)

def test_symmetrising_is_asked_for():
    t = random_table(5, np.random.default_rng(4), symmetric=False)
    with pytest.raises(ValueError, match="partner 't0' gives target 't1'.*symmetrise='mean'"): grow_tree(t)
    for how, f in dict(mean=lambda a, b: (a + b)/2, min=min, max=max).items():
        d = apart(t, symmetrise=how)
        assert np.isclose(d.loc['t1', 't3'], 1 - f(t.loc['t1', 't3'], t.loc['t3', 't1'])) and d.equals(d.T)
    pd.testing.assert_frame_equal(t, random_table(5, np.random.default_rng(4), symmetric=False))  # what was given stays

@pytest.mark.parametrize('change, how, words', [
    (lambda t: t.replace(t.loc['t1', 't2'], np.nan), {}, "partner 't1' and target 't2' have the affinity nan"), (lambda t: t, dict(itself=-2), "raise `itself`"),
    (lambda t: t, dict(method='mean'), "the method 'mean' is none of average"), (lambda t: t, dict(by='rows'), "not by 'rows'"),
    (lambda t: t, dict(symmetrise='sum'), "symmetrise is 'sum'"), (lambda t: t.iloc[:2, :2], dict(by='targets'), 'there are 2'),
    (lambda t: t.iloc[:2], {}, 'the targets t0, t1, t2'), (lambda t: table(2*np.eye(3) - 2), dict(method='median', itself=0), "by 'median'")])
def test_what_no_tree_grows_from(change, how, words):
    with pytest.raises(ValueError, match=words): grow_tree(change(random_table(4, np.random.default_rng(5))), **how)

# drawing

def test_drawing_shows_the_lengths():
    tree = published_tree()
    at = layout(tree)
    for a, b, length in tree.itertuples(index=False): assert np.isclose(np.hypot(*(at[a] - at[b])), length)
    ax = plt.subplots()[1]
    assert draw_tree(tree, ax, title='tree') is ax
    words = [t.get_text() for t in ax.texts]
    assert {'SemSeg', 'Depth', 'Normals', 'Keypoints', 'Edges'} <= {*words} and words.count('2') == 2 and len(ax.lines) == len(tree)
    plt.close('all')

@pytest.mark.parametrize('d', [[[0, 1], [1, 0]], np.zeros((2, 2)), np.zeros((4, 4)), 2*(1 - np.eye(4))])
def test_drawing_of_small_and_flat_trees(d):
    draw_tree(recover_tree(pd.DataFrame(d, NAMES[:len(d)], NAMES[:len(d)])))
    with pytest.raises(ValueError, match="node 'sky'"): layout(published_tree(), 'sky')
    plt.close('all')
