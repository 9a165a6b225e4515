"Tournaments: win rates against a double loop, AHP against numpy's eigenvectors, what changes nothing, and what is refused."
from itertools import combinations, product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from its_a_match.affinity.tournaments import (affinity_matrix, consistency, linear_affinities, ordinal, principal_eigenvector, random_index, rate_transfers,
                                              tournament_ratios, transfer_affinities, win_rates)

nan  = np.nan
seed = st.integers(0, 2**32 - 1)

def random_losses(seed, images=None, transfers=None):
    "A table of losses with ties and NaN, in which any two transfers have an image in common."
    rng = np.random.default_rng(seed)
    images, transfers = images or rng.integers(1, 40), transfers or rng.integers(1, 9)
    values = rng.integers(0, rng.integers(2, 20), (images, transfers))/8
    values[rng.random(values.shape) < rng.choice([0, .1, .6])] = nan
    values[0] = rng.random(transfers).round(1)
    return pd.DataFrame(values, columns=[f't{i}' for i in range(transfers)])

def random_ratios(seed, n):
    "A positive reciprocal matrix."
    upper = np.triu(np.exp(np.random.default_rng(seed).normal(0, 2, (n, n))), 1)
    return upper + np.divide(1, upper, where=upper > 0, out=np.zeros_like(upper)).T + np.eye(n)

def by_numpy(a):
    "The principal eigenvector of numpy.linalg.eig, and the eigenvalue."
    values, vectors = np.linalg.eig(a)
    v = vectors[:, values.real.argmax()].real
    return v/v.sum(), values.real.max()

# --- win rates and ratios

@given(seed)
def test_win_rates_by_a_double_loop(seed):
    table = random_losses(seed)
    got = win_rates(table)
    assert list(got.index) == list(got.columns) == list(table.columns) and (got.index.name, got.columns.name) == ('winner', 'loser')
    for i, j in product(table.columns, repeat=2):
        pairs = [(a, b) for a, b in zip(table[i], table[j]) if not (np.isnan(a) or np.isnan(b))]
        assert got.loc[i, j] == sum(a < b for a, b in pairs)/len(pairs)

def test_more_images_than_a_block():
    values = random_losses(5, images=2500, transfers=4).to_numpy()
    both   = ~np.isnan(values[:, :, None]) & ~np.isnan(values[:, None])
    wins   = (values[:, :, None] < values[:, None]).sum(axis=0)
    np.testing.assert_allclose(win_rates(values), wins/both.sum(axis=0))

@given(seed)
def test_ratios_are_reciprocal(seed):
    rates  = win_rates(random_losses(seed))
    ratios = tournament_ratios(rates)
    np.testing.assert_allclose(ratios*ratios.T, 1)
    assert (np.diag(ratios) == 1).all() and ratios.max(axis=None) <= 999*(1 + 1e-12)

@pytest.mark.parametrize('clip, most', [(.001, 999), (.01, 99), (.25, 3), (.5, 1)])
def test_clip(clip, most):
    assert tournament_ratios([[0, 1], [0, 0]], clip).to_numpy() == pytest.approx(np.array([[1, most], [1/most, 1]]))
    assert transfer_affinities([[1., 2.]], clip).tolist() == pytest.approx([1 - clip, clip])

# --- eigenvectors

@settings(max_examples=40)
@given(seed, st.integers(1, 49))
def test_principal_eigenvector_is_numpys(seed, n):
    a = random_ratios(seed, n)
    want, value = by_numpy(a)
    got = principal_eigenvector(a)
    np.testing.assert_allclose(got, want, rtol=1e-7, atol=1e-12)
    assert got.sum() == pytest.approx(1, abs=1e-12) and (got > 0).all()
    assert consistency(a).eigenvalue == pytest.approx(value, rel=1e-9)

@given(seed, st.integers(2, 49))
def test_known_strengths_are_found(seed, n):
    "Ratios that fit together perfectly are those of their eigenvector, and consistent."
    v = np.random.default_rng(seed).uniform(.01, 1, n)
    a = v[:, None]/v
    np.testing.assert_allclose(principal_eigenvector(a), v/v.sum(), rtol=1e-10)
    np.testing.assert_allclose(consistency(a), [n, 0, 0], atol=1e-9)

@pytest.mark.parametrize('n', [4, 8, 15])
def test_random_judgements_have_a_consistency_ratio_of_one(n):
    rng, scale = np.random.default_rng(1), np.r_[1/np.arange(9, 1, -1), np.arange(1, 10)]
    found = []
    for _ in range(200):
        a = np.eye(n)
        for i, j in combinations(range(n), 2):
            a[i, j] = rng.choice(scale)
            a[j, i] = 1/a[i, j]
        found.append(consistency(a).CR)
    assert np.mean(found) == pytest.approx(1, abs=.1)

def test_random_index(): assert random_index(1) == random_index(2) == 0 and 0 < random_index(3) < random_index(6) < random_index(12) < 1.7

# --- affinities

@pytest.mark.parametrize('n', [1, 2, 25])
def test_ties_in_every_image_are_uniform(n):
    table = np.repeat(np.random.default_rng(0).random((20, 1)), n, axis=1)
    assert transfer_affinities(table).tolist() == pytest.approx([1/n]*n, abs=1e-15)

def test_one_source_has_all():
    assert transfer_affinities(pd.DataFrame({'D': [.3, nan, .1]})).to_dict() == {'D': 1.}
    assert consistency([[1.]]).to_dict() == dict(eigenvalue=1, CI=0, CR=0)

@given(seed)
def test_only_the_order_on_each_image_counts(seed):
    "Another monotone function for each image changes nothing, to the last digit."
    table = random_losses(seed)
    ways  = [lambda v: v*2 + 3, lambda v: v**3, np.exp, lambda v: np.log(v + .01), np.sqrt]
    bent  = table.apply(lambda row: ways[row.name % 5](row), axis=1)
    pd.testing.assert_series_equal(transfer_affinities(bent), transfer_affinities(table), check_exact=True)

@given(seed, st.randoms(use_true_random=False))
def test_order_of_transfers_and_images_is_of_no_matter(seed, random):
    table = random_losses(seed)
    mixed = table.sample(frac=1, random_state=1)[random.sample(list(table), table.shape[1])]
    pd.testing.assert_series_equal(transfer_affinities(mixed)[table.columns], transfer_affinities(table), rtol=1e-9)

@given(seed)
def test_ordinal_has_the_same_win_rates(seed):
    table = random_losses(seed)
    ranks = ordinal(table)
    assert (ranks.dtypes == np.uint8).all() and ranks.shape == table.shape and ((ranks == 0) == table.isna()).all(axis=None)
    pd.testing.assert_frame_equal(win_rates(ranks), win_rates(table), check_exact=True)
    pd.testing.assert_frame_equal(ordinal(ranks), ranks)

def test_ordinal_of_many_transfers():
    table = pd.DataFrame(np.random.default_rng(0).random((3, 300)))
    ranks = ordinal(table)
    assert (ranks.dtypes == np.uint16).all() and (ranks.max(axis=1) == 300).all()
    pd.testing.assert_frame_equal(win_rates(ranks), win_rates(table))

def test_a_better_transfer_has_more():
    "Winning in each meeting, an order that all images share."
    found = transfer_affinities(pd.DataFrame(np.tile([.1, .2, .3], (5, 1)), columns=list('DNK')))
    assert found.D > found.N > found.K > 0

# --- tables

def test_linear_affinities():
    losses = pd.DataFrame({'S': [nan, 1., 3., 2.], 'D': [5., nan, 1., 4.]}, index=list('SDNK'))
    want   = pd.DataFrame({'S': [nan, 1., 0., .5], 'D': [0., nan, 1., .25]}, index=list('SDNK'))
    pd.testing.assert_frame_equal(linear_affinities(losses), want)
    pd.testing.assert_frame_equal(linear_affinities(losses*7 + 2), want)

def test_rate_transfers():
    tables = {'S': pd.DataFrame({'D': [.1, .2], 'D+N': [.2, .1], 'S': [.0, .0]}), 'N': pd.DataFrame({'S': [1.]})}
    rated  = rate_transfers(tables)
    assert list(rated.columns) == ['sources', 'target', 'affinity'] and rated.target.tolist() == ['S', 'S', 'S', 'N']
    assert rated.sources.tolist() == ['D', 'D+N', 'S', 'S'] and rated.groupby('target').affinity.sum().tolist() == pytest.approx([1, 1])
    assert rated.affinity[:3].tolist() == transfer_affinities(tables['S']).tolist()
    assert rate_transfers(tables, .5).affinity.tolist() == pytest.approx([1/3]*3 + [1])

def test_affinity_matrix():
    table = affinity_matrix({'N': pd.Series({'N': .5, 'S': .2, 'D+S': .2, 'reshading': .1}), 'S': pd.Series({'N': 1.})})
    assert list(table.index) == list(table.columns) == ['S', 'N', 'reshading'] and (table.index.name, table.columns.name) == ('partner', 'target')
    np.testing.assert_array_equal(table, [[nan, .2, nan], [1., nan, nan], [nan, .1, nan]])

# --- what is refused

GOOD = pd.DataFrame({'D': [.1, .2, .3], 'N': [.2, .1, .1]})

@pytest.mark.parametrize('losses, said', [
    (GOOD[[]], 'there is no transfer'),
    (GOOD*nan, 'no transfer has a loss on any image'),
    (GOOD[:0], 'no transfer has a loss on any image'),
    (GOOD.assign(N=nan), "transfer 'N': it has no loss on any image"),
    (GOOD.assign(N='low'), "transfer 'N': its losses are not numbers"),
    (GOOD.assign(N=True), "transfer 'N': its losses are not numbers"),
    (GOOD.set_axis(['D', 'D'], axis=1), "transfer 'D': it comes twice"),
    (GOOD.assign(N=[0, 1, 2]), "transfer 'N': a 0 among whole numbers"),
    (pd.DataFrame({'D': [.1, nan], 'N': [nan, .1]}), "transfers 'D' and 'N': there is no image on which both have a loss"),
    ([1., 2.], 'the losses have 1 dimensions, not two')])
@pytest.mark.parametrize('call', [win_rates, transfer_affinities, ordinal])
def test_losses_refused(call, losses, said):
    if call is ordinal and said.endswith('both have a loss'): return  # an order needs no pairs
    with pytest.raises(ValueError, match=f'^{said}') as e: call(losses)
    assert '\n' not in str(e.value)

@pytest.mark.parametrize('call, said', [
    (lambda: tournament_ratios([[0, 1], [0, 0]], 0), 'the clip is 0, not'),
    (lambda: tournament_ratios([[0, 1], [0, 0]], .6), 'the clip is 0.6, not'),
    (lambda: transfer_affinities(GOOD, nan), 'the clip is nan, not'),
    (lambda: tournament_ratios([[0, 2], [0, 0]]), 'win rates are a square of numbers from 0 to 1'),
    (lambda: tournament_ratios([[0, nan], [0, 0]]), 'win rates are a square of numbers from 0 to 1'),
    (lambda: tournament_ratios([[0, 1]]), 'win rates are a square of numbers from 0 to 1'),
    (lambda: principal_eigenvector([[1, 2], [2, 1]]), '0 is 2 times 1, and back it is 2, which is not the inverse'),
    (lambda: principal_eigenvector([[2.]]), '0 is 2 times 0'),
    (lambda: consistency([[1, 0], [0, 1]]), 'ratios are a square of positive numbers'),
    (lambda: consistency([[1, np.inf], [0, 1]]), 'ratios are a square of positive numbers'),
    (lambda: principal_eigenvector([[1, 2]]), 'ratios are a square of positive numbers'),
    (lambda: principal_eigenvector(pd.DataFrame()), 'ratios are a square of positive numbers'),
    (lambda: linear_affinities(pd.DataFrame({'S': [1., 1.]})), "target 'S': its losses are all equal"),
    (lambda: linear_affinities(pd.DataFrame({'S': [1., 2.], 'D': [nan, nan]})), "target 'D': its losses are missing or infinite"),
    (lambda: linear_affinities(pd.DataFrame({'S': [1., np.inf]})), "target 'S': its losses are missing or infinite"),
    (lambda: rate_transfers({}), 'there is no target'),
    (lambda: rate_transfers({'S': GOOD, 'E': GOOD.assign(N=nan)}), "target 'E': transfer 'N': it has no loss on any image"),
    (lambda: affinity_matrix({'S': pd.Series({'S': 1., 'D+N': 2.})}), "target 'S': it has no transfer from another task"),
    (lambda: affinity_matrix({'S': pd.Series([1., 2.], ['D', 'D'])}), "target 'S': the transfer from 'D' comes twice"),
    (lambda: affinity_matrix({'S': pd.Series({'D': nan})}), "target 'S': the affinity of 'D' is nan, not a number"),
    (lambda: affinity_matrix({'S': pd.Series({'D': '1'})}), "target 'S': the affinity of 'D' is '1', not a number")])
def test_refused(call, said):
    with pytest.raises(ValueError) as e: call()
    assert str(e.value).startswith(said) and '\n' not in str(e.value)
