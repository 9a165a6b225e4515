"Evaluation: properties of the measures, naive cross-checks, pinned published numbers, errors."
from itertools import combinations, permutations

import numpy as np, pandas as pd, pytest
from scipy import stats

from its_a_match.evaluation import agreement, holm, jackknife, mantel, max_test, noise_ceiling, pairwise_gains, relabellings, selection_regret
from its_a_match.published import match_affinities, which_tasks_losses


def table(x, tasks=None):
    "A square array as a pairwise table."
    tasks = list(tasks or 'SDNKEABC')[:len(x)]
    return pd.DataFrame(np.where(np.eye(len(x)), np.nan, x), index=pd.Index(tasks, name='partner'), columns=pd.Index(tasks, name='target'))

def random_table(seed, n=5, decimals=None):
    x = np.random.default_rng(seed).normal(size=(n, n))
    return table(x if decimals is None else x.round(decimals))

def cells(t): return t.to_numpy()[~np.eye(len(t), dtype=bool)]

FIRST = 'pearson spearman kendall target_spearman top1 gain_lost p lo hi'.split()


# naive versions, written from the definitions with loops

def naive_target_spearman(score, gains):
    rhos = []
    for t in gains:
        partners = [p for p in gains.index if p != t]
        a, g = score.loc[partners, t], gains.loc[partners, t]
        if g.nunique() > 1: rhos.append(stats.spearmanr(a, g).statistic if a.nunique() > 1 else 0.)
    return np.mean(rhos)

def naive_spearman(score, gains): return stats.spearmanr(cells(score), cells(gains)).statistic

def naive_p(statistic, score, gains):
    true, tasks, hits, n = statistic(score, gains), list(gains), 0, 0
    for order in permutations(tasks):
        renamed = score.loc[list(order), list(order)].set_axis(tasks, axis=0).set_axis(tasks, axis=1)
        hits, n = hits + (statistic(renamed, gains) >= true - 1e-12), n + 1
    return hits / n

def naive_trust(score, gains):
    credit, lost = [], []
    for t in gains:
        g, a = gains[t].drop(t), score[t].drop(t)
        chosen = a.index[a == a.max()]
        credit.append(np.mean([g[c] == g.max() for c in chosen]))
        lost.append(np.mean([g.max() - g[c] for c in chosen]))
    return np.mean(credit), np.mean(lost)

def naive_jackknife(score, gains):
    rhos = [naive_spearman(score.drop(index=t, columns=t), gains.drop(index=t, columns=t)) for t in gains]
    n = len(rhos)
    half = stats.t(n - 1).ppf(.975) * np.sqrt((n - 1) / n * sum((r - np.mean(rhos))**2 for r in rhos))
    rho = naive_spearman(score, gains)
    return max(-1, rho - half), min(1, rho + half)


@pytest.mark.parametrize('decimals', [None, 0])
@pytest.mark.parametrize('seed', range(4))
def test_naive_cross_check(seed, decimals):
    score, gains = random_table(seed, 4, decimals), random_table(seed + 100, 4, decimals)
    row = agreement({'X': score}, gains).loc['X']
    assert row.pearson == pytest.approx(np.corrcoef(cells(score), cells(gains))[0, 1])
    assert row.spearman == pytest.approx(naive_spearman(score, gains))
    assert row.kendall == pytest.approx(stats.kendalltau(cells(score), cells(gains)).statistic)
    assert row.target_spearman == pytest.approx(naive_target_spearman(score, gains))
    assert (row.top1, row.gain_lost) == pytest.approx(naive_trust(score, gains))
    assert row.p == pytest.approx(naive_p(naive_spearman, score, gains))
    assert row.p_target == pytest.approx(naive_p(naive_target_spearman, score, gains))
    assert (row.lo, row.hi) == pytest.approx(naive_jackknife(score, gains))

def test_vectorised_statistics_are_the_naive_ones():
    score, gains = random_table(0), random_table(1)
    null = mantel(score.to_numpy()[None], gains.to_numpy())
    for k, order in enumerate(relabellings(5)[::17]):
        g = table(gains.to_numpy()[np.ix_(order, order)])
        assert null[0, 0, 17*k] == pytest.approx(naive_spearman(score, g))
        assert null[1, 0, 17*k] == pytest.approx(naive_target_spearman(score, g))

def test_published_scores_against_naive():
    gains, scores = pairwise_gains(which_tasks_losses('test')), match_affinities()
    res = agreement(scores, gains)
    for name, score in scores.items():
        score = score.loc[list(gains), list(gains)].astype(float)
        assert res.spearman[name] == pytest.approx(naive_spearman(score, gains))
        assert res.target_spearman[name] == pytest.approx(naive_target_spearman(score, gains))
        assert (res.top1[name], res.gain_lost[name]) == pytest.approx(naive_trust(score, gains))
        assert res.p[name] == pytest.approx(naive_p(naive_spearman, score, gains))
        assert (res.lo[name], res.hi[name]) == pytest.approx(naive_jackknife(score, gains))


# properties

def test_columns_come_in_the_promised_order():
    res = agreement({'X': random_table(0), 'Y': random_table(1)}, random_table(2))
    assert list(res) == FIRST + ['p_holm', 'p_target', 'p_target_holm', 'p_max', 'p_target_max']
    assert list(res.index) == ['X', 'Y'] and res.index.name == 'score'
    res = agreement({'X': random_table(0)}, [random_table(2), random_table(3)])
    assert list(res)[-2:] == ['seed_lo', 'seed_hi']

def test_perfect_score():
    gains = random_table(0)
    res = agreement({'X': gains}, gains)
    assert res.loc['X', ['pearson', 'spearman', 'kendall', 'target_spearman', 'top1']].tolist() == pytest.approx([1]*5)
    assert res.gain_lost['X'] == 0
    assert res.p['X'] == res.p_target['X'] == pytest.approx(1/120) == res.attrs['smallest_p']

@pytest.mark.parametrize('n', [3, 4, 5, 6, 7])
def test_smallest_p_is_one_over_all_relabellings(n):
    gains = random_table(n, n)
    res = agreement({'X': gains}, gains)
    assert res.p['X'] == pytest.approx(1 / len(list(permutations(range(n))))) == res.attrs['smallest_p']

def test_smallest_p_from_eight_tasks_up():
    gains = random_table(0, 8)
    res = agreement({'X': gains}, gains, permutations=199, resamples=50)
    assert res.p['X'] == pytest.approx(1/200) == res.attrs['smallest_p']

def test_opposite_score_is_never_significant():
    gains = random_table(0)
    assert agreement({'X': -gains}, gains).p['X'] == 1

def test_relabelling_tasks_changes_nothing():
    rng = np.random.default_rng(0)
    scores, gains = {k: random_table(i, decimals=1) for i, k in enumerate('XYZ')}, random_table(9)
    tasks = list(gains)
    before = agreement(scores, gains)
    for _ in range(3):
        order = list(rng.permutation(tasks))
        new = dict(zip(tasks, rng.permutation(list('vwxyz'))))
        move = lambda t: t.loc[order, order].rename(index=new, columns=new)
        pd.testing.assert_frame_equal(agreement({k: move(t) for k, t in scores.items()}, move(gains)), before)

def test_cells_are_matched_by_label():
    scores, gains = {'X': random_table(0)}, random_table(1)
    mixed = {'X': scores['X'].loc[list('EKNDS'), list('NDSEK')]}
    pd.testing.assert_frame_equal(agreement(mixed, gains), agreement(scores, gains))

def test_a_monotone_transform_keeps_what_is_made_of_ranks():
    score, gains = random_table(0), random_table(1)
    res = agreement({'X': score, 'Y': np.exp(3 * score) - 7}, gains)
    ranked = [c for c in res if c != 'pearson']
    assert res.loc['X', ranked].to_numpy() == pytest.approx(res.loc['Y', ranked].to_numpy())
    assert res.pearson['X'] != pytest.approx(res.pearson['Y'])

def test_per_target_numbers_do_not_see_column_offsets():
    score, gains = random_table(0), random_table(1)
    res = agreement({'X': score, 'Y': score + [5, -3, 0, 40, 1]}, gains)
    blind = ['target_spearman', 'top1', 'gain_lost', 'p_target']
    assert res.loc['X', blind].to_numpy() == pytest.approx(res.loc['Y', blind].to_numpy())

def test_column_offsets_alone_rank_no_partners():
    gains = random_table(1) + [0, 3, 6, 9, 12]
    offsets = gains.where(gains.isna(), gains.mean(), axis=1)
    res = agreement({'X': offsets}, gains).loc['X']
    assert res.spearman > .9 and res.p < .05
    assert res.target_spearman == 0 and res.p_target == 1 and res.top1 == pytest.approx(1/4)

def test_a_target_whose_gains_are_equal_is_left_out_of_the_mean():
    gains = random_table(1)
    gains.loc[gains.index != 'N', 'N'] = .5
    assert agreement({'X': gains}, gains).target_spearman['X'] == pytest.approx(1)
    constant = gains.copy()
    constant.loc[constant.index != 'S', 'S'] = .1
    assert agreement({'X': constant}, gains).target_spearman['X'] == pytest.approx(3/4)

def test_the_diagonal_is_not_read():
    score, gains = random_table(0), random_table(1)
    filled = score.fillna(99)
    pd.testing.assert_frame_equal(agreement({'X': filled}, gains.fillna(-99)), agreement({'X': score}, gains))

def test_ties_share_the_credit():
    gains = table([[0, 4, 4], [2, 0, 1], [1, 2, 0]], 'abc') # best: b for a, a for b, a for c
    score = table([[0, 5, 1], [3, 0, 2], [3, 1, 0]], 'abc') # picks b or c for a, a for b, b for c
    res = agreement({'X': score}, gains).loc['X']
    assert res.top1 == pytest.approx((1/2 + 1 + 0) / 3)
    assert res.gain_lost == pytest.approx((.5 + 0 + 3) / 3)


# corrections and intervals

def test_holm_by_hand():
    assert holm([.01, .04, .03]) == pytest.approx([.03, .06, .06])
    assert holm([.02, .02, .02, .9]) == pytest.approx([.08, .08, .08, .9])
    assert holm([.5, .4]) == pytest.approx([.8, .8])
    assert holm([.3]) == pytest.approx([.3])
    assert holm(pd.Series([.6, .001], index=['a', 'b'])) == pytest.approx([.6, .002])

def test_holm_goes_over_the_scores_of_the_call():
    scores, gains = {k: random_table(i) for i, k in enumerate('XYZ')}, random_table(9)
    res = agreement(scores, gains)
    assert res.p_holm.to_numpy() == pytest.approx(holm(res.p))
    assert res.p_target_holm.to_numpy() == pytest.approx(holm(res.p_target))
    assert agreement({'X': scores['X']}, gains).p_holm['X'] == res.p['X']

def naive_max_test(null):
    "Westfall and Young's step-down, score by score and relabelling by relabelling."
    best_first, found, p = sorted(range(len(null)), key=lambda i: -null[i][0]), {}, 0.
    for k, i in enumerate(best_first):
        p = max(p, np.mean([max(null[j][r] for j in best_first[k:]) >= null[i][0] - 1e-12 for r in range(len(null[0]))]))
        found[i] = p
    return [found[i] for i in range(len(null))]

def test_max_test_against_naive():
    for seed in range(5):
        null = np.random.default_rng(seed).normal(size=(4, 30))
        null[1, :20] = null[0, :20]  # scores that move together
        assert max_test(null) == pytest.approx(naive_max_test(null.tolist()))

def test_max_test_can_find_what_holm_cannot():
    "A perfect score among seven, five tasks: 1/120, where Holm's correction leaves 7/120."
    gains  = random_table(9)
    scores = {'perfect': gains} | {k: random_table(i) for i, k in enumerate('ABCDEF')}
    res = agreement(scores, gains)
    assert res.p_max['perfect'] == res.p['perfect'] == pytest.approx(1/120) and res.p_holm['perfect'] == pytest.approx(7/120)
    assert (res.p_max >= res.p - 1e-12).all()

def test_max_test_keeps_its_level():
    "Scores that know nothing: the best of five is called significant at 5 % no more often than that."
    rng = np.random.default_rng(0)
    called = [agreement({k: random_table(rng.integers(1 << 30)) for k in 'ABCDE'}, random_table(rng.integers(1 << 30))).p_max.min() <= .05 for _ in range(200)]
    assert np.mean(called) < .09

def test_jackknife_by_hand_and_cut():
    half = .3 * stats.t.ppf(.975, 3)
    assert jackknife(0, np.array([.5, .5, .5, .9])) == pytest.approx([-half, half])
    assert jackknife(.5, np.array([.5, .5, .5, .9])) == pytest.approx([.5 - half, 1])

def test_interval_needs_four_tasks():
    res = agreement({'X': random_table(0, 3)}, random_table(1, 3)).loc['X']
    assert np.isnan(res.lo) and np.isnan(res.hi)
    res = agreement({'X': random_table(0, 4)}, random_table(1, 4)).loc['X']
    assert -1 <= res.lo <= res.spearman <= res.hi <= 1

def test_bootstrap_against_naive():
    score, gains = random_table(0, 8), random_table(1, 8) + .7 * random_table(0, 8)
    res = agreement({'X': score}, gains, permutations=9, resamples=300, seed=5).loc['X']
    rhos = []
    for draw in np.random.default_rng(5).integers(8, size=(300, 8)):
        pairs = [(i, j) for i in draw for j in draw if i != j]
        rhos.append(stats.spearmanr(*([t.iat[i, j] for i, j in pairs] for t in (score, gains))).statistic)
    assert (res.lo, res.hi) == pytest.approx(tuple(np.quantile(rhos, [.025, .975])))
    assert res.lo < res.spearman < res.hi

def test_one_seed_one_answer():
    scores, gains = {'X': random_table(0, 8)}, random_table(1, 8)
    run = lambda seed: agreement(scores, gains, permutations=99, resamples=99, seed=seed)
    pd.testing.assert_frame_equal(run(1), run(1))
    assert not run(1).equals(run(2))

def test_replicates_are_averaged_and_give_an_interval_over_seeds():
    score, reps = random_table(0), [random_table(i) for i in (1, 2, 3)]
    res, mean = agreement({'X': score}, reps), agreement({'X': score}, sum(reps) / 3)
    np.testing.assert_allclose(res[list(mean)].to_numpy(), mean.to_numpy())
    out = np.array([naive_spearman(score, (sum(reps) - r) / 2) for r in reps])
    half = stats.t.ppf(.975, 2) * np.sqrt(2/3 * ((out - out.mean())**2).sum())
    rho = naive_spearman(score, sum(reps))
    assert res.loc['X', ['seed_lo', 'seed_hi']].tolist() == pytest.approx([max(-1, rho - half), min(1, rho + half)])

def test_mantel_keeps_its_level_where_the_textbook_does_not():
    rng, hits, textbook, off = np.random.default_rng(0), 0, 0, ~np.eye(5, dtype=bool)
    def unrelated():
        u = rng.normal(size=5)
        return np.where(off, u[:, None] + u + .5 * rng.normal(size=(5, 5)), np.nan)
    for _ in range(400):
        a, b = unrelated(), unrelated()
        null = mantel(a[None], b)[0, 0]
        hits += (null >= null[0] - 1e-12).mean() <= .05
        textbook += stats.spearmanr(a[off], b[off], alternative='greater').pvalue <= .05
    assert hits / 400 < .08 < textbook / 400


# the noise ceiling

def test_ceiling_is_spearman_brown():
    reps = [random_table(0) + .5 * random_table(i) for i in (1, 2, 3)]
    res = noise_ceiling(reps)
    for row, prepare in (('pooled', lambda t: t), ('centred', lambda t: t - t.mean())):
        x = [cells(prepare(t)) for t in reps]
        r = np.mean([np.corrcoef(x[i], x[j])[0, 1] for i, j in [(0, 1), (0, 2), (1, 2)]])
        assert res.mean_r[row] == pytest.approx(r)
        assert res.reliability[row] == pytest.approx(3*r / (1 + 2*r))
        assert res.ceiling[row] == pytest.approx(np.sqrt(3*r / (1 + 2*r)))
    assert list(res.index) == ['pooled', 'centred'] and (res.replicates == 3).all()

def test_ceiling_of_a_symmetric_score():
    reps = [random_table(0), random_table(1)]
    mean, res = sum(reps) / 2, noise_ceiling(reps)
    assert res.symmetric['pooled'] == pytest.approx(np.corrcoef(cells(mean + mean.T), cells(mean))[0, 1])
    centred = cells(mean - mean.mean())
    for seed in range(50): # no symmetric table does better
        s = random_table(seed); s = s + s.T
        assert np.corrcoef(cells(s), cells(mean))[0, 1] <= res.symmetric['pooled'] + 1e-12
        assert np.corrcoef(cells(s - s.mean()), centred)[0, 1] <= res.symmetric['centred'] + 1e-12
    s = mean + mean.T
    assert np.corrcoef(cells(s - s.mean()), centred)[0, 1] <= res.symmetric['centred'] + 1e-12
    assert noise_ceiling([s, s]).symmetric.to_numpy() == pytest.approx([1, 1])

def test_equal_and_opposite_replicates():
    g = random_table(0)
    assert noise_ceiling([g, g]).ceiling.tolist() == pytest.approx([1, 1])
    res = noise_ceiling([g, -g + .01 * random_table(1)])
    assert (res.mean_r < 0).all() and res.reliability.tolist() == res.ceiling.tolist() == [0, 0]

def test_replicates_are_matched_by_label():
    g, h = random_table(0), random_table(1)
    pd.testing.assert_frame_equal(noise_ceiling([g, h.loc[list('EKNDS'), list('DNSEK')]]), noise_ceiling([g, h]))


# selection regret

TASKS = 'abcd'
GROUPS = [''.join(g) for k in range(1, 5) for g in combinations(TASKS, k)]

def abcd(seed): return table(random_table(seed, 4).to_numpy(), TASKS)

def losses(seed, extra=()):
    "Random losses of all groups of four tasks as full-size networks, then of `extra` networks."
    rng, names = np.random.default_rng(seed), [*GROUPS, *extra]
    rows = [{t: rng.uniform(1, 2) for t in TASKS if t in name} for name in names]
    cost = [.5 if '@0.5' in name else 1. for name in names]
    return pd.DataFrame(rows, index=pd.Index(names, name='network'), columns=list(TASKS)).assign(cost=cost)[['cost', *TASKS]]

def naive_affinity(score, group, task, alone):
    partners = [p for p in group if p != task]
    return np.mean([score.loc[p, task] for p in partners]) if partners else score[task].drop(task).mean() if alone == 'mean' else alone

def naive_choice(value, budget):
    "The set of full-size networks with the highest sum over tasks of the best `value(group, task)`."
    best = -np.inf, None
    for k in range(1, int(budget) + 1):
        for nets in combinations(GROUPS, k):
            if set(''.join(nets)) != set(TASKS): continue
            total = sum(max(value(n, t) for n in nets if t in n) for t in TASKS)
            if total > best[0] + 1e-12: best = total, nets
    return best[1]

def naive_total(nets, choose, read):
    return sum(read.loc[min((n for n in nets if t in n), key=lambda n: choose.loc[n, t]), t] for t in TASKS)

@pytest.mark.parametrize('alone', [0., 'mean', .7])
@pytest.mark.parametrize('seed', range(3))
def test_regret_against_naive(seed, alone):
    score, val, test = abcd(seed), losses(seed), losses(seed + 10)
    for on in (None, test):
        res = selection_regret({'X': score}, val, [1, 2, 3], alone=alone, on=on, n=50).set_index('budget')
        for b in (1, 2, 3):
            read = val if on is None else on
            chosen = naive_choice(lambda n, t: naive_affinity(score, n, t, alone), b)
            best = naive_choice(lambda n, t: -val.loc[n, t], b)
            assert res.total[b] == pytest.approx(naive_total(res.networks[b], val, read))
            served = lambda nets: sum(max(naive_affinity(score, n, t, alone) for n in nets if t in n) for t in TASKS)
            assert served(res.networks[b]) == pytest.approx(served(chosen))
            assert res.optimum[b] == pytest.approx(naive_total(best, val, read))
            assert res.regret[b] == pytest.approx(res.total[b] - res.optimum[b])
            if on is None: assert res.regret[b] >= -1e-12
            if b > 1: assert res.share[b] == pytest.approx(res.regret[b] / (res.random[b] - res.optimum[b]))
        assert np.isnan(res.share[1]) and res.networks[1] == ('abcd',)

def test_regret_columns_and_the_usual_rule_for_a_task_alone():
    scores = {k: abcd(i) for i, k in enumerate(['LI', 'GS', 'GT', 'TD', 'RSA'])}
    res = selection_regret(scores, losses(0), [2, 2.5], n=20)
    assert list(res) == 'score alone budget networks total optimum random regret share optimum_any_size'.split()
    assert len(res) == 10 and res.alone.tolist() == [0]*6 + ['mean']*4
    assert selection_regret(scores, losses(0), iter([2]), alone={'TD': -1.}, n=20).alone.tolist() == [0, 0, 0, -1., 'mean']
    assert set(selection_regret(scores, losses(0), [2], alone=.3, n=20).alone) == {.3}

def test_regret_knows_only_plain_full_size_groups_but_shows_the_rest():
    score = abcd(0)
    val = losses(0, ['a@0.5', 'b@0.5', 'ab+gradnorm'])
    val.loc['ab+gradnorm', ['a', 'b']] = 0.
    val.loc['a@0.5', 'a'] = val.loc['b@0.5', 'b'] = .01
    res = selection_regret({'X': score}, val, [3], n=20).iloc[0]
    assert res.optimum == pytest.approx(selection_regret({'X': score}, val.loc[GROUPS], [3], n=20).optimum[0])
    assert 0 < res.optimum_any_size < res.optimum
    few = val.drop(['ab', 'abc'])
    assert not {'ab', 'abc'} & set(sum(selection_regret({'X': score}, few, [1, 2, 3, 4], n=20).networks, ()))

def test_regret_of_names_in_any_order():
    score = abcd(0)
    renamed = losses(0).rename(index=lambda name: name[::-1])
    a, b = (selection_regret({'X': score}, t, [1, 2, 3], n=20) for t in (losses(0), renamed))
    np.testing.assert_allclose(a[['total', 'optimum']], b[['total', 'optimum']])
    assert [{n[::-1] for n in nets} for nets in b.networks] == [set(nets) for nets in a.networks]

def test_published_optimum_is_the_papers():
    res = selection_regret(match_affinities(), which_tasks_losses('val'), [2, 3, 4], on=which_tasks_losses('test'), n=100)
    assert res.groupby('budget').optimum_any_size.first().round(3).tolist() == [.452, .442, .436] # Table 7, Ours Optimal

def test_regret_errors():
    score, val = abcd(0), losses(0)
    for args, kwargs, says in [(({}, val, [2]), {}, 'no scores'), (({'X': score}, val, [2]), dict(alone='median'), "'median'.*'X'"),
                               (({'X': score}, val, [2]), dict(on=val.drop('bc')), "network 'bc' for task 'b'"),
                               (({'X': score.drop('d')}, val, [2]), {}, "score 'X' has the partners a, b, c;"),
                               (({'X': score}, val, [.5]), {}, 'the least that works is 1')]:
        with pytest.raises(ValueError, match=says): selection_regret(*args, **kwargs)


# the published numbers

TABLE_2 = pd.DataFrame({'S': [np.nan, 4.17, 8.50, 4.82, 3.07], 'D': [-5.41, np.nan, 2.48, 1.38, -.92], 'N': [-11.29, -3.55, np.nan, -.02, -4.42],
                        'K': [-4.32, 3.49, 1.37, np.nan, 1.37], 'E': [-34.64, 3.76, 12.33, -5.26, np.nan]}, index=list('SDNKE'))

def test_table_2_is_the_test_split_over_half_size_networks():
    gains = pairwise_gains(which_tasks_losses('test'), baseline='half')
    np.testing.assert_array_equal((100 * gains).round(2), TABLE_2)
    assert gains.index.name == 'partner' and gains.columns.name == 'target'

def test_table_2_is_not_the_validation_split_nor_full_size():
    assert not np.allclose(100 * pairwise_gains(which_tasks_losses('val')), TABLE_2, atol=.01, equal_nan=True)
    assert not np.allclose(100 * pairwise_gains(which_tasks_losses('test'), 'full'), TABLE_2, atol=.01, equal_nan=True)

def test_full_baseline_by_hand():
    gains = pairwise_gains(which_tasks_losses('val'), 'full')
    assert gains.loc['D', 'S'] == pytest.approx((.08039 - .07858) / .08039)
    assert gains.loc['S', 'D'] == pytest.approx((.1695 - .1833) / .1695)

def test_gains_need_plain_full_size_pairs():
    losses = which_tasks_losses('test')
    more = pd.concat([losses, losses.loc[['SD']].assign(S=9.).set_axis(['SD@2'], axis=0), losses.loc[['SD']].assign(S=9.).set_axis(['SD+gradnorm'], axis=0)])
    pd.testing.assert_frame_equal(pairwise_gains(more), pairwise_gains(losses))
    with pytest.raises(ValueError, match="needs network 'SD', which is not"): pairwise_gains(more.drop('SD'))

def test_one_network_under_two_names():
    losses = which_tasks_losses('test')
    with pytest.raises(ValueError, match="twice, as 'SD' and 'DS'"): pairwise_gains(pd.concat([losses, losses.loc[['SD']].set_axis(['DS'], axis=0)]))

def test_gains_of_users_tasks_in_any_order():
    losses = pd.DataFrame({'cost': [1, 1, 1], 'seg': [2., None, 1.], 'depth': [None, 4., 3.]}, index=['seg', 'depth', 'depth+seg'])
    gains = pairwise_gains(losses, 'full')
    assert gains.loc['depth', 'seg'] == .5 and gains.loc['seg', 'depth'] == .25 and np.isnan(gains.loc['seg', 'seg'])


# bad input: one sentence that names what is wrong

def test_bad_networks():
    losses = which_tasks_losses('test')
    for change, baseline, says in [(losses.drop('K@0.5'), 'half', "'K@0.5'"), (losses.drop('K'), 'full', "'K'"), (losses, 'third', "'third'"),
                                   (losses.assign(S=losses.S.where(losses.index != 'SN')), 'half', "'SN' has no loss for task 'S'"),
                                   (pd.concat([losses, losses.loc[['SD']]]), 'half', "'SD' comes twice"),
                                   (losses.assign(S=losses.S * 0), 'half', "on 'S'.*must be positive")]:
        with pytest.raises(ValueError, match=says): pairwise_gains(change, baseline)

def test_bad_tables():
    score, gains = random_table(0), random_table(1)
    hole, text, inf = score.copy(), score.astype(object), score.copy()
    hole.loc['D', 'S'], text.loc['D', 'S'], inf.loc['D', 'S'] = np.nan, 'n/a', np.inf
    for bad in (hole, text, inf):
        with pytest.raises(ValueError, match="score 'X' has no finite number for partner 'D' and target 'S'"): agreement({'X': bad}, gains)
    for bad in (score.drop('E'), score.drop(columns='E'), score.rename(index={'E': 'F'}), pd.concat([score, score.loc[['E']]])):
        with pytest.raises(ValueError, match="score 'X' has the (partners|targets) "): agreement({'X': bad}, gains)
    with pytest.raises(ValueError, match="the table of gains has no finite number for partner 'D' and target 'S'"): agreement({'X': score}, hole)
    with pytest.raises(ValueError, match="replicate 1 of the gains .* partner 'D' and target 'S'"): agreement({'X': score}, [gains, hole])
    with pytest.raises(ValueError, match="replicate 1 of the gains has the partners"): noise_ceiling([gains, score.drop('E')])

def test_nothing_to_rank():
    score, gains = random_table(0), random_table(1)
    with pytest.raises(ValueError, match="score 'X' is the same for every pair"): agreement({'X': score * 0}, gains)
    with pytest.raises(ValueError, match="the table of gains is the same for every pair"): agreement({'X': score}, gains * 0)
    with pytest.raises(ValueError, match="from three tasks up; the gains have 2"): agreement({'X': random_table(0, 2)}, random_table(1, 2))
    with pytest.raises(ValueError, match="no scores"): agreement({}, gains)
    for few in ([], [gains], gains):
        with pytest.raises(ValueError, match="at least two replicates"): noise_ceiling(few)

def test_gains_of_an_accuracy_and_networks_of_other_names():
    "An accuracy that rises is a gain; a network whose name says nothing of its tasks is no pair."
    losses = pd.DataFrame(dict(cost=1., seg=[.70, np.nan, .77, .5], depth=[np.nan, .40, .30, .5]), ['seg', 'depth', 'seg+depth', 'all'])
    gains = pairwise_gains(losses, 'full', higher_is_better='seg')
    assert gains.loc['depth', 'seg'] == pytest.approx(.1) and gains.loc['seg', 'depth'] == pytest.approx(.25)
    with pytest.raises(ValueError, match="no task 'pose'"): pairwise_gains(losses, 'full', higher_is_better=['pose'])
    with pytest.raises(ValueError, match="baseline='full'"): pairwise_gains(losses)
