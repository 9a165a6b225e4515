"Campaigns: plans, the folder, and that kills, full disks, failures and second processes change nothing in the end."
import errno, json, os, random, shutil, signal, subprocess, sys, time
from dataclasses import replace

import numpy as np, pandas as pd, pytest, torch
from typer.testing import CliRunner

from its_a_match import campaign, checkpoints
from its_a_match.archive import Archive, collect, fingerprint, read_table, states
from its_a_match.batches import MemoryDataset
from its_a_match.campaign import load_network, named, open_data, plan, run
from its_a_match.candidates import check_candidates, read_candidates
from its_a_match.checkpoints import load
from its_a_match.models import get_model
from its_a_match.taskonomy import TaskonomyDataset
from its_a_match.tasks import LETTERS, Task, get_tasks
from its_a_match.training import Callback, get_recipe

SIX  = plan('DE', sizes=1, seeds=(0, 1))
FAST = dict(model='small', recipe=get_recipe('quick', epochs=3, batch=8), processes=1)

def toy(n, seed, size=16, tasks=get_tasks('DE')):
    draw = np.random.default_rng(seed)
    images = draw.random((n, 3, size, size), dtype=np.float32)
    return MemoryDataset(tasks, images, {t.key: images[:, i:i+1] + .1*draw.random((n, 1, size, size), dtype=np.float32) for i, t in enumerate(tasks)})

def toys(tasks=get_tasks('DE')): return {s: toy(n, i, tasks=tasks) for i, (s, n) in enumerate(dict(train=24, val=8, test=8).items())}

class Steps(Callback):
    "A probe: the loss of every third step."
    name = 'steps'
    def __init__(self): self.rows = []
    def after_step(self, t):
        if t.step % 3 == 0: self.rows.append([t.step, t.losses[t.keys[0]].item()])
    def state(self): return dict(rows=self.rows)
    def load(self, state): self.rows = [list(r) for r in state['rows']]
    def table(self): return pd.DataFrame(self.rows, columns=['step', 'loss'])

@pytest.fixture(autouse=True)
def one_thread():
    "Numbers depend on how many there are."
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)

@pytest.fixture(scope='module')
def data(): return toys()

@pytest.fixture(scope='module')
def done(tmp_path_factory):
    "A campaign of six networks that nothing disturbed: its folder."
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp('campaign')/'done'
    run(SIX, toys(), out, [Steps], progress=False, **FAST)
    torch.set_num_threads(before)
    return out

def contents(out):
    "What a campaign came to: tables, histories without times, probes and weights."
    found = {'losses': collect(out).sort_index().to_csv()}
    for p in sorted(out.glob('networks/*/*')):
        found |= {f'{p} {n}'.removeprefix(str(out)): (p/n).read_text() for n in ('losses.csv', 'steps.csv', 'missing.csv') if (p/n).exists()}
        found[f'{p} history'.removeprefix(str(out))] = pd.read_csv(p/'history.csv', dtype=str).drop(columns='seconds').to_csv()
        found[f'{p} weights'.removeprefix(str(out))] = {k: v.numpy().tobytes() for k, v in load(p/'weights')[0].items()}
    return found

# ---- plans

def test_default_plan_is_the_papers():
    p = plan()
    assert len(p) == 36 and (p['size'] == .5).sum() == 5 and p.network.is_unique
    assert sorted(p[p['size'] == 1].tasks.map(len).value_counts().items()) == [(1, 5), (2, 10), (3, 10), (4, 5), (5, 1)]
    assert set(p[p['size'] == .5].network) == {f'{t}@0.5' for t in LETTERS}
    assert all(n.isascii() for n in p.network)

@pytest.mark.parametrize('options, names', [
    (dict(tasks='SDN', orders=2), ['SD', 'SN', 'DN']),
    (dict(tasks='SD', orders=(1, 2), sizes=1), ['S', 'D', 'SD']),
    (dict(tasks='SDN', sizes={3: (2, 2.5)}), ['SDN@2', 'SDN@2.5']),
    (dict(sizes={5: 2}, balancing='gradnorm'), ['SDNKE@2+gradnorm']),
    (dict(tasks='SD', sizes=1, balancing='gradnorm'), ['S', 'D', 'SD+gradnorm']),
    (dict(tasks='SD', sizes=1, balancing='equal'), ['S', 'D', 'SD']),
    (dict(tasks='SD', orders=1, sizes=1, injections=True), ['S', 'D', 'S<D', 'D<S']),
    (dict(tasks=[Task('seg'), Task('depth')]), ['seg', 'depth', 'seg@0.5', 'depth@0.5', 'seg+depth']),
    (dict(tasks=['S', Task('seg')], orders=2), ['S+seg'])])
def test_plan(options, names): assert [*plan(**options).network] == names

def test_injections_are_all_ordered_pairs():
    p = plan(orders=1, sizes=1, injections=True)
    assert len(p) == 5 + 20 and len(p[p.injected != '']) == 20
    assert p.set_index('network').loc['S<D', ['tasks', 'injected']].tolist() == [('S',), 'D']

def test_seeds():
    p = plan('SD', seeds=range(3))
    assert len(p) == 15 and not p.duplicated(['network', 'seed']).any() and [*p.seed.unique()] == [0, 1, 2]

@pytest.mark.parametrize('options, message', [
    (dict(tasks='SX'), "task 'SX'"), (dict(tasks=[]), 'no task'), (dict(tasks=['S', 'S']), 'comes twice'), (dict(sizes=.1), 'size 0.1'), (dict(sizes=(1, 4.5)), 'size 4.5'),
    (dict(sizes='half'), 'size'), (dict(orders=0), 'order 0'), (dict(orders=(1, 6)), 'only 5 tasks'), (dict(orders=1.5), 'order 1.5'), (dict(seeds=-1), 'seed -1'),
    (dict(seeds=(0, .5)), 'seed 0.5'), (dict(seeds=()), 'no seed'), (dict(seeds=True), 'seed True'), (dict(tasks='S', injections=True), 'no other task'), (dict(balancing='magic'), "'magic'"),
    (dict(sizes={1: 1}, orders=2), 'order 2'), (dict(sizes=.5, orders=2), 'no network'), (dict(tasks=[Task('..')]), 'hidden')])
def test_impossible_plan(options, message):
    with pytest.raises(ValueError, match='^[^\n]+$') as e: plan(**options)
    assert message in str(e.value)

def test_named():
    p = named(['DS', 'S½', 'S@0.5', 'K<E', 'SDNKE@2+gradnorm'])
    assert [*p.network] == ['SD', 'S@0.5', 'K<E', 'SDNKE@2+gradnorm']
    for bad in ('X', 'S@5', 'SD+magic', 'S<S'):
        with pytest.raises(ValueError): named(bad)

def test_plan_from_a_file_and_with_halves(tmp_path):
    p = pd.concat([plan('SD'), plan('SD', injections=True)])
    checked, keys = campaign.check_plan(p)
    assert keys == ('S', 'D') and [*checked.network] == ['S', 'D', 'S@0.5', 'D@0.5', 'SD', 'S<D', 'D<S']
    checked.assign(tasks=['+'.join(t) for t in checked.tasks]).to_csv(tmp_path/'plan.csv', index=False)
    again, _ = campaign.check_plan(pd.read_csv(tmp_path/'plan.csv'))
    pd.testing.assert_frame_equal(again, checked)
    assert [*campaign.check_plan(checked.assign(network=checked.network.str.replace('@0.5', '½')))[0].network] == [*checked.network]

@pytest.mark.parametrize('column, value', [('network', 'DS'), ('size', 9.), ('size', None), ('seed', -1), ('balancing', 'magic'), ('injected', 'S'), ('tasks', ('S', 'S'))])
def test_impossible_row(column, value):
    p = plan('S', sizes=1)
    with pytest.raises(ValueError): campaign.check_plan(p.assign(**{column: pd.Series([value], dtype=object)}))

# ---- the table

def test_what_it_leaves_behind(done):
    table = collect(done)
    assert [*table.columns] == ['cost', 'D', 'E'] and table.index.names == ['split', 'seed', 'network']
    assert {*table.index.unique('split')} == {'val', 'test', 'early'} and [*table.index.unique('seed')] == [0, 1]
    part = table.loc[('test', 0)]
    assert [*part.index] == ['D', 'E', 'DE'] and part.isna().sum().tolist() == [0, 1, 1]
    pd.testing.assert_frame_equal(check_candidates(part), part)
    pd.testing.assert_frame_equal(read_candidates(done/'candidates'/'test-0.csv'), part)
    one = done/'networks'/'DE'/'seed-0'
    assert {p.name for p in one.iterdir()} == {'history.csv', 'losses.csv', 'missing.csv', 'network.json', 'weights.safetensors', 'weights.json', 'steps.csv', 'lock'}
    losses = pd.read_csv(one/'losses.csv').set_index(['split', 'task']).loss
    assert losses['test', 'D'] == pytest.approx(part.D['DE'], abs=1e-12)
    assert len(pd.read_csv(one/'steps.csv')) == 3
    state = states(done)
    assert (state.status == 'done').all() and (state.snt == 1).all() and (state.epochs == 3).all() and (state.images_per_second > 0).all()

def test_weights_give_the_losses(done, data):
    from its_a_match.training import evaluate
    statistics = read_table(done/'statistics.csv', ['mean', 'std', 'labelled']).astype({'channel': int}).set_index(['task', 'channel'])
    net = load_network(done, 'DE')
    pd.testing.assert_series_equal(evaluate(net, data['test'], statistics), collect(done).loc[('test', 0, 'DE'), ['D', 'E']], check_names=False)

def test_no_such_network(done):
    for bad in (dict(network='D', seed=7), dict(network='S'), dict(network='D', model=get_model)):
        with pytest.raises(ValueError): load_network(done, **bad)
    with pytest.raises(FileNotFoundError): load_network(done, 'D', stage=.5)

def test_stages_and_balancing(data, tmp_path):
    out = tmp_path/'out'
    table = run(plan('DE', orders=2, balancing='gradnorm'), data, out, keep=[.5, 1], progress=False, **FAST)
    assert [*table.loc[('val', 0)].index] == ['DE+gradnorm'] and Archive(out).record('DE+gradnorm', 0)['balancing'] == 'gradnorm'
    weights = [next(load_network(out, 'DE+gradnorm', stage=s).parameters()) for s in (.5, 1)]
    assert not torch.equal(*weights)
    assert len(pd.read_csv(out/'networks'/'DE+gradnorm'/'seed-0'/'balancing.csv')) == 9

def test_select_reads_the_candidates(done):
    from its_a_match.cli import app
    result = CliRunner().invoke(app, ['select', str(done/'candidates'/'val-0.csv'), '--budget', '1', '--on', str(done/'candidates'/'test-0.csv')])
    assert result.exit_code == 0 and 'DE' in result.output

def test_same_seed_same_start(data):
    "Networks of one seed have the same encoder to begin with, and another seed another one."
    weights = {(n, s): next(iter(get_model('small', n, seed=s).encoder.parameters())) for n in ('D', 'DE') for s in (0, 1)}
    assert torch.equal(weights['D', 0], weights['DE', 0]) and not torch.equal(weights['D', 0], weights['D', 1])

def test_fingerprint(data):
    assert fingerprint(toy(8, 1)) == fingerprint(data['val'])
    assert fingerprint(toy(8, 3)) != fingerprint(data['val']) != fingerprint(toy(9, 1))

def test_injected_and_users_tasks(tmp_path):
    tasks = Task('seg'), Task('depth')
    p = plan(tasks, orders=1, injections=True)
    table = run(p, toys(tasks), tmp_path/'out', progress=False, **FAST)
    assert {*table.loc[('val', 0)].index} == {'seg', 'depth', 'seg@0.5', 'depth@0.5', 'seg<depth', 'depth<seg'}
    assert table.loc[('val', 0, 'seg@0.5'), 'cost'] == .5
    assert states(tmp_path/'out').loc[('seg@0.5', 0), 'snt'] == pytest.approx(.5, rel=.03)
    assert [*read_candidates(tmp_path/'out'/'candidates'/'val-0.csv').index] == ['seg', 'depth', 'seg@0.5', 'depth@0.5']

def test_a_name_without_room_is_refused_before_training(tmp_path):
    tasks = Task('seg'), Task('half')
    with pytest.raises(ValueError, match="task 'half': PyTorch has no room"): run(plan(tasks, orders=1), toys(tasks), tmp_path/'out', progress=False, **FAST)
    assert not (tmp_path/'out').exists()

def test_rooms(tiny_rooms, tmp_path, monkeypatch):
    "From a folder, from memory and from the cache: the same numbers; a user's own name for a folder of labels."
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path/'cache'))
    recipe = get_recipe('quick', epochs=1)
    one = run(named('SD'), tiny_rooms, tmp_path/'one', model='small', recipe=recipe, size=32, processes=1, progress=False)
    source = campaign.DataFolder(str(tiny_rooms), get_tasks('SD'), 32)
    assert not isinstance(open_data(source, memory=False)['train'], MemoryDataset) and isinstance(open_data(source)['train'], MemoryDataset)
    two = run(named('SD'), open_data(source, memory=False), tmp_path/'one', model='small', recipe=recipe, processes=1, progress=False)
    new = run(named('SD'), open_data(source, memory=False), tmp_path/'new', model='small', recipe=recipe, processes=1, progress=False)
    assert one.equals(two) and one.equals(new)
    depth = Task('depth_zbuffer', label='distance', bits=16, scale=1/512, invalid=65535)
    with pytest.raises(ValueError, match="task 'depth_zbuffer' of the plan"): run(plan([depth]), tiny_rooms, tmp_path/'own', progress=False)
    own = run(plan([depth], sizes=1), tiny_rooms, tmp_path/'own', model='small', recipe=recipe, size=32, tasks=[depth], processes=1, progress=False)
    assert own.columns.tolist() == ['cost', 'depth_zbuffer']

def test_labels_that_a_folder_lacks(tiny_rooms, tmp_path, monkeypatch):
    "Views that lack a task's label train the other; a list of views to be left out is obeyed."
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path/'cache'))
    rooms, recipe = tmp_path/'rooms', get_recipe('quick', epochs=1, batch=4)
    shutil.copytree(tiny_rooms, rooms)
    views = TaskonomyDataset(rooms, 'train', 'SD').views
    for path in views.depth_zbuffer[:3]: (rooms/path).unlink()
    run(named('SD'), rooms, tmp_path/'out', model='small', recipe=recipe, size=32, processes=1, progress=False)
    missing = pd.read_csv(tmp_path/'out'/'networks'/'SD'/'seed-0'/'missing.csv', index_col='task')
    seen = len(views)//4*4  # one pass leaves off with its last whole batch
    assert missing.images.tolist() == [seen, seen] and missing.without['S'] == 0 and 3 - (len(views) - seen) <= missing.without['D'] <= 3
    views.index[:2].to_frame(index=False)[['building', 'point', 'view']].to_csv(tmp_path/'bad.csv', index=False)
    with pytest.raises(ValueError, match='made otherwise'): run(named('SD'), rooms, tmp_path/'out', model='small', recipe=recipe, size=32, processes=1, progress=False, leave_out=tmp_path/'bad.csv')
    assert len(open_data(campaign.DataFolder(str(rooms), get_tasks('SD'), 32, str(tmp_path/'bad.csv')))['train']) == len(views) - 2

# ---- going on

def test_interrupt_and_go_on(done, data, tmp_path):
    out, seen = tmp_path/'out', []
    def stop(event):
        if len(seen) < 3 and event['epoch'] == 1 + len(seen):
            seen.append(event['network'])
            raise KeyboardInterrupt
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt): run(SIX, data, out, [Steps], progress=stop, **FAST)
    assert 'waiting' in [*states(out).status] and collect(out).shape[1] == 3
    run(SIX, data, out, [Steps], progress=False, **FAST)
    assert contents(out) == contents(done)

def test_finished_is_not_trained_again(done, data):
    events, before = [], {p: p.stat().st_mtime_ns for p in done.rglob('network.json')}
    run(SIX, data, done, [Steps], progress=events.append, **FAST)
    assert events == [] and before == {p: p.stat().st_mtime_ns for p in done.rglob('network.json')}

def test_later_networks_join(data, tmp_path):
    "Further tasks, sizes and seeds; the statistics and the order of the columns follow."
    three, out = toys(get_tasks('SDE')[1:]), tmp_path/'out'
    run(named('E'), three, out, progress=False, **FAST)
    assert [*json.loads((out/'campaign.json').read_text())['tasks']] == ['E']
    table = run(named(['DE', 'E@0.5'], seeds=1), three, out, progress=False, **FAST)
    assert [*table.columns] == ['cost', 'D', 'E'] and len(table.loc['val']) == 3
    assert [*read_table(out/'statistics.csv').task] == ['E', 'D']
    assert len(Archive(out).plan()) == 3

def refused(message, p, data, out, **options):
    before = {f: f.read_bytes() for f in out.rglob('*') if f.is_file()}
    with pytest.raises(ValueError, match='^[^\n]+$') as e: run(p, data, out, progress=False, **(FAST | options))
    assert message in str(e.value)
    assert before == {f: f.read_bytes() for f in out.rglob('*') if f.is_file()}

def test_other_folder_is_refused(done, data):
    p = plan('DE', sizes=1)
    refused('recipe.lr was 0.005 there and is 0.1 here', p, data, done, recipe=replace(FAST['recipe'], lr=.1))
    refused("model was 'small' there and is 'wide' here", p, data, done, model='wide')
    refused('data.train.views was 24 there and is 16 here', p, data | dict(train=toy(16, 0)), done)
    refused('data.val.image', p, data | dict(val=toy(8, 5)), done)
    refused('keep', p, data, done, keep=[.5])
    refused('options.width', p, data, done, options=dict(width=2))
    changed = tuple(replace(t, scale=2.) for t in get_tasks('DE'))
    refused('tasks.D.scale', p, toys(changed), done)
    refused('letters', named('mass', [Task('mass')]), toys((Task('mass'),)), done)
    refused("without the probe 'other'", p, data, done, probes=dict(other=Steps))

@pytest.mark.parametrize('change, message', [
    (dict(data=dict(train=0)), "no split 'val'"), (dict(plan=named('S')), "task 'S' of the plan"), (dict(engine='magic'), "engine 'magic'"), (dict(recipe='magic'), "'magic'"),
    (dict(processes=0), 'number of processes 0'), (dict(probes=[Steps()]), 'give its class'), (dict(probes=dict(losses=Steps)), "'losses'"), (dict(size=32), 'size'),
    (dict(model=torch.nn.Identity()), 'would begin with the same'), (dict(progress=3), 'progress is 3'), (dict(data='/nowhere'), '/nowhere')])
def test_impossible_run(data, tmp_path, change, message):
    with pytest.raises(ValueError) as e: run(**dict(dict(plan=named('D'), data=data, out=tmp_path/'out', progress=False) | FAST | change))
    assert message in str(e.value)

def test_not_a_campaign(tmp_path):
    for f in (collect, states):
        with pytest.raises(ValueError, match='not the folder of a campaign'): f(tmp_path)

def test_networks_without_campaign_json(done, data, tmp_path):
    (tmp_path/'networks').mkdir()
    with pytest.raises(ValueError, match='no campaign.json'): run(named('D'), data, tmp_path, progress=False, **FAST)

# ---- what goes wrong

MOST = 9  # tasks that `limited` can have

def limited(tasks, **options):
    if len(tasks) > MOST: raise RuntimeError('two tasks are\ntoo much')
    return get_model('small', tasks, **options)

def test_failure_does_not_stop_the_others(data, tmp_path, monkeypatch, capsys):
    out, p = tmp_path/'out', pd.concat([plan('DE', orders=2), plan('DE', orders=1, sizes=1)])
    monkeypatch.setitem(globals(), 'MOST', 1)
    table = run(p, data, out, **FAST | dict(model=limited))
    assert {*table.loc[('val', 0)].index} == {'D', 'E'}
    assert capsys.readouterr().err.splitlines()[-1] == 'DE (seed 0) failed: RuntimeError: two tasks are'
    state = states(out)
    assert state.loc[('DE', 0), ['status', 'reason']].tolist() == ['failed', 'RuntimeError: two tasks are']
    assert 'too much' in (out/'networks'/'DE'/'seed-0'/'traceback.txt').read_text()
    monkeypatch.setitem(globals(), 'MOST', 2)
    table = run(p, data, out, progress=False, **FAST | dict(model=limited))
    assert {*table.loc[('val', 0)].index} == {'D', 'E', 'DE'} and (states(out).status == 'done').all()
    assert not (out/'networks'/'DE'/'seed-0'/'traceback.txt').exists()

def test_diverged_is_no_number(data, tmp_path, capsys):
    out = tmp_path/'out'
    wild = get_recipe('quick', optimizer='sgd', schedule='constant', lr=1e30, epochs=2, batch=8)
    table = run(named(['D', 'DE']), data, out, model='small', recipe=wild, processes=1)
    assert len(table) == 0 and [*table.columns] == ['cost', 'D', 'E'] and not [*(out/'candidates').glob('*')]
    assert (states(out).status == 'diverged').all() and 'not finite' in states(out).reason.iloc[0]
    assert [l.split(':')[0] for l in capsys.readouterr().err.splitlines()[-2:]] == ['D (seed 0) diverged', 'DE (seed 0) diverged']
    assert (out/'networks'/'D'/'seed-0'/'weights.safetensors').exists()
    events = []
    run(named(['D', 'DE']), data, out, model='small', recipe=wild, processes=1, progress=events.append)
    assert events == []

@pytest.mark.parametrize('code, words', [(errno.ENOSPC, 'the disk is full'), (errno.EROFS, 'cannot be written to')])
def test_full_disk(done, data, tmp_path, monkeypatch, code, words):
    "It is one error, what was written is kept, and with room the campaign goes on."
    out, fsync, room = tmp_path/'out', os.fsync, [90]
    def full(f):
        room[0] -= 1
        if room[0] < 0: raise OSError(code, os.strerror(code))
        return fsync(f)
    with monkeypatch.context() as m:
        m.setattr(checkpoints.os, 'fsync', full)
        with pytest.raises(OSError, match=words) as e: run(SIX, data, out, [Steps], progress=False, **FAST)
    assert '\n' not in str(e.value) and str(out) in str(e.value)
    assert (states(out).status == 'done').sum() in range(1, 6) and 'failed' not in [*states(out).status]
    kept = {p: p.read_bytes() for p in out.glob('networks/*/*/network.json')}
    run(SIX, data, out, [Steps], progress=False, **FAST)
    assert contents(out) == contents(done) and kept == {p: p.read_bytes() for p in kept}

def test_no_folder_to_be_had(data, tmp_path):
    (tmp_path/'file').write_text('')
    with pytest.raises(OSError): run(named('D'), data, tmp_path/'file'/'out', progress=False, **FAST)

def test_damaged_record(data, tmp_path):
    out = tmp_path/'out'
    run(named('D'), data, out, progress=False, **FAST)
    record = out/'networks'/'D'/'seed-0'/'network.json'
    record.write_text(record.read_text()[:50])
    for f in (collect, states):
        with pytest.raises(ValueError, match='network.json: it is damaged'): f(out)

# ---- several processes

# Forks processes that run a campaign, which they begin within milliseconds. `one`: prints its number, and how it ended; `two`: how both ended.
FORKER = '''
import importlib.util, os, sys
spec = importlib.util.spec_from_file_location('test_campaign', sys.argv[1])
t = importlib.util.module_from_spec(spec)
sys.modules['test_campaign'] = t
spec.loader.exec_module(t)
t.torch.set_num_threads(1)
data = t.toys()
t.run(t.named('D'), data, f'{sys.argv[2]}-warm', [t.Steps], progress=False, **t.FAST)  # imports what is imported late
def told(event):
    with open(f'{sys.argv[2]}.log', 'a') as f: f.write(f"{os.getpid()} {event['network']} {event['seed']} {event['status']} {event['epoch']}\\n")
print('ready', flush=True)
for line in sys.stdin:
    children = []
    for _ in range(1 + (line == 'two\\n')):
        if not (child := os.fork()):
            try: t.run(t.SIX, data, sys.argv[2], [t.Steps], progress=told, **t.FAST)
            except BaseException as e: print(repr(e), file=sys.stderr, flush=True)
            else: os._exit(0)
            os._exit(1)
        children.append(child)
    print(*children, flush=True)
    print(*(os.waitpid(c, 0)[1] for c in children), flush=True)
'''

@pytest.fixture
def forker(tmp_path):
    env = os.environ | dict(OMP_NUM_THREADS='1')
    p = subprocess.Popen([sys.executable, '-c', FORKER, __file__, str(tmp_path/'out')], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
    assert p.stdout.readline() == 'ready\n'
    def say(word):
        p.stdin.write(f'{word}\n')
        p.stdin.flush()
        return p.stdout.readline()
    p.say = say
    yield p
    p.kill()
    p.wait()

def alive(process):
    try: os.kill(process, 0)
    except ProcessLookupError: return False
    return True

def test_twenty_kills(done, forker, tmp_path):
    "Kill -9 at twenty random moments, run to the end: the files are those of the campaign that nothing disturbed."
    draw, out, log, kills = random.Random(4), tmp_path/'out', tmp_path/'out.log', 0
    while kills < 20:
        log.touch()
        enough = log.read_text().count('\n') + draw.choice([0, 1, 2, 2, 3])  # events, of which an interrupted network's first is none of its epochs
        child = int(forker.say('one'))
        while alive(child) and log.read_text().count('\n') < enough: time.sleep(.002)
        time.sleep(draw.uniform(0, .06))
        try: os.kill(child, signal.SIGKILL)
        except ProcessLookupError: pass
        if int(forker.stdout.readline()) == signal.SIGKILL: kills += 1
        else:  # it came to its end before: anew
            shutil.rmtree(out)
            log.unlink()
            kills = 0
    forker.say('one')
    assert int(forker.stdout.readline()) == 0
    assert contents(out) == contents(done)
    assert not [*out.rglob('.*')]
    first = {}
    for line in log.read_text().splitlines(): first.setdefault(line.split()[0], line.split()[3:])
    assert sum(status == 'training' and 0 < int(epoch) < 3 for status, epoch in first.values()) > 1  # networks that were gone on with

def test_two_processes_on_one_folder(done, forker, tmp_path):
    "Each network is trained by one of them, once, and both come to the same end."
    forker.say('two')
    assert forker.stdout.readline() == '0 0\n'
    log = [l.split() for l in (tmp_path/'out.log').read_text().splitlines()]
    trained = [(network, seed, epoch) for _, network, seed, status, epoch in log if status == 'training']
    assert len(trained) == len({*trained}) == 6*4
    assert len({(pid, network, seed) for pid, network, seed, status, _ in log if status == 'training'}) == 6
    assert len({pid for pid, *_ in log}) == 2
    assert contents(tmp_path/'out') == contents(done)

def test_processes_and_a_killed_one(done, data, tmp_path, monkeypatch):
    import multiprocessing as mp
    monkeypatch.setattr(campaign, 'cores', lambda: 2)
    events = []
    def kill(event):
        events.append(event)
        if len(mp.active_children()) == 2 and event['epoch'] == 1: mp.active_children()[0].kill()
    run(SIX, data, tmp_path/'out', progress=kill, **FAST | dict(processes=None))
    assert events and contents(tmp_path/'out')['losses'] == contents(done)['losses']
    assert not mp.active_children()

def test_all_processes_killed(data, tmp_path, monkeypatch):
    monkeypatch.setattr(campaign, 'cores', lambda: 2)
    import multiprocessing as mp
    def kill(event):
        for p in mp.active_children(): p.kill()
    with pytest.raises(RuntimeError, match=r'every process that trained was ended \(by signal 9\)'):
        run(plan('DE', sizes=1), data, tmp_path/'out', progress=kill, **FAST | dict(processes=None))

def test_what_cannot_be_sent(data, tmp_path):
    with pytest.raises(ValueError, match='put it into a module'):
        run(named(['D', 'E']), data, tmp_path/'out', dict(steps=lambda: Steps()), progress=False, **FAST | dict(processes=2))

# ---- what a review found

def test_a_plan_that_grows_goes_on_with_what_was_interrupted(data, tmp_path):
    def stop(event):
        if event['epoch'] == 1: raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): run(named('E', 'DE'), data, tmp_path/'out', progress=stop, **FAST)
    run(named(['E', 'D', 'E<D'], 'DE'), data, tmp_path/'out', progress=False, **FAST)
    assert {*states(tmp_path/'out').status} == {'done'}
    whole = run(named(['E', 'D', 'E<D'], 'DE'), data, tmp_path/'whole', progress=False, **FAST)
    assert collect(tmp_path/'out').equals(whole)

class Forgetful(Callback):
    def table(self): return pd.DataFrame()

@pytest.mark.parametrize('wrong, why', [
    (dict(recipe=get_recipe('quick', batch=64)), 'a batch of 64'), (dict(keep=[2]), 'the stage 2'), (dict(model='huge'), 'huge'),
    (dict(recipe=get_recipe('quick', batch=8, precision='fp16'), device='cpu'), 'fp16 needs a GPU'), (dict(probes=[Forgetful]), "probe 'Forgetful'"),
    (dict(recipe=get_recipe('paper', batch=8, patience=2), keep=[.5]), 'may end early')])
def test_what_cannot_be_binds_no_folder(data, tmp_path, wrong, why):
    with pytest.raises(ValueError, match=why): run(named('E', 'DE'), data, tmp_path/'out', progress=False, **FAST | wrong)
    assert [*run(named('E', 'DE'), data, tmp_path/'out', progress=False, **FAST).loc[('val', 0)].index] == ['E']

def test_either_spelling_and_no_untrained_weights(data, tmp_path):
    run(named('D½', 'DE'), data, tmp_path/'out', progress=False, **FAST)
    assert load_network(tmp_path/'out', 'D½').tasks == load_network(tmp_path/'out', 'D@0.5').tasks
    recipe = get_recipe('quick', optimizer='sgd', lr=1e30, epochs=2, batch=8)
    run(named('D', 'DE'), data, tmp_path/'far', progress=False, **FAST | dict(recipe=recipe))
    assert states(tmp_path/'far').loc[('D', 0), 'status'] == 'diverged' and states(tmp_path/'far').loc[('D', 0), 'seconds'] > 0
    with pytest.raises(ValueError, match='has no trained weights'): load_network(tmp_path/'far', 'D')

def test_how_many_processes(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 1)
    monkeypatch.setattr(campaign, 'cores', lambda: 16)
    assert [campaign._processes(d) for d in (None, 'cpu', 'cuda:1', ['cuda:0', 'cuda:1'])] == [1, 16, 1, 2]
