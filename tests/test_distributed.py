"Two processes give what one gives: the script below is run alone, and by torchrun."
import json, subprocess, sys

import numpy as np, pandas as pd, pytest

SCRIPT = '''
import sys, torch
from its_a_match.batches import MemoryDataset
from its_a_match.training import Callback, EqualWeights, fit, get_recipe

class Plain(torch.nn.Module):
    tasks = ['S', 'D']
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.S, self.D = torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.Conv2d(8, 18, 1), torch.nn.Conv2d(8, 1, 1)
    def forward(self, x):
        x = self.body(x).tanh()
        return dict(S=self.S(x), D=self.D(x))

def data(n, seed):
    "Every third view has no depth, those from 40 to 55 nothing at all, and of the others' pixels some share has."
    g = torch.Generator().manual_seed(seed)
    x, few = torch.rand(n, 3, 8, 8, generator=g), torch.rand(n, 1, 1, 1, generator=g)
    mask = torch.rand(n, 1, 8, 8, generator=g) < few
    mask[::3] = mask[40:56] = False
    s = (x[:, 0]*3).long() + 1
    s[40:56] = 0
    s[few[:, 0].expand_as(s) > .7] = 0
    return MemoryDataset('SD', x, dict(S=s, D=x.mean(1, keepdim=True)), dict(D=mask))

class Own(EqualWeights):
    "Averages the gradients itself."
    own_reduction = True
    def after_backward(self, t):
        for p in t.net.parameters(): p.grad.copy_(t.accelerator.reduce(p.grad, 'mean'))

class Poison(Callback):
    "In the last process alone, a weight becomes NaN."
    def before_step(self, t):
        if t.step == 3 and t.accelerator.is_last_process: t.net.S.weight.data.fill_(float('nan'))

class Wide(torch.nn.Sequential):
    "With BatchNorm."
    tasks = ['D']
    def __init__(self): torch.manual_seed(0); super().__init__(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4), torch.nn.Conv2d(4, 1, 1))
    def forward(self, x): return dict(D=super().forward(x))

out, torch_threads = sys.argv[1], torch.set_num_threads(1)
few, valid, test = data(64, 0), data(21, 1), data(10, 2)
recipe = get_recipe('quick', epochs=3, batch=8)
one = get_recipe(recipe, epochs=1, batch=4)
runs = dict(plain=fit(Plain(), few, valid, recipe, test=test, device='cpu', folder=f'{out}/plain'),
            again=fit(Plain(), few, valid, recipe, test=test, device='cpu', folder=f'{out}/plain'),
            own=fit(Plain(), few, valid, recipe, balancing=Own(), device='cpu'),
            few=fit(Plain(), few, valid, one, device='cpu'),
            bad=fit(Plain(), few, valid, recipe, Poison(), device='cpu'),
            norm=fit(Wide(), few, valid, one, test=test, device='cpu'))
t = runs['plain']
for name, t in runs.items():
    sums = [float(v.double().sum()) for v in t.net.state_dict().values()]
    about = dict(status=t.status, missing=t.missing.to_numpy().tolist(), weights=sums, rows=t.rows, processes=t.accelerator.num_processes)
    with open(f'{out}/{name}-{t.accelerator.process_index}.json', 'w') as f: __import__('json').dump(about, f)
'''

@pytest.fixture(scope='module')
def found(tmp_path_factory, programs):
    "{(run, processes, process): what it wrote}"
    import os
    folder, env = tmp_path_factory.mktemp('runs'), os.environ | dict(OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='')
    (folder/'script.py').write_text(SCRIPT)
    result = {}
    for n, launcher in ((1, [sys.executable]), (2, [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2'])):
        (folder/str(n)).mkdir()
        done = subprocess.run([*launcher, folder/'script.py', folder/str(n)], env=env, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
        for f in (folder/str(n)).glob('*.json'):
            name, process = f.stem.split('-')
            result[name, n, int(process)] = json.loads(f.read_text())
    return result

def table(run): return pd.DataFrame(run['rows']).drop(columns='seconds')

@pytest.mark.parametrize('name', ['plain', 'own', 'few'])
def test_two_processes_give_what_one_gives(found, name):
    one, two = found[name, 1, 0], found[name, 2, 0]
    assert two['processes'] == 2
    pd.testing.assert_frame_equal(table(one), table(two), rtol=1e-5)
    np.testing.assert_allclose(one['weights'], two['weights'], rtol=1e-4, atol=1e-4)
    assert one['missing'] == two['missing'] and one['missing'][1][1] > 0

@pytest.mark.parametrize('name', ['plain', 'own', 'few', 'bad', 'norm', 'again'])
def test_all_processes_say_the_same(found, name):
    a, b = (found[name, 2, i] for i in (0, 1))
    if name == 'bad': assert a['status'] == b['status'] == 'diverged'
    else: assert table(a).equals(table(b)) and a['weights'] == b['weights']

def test_the_folder_is_taken_up_by_all(found):
    for i in (0, 1): assert table(found['again', 2, i]).equals(table(found['plain', 2, i]))

def test_batch_norm_across_cpu_processes_differs(found):
    "As 12_training says: each process normalises by its own share."
    assert not np.allclose(table(found['norm', 1, 0]).loss, table(found['norm', 2, 0]).loss, rtol=1e-5)
