"The whole way, from a data set to a recommendation: `its_a_match benchmark`."
import json, shutil

import numpy as np, pandas as pd, pytest, torch

from its_a_match.benchmarking import PRESETS, benchmark
from its_a_match.export import export, load_predictor
from its_a_match.estimate import PARTS, agenda, fitting, hours
from its_a_match.memory import MemoryDataset
from its_a_match.recipes import get_recipe
from its_a_match.results import BenchmarkResults
from its_a_match.tasks import get_tasks

@pytest.fixture(scope='session')
def benchmarked(call_in, tiny_rooms, tmp_path_factory):
    "The folder of a benchmark of preset `tiny`, made by the command: read only; what it printed is told.txt."
    folder = tmp_path_factory.mktemp('benchmark')
    told = call_in(folder, 'benchmark', '--data', tiny_rooms, '--preset', 'tiny', '--out', 'run', '--processes', 2, '--installation', 100)
    assert told.returncode == 0, told.stderr
    (folder/'told.txt').write_text(told.stdout)
    return folder/'run'

def toy(n, seed, tasks='DE', side=32):
    rng = np.random.default_rng(seed)
    tasks = get_tasks(tasks)
    return MemoryDataset(tasks, rng.random((n, 3, side, side), np.float32), {t.key: rng.normal(size=(n, t.channels, side, side)).astype(np.float32) for t in tasks})

@pytest.fixture
def sets(): return dict(train=toy(32, 0), val=toy(16, 1), test=toy(16, 2))

FAST = dict(preset='tiny', model='small', processes=1, device='cpu', progress=False, say=lambda s: None)

def test_the_command_ends_with_a_recommendation_and_a_report(benchmarked):
    told = (benchmarked.parent/'told.txt').read_text()
    assert 'budget' in told and told.splitlines()[-1].endswith('report.html')
    page = (benchmarked/'report.html').read_text(encoding='utf-8')
    assert 'Which tasks should be learned together' in page
    results = BenchmarkResults(benchmarked)
    assert results.seeds == [0] and len(results.networks) == 36 and {*results.scores} == {'TD', 'IAS', 'RSA', 'CKA', 'LI', 'TA', 'GS', 'GT'}
    assert {'training', 'scores', 'report'} <= {*pd.read_csv(benchmarked/'results'/'times.csv').stage}

def test_results_can_be_sent_to_somebody(benchmarked, tiny_rooms):
    texts = [p.read_text(encoding='utf-8') for p in (benchmarked/'results').iterdir() if p.suffix in ('.csv', '.json')]
    assert not any(str(place) in t for t in texts for place in (benchmarked, tiny_rooms, tiny_rooms.parent))
    setup = json.loads((benchmarked/'results'/'setup.json').read_text())
    assert setup['command'] == 'its_a_match benchmark --data DATA --out run --preset tiny --processes 2'
    assert setup['data']['name'] == 'Rooms tiny' and len(setup['data']['fingerprint']) == 64 and setup['device'] and setup['versions']['torch']

def test_the_same_command_goes_on_and_adds(benchmarked, call, tiny_rooms, tmp_path):
    run = shutil.copytree(benchmarked, tmp_path/'run')
    before = BenchmarkResults(run)
    shutil.rmtree(run/'networks'/'DE')  # as if it had been stopped there
    told = call('benchmark', '--data', tiny_rooms, '--preset', 'tiny', '--out', 'run', '--processes', 2, '--networks', 'SDN')
    assert told.returncode == 0, told.stderr
    after = BenchmarkResults(run)
    assert after.losses.loc[('test', 0, 'SDN')].notna().sum() == 4
    pd.testing.assert_frame_equal(after.losses.drop(index='SDN', level='network'), before.losses, rtol=1e-3)
    assert after.times['training'] > before.times['training']

def test_a_plan_spends_nothing(call, tiny_rooms, tmp_path):
    told = call('benchmark', '--data', tiny_rooms, '--plan', '--preset', 'tiny', '--tasks', 'SD', '--json', '--model', 'small', '--processes', 1)
    plan = json.loads(told.stdout)
    assert [n['network'] for n in plan['networks']] == ['S', 'D', 'SD', 'S<D', 'D<S'] and plan['hours'] > 0 and not list(tmp_path.iterdir())
    assert {s['score']: s['networks'] for s in plan['scores']} == dict(TD=0, IAS=0, RSA=0, CKA=0, LI=2, TA=0, GS=1, GT=1)

def test_parts_in_the_order_of_their_worth():
    tasks = get_tasks('SDNKE')
    assert [*agenda(tasks, (0,), tuple(PARTS)).part.unique()] == [*PARTS]
    speed = pd.DataFrame(dict(step=[1., 2., 5.], view=[0.]*3, weights=[1]*3), pd.Index([1, 2, 5], name='tasks'))
    timed = hours(agenda(tasks, (0, 1)), speed, get_recipe('balanced', epochs=1), dict(train=32, val=0, test=0))
    seconds = {part: 3600*h for part, h in timed[timed.seed == 0].groupby('part').hours.sum().items()}
    assert seconds == pytest.approx(dict(single=5, pairs=20, all=5, injected=20))
    keep = lambda s: [f'{part}{seed}' for (seed, part), t in fitting(timed, s/3600).items() if t]
    assert keep(6) == ['single0'] and keep(31) == ['single0', 'pairs0', 'all0']
    assert keep(54) == keep(50)
    assert keep(80) == keep(50) + ['single1', 'pairs1', 'all1']  # a seed that lacks some would not count
    assert [f'{part}{seed}' for (seed, part), t in fitting(timed, 1/3600, begun=[(0, 'single'), (0, 'pairs')]).items() if t] == ['single0', 'pairs0']
    full = hours(agenda(tasks, (0, 1), tuple(PARTS)), speed, get_recipe('balanced', epochs=1), dict(train=32, val=0, test=0))
    whole = full.groupby('part').hours.sum()
    taken = fitting(full, full.hours.sum() - whole['larger'] + 1/3600)
    assert not taken[:, 'larger'].any() and taken[:, 'half'].all()  # of both seeds or of none
    assert keep(50) == ['single0', 'pairs0', 'all0', 'injected0'] and len(keep(100)) == 8

def test_what_does_not_fit_is_left_out_and_said(sets, tmp_path, monkeypatch):
    speed = pd.DataFrame(dict(step=[1., 1.], view=[0., 0.], weights=[1, 1]), pd.Index([1, 2], name='tasks'))
    monkeypatch.setattr('its_a_match.benchmarking.probe', lambda *a, **k: speed)  # 4 steps, so 4 seconds for every network
    results = benchmark(sets, tmp_path/'run', **FAST, report=False, scores='RSA,LI', max_hours=13/3600)
    assert {*results.losses.index.unique('network')} == {'D', 'E', 'DE'} and 'LI' in results.setup['lacking'] and results.setup['left_out'] == ['injected (seed 0)']

def test_preset_full_is_every_group_with_three_seeds():
    full = PRESETS['full']
    assert len(agenda(get_tasks('SDNKE'), full.seeds, full.parts)) == 3*(36 + 20)

@pytest.mark.parametrize('how,sentence', [
    (dict(preset='huge'), "preset 'huge': it is none of tiny, quick, full"), (dict(scores='RSA,XYZ'), 'XYZ'), (dict(seeds=[-1]), 'seed -1'),
    (dict(model='small', encoder='small'), 'give a model or an encoder, not both'), (dict(max_hours=1e-9), 'the single-task networks alone take about')])
def test_what_cannot_be(sets, tmp_path, how, sentence):
    with pytest.raises(ValueError, match=sentence): benchmark(sets, tmp_path/'run', **FAST | how)
    assert not (tmp_path/'run'/'networks').exists()

def test_the_command_it_tells_is_the_one_that_was_given(benchmarked):
    "What make hands over is not part of it."
    told = (benchmarked.parent/'told.txt').read_text()
    assert '--installation' not in told + (benchmarked/'results'/'setup.json').read_text()

def quiet(folder, sets, **changes): return benchmark(sets, folder, **FAST | dict(report=False, scores='RSA') | changes)

def test_more_hours_go_on_where_fewer_ended(sets, tmp_path, monkeypatch):
    "What is trained stays and counts with the time it took, however slow the machine seems the second time; scores that come later find their gradients."
    speed = pd.DataFrame(dict(step=[1., 1.], view=[0., 0.], weights=[1, 1]), pd.Index([1, 2], name='tasks'))
    monkeypatch.setattr('its_a_match.benchmarking.probe', lambda *a, **k: speed)  # 4 s a network
    assert quiet(tmp_path, sets, max_hours=9/3600).setup['left_out'] == ['pairs (seed 0)']
    monkeypatch.setattr('its_a_match.benchmarking.probe', lambda *a, **k: speed*1000)
    again = quiet(tmp_path, sets, max_hours=9/3600)
    assert again.setup['left_out'] == ['pairs (seed 0)'] and {*again.losses.index.unique('network')} == {'D', 'E'}
    done = quiet(tmp_path, sets, scores='RSA,GS')
    assert {*done.losses.index.unique('network')} == {'D', 'E', 'DE'} and {*done.scores} == {'RSA', 'GS'}

def test_scores_of_earlier_calls_stay_and_are_not_computed_twice(sets, tmp_path, monkeypatch):
    import its_a_match.affinity as affinity
    counted, compute = [], affinity.compute
    monkeypatch.setattr(affinity, 'compute', lambda e, names, o: counted.extend(names) or compute(e, names, o))
    quiet(tmp_path, sets)
    quiet(tmp_path, sets)
    assert counted == ['RSA']
    assert {*quiet(tmp_path, sets, scores='CKA').scores} == {'RSA', 'CKA'} and counted == ['RSA', 'CKA']
    more = quiet(tmp_path, sets, seeds=[1])
    assert more.seeds == [0, 1] and {*more.scores['RSA']} == {*more.scores['CKA']} == {0, 1} and len(counted) == 4

def test_more_tasks_leave_the_folder_readable(tmp_path):
    three = dict(train=toy(32, 0, 'DNE'), val=toy(16, 1, 'DNE'), test=toy(16, 2, 'DNE'))
    quiet(tmp_path, {s: d.only('DE') for s, d in three.items()}, seeds=[0, 1])
    more = quiet(tmp_path, three, seeds=[0])
    assert more.seeds == [0] and 'Seed 1 does not count, for it lacks the single-task network N.' in more.told

def test_an_encoder_sees_the_shape_of_the_data(tmp_path, tiny_rooms):
    "Its heads double as often as it halves; the campaign tells an encoder from a model of the same name."
    from its_a_match.assignment import EncoderModel, load_network
    results = benchmark(tiny_rooms, tmp_path, 'tiny', tasks='DE', scores='TD', encoder='small', recipe=get_recipe('balanced', epochs=1, batch=16),
                        processes=1, device='cpu', progress=False, report=False, say=lambda s: None)
    assert results.setup['model'] == 'encoder.small'
    net = load_network(tmp_path, 'D', 0, model=EncoderModel('small', (3, 64, 64)))
    assert net(torch.rand(1, 3, 64, 64))['D'].shape == (1, 1, 64, 64)
    code = net.encode(torch.rand(1, 3, 64, 64))
    assert net.decoders['D'](code).shape[-1] == 64 > code.shape[-1]
    with pytest.raises(ValueError, match="made by the encoder small, which has to be given as encoder="): export(tmp_path, 2)
    assert load_predictor(export(tmp_path, 2, encoder='small').folder, encoder='small').solves

@pytest.mark.parametrize('change,said', [
    (dict(data={'val': None}), "split 'train': there is no data set for it"), (dict(data={'train': [], 'val': [], 'test': []}), "split 'train': its data set is empty"),
    (dict(model='no'), "'no'"), (dict(networks='DX'), 'DX'), (dict(data='nowhere'), 'nowhere: there is no such folder'),
    (dict(model=None, encoder=lambda: None), "unexpected keyword argument 'size'; it takes nothing, and is called with size, channels")])
def test_refused_before_anything_is_done(change, said, sets, tmp_path):
    with pytest.raises(ValueError, match=said): benchmark(**dict(data=sets, out=tmp_path/'run') | FAST | change)
    assert not (tmp_path/'run').exists()

def test_without_groups_nothing_is_said_of_groups(sets, tmp_path):
    speed = pd.DataFrame(dict(step=[1., 1.], view=[0., 0.], weights=[1, 1]), pd.Index([1, 2], name='tasks'))
    with pytest.MonkeyPatch.context() as m:
        m.setattr('its_a_match.benchmarking.probe', lambda *a, **k: speed)
        results = quiet(tmp_path, sets, max_hours=9/3600)
    assert str(results).startswith('No group of tasks was trained')

def test_few_labels_are_found_for_the_probe():
    from its_a_match.estimate import _Some
    rng, has = np.random.default_rng(0), np.arange(400) == 17
    targets  = {k: rng.normal(size=(400, 1, 8, 8)).astype(np.float32) for k in 'DE'}
    some = _Some(MemoryDataset('DE', rng.random((400, 3, 8, 8), np.float32), targets, dict(D=np.ones((400, 1, 8, 8), bool), E=np.broadcast_to(has[:, None, None, None], (400, 1, 8, 8)))), 32)
    assert len(some) == 32 and 17 in some.rows and some.batch(range(32))[2]['E'].any()

def test_the_command_is_told_without_this_machines_paths():
    from its_a_match.benchmark_command import _anonymous, _placed
    assert _anonymous('its_a_match benchmark --data /data --out /out --preset tiny') == 'its_a_match benchmark --data DATA --out RUN --preset tiny'
    assert _anonymous("its_a_match benchmark --data . --max-hours 1.5 --out '/a b'") == 'its_a_match benchmark --data . --max-hours 1.5 --out RUN'
    assert _placed('train: its_a_match benchmark --data DATA --out RUN', '/data', '/a b') == "train: its_a_match benchmark --data /data --out '/a b'"

def test_export_tells_of_a_recommendation_that_is_not_trained(benchmarked):
    from its_a_match.export_command import _better
    for row in BenchmarkResults(benchmarked).recommend().itertuples():
        told = _better(benchmarked, f'{row.budget:g}')
        assert bool(told) == bool(row.predicted) and all(n in told[0] for n in row.predicted) and (not told or row.train in told[0])
    assert _better(benchmarked, '12ms') == _better(benchmarked, None) == []
