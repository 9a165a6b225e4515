"A results folder becomes tables, a recommendation in plain words, and a page; damage is named."
import json, re, shutil
from itertools import combinations, permutations

import numpy as np, pandas as pd, pytest
from scipy import stats

from its_a_match.evaluation import agreement, noise_ceiling, pairwise_gains
from its_a_match.recommendation import best_row, headline, held_out, mean_candidates, mean_interval, recommend, told_gain, usual_budgets, with_predicted
from its_a_match.results import BenchmarkResults
from its_a_match.sentences import counted, listed, shown_time, tell_agreement, tell_ceiling, tell_costs, tell_gains, tell_predictions, tell_regret, tell_verdicts
from its_a_match.tasks import network_name

FIVE = dict(S='Semantic Segmentation', D='Depth Estimation', N='Surface Normal Prediction', K='Keypoint Detection', E='Edge Detection')
OWN  = {k: k.capitalize() for k in 'digit parity large density shape hue rotation'.split()}

def candidates(tasks, effect, rng=None, noise=0., orders=(1, 2), half=False):
    "Losses of all groups of these orders: task i alone loses i + 1; `effect(partner, target)` is what a partner gains, a fraction, added up over partners."
    rows, keys = {}, list(tasks)
    def loss(t, group, size=1):
        exact = (1 + keys.index(t))*(1 - sum(effect(p, t) for p in group if p != t))*(1.1 if size == .5 else 1)
        return exact*(1 + noise*rng.normal() if noise else 1)
    for order in orders:
        for g in combinations(keys, order): rows[network_name(g, columns=keys)] = dict(cost=1., **{t: loss(t, g) for t in g})
    if len(keys) not in orders: rows[network_name(keys, columns=keys)] = dict(cost=1., **{t: loss(t, keys) for t in keys})
    if half: rows |= {network_name([t], .5, columns=keys): {'cost': .5, t: loss(t, [t], .5)} for t in keys}
    return pd.DataFrame.from_dict(rows, orient='index').reindex(columns=['cost', *keys]).rename_axis('network')

def helps(p, t): return .05 if {p, t} in ({'S', 'D'}, {'digit', 'parity'}) else -.1

def write_results(folder, tasks=FIVE, seeds=(0,), effect=helps, noise=.004, orders=(1, 2), half=False, computed=('RSA', 'LI'), **setup):
    "A results folder; its score LI is random, others follow the gains."
    keys, parts, rows, costs = list(tasks), {}, [], []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        for split in ('early', 'test', 'val'):
            table = candidates(tasks, effect, rng, noise, orders, half)
            injected = pd.DataFrame([{'cost': 1., a: table.at[a, a]*.98} for a, b in permutations(keys, 2)], [network_name([a], injected=b, columns=keys) for a, b in permutations(keys, 2)])
            parts[split, seed] = pd.concat([table, injected.reindex(columns=table.columns)])
        for name in computed:
            costs.append(dict(seed=seed, score=name, seconds=2., forward=0., backward=0., networks=len(keys), training_seconds=60.*len(keys), device='cpu'))
            rows += [dict(score=name, seed=seed, partner=b, target=a, value=rng.normal() if name == 'LI' else effect(b, a)*10 + .01*rng.normal()) for b, a in permutations(keys, 2)]
    losses = pd.concat(parts, names=['split', 'seed', 'network'])
    names = losses.loc['val'].index
    networks = pd.DataFrame(dict(status='done', reason='', best_epoch=3, epochs=3, seconds=60.), names.swaplevel())
    folder.mkdir(parents=True, exist_ok=True)
    losses.reset_index().to_csv(folder/'losses.csv', index=False)
    networks.reset_index().to_csv(folder/'networks.csv', index=False)
    pd.DataFrame(rows, columns=['score', 'seed', 'partner', 'target', 'value']).to_csv(folder/'scores.csv', index=False)
    pd.DataFrame(costs, columns=['seed', 'score', 'seconds', 'forward', 'backward', 'networks', 'training_seconds', 'device']).to_csv(folder/'costs.csv', index=False)
    pd.DataFrame(dict(stage=['training', 'scores'], seconds=[600., 30.])).to_csv(folder/'times.csv', index=False)
    about = dict(command='its_a_match benchmark', preset='quick', versions=dict(python='3.11'), device='2 CPU cores', seeds=list(seeds), model='wide', recipe=dict(name='quick', epochs=3),
                 data=dict(name='Toy', fingerprint='ab'*8, views=dict(train=20, val=10, test=10), shape=[3, 64, 64]), tasks=dict(tasks), lacking={})
    (folder/'setup.json').write_text(json.dumps(about | setup))
    return folder

@pytest.fixture(scope='module')
def toy(tmp_path_factory):
    "`toy(**how)` is a fresh results folder; the same one for the same arguments."
    made = {}
    def make(name, **how):
        if name not in made: made[name] = write_results(tmp_path_factory.mktemp(name)/'results', **how)
        return made[name]
    return make

@pytest.fixture(scope='module')
def one(toy): return BenchmarkResults(toy('one'))

@pytest.fixture(scope='module')
def three(toy): return BenchmarkResults(toy('three', seeds=(0, 1, 2)).parent)

# Reading

def test_the_folder_of_a_benchmark_and_its_results_are_the_same(toy):
    folder = toy('one')
    assert BenchmarkResults(folder).folder == BenchmarkResults(folder.parent).folder == BenchmarkResults(str(folder)).folder

def test_what_is_read(three):
    assert three.tasks == FIVE and three.seeds == [0, 1, 2] and three.told == []
    assert len(three.losses) == 3*3*(16 + 20) and list(three.losses.columns) == ['cost', *'SDNKE']
    assert list(three.scores) == ['RSA', 'LI'] and list(three.scores['RSA']) == [0, 1, 2] and list(three.scores['RSA'][0]) == list('SDNKE')
    assert three.times.to_dict() == dict(training=600, scores=30)
    assert three.costs.loc[('LI', 1), 'training_seconds'] == 300 and three.networks.loc[('SD', 2), 'status'] == 'done'

def test_losses_are_as_written(three):
    written = pd.read_csv(three.folder/'losses.csv').query("split == 'val' and seed == 1").drop(columns=['split', 'seed']).set_index('network')
    pd.testing.assert_frame_equal(three.losses.loc[('val', 1)], written, check_exact=True)

def test_candidates_see_nothing_but_the_image(three):
    assert three.candidates('val', 0).index.tolist() == [*'SDNKE', *map(''.join, combinations('SDNKE', 2)), 'SDNKE']
    mean = sum(three.candidates('test', s) for s in range(3))/3
    pd.testing.assert_frame_equal(three.candidates('test'), mean)
    with pytest.raises(ValueError, match="no losses of split 'train' and seed 0"): three.candidates('train', 0)
    with pytest.raises(ValueError, match='seed 7'): three.candidates('val', 7)

def test_gains_are_those_of_the_evaluation(toy, three):
    for split in ('val', 'test'):
        for s, g in three.gains(split).items(): pd.testing.assert_frame_equal(g, pairwise_gains(three.candidates(split, s), 'full'))
    halves = BenchmarkResults(toy('halves', half=True))
    pd.testing.assert_frame_equal(halves.gains(baseline='half')[0], pairwise_gains(halves.candidates('test', 0), 'half'))
    assert three.gains(baseline='half')[0].isna().all(axis=None)
    with pytest.raises(ValueError, match="'full' or 'half', not 'third'"): three.gains(baseline='third')

def test_spread_over_seeds(three):
    table, x = three.gain_spread(), [g.loc['S', 'D'] for g in three.gains().values()]
    row = table.loc[('S', 'D')]
    assert len(table) == 20 and row['mean'] == pytest.approx(np.mean(x)) and row.sd == pytest.approx(np.std(x, ddof=1)) and row['seed 1'] == x[1]
    assert (row.lo, row.hi) == pytest.approx(stats.t.interval(.95, 2, np.mean(x), stats.sem(x)))

# Agreement and what belongs to it

def test_agreement_is_that_of_the_evaluation(three):
    expected = agreement({n: three.score_table(n) for n in ('RSA', 'LI')}, list(three.gains().values()))
    pd.testing.assert_frame_equal(three.agreement(), expected)
    assert three.agreement().pearson['RSA'] > .9 and three.agreement().target_spearman.notna().all()
    pd.testing.assert_frame_equal(three.noise_ceiling(), noise_ceiling(list(three.gains().values())))
    own = agreement({n: three.scores[n][1] for n in ('RSA', 'LI')}, three.gains()[1])
    assert three.agreement_by_seed().loc['LI', 1] == pytest.approx(own.spearman['LI']) and list(three.agreement_by_seed()) == [0, 1, 2]

def test_scores_that_rank_nothing_are_told(toy):
    folder = toy('poor')
    rows = pd.read_csv(folder/'scores.csv')
    rows = pd.concat([rows[~((rows.score == 'LI') & (rows.partner == 'S') & (rows.target == 'D'))], rows[rows.score == 'RSA'].assign(score='TD', value=3)])
    rows.to_csv(folder/'scores.csv', index=False)
    (folder/'setup.json').write_text(json.dumps(json.loads((folder/'setup.json').read_text()) | dict(lacking={'GS': 'GS lacks 10 networks: SD, …'})))
    r = BenchmarkResults(folder)
    assert r.agreement().index.tolist() == ['RSA'] and r.told == ['GS lacks 10 networks: SD, ….']
    assert r.agreement().attrs['left_out'] == {'LI': 'LI has no number for 1 of 20 cells, so it is not compared.', 'TD': 'TD is the same for every pair, which ranks nothing.'}

def test_two_tasks_have_gains_and_a_recommendation_but_no_agreement(toy):
    r = BenchmarkResults(toy('two', tasks=dict(digit='Digit', parity='Parity'), seeds=(0, 1)))
    assert len(r.agreement()) == len(r.noise_ceiling()) == len(r.regret()) == 0 and r.gain_spread().shape[0] == 2
    assert 'three tasks' in r.agreement().attrs['left_out']['RSA']
    assert r.recommend().networks.tolist() == [('digit+parity',)]*2

def test_regret_where_every_group_was_trained(toy, three):
    full = BenchmarkResults(toy('all', orders=(1, 2, 3, 4, 5), noise=0, half=True, computed=('GS', 'LI')))
    table = full.regret([4, 5])
    assert table.query("score == 'GS'").regret.tolist() == pytest.approx([0, 0], abs=1e-9)
    assert table.optimum.tolist() == pytest.approx([4.9]*4) and (table.regret >= -1e-9).all()  # SD gains 5 % on both
    assert len(three.regret()) == 0

def test_costs_beside_the_single_task_networks(toy):
    r = BenchmarkResults(toy('costs', scores={'RSA': dict(label='similarity', networks=list('SDNKE')), 'LI': dict(networks=['S', 'S<D'])}))
    table = r.score_costs()
    assert table.total.tolist() == [302, 302] and table.beside.tolist() == [2, 242]
    assert r.label('RSA') == 'RSA, similarity' and r.label('LI') == 'LI'
    assert BenchmarkResults(toy('one')).score_costs().beside.isna().all()

# Recommendation, by hand: S and D gain 5 % from each other, every other pair loses 10 %

def test_the_best_grouping_is_found():
    exact = candidates(FIVE, helps)
    found = recommend({0: exact}, {0: exact}, [4, 5], predicted=False)
    assert found.networks.tolist() == [('SD', 'N', 'K', 'E')]*2 and found.cost.tolist() == [4, 4]
    assert found.gain_single.tolist() == pytest.approx([2, 2])        # (5 + 5 + 0 + 0 + 0)/5
    alone, together = [.95, .95, 1, 1, 1], [1.25, 1.25, 1.4, 1.4, 1.4] # relative losses: 1 − .05 + 3 × .1, 1 + 4 × .1
    assert found.gain_all.tolist() == pytest.approx([100*np.mean(1 - np.divide(alone, together))]*2)
    assert found.gain_single_lo.isna().all() and found.held_out.isna().all()

def test_three_alike_seeds_make_a_narrow_interval():
    exact = {s: candidates(FIVE, helps) for s in range(3)}
    row = recommend(exact, exact, [4]).iloc[0]
    assert [row.gain_single_lo, row.gain_single_hi, row.held_out] == pytest.approx([2, 2, 2])
    assert row.verdict.startswith('SD + N + K + E: 2.0 % lower losses (2.0 to 2.0) than the five single-task networks, at 4/5 of their cost; ')

def test_intervals_are_paired_by_seed(three):
    row = three.recommend([4]).iloc[0]
    each = []
    for s in range(3):
        t = three.candidates('test', s)
        each.append(100*np.mean([1 - t.at[n, k]/t.at[k, k] for k, n in row.solves.items()]))
    assert list(row.by_seed.values()) == pytest.approx(each)
    assert (row.gain_single_lo, row.gain_single_hi) == pytest.approx(stats.t.interval(.95, 2, np.mean(each), stats.sem(each)))

def test_chosen_on_validation_reported_on_test():
    val, test = candidates(FIVE, helps), candidates(FIVE, lambda p, t: -helps(p, t))
    row = recommend({0: val}, {0: test}, [4], predicted=False).iloc[0]
    assert row.networks == ('SD', 'N', 'K', 'E') and row.gain_single == pytest.approx(-2)

def test_luck_of_one_seed_shows_in_what_is_held_out():
    "Seed 0 alone makes N and K look good together; on test data they lose 10 %."
    def effect(seed): return lambda p, t: .5 if seed == 0 and {p, t} == {'N', 'K'} else -.1
    val, test = {s: candidates(FIVE, effect(s)) for s in range(3)}, {s: candidates(FIVE, lambda p, t: -.1) for s in range(3)}
    row = recommend(val, test, [5], predicted=False).iloc[0]
    assert row.solves['N'] == row.solves['K'] == 'NK' and row.gain_single == pytest.approx(-4)  # (−10 − 10)/5
    assert held_out(val, test, [5], predicted=False) == [pytest.approx([0, -4, -4])]           # without seed 0 all are trained alone
    assert row.held_out == pytest.approx(-8/3)

def test_larger_groups_are_predicted_from_pairs():
    "With all pairs at +5 % a triple is predicted at +5 %, and only what was not trained is marked."
    table = candidates(FIVE, lambda p, t: .05)
    row = recommend({0: table}, {0: table}, [2], 'relative').iloc[0]
    assert len(row.predicted) < 2 and row.gain_single >= 5 - 1e-9
    table = candidates(FIVE, lambda p, t: .05).drop(index='SDNKE')
    row = recommend({0: table}, {0: table}, [1]).iloc[0]
    assert row.predicted == ('SDNKE',) and row.gain_single == pytest.approx(5) and 'SDNKE*: predicted 5.0 % lower' in row.verdict
    assert not recommend({0: table}, {0: table}, predicted=False).predicted.map(len).any()

def test_predictions_are_compared_with_what_was_trained(one):
    errors = one.prediction_errors()
    assert errors.index.tolist() == ['SDNKE']
    assert errors.predicted['SDNKE'] == pytest.approx(100*np.mean([(.05 - .3)/4]*2 + [-.1]*3), abs=.5)
    assert errors.measured['SDNKE'] == pytest.approx(100*np.mean([-.25]*2 + [-.4]*3), abs=.5)

def test_many_tasks_are_predicted_in_groups_of_up_to_four():
    tasks = [f't{i}' for i in range(15)]
    table = candidates(tasks, lambda p, t: .01)
    more = with_predicted(table)
    assert len(more) == 15 + 105 + 455 + 1365 + 1 and more.notna().sum(axis=1).value_counts().to_dict() == {2: 15, 3: 105, 4: 455, 5: 1365, 16: 1}
    assert len(with_predicted(table.drop(index='t0+t1'))) == len(table) - 1  # a pair is missing

def test_budgets():
    table = candidates(FIVE, helps)
    assert usual_budgets(table) == [1, 2, 3, 4, 5] and usual_budgets(table.drop(index='SDNKE')) == [3, 4, 5]
    assert usual_budgets(candidates(FIVE, helps, half=True)) == [1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5]
    with pytest.raises(ValueError, match='no choice of networks solves every task within a budget of 2; the least that works is 3'):
        recommend({0: table.drop(index='SDNKE')}, {0: table}, [2], predicted=False)

def test_only_networks_of_every_seed_can_be_chosen():
    tables = {s: candidates(FIVE, helps) for s in range(2)}
    tables[1] = tables[1].drop(index='SD')
    assert 'SD' not in mean_candidates(tables).index and 'SN' in mean_candidates(tables).index
    with pytest.raises(ValueError, match='not a single seed'): mean_candidates({})

# Words

NORMAL = dict(networks=('SD', 'N', 'K', 'E'), solves=dict(S='SD', D='SD', N='N', K='K', E='E'), cost=4., predicted=(), budget=4.,
              gain_all=np.nan, gain_all_lo=np.nan, gain_all_hi=np.nan, held_out=np.nan, solo=False, grouped=True, all_in_one=False)

@pytest.mark.parametrize('change, words', [
    (dict(gain=(3.1, 2.0, 4.2)), 'SD + N + K + E: 3.1 % lower losses (2.0 to 4.2) than the five single-task networks, at 4/5 of their cost'),
    (dict(gain=(-15, -17, -13)), 'SD + N + K + E: 15.0 % higher losses (13.0 to 17.0) than the five single-task networks, at 4/5 of their cost'),
    (dict(gain=(.4, -1, 1.8)), 'SD + N + K + E: not distinguishable from the five single-task networks (between 1.0 % higher and 1.8 % lower losses), at 4/5 of their cost'),
    (dict(gain=(.4, -1, 1.8), cost=5.), 'no grouping is distinguishable from the five single-task networks: the best, SD + N + K + E, has between 1.0 % higher and 1.8 % lower losses'),
    (dict(gain=(3.1, np.nan, np.nan)), 'SD + N + K + E: 3.1 % lower losses than the five single-task networks, at 4/5 of their cost; a second seed is needed to tell a gain from chance (--seeds 0,1,2)'),
    (dict(gain=(3.1, 2.0, 4.2), predicted=('SD',)), 'SD* + N + K + E: predicted 3.1 % lower losses (2.0 to 4.2) than the five single-task networks, at 4/5 of their cost'),
    (dict(gain=(3.1, 2.0, 4.2), all=(1., -1., 3.)), 'SD + N + K + E: 3.1 % lower losses (2.0 to 4.2) than the five single-task networks, at 4/5 of their cost; '
                                                    'not distinguishable from the all-in-one network (between 1.0 % higher and 3.0 % lower losses)'),
    (dict(gain=(3.1, 2.0, 4.2), held_out=-.5), 'SD + N + K + E: 3.1 % lower losses (2.0 to 4.2) than the five single-task networks, at 4/5 of their cost; '
                                               'but choices made on the other seeds have 0.5 % higher losses'),
    (dict(gain=(0, 0, 0), solo=True, networks=tuple('SDNKE'), solves=dict(zip('SDNKE', 'SDNKE')), cost=5.),
     'S + D + N + K + E: the five single-task networks themselves; no grouping was better on the validation data'),
    (dict(gain=(3.1, 2.0, 4.2), networks=('SDN', 'NK', 'E@0.5'), solves=dict(S='SDN', D='SDN', N='NK', K='NK', E='E@0.5'), cost=2.5),
     'SDN (for S, D) + NK + E½: 3.1 % lower losses (2.0 to 4.2) than the five single-task networks, at 1/2 of their cost')])
def test_verdicts(change, words):
    from types import SimpleNamespace
    from its_a_match.recommendation import verdict
    for name, key in (('single', 'gain'), ('all', 'all')):
        if key in change: change |= dict(zip((f'gain_{name}', f'gain_{name}_lo', f'gain_{name}_hi'), change.pop(key)))
    assert verdict(SimpleNamespace(**NORMAL | change), 5) == words

def test_headline_takes_the_cheapest_that_is_as_good_as_the_best():
    "4 networks gain 2 % for sure, 5 gain 2.1 %, by less than a standard error more; 3 lose."
    def table(gains): return pd.DataFrame([NORMAL | dict(budget=float(c), cost=float(c), by_seed=dict(enumerate(g)), verdict=f'cost {c}',
        **dict(zip(('gain_single', 'gain_single_lo', 'gain_single_hi'), mean_interval(g)))) for c, g in gains.items()])
    assert best_row(table({3: [-2, -2.1, -1.9], 4: [2, 2.1, 1.9], 5: [1.9, 2.1, 2.3]})) == 1
    assert best_row(table({3: [-2, -2.1, -1.9], 4: [2, 2.1, 1.9], 5: [4, 4.1, 4.2]})) == 2
    assert best_row(table({3: [-9, 9, 1], 4: [-5, 5, 3], 5: [-1, 2, 2]})) == 0   # none is beyond chance
    assert best_row(table({3: [-9], 4: [1], 5: [2]})) == 2                        # one seed
    assert best_row(table({3: [-9], 4: [1], 5: [1.04]})) == 1                     # which reads the same
    assert headline(table({4: [2, 2.1, 1.9]})) == 'With a budget of 4, train cost 4.'
    assert headline(table({3: [-9, 9, 1], 4: [2, 2.1, 1.9]})).startswith('With a budget of 4, train cost 4. With 3, SD + N + K + E cannot be told from the single-task networks (between ')
    assert headline(table({3: [-9, 9, 1]})).startswith('No grouping is distinguishable from the five single-task networks. The cheapest that cannot be told from them is SD + N + K + E, for a budget of 3: between')

def test_headline_of_tasks_that_are_best_apart():
    exact = {s: candidates(FIVE, lambda p, t: -.1) for s in range(2)}
    text = headline(recommend(exact, exact))
    assert text.startswith('Train each task alone: no grouping was better on the validation data. The best that costs less is ') and 'higher losses' in text

def test_told_gain_touching_zero():
    assert told_gain(0., 0., 0.) == ('unclear', 'no change') and told_gain(1., 0., 2.)[0] == 'unclear'

def test_printed_results_say_what_to_do(one, three):
    text = str(three)
    assert text.startswith('With a budget of 4, train SD + N + K + E: ') and 'S Semantic Segmentation, D Depth Estimation' in text
    assert '(3 seeds, 95 % intervals over seeds, on the same images)' in text and 'a second seed' not in text
    assert 'a second seed is needed to tell a gain from chance (--seeds 0,1,2)' in str(one)
    starred = [line for line in str(three).split('\n') if line.startswith('* predicted')]
    assert len(starred) == 1 and 'its_a_match train DATA --out RUN --seeds 0,1,2 --networks' in starred[0]
    assert re.search(r'<p class="headline"><strong>With a budget of 4, train SD', three._repr_html_())

def test_the_command_that_trains_what_is_missing(one, three, toy):
    assert one.train_command(['SDN', 'S<D']) == "its_a_match train DATA --out RUN --networks 'SDN S<D'"
    assert three.train_command(['SDN']) == 'its_a_match train DATA --out RUN --seeds 0,1,2 --networks SDN'
    known = BenchmarkResults(toy('known', train='its_a_match train DATA --out RUN --recipe paper'))
    assert known.train_command(['SDN', 'NK']) == "its_a_match train DATA --out RUN --recipe paper --networks 'SDN NK'"
    assert BenchmarkResults(toy('python', train="benchmark(data, 'RUN', networks={networks})")).train_command(['SDN']) == "benchmark(data, 'RUN', networks=['SDN'])"

def test_seven_tasks_of_ones_own(toy):
    r = BenchmarkResults(toy('seven', tasks=OWN, seeds=(0, 1)))
    assert 'digit+parity' in r.recommend([6]).networks[0] and 'seven single-task networks' in r.recommend([6]).verdict[0]
    assert len(r.recommend()) == 7 and len(r.agreement()) == 2

# Damage

def spoil(folder, tmp_path, name, change):
    shutil.copytree(folder, tmp_path/'results')
    path = tmp_path/'results'/name
    if change is None: path.unlink()
    else: path.write_text(change(path.read_text()))
    return tmp_path/'results'

@pytest.mark.parametrize('name, change, words', [
    *[(n, None, 'it is missing, and the results of a benchmark have it') for n in ('setup.json', 'scores.csv', 'costs.csv', 'networks.csv', 'times.csv')],
    ('losses.csv', None, 'there is no losses.csv in it'),
    ('setup.json', lambda t: t[:40], 'setup.json: it is damaged, for it is not JSON'),
    ('setup.json', lambda t: '[]', 'setup.json: it is damaged, for it does not name the tasks'),
    ('setup.json', lambda t: t.replace('"E": "Edge Detection"', '"X": "Edge Detection"'), "losses.csv: it is damaged, for it has no column 'X'"),
    ('setup.json', lambda t: t.replace(', "E": "Edge Detection"', ''), "losses.csv: the column 'E' is none of the tasks of setup.json"),
    ('losses.csv', lambda t: t[:-20], 'losses.csv: it is damaged, for its last row is cut off'),
    ('losses.csv', lambda t: t.replace('val,0,S,1.0,', 'val,0,S,one,'), "losses.csv: it is damaged, for cost is 'one' in row"),
    ('losses.csv', lambda t: t.replace('val,0,S,1.0,', 'val,zero,S,1.0,'), "losses.csv: it is damaged, for the seed is 'zero' in row"),
    ('losses.csv', lambda t: t.replace('val,0,SD,', 'val,0,SN,'), r"losses.csv \(val, seed 0\): the network 'SN' comes twice"),
    ('losses.csv', lambda t: t.replace('val,0,SD,', 'val,0,SDX,'), "losses.csv: network name 'SDX': 'X' is not one of the tasks"),
    ('losses.csv', lambda t: '\n'.join(l for l in t.split('\n') if 'test,0,K,' not in l), 'no seed has the single-task networks of all tasks, S, D, N, K, E'),
    ('scores.csv', lambda t: t + 'RSA,0,D,S,1\n', 'scores.csv: score RSA has two values for S with D and seed 0'),
    ('scores.csv', lambda t: t + 'RSA,0,Z,S,1\n', 'scores.csv: score RSA has a value for S with Z, which is no pair of tasks of setup.json'),
    ('scores.csv', lambda t: t + 'RSA,0,S,S,1\n', 'scores.csv: score RSA has a value for S with S, which is no pair'),
    ('scores.csv', lambda t: t.replace('LI,0,D,S,', 'LI,0,D,S,high'), "scores.csv: it is damaged, for value is 'high"),
    ('costs.csv', lambda t: t.replace('training_seconds', 'seconds_of_training'), "costs.csv: it is damaged, for it has no column 'training_seconds'"),
    ('times.csv', lambda t: t.replace('600.0', 'ten'), "times.csv: it is damaged, for seconds is 'ten' in row 1")])
def test_damage_is_named(toy, tmp_path, name, change, words):
    with pytest.raises(ValueError, match=words): BenchmarkResults(spoil(toy('one'), tmp_path, name, change))

def test_an_incomplete_seed_and_networks_that_failed_are_told(toy, tmp_path):
    folder = spoil(toy('three', seeds=(0, 1, 2)), tmp_path, 'losses.csv', lambda t: '\n'.join(l for l in t.split('\n') if not re.match('(val|test|early),2,K,', l)))
    (folder/'networks.csv').write_text((folder/'networks.csv').read_text().replace('\nK,2,done,,', '\nK,2,diverged,the loss is NaN,'))
    r = BenchmarkResults(folder)
    assert r.seeds == [0, 1] and r.told == ['Seed 2 does not count, for it lacks the single-task network K.', 'Network K (seed 2) diverged: the loss is NaN.']
    assert 'Seed 2 does not count' in str(r) and list(r.gains()) == [0, 1]

def test_a_seed_that_lacks_most_networks_does_not_shrink_the_others(toy, tmp_path):
    folder = spoil(toy('three', seeds=(0, 1, 2)), tmp_path, 'losses.csv', lambda t: '\n'.join(l for l in t.split('\n') if not re.match('[a-z]+,1,[A-Z]{2}', l)))
    (folder/'setup.json').write_text(json.dumps(json.loads((folder/'setup.json').read_text()) | dict(left_out=['pairs (seed 1)'])))
    r = BenchmarkResults(folder)
    assert r.seeds == [0, 2] and r.told == ['Seed 1 does not count, for it has only 5 of 16 networks.', 'Not trained for want of time: pairs (seed 1).']

def test_a_pair_that_is_missing_leaves_its_cells_empty(toy, tmp_path):
    r = BenchmarkResults(spoil(toy('three', seeds=(0, 1, 2)), tmp_path, 'losses.csv', lambda t: '\n'.join(l for l in t.split('\n') if not re.match('[a-z]+,1,NK,', l))))
    assert r.gains()[1].isna().sum().sum() == 5 + 2 and r.gains()[0].isna().sum().sum() == 5
    assert len(r.agreement()) == 0 and r.why_no_agreement().endswith('and 1 pair was not trained with every seed: NK.')
    assert 'NK' not in r.candidates('val').index and len(r.recommend()) >= 1

# The page

@pytest.fixture(scope='module')
def page(toy, tmp_path_factory):
    from its_a_match.report import write_benchmark_report
    home = tmp_path_factory.mktemp('page')
    shutil.copytree(toy('three', seeds=(0, 1, 2)), home/'results')
    return write_benchmark_report(home)

def test_page_is_self_contained(page):
    text = page.read_text()
    assert page.name == 'report.html' and len(text) < 3_000_000
    assert not re.search(r'https?://', text) and '<script' not in text and '@import' not in text
    assert all(src.startswith('data:image/') for src in re.findall(r'<img[^>]* src="([^"]*)', text)) and text.count('<img') >= 6
    assert 'No description has been provided' not in text and '<meta name="viewport"' in text and '@media print' in text
    assert str(page.parent) not in text

def test_page_begins_with_the_recommendation(page):
    text = re.sub(r'<style>.*?</style>', '', page.read_text(), flags=re.S)
    body = re.sub(r'<[^>]+>', ' ', re.sub(r'src="[^"]*"', '', text.split('<body>')[1]))
    assert '<title>Which tasks should be learned together?</title>' in text
    first, rest = body[:1800], body[1800:]
    assert 'With a budget of 4, train SD + N + K + E' in first and 'gain over single-task' in first
    assert rest.index('What partners do to each other') < rest.index('What the scores say') < rest.index('Do the scores predict the gains?') < rest.index('Set-up')
    assert 'import pandas' not in text and 'papermill' not in text

def test_page_leaves_its_tables_and_figures(page):
    made = {p.name for p in (page.parent/'results').rglob('*')}
    assert {'recommendation.csv', 'gains.csv', 'agreement.csv', 'noise_ceiling.csv', 'regret.csv', 'gains.svg', 'gains_spread.svg', 'score_RSA.svg', 'budgets.svg', 'grouping_4.svg'} <= made
    found = pd.read_csv(page.parent/'results/recommendation.csv')
    assert found.networks[3] == 'SD N K E' and found.solves[3] == 'S:SD D:SD N:N K:K E:E'

def test_page_of_nothing(tmp_path):
    from its_a_match.report import write_benchmark_report
    with pytest.raises(ValueError, match='does not hold the results of a benchmark'): write_benchmark_report(tmp_path)

def test_page_that_cannot_be_written(toy, tmp_path):
    from its_a_match.report import write_benchmark_report
    shutil.copytree(toy('one'), tmp_path/'results')
    (tmp_path/'results/figures').write_text('in the way')
    with pytest.raises(OSError): write_benchmark_report(tmp_path)

# Sentences

def test_small_words():
    assert listed('K') == 'K' and listed('KN') == 'K and N' and listed('ABCDEFGHI') == 'A, B, C, D, E, F, G and 2 more' and listed([]) == ''
    assert counted(1, 'seed') == 'one seed' and counted(13, 'seed') == '13 seeds'
    assert [shown_time(x) for x in (.01, 59, 61, 7200, np.nan)] == ['0.01 s', '59 s', '1 min', '2.0 h', 'an unknown time']

def test_gains_in_words(one, three):
    text = tell_gains(three)
    assert text.startswith('Of 20 ordered pairs 2 have lower losses than the target alone, on average over three seeds: from +') and 'N, K and E lose beside every partner.' in text
    assert 'above zero for 2 and below it for 18' in text
    assert tell_gains(one).endswith('One seed does not show how much of this is chance.')

def test_ceiling_in_words(one, three, toy):
    assert f'beyond {three.noise_ceiling().ceiling["pooled"]:.2f}, or ' in tell_ceiling(three)
    assert 'takes two seeds' in tell_ceiling(one)
    assert tell_ceiling(BenchmarkResults(toy('two', tasks=dict(digit='Digit', parity='Parity'), seeds=(0, 1)))) == 'Pairs can be ranked from three tasks up, and there are 2.'

def test_agreement_in_words(one, toy):
    table = one.agreement()
    table.loc['RSA', ['spearman', 'p_max']], table.loc['LI', ['spearman', 'p_max']] = [.8, .01], [.1, .5]
    table.loc['RSA', ['target_spearman', 'p_target_max']], table.loc['LI', ['target_spearman', 'p_target_max']] = [.3, .2], [.1, .5]
    text = tell_agreement(one, table)
    assert 'Of two scores RSA (0.80, p = 0.010) predicts the gains over all pairs beyond chance.' in text
    assert 'Of two scores none predicts which partner suits a target beyond chance: RSA comes closest, with 0.30 and a corrected p of 0.200.' in text
    none = BenchmarkResults(toy('none', computed=()))
    assert tell_agreement(none, none.agreement()) == 'No score was computed.' == tell_costs(none, none.agreement())
    triple = BenchmarkResults(toy('triple', tasks=dict(a='A', b='B', c='C')))
    assert 'With three tasks no p can be below 0.17' in tell_agreement(triple, triple.agreement())

def test_costs_in_words(one):
    table = one.agreement()
    assert 'scores took from 5 min' in tell_costs(one, table.assign(p_max=1)) and 'none to be worth its cost' in tell_costs(one, table.assign(p_max=1))
    assert 'The cheapest of those that agree with the gains beyond chance is RSA.' in tell_costs(one, table.assign(p_max=[.01, 1], spearman=.5))

def test_regret_in_words(one):
    table = pd.DataFrame(dict(score=['A', 'A', 'B', 'B'], budget=[1, 2, 1, 2], regret=[.1, .3, .2, .4], optimum=1., random=[1.5, 1.7, 1.5, 1.7]))
    assert tell_regret(table, 5) == ('On average over budgets A loses least beside the best groups, 4.0 % of the single-task losses, and B most, 6.0 %; '
                                     'groups drawn at random lose 12.0 %.')
    assert tell_regret(table.assign(regret=[.1, .3, .1, .3]), 5).startswith('On average over budgets groups chosen by A and B lose 4.0 %')
    more = pd.concat([table, table[table.score == 'A'].assign(score='C')])
    assert tell_regret(more, 5).startswith('On average over budgets A and C lose least beside the best groups, 4.0 %')
    assert '`--preset full`' in tell_regret(one.regret(), 5)

def test_verdicts_in_words(one, three):
    text = tell_verdicts(one.recommend())
    assert text.count('- **Budget') == one.recommend().networks.nunique() and text.count('second') == 1 and '- **Budget 4 to 5.** SD + N + K + E' in text
    assert 'second' not in tell_verdicts(three.recommend())
    found, measured = three.recommend(), three.recommend(predicted=False)
    told = tell_verdicts(measured, beside=found)
    assert '4 to 5' not in told and '*' not in told.replace('**', '')
    assert tell_predictions(three, measured) == '' and 'For SDNKE, which was trained, pairs predict a gain of' in tell_predictions(three, found)
