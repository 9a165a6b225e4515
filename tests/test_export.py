"Predictors of chosen networks, their files, and what they are said to cost."
import itertools, json, shutil, subprocess, sys
from copy import deepcopy
from pathlib import Path

import pandas as pd, pytest, torch
from math import nan

import its_a_match
from its_a_match import export as exports, predictor as predictors
from its_a_match.checkpoints import load
from its_a_match.campaign import collect, get_recipe, load_network, named, run
from its_a_match.costs import multiply_adds, parameters
from its_a_match.export import FILES, export, exportable, load_predictor, parse_budget
from its_a_match.latency import Clock
from its_a_match.batches import MemoryDataset
from its_a_match.models import build
from its_a_match.selection import select_networks
from its_a_match.tasks import TASKONOMY, Task

ANGLE, SCENE = Task('angle', kind='number', channels=2, unit='rad'), Task('scene', kind='classes', channels=3, per_image=True)
TASKS = TASKONOMY[1], TASKONOMY[2], ANGLE, SCENE
KEYS  = 'D', 'N', 'angle', 'scene'
NAMES = 'D', 'N', 'angle', 'scene', 'N@0.5', 'D+N', 'angle+scene', 'D+N+angle+scene', 'D<N'

class Counting(Clock):
    "A clock on which a million multiply-adds take a millisecond."
    where = 'a clock that counts'
    def once(self, module, shape): return multiply_adds(module, shape)/1e6

clock = Counting((3, 16, 16), rounds=1)

def noise(n, seed):
    draw = torch.Generator().manual_seed(seed)
    rand = lambda *shape: torch.rand(n, *shape, generator=draw)
    normals = torch.nn.functional.normalize(rand(3, 16, 16) - .5, dim=1)
    return MemoryDataset(TASKS, rand(3, 16, 16), dict(D=rand(1, 16, 16)*3 + 2, N=normals, angle=rand(2)*torch.tensor([1., 100.]), scene=torch.arange(n) % 3))

DATA = {s: noise(8, i) for i, s in enumerate(('train', 'val', 'test'))}
QUICK = dict(model='small', recipe=get_recipe('quick', epochs=1, batch=4), processes=1, progress=False)

@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    "A campaign of two seeds: read only."
    out = tmp_path_factory.mktemp('export')/'run'
    run(pd.concat([named(NAMES, TASKS, seeds=(0, 1)), named(['D+scene'], TASKS, seeds=(1,))]), DATA, out, **QUICK)
    return out

@pytest.fixture(scope='module')
def exported(folder, tmp_path_factory):
    return export(folder, 2.5, tmp_path_factory.mktemp('exported')/'it', clock=clock)

@pytest.fixture(scope='module')
def program(exported): return torch.export.load(exported.folder/'predictor.pt2').module()

@pytest.fixture
def choice(tmp_path, monkeypatch):
    "`export` as far as the choice: no program is made and nothing timed."
    monkeypatch.setattr(exports, 'save_predictor', lambda predictor, folder, shape, sizes, model, options, about: about | dict(solves=predictor.solves, shape=shape))
    monkeypatch.setattr(exports, '_times', lambda file, found, *rest: pd.DataFrame([(what, ' '.join(p.serves), '', 1, 1.) for what, p in found], columns=['what', 'networks', 'device', 'batch', 'share']))
    number = itertools.count()
    return lambda run, *args, **options: export(run, *args, out=tmp_path/f'it-{next(number)}', clock=clock, **options)

# what it predicts

@pytest.mark.parametrize('n', [1, 3, 8])
def test_the_program_predicts_as_the_networks_in_the_unit_of_the_labels(exported, program, folder, n):
    images = DATA['test'].batch(range(n))[0]
    found, moments = program(images), pd.read_csv(folder/'statistics.csv').set_index(['task', 'channel'])
    assert tuple(found) == KEYS and [tuple(v.shape) for v in found.values()] == [(n, 1, 16, 16), (n, 3, 16, 16), (n, 2), (n, 3)]
    for k, v in found.items():
        with torch.no_grad(): wanted = load_network(folder, exported.selection.solves[k], exported.about['seed'])(images)[k]
        if k != 'scene':
            mean, std = (torch.tensor(moments.loc[k][c].to_numpy()).float().view(-1, *[1]*(v.ndim - 2)) for c in ('mean', 'std'))
            wanted = wanted*std + mean
        if k == 'N': wanted = wanted/wanted.norm(dim=1, keepdim=True)
        torch.testing.assert_close(v, wanted, rtol=1e-4, atol=1e-4*wanted.abs().max().item())
    assert not any(v.requires_grad for v in found.values())
    assert found['angle'][:, 1].mean() > 10 > found['angle'][:, 0].mean()

def test_the_program_needs_torch_alone(exported, tmp_path):
    code = '''
import sys
class Refuse:
    def find_spec(self, name, *rest):
        if name.split('.')[0] == 'its_a_match': raise ImportError(name)
sys.meta_path.insert(0, Refuse())
import torch
predictor = torch.export.load('predictor.pt2').module()
print({k: tuple(v.shape) for k, v in predictor(torch.rand(5, 3, 16, 16)).items()})
try: predictor(torch.rand(5, 3, 32, 32))
except Exception: print('refused')
'''
    told = subprocess.run([sys.executable, '-c', code], cwd=exported.folder, capture_output=True, text=True)
    assert told.stdout.splitlines() == ["{'D': (5, 1, 16, 16), 'N': (5, 3, 16, 16), 'angle': (5, 2), 'scene': (5, 3)}", 'refused'], told.stderr

def test_the_program_runs_on_another_device(exported, program):
    moved = torch.export.load(exported.folder/'predictor.pt2').module().to('meta')
    assert all(v.device.type == 'meta' for v in moved(torch.rand(2, 3, 16, 16, device='meta')).values())

def test_the_files_name_no_folder_of_this_machine(exported):
    here = [str(p).encode() for p in (Path(its_a_match.__file__).parents[1], Path(torch.__file__).parents[1], exported.folder, Path.home())]
    assert [(f.name, h) for f in exported.folder.iterdir() for h in here if h in f.read_bytes()] == []

def test_heads_that_are_not_used_are_dropped(folder, tmp_path):
    solves = {'D': 'D+N', 'N': 'N@0.5', 'angle': 'D+N+angle+scene', 'scene': 'D+N+angle+scene'}
    nets = {n: load_network(folder, n) for n in dict.fromkeys(solves.values())}
    moments = pd.read_csv(folder/'statistics.csv').set_index(['task', 'channel'])
    predictor = predictors.Predictor(nets, solves, TASKS, moments).eval()
    wanted = sum(parameters(n.encoder) for n in nets.values()) + sum(parameters(nets[n].decoders[k]) for k, n in solves.items())
    assert parameters(predictor) == wanted < sum(map(parameters, nets.values()))
    predictors.save_predictor(predictor, tmp_path, (3, 16, 16), dict.fromkeys(nets, 1) | {'N@0.5': .5})
    held = [k.split('.')[:4] for k in load(tmp_path/'predictor')[0] if '.decoders.' in k]
    assert {(n, k) for _, n, _, k in held} == {('0', 'D'), ('1', 'N'), ('2', 'angle'), ('2', 'scene')}
    assert (tmp_path/'predictor.pt2').stat().st_size < 2*4*wanted + 400_000

# what is chosen

def test_seeds_that_have_little_in_common_choose_for_themselves():
    from its_a_match.candidates import Objective
    from its_a_match.export import alike, choices
    rows = {(0, 'A'): (1, .5, nan), (0, 'B'): (1, nan, .5), (1, 'A+B'): (1, .6, .6)}
    table = pd.DataFrame.from_dict(rows, 'index', columns=['cost', 'A', 'B'])
    table.index = pd.MultiIndex.from_tuples(rows, names=['seed', 'network'])
    assert {s: c.networks for s, c in alike(table, 2, Objective()).items()} == {s: c.networks for s, c in choices(table, 2, Objective()).items()} == {0: ('A', 'B'), 1: ('A+B',)}


def test_the_choice_is_that_of_the_selection_on_validation(folder, exported):
    val = exportable(folder)
    assert 'D<N' not in val.index.get_level_values('network') and 'D<N' in collect(folder).index.get_level_values('network')
    reference = {k: float(val[k].xs(k, level='network').mean()) for k in KEYS}
    mean = ((val.loc[0] + val.loc[1])/2).dropna(subset='cost')
    both = select_networks(mean, 2.5, objective='relative', reference=reference)
    best = {s: both.on(val.loc[s], choose_by=mean) for s in (0, 1)}
    seed = min(best, key=lambda s: best[s].total)
    assert exported.about['seed'] == seed and {*exported.selection.networks} == {*both.networks} and exported.selection.cost <= 2.5
    assert exported.about['seeds'] == {str(s): best[s].total for s in best}
    test = collect(folder).loc[('test', seed)]
    assert exported.about['losses']['test'] == {k: test.at[n, k] for k, n in best[seed].solves.items()}
    assert [*exported.tasks.network] == [*best[seed].solves.values()] and exported.tasks.predictions['scene'] == 'logits of 3 classes'
    assert exported.tasks.predictions['angle'] == '2 numbers in rad' and exported.tasks.predictions['N'] == 'a unit vector at each pixel'

def test_a_seed_and_a_sum(folder, choice):
    e = choice(folder, 8, seed=0, objective='sum')
    assert e.about['seed'] == 0 and e.selection.total == pytest.approx(select_networks(exportable(folder, 0).loc[0], 8).total)

def test_networks_by_name(folder, choice):
    e = choice(folder, networks='scene+D N½ angle')
    assert e.about['seed'] == 1 and e.predictor.serves == {'D+scene': ('D', 'scene'), 'N@0.5': ('N',), 'angle': ('angle',)} and e.about['budget'] is None

@pytest.mark.parametrize('budget, wanted', [(2.5, (2.5, 'SNT')), ('2.5', (2.5, 'SNT')), (' 2.5 snt ', (2.5, 'SNT')), ('12ms', (12, 'ms')), ('1e1 MS', (10, 'ms')), ('.5', (.5, 'SNT'))])
def test_budgets(budget, wanted): assert parse_budget(budget) == wanted

@pytest.mark.parametrize('budget, why', [
    ('two', 'it is not a number'), ('', 'it is not a number'), ('ms', 'it is not a number'), ('1,5', 'it is not a number'), ('nan', 'it is not a number'), ('1 2', 'it is not a number'),
    ('3s', "its unit 's' is neither SNT nor ms"), ('3 GFLOPs', "its unit 'GFLOPs'"), ('-1', 'it is not above 0'), (0, 'it is not above 0'), ('1e999ms', 'it is not above 0')])
def test_no_budgets(budget, why):
    with pytest.raises(ValueError, match=why): parse_budget(budget)

# what it costs

def test_a_budget_in_milliseconds(folder, tmp_path):
    "By a clock that counts, the least that works is known: the network of all tasks, and all heads."
    net = load_network(folder, 'D+N+angle+scene', 0)
    least = round(multiply_adds(net.encoder, (3, 16, 16))/1e6, 4) + sum(round(multiply_adds(d, (8, 1, 1))/1e6, 4) for d in net.decoders.values())
    with pytest.raises(ValueError, match=f'the least that works is {least:.4f}'[:-1] + r'\d* ms$'): export(folder, f'{least - .001}ms', tmp_path/'it', clock=clock)
    assert not (tmp_path/'it').exists()
    e = export(folder, f'{least + 1e-6}ms', tmp_path/'it', clock=clock)
    assert e.selection.networks == ('D+N+angle+scene',) and e.selection.cost == pytest.approx(least)
    assert e.latency.promised_ms[0] == pytest.approx(e.latency.ms[0], rel=1e-2) and e.about['unit'] == 'ms'

def test_times(exported):
    "Beside what was promised stands what was measured, alone, together, and of what it is compared with."
    t = exported.latency.set_index('what')
    assert [*t.index] == ['predictor', 'predictor.pt2', *['part of it']*len(exported.selection.networks), 'all in one', 'single tasks']
    assert t.snt['predictor'] == exported.selection.cost and t.snt['single tasks'] == 4 and t.snt['all in one'] == 1
    assert (t.measured_snt/t.snt).dropna().between(.97, 1.03).all()
    assert t.ms['predictor.pt2'] == pytest.approx(t.ms['predictor'])
    assert t.loc[['part of it'], 'ms'].sum() == pytest.approx(t.ms['predictor'])
    assert pd.read_csv(exported.folder/'latency.csv').ms.to_list() == pytest.approx(exported.latency.ms.to_list())

def test_a_real_clock():
    times = Clock((3, 16, 16), repeats=1, rounds=2)({'a': torch.nn.Conv2d(3, 8, 3), 'b': torch.nn.Conv2d(5, 8, 3)}, {'b': (5, 8, 8)})
    assert [*times] == ['a', 'b'] and all(v > 0 for v in times.values())

# files

def test_files(exported):
    assert {p.name for p in exported.folder.iterdir()} == FILES
    about = json.loads((exported.folder/'predictor.json').read_text())
    assert about == json.loads(json.dumps(exported.about)) and about['shape'] == [3, 16, 16] and about['versions']['its_a_match'] == its_a_match.__version__
    assert max(about['differences'].values()) <= predictors.TOLERANCE
    text = (exported.folder/'README.md').read_text()
    assert "torch.export.load('predictor.pt2').module()" in text and '| scene | scene |' in text

def test_it_is_read_back(exported):
    images = torch.rand(2, 3, 16, 16)
    again = load_predictor(exported.folder)
    with torch.no_grad(): assert all(torch.equal(v, exported.predictor(images)[k]) for k, v in again(images).items())
    assert again.serves == exported.predictor.serves and again.trained == exported.predictor.trained and again.known == exported.predictor.known

def test_a_damaged_file_is_named(exported, tmp_path):
    data = bytearray((exported.folder/'predictor.safetensors').read_bytes())
    data[-5] ^= 1
    (tmp_path/'predictor.safetensors').write_bytes(data)
    with pytest.raises(ValueError, match='predictor.safetensors: it is damaged'): load_predictor(tmp_path)
    with pytest.raises(FileNotFoundError): load_predictor(tmp_path/'none')

def test_an_earlier_export_is_replaced_and_nothing_else(folder, exported, tmp_path):
    out = shutil.copytree(exported.folder, tmp_path/'it')
    assert export(folder, 1, out, clock=clock).about['budget'] == 1 != exported.about['budget']
    assert {p.name for p in out.iterdir()} == FILES and json.loads((out/'predictor.json').read_text())['budget'] == 1
    (out/'notes.txt').touch()
    with pytest.raises(ValueError, match="this folder holds something else, 'notes.txt'"): export(folder, 1, out, clock=clock)
    (tmp_path/'mine').mkdir()
    (tmp_path/'mine'/'README.md').write_text('mine')
    with pytest.raises(ValueError, match="something else, 'README.md'"): export(folder, 1, tmp_path/'mine', clock=clock)
    with pytest.raises(ValueError, match='it is a file'): export(folder, 1, tmp_path/'mine'/'README.md', clock=clock)
    with pytest.raises(ValueError, match='holds something else'): export(folder, 1, folder, clock=clock)
    assert {p.name for p in tmp_path.iterdir()} == {'it', 'mine'}

def test_a_program_that_differs_is_not_written(folder, tmp_path, monkeypatch):
    make = predictors.export_program
    def wrong(predictor, shape):
        other = deepcopy(predictor)
        other.mean_D += .1
        return make(other, shape)
    monkeypatch.setattr(predictors, 'export_program', wrong)
    with pytest.raises(ValueError, match="task 'D': the exported predictor differs by 0.1 from the networks"): export(folder, 1, tmp_path/'it', clock=clock)
    assert [*tmp_path.iterdir()] == []

def test_an_earlier_export_stays_where_the_new_one_fails(folder, exported, tmp_path, monkeypatch):
    out = shutil.copytree(exported.folder, tmp_path/'it')
    for name in ('save_predictor', '_readme'):
        def fail(*args): raise OSError('the disk is full')
        with monkeypatch.context() as m:
            m.setattr(exports, name, fail)
            with pytest.raises(OSError, match='the disk is full'): export(folder, 1, out, clock=clock)
    rename = Path.rename
    def refuse(self, to):
        if self.suffix == '.part': raise OSError('it cannot be renamed')
        return rename(self, to)
    monkeypatch.setattr(Path, 'rename', refuse)
    monkeypatch.setattr(exports, 'save_predictor', lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt): export(folder, 1, out, clock=clock)
    with pytest.raises(OSError, match='it cannot be renamed'):
        with exports._whole(out): pass
    assert {p.name: p.read_bytes() for p in out.iterdir()} == {p.name: p.read_bytes() for p in exported.folder.iterdir()} and [*tmp_path.iterdir()] == [out]

def test_no_room(folder, tmp_path):
    (tmp_path/'file').touch()
    with pytest.raises(OSError, match='file'): export(folder, 1, tmp_path/'file'/'it', clock=clock)

# models of one's own

class Vectors(torch.utils.data.Dataset):
    "Seven numbers, and two tasks of them."
    def __init__(self, n): self.inputs = torch.rand(n, 7, generator=torch.Generator().manual_seed(n))
    def __len__(self): return len(self.inputs)
    def __getitem__(self, i): return self.inputs[i], dict(angle=self.inputs[i, :2], scene=torch.tensor(i % 3))

def mine(tasks, size=1, injected=None):
    return build(torch.nn.Sequential(torch.nn.Linear(7, 16), torch.nn.ReLU(), torch.nn.Linear(16, 8)), tasks, size, injected, channels=7, side=None)

class Wayward(torch.nn.Module):
    "An encoder that no program can follow, for what it does depends on the values of the images."
    def __init__(self): super().__init__(); self.layer = torch.nn.Conv2d(3, 8, 16, stride=16)
    def forward(self, images): return self.layer(images) if images.sum() > 0 else self.layer(-images)

def wayward(tasks, size=1, injected=None):
    return build(Wayward(), tasks, size, injected, side=16)

def test_a_model_of_one_s_own_on_vectors(tmp_path):
    out, quick, clock = tmp_path/'run', dict(model=mine, recipe=get_recipe('quick', epochs=1, batch=4, flip=False)), Counting((7,), rounds=1)
    run(named(['angle+scene'], TASKS[2:]), dict(train=Vectors(8), val=Vectors(6), test=Vectors(5)), out, tasks=TASKS[2:], **QUICK | quick)
    with pytest.raises(ValueError, match=r'made by the function .*mine, which has to be given as model=, in Python'): export(out, networks=['angle+scene'], clock=clock)
    e = export(out, networks=['angle+scene'], clock=clock, model=mine)
    assert e.folder == out/'export-angle+scene'
    with pytest.raises(ValueError, match='has to be given as model='): load_predictor(e.folder)
    assert load_predictor(e.folder, mine).serves == {'angle+scene': ('angle', 'scene')}
    found = torch.export.load(e.folder/'predictor.pt2').module()(torch.rand(5, 7))
    assert {k: tuple(v.shape) for k, v in found.items()} == dict(angle=(5, 2), scene=(5, 3))
    assert 'predictor(inputs)  # inputs: float32 (any number, 7)\n' in (e.folder/'README.md').read_text()

def test_a_model_that_no_program_can_follow(tmp_path, capsys):
    out, quick = tmp_path/'run', QUICK | dict(model=wayward)
    run(named(['angle'], TASKS[2:3]), {s: d.only(['angle']) for s, d in DATA.items()}, out, **quick)
    with pytest.raises(ValueError, match=r'torch.export cannot follow the networks \(\w+: [^\n]+\)$'): export(out, 1, clock=clock, model=wayward)
    assert capsys.readouterr().out == '' and not (out/'export-1').exists()

# what cannot be

@pytest.mark.parametrize('options, why', [
    (dict(), 'give either a budget or the names of networks'), (dict(budget=1, networks='D'), 'give either'), (dict(budget=.5), 'the least that works is 1 SNT$'),
    (dict(networks='D'), "task 'N': none of the networks D predicts it"), (dict(networks='D+N E'), "'E' is not one of the tasks"), (dict(networks='D+N@0.3 scene'), "the network 'D\\+N@0.3' is not trained"),
    (dict(networks='D<N N angle+scene'), "network 'D<N': it is given the label of another task"), (dict(networks='D+scene N angle', seed=0), "the network 'D\\+scene' is not trained with seed 0"),
    (dict(budget=2, seed=7), 'no network is trained in it with seed 7'), (dict(budget=2, objective='product'), "no objective 'product'"),
    (dict(budget=2, device='abacus', clock=None), "device 'abacus': torch cannot use it"), (dict(budget=2, batch=0, clock=None, device='cpu'), 'batch is 0')])
def test_what_cannot_be(folder, tmp_path, options, why):
    with pytest.raises(ValueError, match=why): export(folder, out=tmp_path/'it', **dict(clock=clock) | options)
    assert [*tmp_path.iterdir()] == []

def test_what_is_no_campaign(tmp_path):
    with pytest.raises(ValueError, match='nowhere: there is no such folder'): export(tmp_path/'nowhere', 1)
    with pytest.raises(ValueError, match='so it is not the folder of a campaign'): export(tmp_path, 1)

def test_without_single_task_networks(tmp_path, choice):
    "Losses cannot be made comparable, which is said; their sum and names can."
    out, data = tmp_path/'run', {s: d.only(['D', 'angle']) for s, d in DATA.items()}
    run(named(['D+angle', 'D'], (TASKS[0], ANGLE)), data, out, **QUICK)
    with pytest.raises(ValueError, match="the full-size network for 'angle' alone is not trained"): choice(out, 1)
    assert choice(out, 1, objective='sum').selection.networks == ('D+angle',)
    assert 'single tasks' not in [*choice(out, networks='D+angle').latency.what]

def test_a_network_that_would_serve_nothing(folder):
    "Whichever of D+N, D and N are the best, at least one of them is left over."
    with pytest.raises(ValueError, match='for each of its tasks another that was named has a lower validation loss'):
        export(folder, networks='D+N D N angle+scene', seed=0, clock=clock)
