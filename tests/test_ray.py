"A campaign on a Ray cluster: the same numbers as on one machine, whatever becomes of the workers."
import os, pickle, signal, sys, time
from pathlib import Path

import numpy as np, pandas as pd, pytest, torch

from its_a_match import ray_engine
from its_a_match.archive import Archive, fingerprint
from its_a_match.assignment import DataFolder, open_data
from its_a_match.campaign import plan, run, states
from its_a_match.checkpoints import write_bytes
from its_a_match.memory import MemoryDataset
from its_a_match.models import get_model
from its_a_match.ray_engine import _opened, _packed
from its_a_match.tasks import TASKONOMY, Task
from its_a_match.training import Callback, get_recipe

ray = pytest.importorskip('ray')

RECIPE = get_recipe('quick', epochs=4, batch=16)
TASKS  = Task('ball', 'B', kind='classes', channels=3, invalid=0), Task('far', 'F')

def balls(n, seed, size=16):
    "Images of a ball, with its class and how far it is."
    rng, (y, x) = np.random.default_rng(seed), np.mgrid[:size, :size]
    cx, cy, r = rng.uniform(3, size - 3, (3, n, 1, 1))*[[[[1]]], [[[1]]], [[[.4]]]]
    on = (x - cx)**2 + (y - cy)**2 < r**2
    images = np.where(on[:, None], rng.random((n, 3, 1, 1)), .3)
    return MemoryDataset(TASKS, np.round(images*255).astype('uint8'), dict(B=1 + on.astype(int), F=np.where(on, 5 - r, 6.)[:, None].astype('float32')))

@pytest.fixture(scope='module')
def data(): return {s: balls(n, i) for i, (s, n) in enumerate(dict(train=64, val=16, test=16).items())}

PLAN = plan(TASKS, sizes=1)  # B, F, BF

def fragile(tasks, size, injected):
    "A model that one of the tasks does not like."
    if [t.key for t in tasks] == ['F']: raise ValueError('F is too far away')
    return get_model('small', tasks, size=size, injected=injected, seed=0)

class Pause(Callback):
    "A probe that takes its time before each epoch of BF, so that its worker can be killed between two; it changes nothing."
    def before_epoch(self, t):
        if len(t.net.tasks) == 2: time.sleep(.7)
    def state(self): return {}
    def table(self): return pd.DataFrame(dict(nothing=[0]))

def go(data, out, **more): return run(PLAN, data, out, **dict(model='small', recipe=RECIPE, progress=False) | more)
def on_ray(data, out, **more): return go(data, out, engine='ray', **more)

def at(event, network, epoch): return (event['network'], event['epoch'], event['status']) == (network, epoch, 'training')

@pytest.fixture(scope='module')
def local(data, tmp_path_factory):
    "The table of the campaign on this machine, with one thread a network as on the cluster."
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try: return go(data, tmp_path_factory.mktemp('local')/'out', processes=1)
    finally: torch.set_num_threads(threads)

def workers():
    "The processes that train at the moment, {process id: task}."
    found = {}
    for path in Path('/proc').glob('[0-9]*/cmdline'):
        try: name = path.read_bytes().rstrip(b'\0').decode(errors='replace')
        except OSError: continue
        if name.startswith('ray::') and ' seed ' in name: found[int(path.parent.name)] = name.removeprefix('ray::')
    return found

def kill(task):
    pid, = [p for p, name in workers().items() if name == task]
    os.kill(pid, signal.SIGKILL)

# without a cluster

def test_a_cluster_of_its_own(data, local, tmp_path, capfd):
    "Started for the campaign, quiet, and gone afterwards."
    assert not ray.is_initialized(), 'this test comes first'
    terminate = signal.getsignal(signal.SIGTERM)
    table = on_ray(data, tmp_path/'out', address='local')
    pd.testing.assert_frame_equal(table, local, check_exact=True)
    assert not ray.is_initialized() and not workers() and signal.getsignal(signal.SIGTERM) is terminate
    assert capfd.readouterr() == ('', '')

def test_without_ray(data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'ray', None)
    with pytest.raises(RuntimeError, match=r"pip install 'its_a_match\[ray\]'"): on_ray(data, tmp_path/'out')

@pytest.mark.parametrize('wrong, sentence', [(dict(num_cpus=0), 'num_cpus is 0'), (dict(num_gpus=-1), 'num_gpus is -1'), (dict(num_gpus=1.5), 'num_gpus is 1.5'),
                                             (dict(address='ray://here:10001'), 'ray://here:10001'), (dict(address='here'), "'auto' or HOST:PORT"),
                                             (dict(device=['cuda:0', 'cuda:1']), 'device')])
def test_wrong_options(data, tmp_path, wrong, sentence):
    with pytest.raises(ValueError, match=sentence): on_ray(data, tmp_path/'out', **wrong)

def test_nobody_answers(data, tmp_path):
    with pytest.raises(ConnectionError, match='localhost:1: no Ray cluster answers there'): on_ray(data, tmp_path/'out', address='localhost:1')

def test_data_arrives_as_it_was(data):
    for protocol_5 in (True, False):
        sent = pickle.dumps(_packed(data, False), 5 if protocol_5 else 2)
        back = _opened(pickle.loads(sent), None)
        for split, ds in data.items():
            for a, b in zip(_tensors(ds), _tensors(back[split])): assert torch.equal(a, b) and a.stride() == b.stride()

def _tensors(ds): return [ds._images, *ds._targets.values(), *ds._masks.values()]

def test_other_data_under_the_same_path(tiny_rooms):
    "A machine whose folder holds other views is found out."
    folder = DataFolder(str(tiny_rooms), TASKONOMY[:2])
    expected = {s: fingerprint(ds) for s, ds in open_data(folder).items()}
    assert set(_opened(folder, expected)) == {'train', 'val', 'test'}
    more = {s: e | dict(labels=e['labels'] | dict(N='0')) for s, e in expected.items()}  # a task that this run does not have
    assert _opened(folder, more)
    expected['val']['labels']['D'] = '0'
    with pytest.raises(ValueError, match=f'{tiny_rooms}.*the views of val are not those'): _opened(folder, expected)
    sent = _opened(_packed(folder, True), None)
    assert all(torch.equal(a, b) for a, b in zip(_tensors(sent['val']), _tensors(open_data(folder, memory=True)['val'])))

# on a cluster of two machines

@pytest.fixture(scope='module')
def cluster():
    "A Ray cluster of two machines with one processor each, to which this process is connected."
    from ray.cluster_utils import Cluster
    made = Cluster(initialize_head=True, head_node_args=dict(num_cpus=1, object_store_memory=100 << 20, include_dashboard=False))
    made.add_node(num_cpus=1, object_store_memory=100 << 20)
    ray.init(made.address, log_to_driver=False, logging_level='ERROR')
    yield made
    ray.shutdown()
    made.shutdown()

def test_the_same_table_although_a_worker_is_killed(cluster, data, local, tmp_path):
    events = []
    def watch(event):
        events.append(event)
        if at(event, 'BF', 2) and not any(e['status'] == 'lost' for e in events): kill('BF seed 0')
    table = on_ray(data, tmp_path/'out', probes=[Pause], progress=watch)
    pd.testing.assert_frame_equal(table, local, check_exact=True)
    lost, = [i for i, e in enumerate(events) if e['status'] == 'lost']
    assert (events[lost]['network'], events[lost]['epoch']) == ('BF', 2)
    assert [e['epoch'] for e in events[lost+1:] if e['network'] == 'BF'] == [2, 3, 4, 4], 'it goes on where it was'
    assert [e['status'] for e in events].count('done') == 3 and events[-1]['done'] == events[-1]['total'] == 3
    assert set(states(tmp_path/'out').status) == {'done'} and not [*(tmp_path/'out').rglob('checkpoint*')]
    assert ray.is_initialized(), 'a connection that was there stays'

def test_what_fails_and_what_is_lost_too_often(cluster, data, local, tmp_path):
    "Neither stops the others; the next call tries again, and goes on where the lost one was."
    def watch(event):
        if at(event, 'BF', 1): kill('BF seed 0')
    table = on_ray(data, tmp_path/'out', retries=0, model=fragile, probes=[Pause], progress=watch)
    now = states(tmp_path/'out').droplevel('seed')
    assert dict(now.status) == dict(B='done', F='failed', BF='failed') and [*table.loc['val', 0].index] == ['B']
    assert now.reason['F'] == 'F is too far away' and now.reason['BF'] == 'its worker was lost'
    events = []
    on_ray(data, tmp_path/'out', model=fragile, probes=[Pause], progress=events.append)
    assert dict(states(tmp_path/'out').droplevel('seed').status) == dict(B='done', F='failed', BF='done')
    assert [e['epoch'] for e in events if e['network'] == 'BF'] == [1, 2, 3, 4, 4]

def nobody_works():
    "Waits until no worker trains any more."
    for _ in range(100):
        if not workers(): return True
        time.sleep(.2)

def test_stopped_by_hand(cluster, data, local, tmp_path):
    "Ctrl-C ends the training on all machines and frees the networks; the same call goes on."
    def stop(event):
        if at(event, 'BF', 2): raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): on_ray(data, tmp_path/'out', probes=[Pause], progress=stop)
    assert nobody_works()
    events = []
    table = on_ray(data, tmp_path/'out', probes=[Pause], progress=events.append)
    pd.testing.assert_frame_equal(table, local, check_exact=True)
    assert [e['epoch'] for e in events if e['network'] == 'BF'] == [2, 3, 4, 4]

def test_a_full_disk_stops_all(cluster, data, tmp_path, monkeypatch):
    def full(path, content):
        if path.name == 'checkpoint.safetensors': raise OSError(f'{path}: the disk is full')
        write_bytes(path, content)
    monkeypatch.setattr(ray_engine, 'write_bytes', full)
    with pytest.raises(OSError, match='the disk is full'): on_ray(data, tmp_path/'out')
    assert nobody_works()
    for network in PLAN.network: Archive(tmp_path/'out').lock(network, 0).acquire(timeout=0)

def test_another_process_holds_a_network(cluster, data, local, tmp_path):
    "It is left alone, the others are trained meanwhile, and it is trained once it is free."
    with pytest.raises(ValueError, match='no machine of the Ray cluster.*GPU 4'): on_ray(data, tmp_path/'out', num_gpus=4)
    lock, order = Archive(tmp_path/'out').lock('B', 0), []
    lock.acquire()
    def watch(event):
        if event['status'] == 'done': order.append(event['network'])
        if len(order) == 2: lock.release()
    table = on_ray(data, tmp_path/'out', progress=watch)
    assert order[2:] == ['B']
    pd.testing.assert_frame_equal(table, local, check_exact=True)
