"Scores of a campaign: what they lack, what is trained for them, what they are computed from, and what is saved."
import json, shutil

import numpy as np, pandas as pd, pytest, torch

from its_a_match.affinity import SCORES, GradientProbe, RunEvidence, Score, compute, lacking, needed, pairwise, read_scores, score_run, train_lacking
from its_a_match.archive import collect
from its_a_match.campaign import load_network, named, plan, run
from its_a_match.memory import MemoryDataset
from its_a_match.recipes import get_recipe
from its_a_match.tasks import Task

SEG, DEPTH, MOOD = (Task('seg', kind='classes', channels=3), Task('depth'), Task('mood', kind='number'))
TASKS = SEG, DEPTH, MOOD
QUICK = dict(model='small', recipe=get_recipe('quick', epochs=2, batch=8), processes=1, progress=False)
MADE  = dict(processes=1, progress=False)

def views(n, seed):
    g = torch.Generator().manual_seed(seed)
    images = torch.rand(n, 3, 16, 16, generator=g)
    depth  = images.mean(1, keepdim=True)
    return MemoryDataset(TASKS, images, dict(seg=(depth[:, 0]*2.99).long(), depth=depth, mood=images.mean((2, 3))[:, :1]))

DATA = {s: views(n, i) for i, (s, n) in enumerate(dict(train=32, val=8, test=24).items())}

@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    "A campaign of three tasks of a user's own, two seeds, with probes and without injected labels: read only."
    out = tmp_path_factory.mktemp('scores')/'run'
    run(plan(TASKS, sizes=1, seeds=(0, 1)), DATA, out, probes={'gradients': GradientProbe}, **QUICK)
    return out

@pytest.fixture
def copied(trained, tmp_path): return shutil.copytree(trained, tmp_path/'run')

# what is lacking

def test_what_scores_need():
    keys = 'seg', 'depth', 'mood'
    assert needed(SCORES['TD'], keys) == [] and needed(SCORES['RSA'], keys) == ['seg', 'depth', 'mood']
    assert needed(SCORES['GT'], keys) == ['seg+depth', 'seg+mood', 'depth+mood'] and needed(SCORES['GT'], keys, joint='all') == ['seg+depth+mood']
    assert needed(SCORES['LI'], keys)[3:] == ['seg<depth', 'seg<mood', 'depth<seg', 'depth<mood', 'mood<seg', 'mood<depth']

def test_a_campaign_names_what_it_lacks(trained):
    lack = lacking(trained)
    assert set(lack.score) == {'LI'} and len(lack) == 12 and set(lack.reason) == {'not trained'} and set(lack.seed) == {0, 1}
    assert len(lacking(trained, 'LI', [1])) == 6 and not len(lacking(trained, 'RSA,GS')) and len(lacking(trained, 'RSA', [7])) == 3

def test_no_campaign(tmp_path):
    with pytest.raises(ValueError, match='not the folder of a campaign'): lacking(tmp_path)
    with pytest.raises(ValueError, match='not the folder of a campaign'): score_run(tmp_path)

# what is trained

def test_what_is_lacking_is_trained(copied):
    train_lacking(copied, lacking(copied, seeds=[0]), DATA, **MADE)
    assert not len(lacking(copied, seeds=[0])) and len(lacking(copied)) == 6
    L = collect(copied).loc[('test', 0)]
    table = score_run(copied, 'LI', [0], DATA, 'cpu')['LI']
    for a in ('seg', 'depth', 'mood'):
        for b in {'seg', 'depth', 'mood'} - {a}: assert table.loc[b, a] == pytest.approx(L.loc[a, a]/L.loc[f'{a}<{b}', a] - 1)

def test_networks_without_a_probe_are_trained_again_and_are_the_same(tmp_path):
    run(named(['seg', 'depth', 'seg+depth'], TASKS), DATA, tmp_path/'run', **QUICK)
    lack = lacking(tmp_path/'run', 'RSA,GS')
    assert lack[['score', 'network', 'reason']].values.tolist() == [['GS', 'seg+depth', 'trained without measuring gradients']]
    train_lacking(tmp_path/'run', lack, DATA, **MADE)
    assert not len(lacking(tmp_path/'run', 'RSA,GS'))
    one, two = (load_network(h, 'seg+depth').state_dict() for h in (tmp_path/'run', tmp_path/'run'/'gradients'))
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert score_run(tmp_path/'run', 'GS,GT', None, DATA, 'cpu')['GT'].notna().sum().sum() == 2

def test_train_goes_on_in_a_campaign_with_what_was_made(copied):
    "The networks that scores had made are part of the campaign."
    train_lacking(copied, lacking(copied, seeds=[0]), DATA, **MADE)
    before = collect(copied)
    after = run(plan(TASKS, sizes=1, orders=1, injections=True), DATA, copied, probes={'gradients': GradientProbe}, **QUICK)
    pd.testing.assert_frame_equal(before.loc[after.index], after)

# what scores are computed from

def test_evidence_of_a_campaign(trained):
    e = RunEvidence(trained, 1, DATA, 'cpu')
    assert e.tasks == TASKS and list(e.networks) == ['seg', 'depth', 'mood'] and e.data is DATA['test'] and set(e.probes.network) == {'seg+depth', 'seg+mood', 'depth+mood', 'seg+depth+mood'}
    assert e.losses.loc['seg+depth'].notna().tolist() == [True, True, True, False]
    own = load_network(trained, 'depth', 1).state_dict()
    assert all(torch.equal(own[k], v) for k, v in e.networks['depth'].state_dict().items())

def test_other_data_is_refused(trained):
    other = dict(DATA, test=views(24, 9))
    with pytest.raises(ValueError, match='its networks were tested on other data'): RunEvidence(trained, 0, other).data
    assert 'tested on other data' in score_run(trained, 'RSA', [0], other, 'cpu').lacking['RSA']

def test_nobody_noted_where_the_data_is(trained):
    assert 'does not say where its data is' in score_run(trained, 'RSA', [0], None, 'cpu').lacking['RSA']

def test_a_seed_that_was_not_trained(trained):
    scored = score_run(trained, None, [7], DATA, 'cpu')
    assert set(scored.lacking) == set(SCORES) and not scored.tables[7] and 'lacks 3 networks: seg, depth, mood' in scored.lacking['IAS']
    with pytest.raises(ValueError, match='no network with seed 7'): RunEvidence(trained, 7, DATA).losses
    with pytest.raises(ValueError, match='gradients were measured in none'): RunEvidence(trained, 7, DATA).probes

def test_a_damaged_network_costs_its_scores_alone(copied):
    (copied/'networks'/'seg'/'seed-0'/'weights.safetensors').write_bytes(b'no weights')
    scored = score_run(copied, 'RSA,GS', [0], DATA, 'cpu')
    assert 'GS' in scored.tables[0] and 'weights' in scored.lacking['RSA']

@pytest.mark.parametrize('text, why', [
    ('', 'damaged'), ('epoch,step\n1,2\n', "it has no column 'partner'"), (None, 'it has 4 of 8 rows'), ('cut', 'its last row is cut off')])
def test_damaged_probes_are_named(copied, text, why):
    path = copied/'networks'/'seg+depth'/'seed-0'/'gradients.csv'
    whole = path.read_text()
    network = copied/'networks'/'seg+depth'/'seed-0'/'network.json'
    rows = json.loads(network.read_text())['rows']['gradients']
    assert rows == len(whole.splitlines()) - 1 == 4
    path.write_text(text if text in ('', 'epoch,step\n1,2\n') else whole[:-60] if text == 'cut' else '\n'.join(whole.splitlines()[:3]) + '\n')
    scored = score_run(copied, 'GS,RSA', [0], DATA, 'cpu')
    assert 'RSA' in scored.tables[0] and str(path) in scored.lacking['GS'] and why.replace('4 of 8', '2 of 4') in scored.lacking['GS']

@pytest.mark.parametrize('file, text, score, why', [
    ('networks/seg/seed-0/losses.csv', 'split,task,loss\ntest,seg,abc\n', 'LI', "losses.csv: it is damaged, for loss is 'abc' in row 1"),
    ('networks/seg/seed-0/losses.csv', '', 'LI', 'losses.csv: it is damaged')])
def test_other_damaged_files_are_named(copied, file, text, score, why):
    (copied/file).write_text(text)
    with pytest.raises(ValueError, match=why): RunEvidence(copied, 0, DATA).losses

@pytest.mark.parametrize('file, text, why', [('campaign.json', '{}', 'campaign.json: it is damaged'), ('affinity/seed-0/costs.csv', 'a,b\n', "costs.csv: it is damaged, for it has no column 'score'")])
def test_a_damaged_folder_is_named(copied, file, text, why):
    score_run(copied, 'RSA', [0], DATA, 'cpu')
    (copied/file).write_text(text)
    with pytest.raises(ValueError, match=why): score_run(copied, 'RSA', [0], DATA, 'cpu')

def test_a_network_that_diverged_is_not_asked_for_again(copied):
    path = copied/'networks'/'seg+mood'/'seed-0'/'network.json'
    path.write_text(json.dumps(json.loads(path.read_text()) | dict(status='diverged', reason='the training loss of seg')))
    lack = lacking(copied, 'GS', [0])
    assert lack.values.tolist() == [['GS', 'seg+mood', 0, 'diverged']]
    train_lacking(copied, lack, DATA, **MADE)
    assert score_run(copied, 'GS', [0], DATA, 'cpu').lacking['GS'] == 'GS cannot do without the network seg+mood, which diverged (seed 0)'

def test_what_is_attributed_is_an_option(copied):
    one, two = (score_run(copied, 'IAS', [0], DATA, 'cpu', options={'IAS': dict(of=of)})['IAS'] for of in ('predicted', 'sum'))
    assert not one.equals(two) and one.loc['depth', 'mood'] == two.loc['depth', 'mood']

@pytest.mark.parametrize('wrong, why', [
    (lambda tasks: tasks[99], 'MINE: it does not run (IndexError: tuple index out of range)'), (lambda tasks: 3, "score 'MINE': it gives a int, not a pairwise table; `pairwise` makes one"),
    (lambda tasks: pairwise(np.zeros((2, 2)), 'AB'), 'MINE: its table is of A, B, and the tasks are seg, depth, mood')])
def test_a_wrong_score_costs_no_other(copied, wrong, why):
    SCORES['MINE'] = Score('MINE', wrong, 'Mine', True, 'nothing', (-1, 1))
    try: scored = score_run(copied, 'MINE,RSA', [0], DATA, 'cpu')
    finally: del SCORES['MINE']
    assert scored.lacking == {'MINE': why} and list(scored.tables[0]) == ['RSA']

# what is saved

@pytest.fixture(scope='module')
def scored(trained, tmp_path_factory):
    out = shutil.copytree(trained, tmp_path_factory.mktemp('scored')/'run')
    return out, score_run(out, None, None, DATA, 'cpu', options={'RSA': dict(images=12), 'GS': dict(joint='all')})

def test_tables_of_every_seed_and_their_mean(scored):
    out, s = scored
    assert set(s.tables) == {0, 1} and set(s.tables[0]) == {'IAS', 'RSA', 'CKA', 'TA', 'GS', 'GT'} and set(s.lacking) == {'TD', 'LI'}
    np.testing.assert_allclose(s['RSA'], (s.tables[0]['RSA'] + s.tables[1]['RSA'])/2)
    assert "task 'seg'" in s.lacking['TD'] and s.lacking['LI'] == 'LI lacks 6 networks: seg<depth, seg<mood, depth<seg, depth<mood, mood<seg, mood<depth (seed 0)'
    with pytest.raises(ValueError, match='LI lacks'): s['LI']

def test_saved_tables_are_those_computed(scored):
    out, s = scored
    for seed in (0, 1):
        held = read_scores(out, seed)
        assert list(held) == list(s.tables[seed])
        for n, t in held.items(): pd.testing.assert_frame_equal(t, s.tables[seed][n])
    with pytest.raises(ValueError, match='no score has been computed'): read_scores(out, 5)

def test_costs(scored):
    out, s = scored
    c = s.costs.loc[0]
    assert c.loc['RSA', ['forward', 'backward', 'networks']].tolist() == [3*12, 0, 3] and c.loc['IAS', ['forward', 'backward']].tolist() == [3*24, 3*24]
    assert c.loc['GS', 'networks'] == 1 and c.loc['GT', 'networks'] == 3 and (c.training_seconds > 0).all()
    assert c.loc['GT', 'forward'] == 3*2*8*3  # 3 networks, 2 epochs, batches of 8: once as they are and once after each of two steps
    assert c.loc['GS', ['forward', 'backward']].tolist() == [2*8, 2*8*3] and c.loc['GS', 'seconds'] < c.loc['GT', 'seconds']
    assert json.loads(c.loc['RSA', 'options']) == dict(images=12) and (c.device == 'cpu').all()

def test_a_score_computed_anew_replaces_its_row_alone(scored, tmp_path):
    out = shutil.copytree(scored[0], tmp_path/'run')
    score_run(out, 'RSA', [0], DATA, 'cpu', options={'RSA': dict(images=20)})
    held = pd.read_csv(out/'affinity'/'seed-0'/'costs.csv').set_index('score')
    assert held.loc['RSA', 'forward'] == 60 and held.loc['IAS', 'forward'] == 72 and len(held) == 6

def test_scores_leave_the_networks_and_the_random_numbers(trained):
    e = RunEvidence(trained, 0, DATA, 'cpu')
    before, state = {k: {n: v.clone() for n, v in net.state_dict().items()} for k, net in e.networks.items()}, torch.get_rng_state()
    compute(e, 'IAS,RSA,CKA')
    assert torch.equal(state, torch.get_rng_state())
    for k, net in e.networks.items():
        assert not net.training and all(torch.equal(v, before[k][n]) for n, v in net.state_dict().items()) and all(p.grad is None and p.requires_grad for p in net.parameters())

@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_a_gpu_gives_the_same(trained):
    one, two = (compute(RunEvidence(trained, 0, DATA, d), 'IAS,RSA,CKA')[0] for d in ('cpu', 'cuda'))
    for n in one: np.testing.assert_allclose(one[n], two[n], atol=1e-3)
