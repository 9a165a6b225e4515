"Checkpoints: to the last bit, whole or not there, never a program; whatever kills the writer or fills the disk."
import errno, json, math, os, pickle, subprocess, sys, threading, time
from pathlib import Path

import numpy as np, pandas as pd, pytest, torch

from its_a_match import checkpoints
from its_a_match.checkpoints import load, pack, save, unpack, write_bytes, write_csv, write_json

posix = pytest.mark.skipif(checkpoints.fcntl is None, reason='file locks of POSIX')


def equal(a, b):
    "The same nested state, types and bits included."
    assert type(a) is type(b)
    if torch.is_tensor(a): return a.dtype == b.dtype and a.shape == b.shape and torch.equal(bits(a), bits(b))
    if isinstance(a, dict): return list(a) == list(b) and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)): return len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, float): return np.float64(a).tobytes() == np.float64(b).tobytes() or (math.isnan(a) and math.isnan(b))
    return a == b


def bits(t): return t.detach().contiguous().reshape(-1).view(torch.uint8)
def files(folder): return sorted(p.name for p in folder.iterdir())


DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.int32, torch.int16, torch.uint8, torch.bool, torch.complex64]


@pytest.mark.parametrize('dtype', DTYPES, ids=lambda d: str(d)[6:])
def test_any_tensor(tmp_path, dtype):
    g = torch.Generator().manual_seed(0)
    x = (torch.rand(2, 3, 4, 5, generator=g)*7 - 1).to(dtype)
    base = x.clone()
    tensors = {'plain': x, 'scalar': x[0, 0, 0, 0], 'empty': x[:0], 'transposed': x.transpose(1, 3), 'last': x.to(memory_format=torch.channels_last),
               'strided': x[:, ::2], 'expanded': x[:, :1].expand(2, 3, 4, 5), 'shared': x, 'part': x[1], 'a.b c/½': x[0]}
    got, info = load(save(tmp_path/'x', tensors, {}))
    assert info == {} and list(sorted(got)) == sorted(tensors)
    for n, t in tensors.items(): assert equal(t, got[n]) and got[n].is_contiguous()
    got['plain'].zero_()  # nobody's memory but its own
    assert torch.equal(got['shared'], x) and torch.equal(x, base)


def test_special_values(tmp_path):
    x = torch.tensor([math.nan, math.inf, -math.inf, -0., 1e-45, 3.4e38])
    got, _ = load(save(tmp_path/'x', {'x': torch.nn.Parameter(x)}, None))
    assert equal(x, got['x']) and not got['x'].requires_grad


def test_the_layout_of_a_network_is_its_own(tmp_path):
    net = torch.nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    tensors, _ = load(save(tmp_path/'x', net.state_dict(), {}))
    with torch.no_grad(): other = torch.nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    other.load_state_dict(tensors)
    assert torch.equal(net.weight, other.weight) and other.weight.stride() == net.weight.stride()


def test_names_and_files(tmp_path):
    file = save(tmp_path/'new'/'folder'/'SDNKE@0.5', {}, {'a': [1, 2.5, None, True, 'ü'], 'b': (1,)})
    assert file == tmp_path/'new'/'folder'/'SDNKE@0.5.safetensors' and files(file.parent) == ['SDNKE@0.5.json', 'SDNKE@0.5.safetensors']
    info = {'a': [1, 2.5, None, True, 'ü'], 'b': [1]}
    for path in (file, file.with_suffix(''), str(file)): assert load(path) == ({}, info)
    assert json.loads((file.parent/'SDNKE@0.5.json').read_text('utf-8')) == info
    with pytest.raises(FileNotFoundError, match='none.safetensors'): load(tmp_path/'none')


def test_the_json_beside_is_for_readers_alone(tmp_path):
    file = save(tmp_path/'x', {'w': torch.ones(2)}, {'epoch': 1})
    (tmp_path/'x.json').write_text('{"epoch": 99}')
    assert load(file)[1] == {'epoch': 1}
    (tmp_path/'x.json').unlink()
    assert load(file)[1] == {'epoch': 1}


def test_every_flipped_byte_and_every_cut_is_seen(tmp_path):
    tensors, info = {'w': torch.arange(6.), 'b': torch.ones(1)}, {'epoch': 3}
    file = save(tmp_path/'x', tensors, info)
    good = file.read_bytes()
    for i in range(len(good)):
        for bad in (good[:i], good[:i] + bytes([good[i] ^ 32]) + good[i + 1:]):
            file.write_bytes(bad)
            with pytest.raises(ValueError, match='x.safetensors') as e: load(file)
            assert '\n' not in str(e.value)
    file.write_bytes(good)
    assert equal(tensors['w'], load(file)[0]['w'])


class Bomb:
    def __reduce__(self): return os.mkdir, ('exploded',)


def test_a_stranger_does_no_harm(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    def forbidden(*args, **kwargs): raise AssertionError('something was unpickled')
    made = {'pickle': pickle.dumps(Bomb()), 'nothing': b'', 'text': b'hello', 'nul': bytes(100), 'huge': (2**62).to_bytes(8, 'little') + b'{}'}
    torch.save({'w': Bomb()}, 'saved.safetensors')
    for n, data in made.items(): Path(f'{n}.safetensors').write_bytes(data)
    for f in (pickle, torch): monkeypatch.setattr(f, 'load', forbidden)
    monkeypatch.setattr(pickle, 'loads', forbidden)
    monkeypatch.setattr(pickle, 'Unpickler', forbidden)
    for n in (*made, 'saved'):
        with pytest.raises(ValueError, match=f'{n}.safetensors: it is cut off, damaged or no safetensors file'): load(n)
    assert not Path('exploded').exists()


@pytest.mark.parametrize('head', [None, {}, {'its_a_match': ''}, {'its_a_match': 'x'}, {'its_a_match': '1 0 {}'}, {'its_a_match': '2 0 {}'}, {'format': 'pt'}])
def test_other_safetensors(tmp_path, head):
    from safetensors.torch import save_file
    save_file({'w': torch.ones(2)}, tmp_path/'x.safetensors', head)
    with pytest.raises(ValueError, match='x.safetensors: it is'): load(tmp_path/'x')


@pytest.mark.parametrize('depth', [200_000])
def test_text_of_a_stranger(tmp_path, depth):
    from safetensors.torch import save_file
    for text in ('['*depth + ']'*depth, '{"a": '):
        save_file({}, tmp_path/'x.safetensors', {'its_a_match': f'1 {checkpoints._digest({}, text)} {text}'})
        with pytest.raises(ValueError, match='x.safetensors: '): load(tmp_path/'x')


@pytest.mark.parametrize('tensors, why', [({'w': torch.eye(2).to_sparse()}, "'w' is sparse"), ({'w': 1.}, "'w' is of the type float"),
                                          ({'w': torch.ones(1, dtype=torch.complex128)}, 'complex128'), ({'__metadata__': torch.ones(1)}, '__metadata__')])
def test_tensors_that_cannot_be_stored(tmp_path, tensors, why):
    with pytest.raises(ValueError, match=why) as e: save(tmp_path/'x', tensors, {})
    assert 'x.safetensors: ' in str(e.value) and files(tmp_path) == []


@pytest.mark.parametrize('x, where', [(math.nan, 'the value is nan'), ({'a': [0, {'b': -math.inf}]}, r"\['a'\]\[1\]\['b'\] is -inf"), ({1: 2}, 'the key 1'), ({'a': {None: 2}}, 'the key None'),
                                      ([{1, 2}], r'\[0\] is of the type set'), ({'a': np.float32(1)}, 'float32'), ({'a': torch.ones(1)}, 'Tensor'), (['\ud800'], 'no valid text')])
def test_json_that_cannot_be(tmp_path, x, where):
    write_json(tmp_path/'x.json', {'old': 1})
    for write in (write_json, lambda path, x: save(path.with_suffix(''), {}, x)):
        with pytest.raises(ValueError, match=where) as e: write(tmp_path/'x.json', x)
        assert str(tmp_path) in str(e.value)
    assert json.loads((tmp_path/'x.json').read_text()) == {'old': 1} and files(tmp_path) == ['x.json']


def test_tables(tmp_path):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.standard_normal((50, 3))*10.**rng.integers(-300, 300, (50, 3)), columns=['a', 'b', 'c'])
    frame.iloc[3, 1] = np.nan
    write_csv(tmp_path/'x'/'x.csv', frame, index=False)
    data = (tmp_path/'x'/'x.csv').read_bytes()
    assert b'\r' not in data and data.startswith(b'a,b,c\n')
    got = [[float(v or 'nan') for v in line.split(',')] for line in data.decode().splitlines()[1:]]
    assert np.array_equal(np.array(got), frame.to_numpy(), equal_nan=True)
    write_csv(tmp_path/'s.csv', frame.a.rename('loss'))
    assert (tmp_path/'s.csv').read_text().startswith(',loss\n0,')


# states

NESTED = [None, True, 0, -1, 2**80, .1, -0., math.nan, math.inf, -math.inf, 'x', '!float', '', [], {}, (), [()], {'!tensor': 'x'}, {'!float': 'inf'}, {'!dict': []}, {'!a': 1, '!b': 2},
          {'': {'': torch.ones(1)}}, {'a.b': torch.ones(1), 'a': {'b': torch.zeros(1)}}, {0: torch.ones(1), '0': torch.zeros(1)}, {(0, 'a'): 1, None: 2, 1.5: 3, True: 4},
          {'x': [torch.tensor(3), (torch.ones(2, dtype=torch.bfloat16), {1: {2: {3: ()}}})]}, torch.ones(2), [torch.ones(1), torch.ones(1)]]


@pytest.mark.parametrize('state', NESTED, ids=range(len(NESTED)))
def test_states_come_back_exactly(tmp_path, state):
    tensors, packed = pack(state)
    assert all(map(torch.is_tensor, tensors.values()))
    assert equal(unpack(tensors, packed), state)
    assert equal(unpack(*load(save(tmp_path/'x', tensors, packed))), state)


def test_numbers_of_numpy_become_pythons():
    assert equal(unpack(*pack([np.float64(.1), np.int64(3), np.bool_(True), np.float64('inf')])), [.1, 3, True, math.inf])


@pytest.mark.parametrize('bad, why', [({'a': [len]}, 'a.0 is of the type builtin'), (np.ones(2), 'the state is of the type ndarray'), ({'a': {1, 2}}, 'set'), ({(torch.optim.SGD,): 1}, 'a key')])
def test_what_cannot_be_packed(bad, why):
    with pytest.raises(ValueError, match=why): pack(bad)


@pytest.mark.parametrize('packed', [{'!float': 'much'}, {'!float': []}, {'!dict': 3}, {'!dict': [[1]]}, {'!dict': [[[], 1]]}, {'!tuple': None}, {'!tensor': []}, {'a': [{'!tensor': 'w'}]}])
def test_what_cannot_be_unpacked(packed):
    with pytest.raises(ValueError, match='packed state|needs a tensor'): unpack({}, packed)


def sgd(p): return torch.optim.SGD(p, lr=.1, momentum=.9, weight_decay=1e-4, nesterov=True)
def adamw(p): return torch.optim.AdamW([{'params': p[:1], 'lr': .01}, {'params': p[1:]}], lr=.02, amsgrad=True)
def plateau(o): return torch.optim.lr_scheduler.ReduceLROnPlateau(o, factor=.5, patience=0)
def onecycle(o): return torch.optim.lr_scheduler.OneCycleLR(o, max_lr=.05, total_steps=20)
def both(o):
    lr = torch.optim.lr_scheduler
    return lr.SequentialLR(o, [lr.LinearLR(o, .1, total_iters=3), lr.CosineAnnealingLR(o, 10)], [3])


def start(optimizer, scheduler, device='cpu', layout=torch.contiguous_format):
    torch.manual_seed(3)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Conv2d(4, 1, 1), torch.nn.Conv2d(1, 1, 1)).to(device).to(memory_format=layout)
    net[3].requires_grad_(False)  # gets no momentum
    optimizer = optimizer(list(net.parameters()))
    return net, optimizer, scheduler(optimizer), torch.amp.GradScaler(device, init_scale=8., growth_interval=2)


def train(parts, numbers):
    net, optimizer, scheduler, scaler = parts
    for n in numbers:
        x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(n)).to(net[0].weight.device)
        loss = (net(x) - x.mean(1, keepdim=True)[..., 1:-1, 1:-1]).abs().mean()
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        scheduler.step(*[loss.item()]*isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau))


DEVICES = ['cpu', pytest.param('cuda', marks=pytest.mark.skipif(not torch.cuda.is_available(), reason='needs CUDA'))]


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('stop', [0, 1, 5])
@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last], ids=['contiguous', 'last'])
@pytest.mark.parametrize('scheduler', [plateau, onecycle, both])
@pytest.mark.parametrize('optimizer', [sgd, adamw])
def test_a_training_goes_on_bit_for_bit(tmp_path, optimizer, scheduler, layout, stop, device):
    whole, first, second = (start(optimizer, scheduler, device, layout) for _ in range(3))
    train(whole, range(10))
    train(first, range(stop))
    save(tmp_path/'x', *pack([p.state_dict() for p in first]))
    for part, state in zip(second, unpack(*load(tmp_path/'x')), strict=True): part.load_state_dict(state)
    train(second, range(stop, 10))
    for a, b in zip(whole, second): assert equal(*(json_ready(p.state_dict()) for p in (a, b)))


def json_ready(state): return {k: dict(v) if isinstance(v, dict) else v for k, v in state.items()}


def test_that_the_training_can_tell(tmp_path):
    "Without the momentum the weights come out otherwise, so the test above would see it missing."
    whole, second = start(sgd, onecycle), start(sgd, onecycle)
    train(whole, range(10))
    train(second, range(5))
    second[1].state.clear()
    train(second, range(5, 10))
    assert not torch.equal(whole[0][0].weight, second[0][0].weight)


# whole or not at all

FAILURES = [(errno.ENOSPC, 'the disk is full'), (errno.EDQUOT, 'the disk is full'), (errno.EROFS, 'its folder cannot be written to'), (errno.EACCES, 'its folder cannot be written to'),
            (errno.EIO, 'it cannot be written')]


@pytest.mark.parametrize('code, why', FAILURES, ids=[errno.errorcode[c] for c, _ in FAILURES])
@pytest.mark.parametrize('call', ['replace', 'fsync', 'open', 'write'])
def test_a_disk_that_fails(tmp_path, monkeypatch, call, code, why):
    save(tmp_path/'x', {'w': torch.ones(3)}, {'epoch': 1})
    def fail(*args, **kwargs): raise OSError(code, os.strerror(code))
    def broken(path, mode='r', *args, **kwargs):
        if 'x' not in mode: return open(path, mode, *args, **kwargs)
        if call == 'open': fail()
        f = open(path, mode, *args, **kwargs)
        class Broken:
            name, close, flush, fileno, write = f.name, f.close, f.flush, f.fileno, fail
            def __enter__(self): return self
            def __exit__(self, *e): f.close()
        return Broken()
    with monkeypatch.context() as m:
        if call in ('open', 'write'): m.setattr(checkpoints, 'open', broken, raising=False)
        else: m.setattr(os, call, fail)
        for attempt in (lambda: save(tmp_path/'x', {'w': torch.zeros(3)}, {'epoch': 2}), lambda: write_json(tmp_path/'x.json', {}), lambda: write_csv(tmp_path/'x.json', pd.DataFrame())):
            with pytest.raises(OSError, match=why) as e: attempt()
            assert e.value.errno == code and str(tmp_path/'x') in str(e.value) and '\n' not in str(e.value) and '[Errno' not in str(e.value)
    tensors, info = load(tmp_path/'x')
    assert torch.equal(tensors['w'], torch.ones(3)) and info == {'epoch': 1}
    assert files(tmp_path) == ['x.json', 'x.safetensors']


@pytest.mark.skipif(not Path('/dev/full').exists(), reason='needs /dev/full')
def test_a_disk_that_is_full(tmp_path, monkeypatch):
    "The kernel's own answer, which comes when what was written is flushed."
    write_bytes(tmp_path/'x', b'old')
    def full(path, mode='r', *args, **kwargs):
        if 'x' not in mode: return open(path, mode, *args, **kwargs)
        Path(path).symlink_to('/dev/full')
        return open(path, 'r+b', *args, **kwargs)
    monkeypatch.setattr(checkpoints, 'open', full, raising=False)
    with pytest.raises(OSError, match='x: the disk is full'): write_bytes(tmp_path/'x', b'new')
    assert files(tmp_path) == ['x'] and (tmp_path/'x').read_bytes() == b'old'


def test_no_folder_can_be_made(tmp_path):
    (tmp_path/'file').write_text('')
    with pytest.raises(OSError, match='it cannot be written'): write_bytes(tmp_path/'file'/'x', b'')


KILLS = '''
import json, os, random, signal, sys, time
from pathlib import Path
import torch
from its_a_match.checkpoints import UNFINISHED, load, save
torch.set_num_threads(1)
folder, left, last = Path(sys.argv[1]), 0, -1
draw = random.Random(0)
def write(n):
    while True:
        save(folder/'x', {'a': torch.full((50_000,), float(n)), 'b': torch.tensor(n)}, {'n': n})
        n += 1
save(folder/'x', {'a': torch.zeros(50_000), 'b': torch.tensor(0)}, {'n': 0})
for kill in range(20):
    child = os.fork()
    if not child: write(1000*kill)
    time.sleep(draw.uniform(.01, .08))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    left += sum(bool(UNFINISHED.fullmatch(p.name)) for p in folder.iterdir())
    tensors, info = load(folder/'x')
    assert tensors['b'] == info['n'] and (tensors['a'] == info['n']).all()
    assert json.loads((folder/'x.json').read_text())['n'] <= info['n']
    last = max(last, info['n'] - 1000*kill)
print(left, last)
'''


@posix
def test_kills_at_any_moment(tmp_path):
    "After each of twenty kills there is a whole checkpoint whose parts belong together, and the next save clears the rest away."
    done = subprocess.run([sys.executable, '-c', KILLS, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    left, last = map(int, done.stdout.split())
    assert left > 0 and last > 0  # some were killed while they wrote, and some had written before
    write_json(tmp_path/'y.json', {})
    assert files(tmp_path) == ['x.json', 'x.safetensors', 'y.json']


HOLDER = '''
import sys
from pathlib import Path
from its_a_match.checkpoints import _whole
with _whole(Path(sys.argv[1])) as f:
    f.write(b'slow')
    print('ready', flush=True)
    sys.stdin.readline()
'''


@posix
def test_a_live_writer_is_left_alone(tmp_path):
    p = subprocess.Popen([sys.executable, '-c', HOLDER, str(tmp_path/'slow')], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert p.stdout.readline() == 'ready\n'
    (tmp_path/'.slow.0123456789abcdef.part').write_bytes(b'of a dead one')
    for n in range(3): write_bytes(tmp_path/'slow', b'fast')
    assert len(files(tmp_path)) == 2 and not (tmp_path/'.slow.0123456789abcdef.part').exists()
    p.communicate('go\n')
    assert p.returncode == 0 and files(tmp_path) == ['slow'] and (tmp_path/'slow').read_bytes() == b'slow'


def test_other_hidden_files_are_left_alone(tmp_path):
    names = ['.x.part', '.x.json.swp', 'x.0123456789abcdef.part', '.x.json.0123456789ABCDEF.part']
    for n in names: (tmp_path/n).write_text('mine')
    write_json(tmp_path/'x.json', {})
    assert files(tmp_path) == sorted([*names, 'x.json'])


def test_many_writers_at_once(tmp_path):
    "Threads that write the same files: every reader sees one whole version, and no error."
    failed, stop = [], threading.Event()
    def write(k):
        try:
            for n in range(15): save(tmp_path/'x', {'w': torch.full((1000,), float(100*k + n))}, {'n': 100*k + n})
        except Exception as e: failed.append(e)
    def read():
        while not stop.is_set():
            try:
                tensors, info = load(tmp_path/'x')
                assert (tensors['w'] == info['n']).all()
            except FileNotFoundError: pass
            except Exception as e: failed.append(e)
    writers, reader = [threading.Thread(target=write, args=(k,)) for k in range(3)], threading.Thread(target=read)
    for t in (*writers, reader): t.start()
    for t in writers: t.join()
    stop.set()
    reader.join()
    assert failed == [] and files(tmp_path) == ['x.json', 'x.safetensors']


def test_where_there_are_no_locks(tmp_path, monkeypatch):
    "As on Windows: old leftovers go, young ones may be somebody's."
    monkeypatch.setattr(checkpoints, 'fcntl', None)
    old, young = (tmp_path/f'.x.{c*16}.part' for c in 'ab')
    for p in (old, young): p.write_text('')
    os.utime(old, (time.time() - 2*86400,)*2)
    save(tmp_path/'x', {'w': torch.ones(1)}, {'n': 1})
    assert files(tmp_path) == sorted([young.name, 'x.json', 'x.safetensors']) and load(tmp_path/'x')[1] == {'n': 1}


def test_files_are_readable_by_others(tmp_path):
    before = os.umask(0o022)
    try: write_bytes(tmp_path/'x', b'')
    finally: os.umask(before)
    assert os.name != 'posix' or (tmp_path/'x').stat().st_mode & 0o777 == 0o644
