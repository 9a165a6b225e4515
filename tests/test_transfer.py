"Readouts from frozen encoders, and the score TA."
import numpy as np, pandas as pd, pytest, torch

from its_a_match.affinity import SCORES, Evidence, compute
from its_a_match.affinity.transfer import Readout, Transfers, represent, transfer_affinity, transfer_losses
from its_a_match.memory import MemoryDataset
from its_a_match.models import build
from its_a_match.tasks import Task

TASKS = Task('a'), Task('b', channels=2), Task('c', kind='classes', channels=3), Task('n', kind='number'), Task('p', kind='classes', channels=4, term='metric', invalid=0, normalise='none')

def views(n, seed=0):
    rng = np.random.default_rng(seed)
    images = np.float32(rng.random((n, 3, 16, 16)))
    masks = {'a': rng.random((n, 1, 16, 16)) > .2}
    masks['a'][0] = False
    targets = dict(a=images[:, :1], b=images[:, 1:], c=(images[:, 0]*3).astype(int), n=images.mean((1, 2, 3))[:, None], p=(images[:, 0]*4).astype(int))
    return MemoryDataset(TASKS, images, targets, masks)

@pytest.fixture(scope='module')
def data(): return views(48), views(20, 1)

@pytest.fixture(scope='module')
def networks(): return {t.key: build('small', [t], width=2, code=8, halvings=2, side=16, style='small', heads=1).eval() for t in TASKS}

@pytest.fixture(scope='module')
def transfers(data, networks): return Transfers(networks, data[0], {'test': data[1]}, epochs=3)

def test_representations_are_scaled_by_the_images_that_are_learned_from(transfers):
    for of in transfers.codes.values():
        assert torch.allclose(of['train'].mean((0, 2, 3)), torch.zeros(8), atol=1e-4) and (of['train'].std((0, 2, 3)) - 1).abs().max() < 1e-2 and len(of['test']) == 20

def test_a_channel_that_does_not_vary_is_zero(transfers):
    transfers.add('flat', {s: torch.full((n, 2, 4, 4), 7.) for s, n in (('train', 48), ('test', 20))})
    assert (transfers.codes['flat']['test'] == 0).all()

def test_represent_is_what_the_encoder_gives(networks, data):
    images = data[1].batch(np.arange(20))[0]
    with torch.no_grad(): assert torch.allclose(represent(networks['a'], data[1], batch=7), networks['a'].encode(images), atol=1e-5)

@pytest.mark.parametrize('target', [t.key for t in TASKS])
@pytest.mark.parametrize('sources', ['b', ['c', 'n', 'p']])
def test_every_kind_of_task_is_read(transfers, target, sources):
    readout = transfers.learn(sources, target)
    found = transfers.losses(readout, sources, target, 'test')
    assert found.shape == (20,) and np.isnan(found[0]) == (target == 'a') and np.isfinite(found[1:]).all() and (found[1:] >= 0).all()

def test_the_same_again_and_another_seed(transfers, networks, data):
    weights = lambda t: torch.cat([p.flatten() for p in t.learn('b', 'a').parameters()])
    assert torch.equal(weights(transfers), weights(transfers)) and not torch.equal(weights(transfers), weights(Transfers(networks, data[0], {'test': data[1]}, epochs=3, seed=1)))

def test_the_stream_of_random_numbers_stays(transfers):
    before = torch.get_rng_state()
    transfers.learn('b', 'a')
    assert torch.equal(before, torch.get_rng_state())

def test_learning_helps(networks, data):
    short, long = (Transfers(networks, data[0], {'test': data[1]}, epochs=e) for e in (1, 30))
    loss = lambda t: np.nanmean(t.losses(t.learn(['a', 'b'], 'b'), ['a', 'b'], 'b', 'train'))
    assert loss(long) < loss(short)

def test_what_cannot_be(transfers, networks, data):
    for args, sentence in ((('x', 'a'), "source 'x'"), (('a', 'x'), "target 'x'"), ((['a', 'x'], 'b'), "source 'x'")):
        with pytest.raises(ValueError, match=sentence): transfers.learn(*args)
    with pytest.raises(ValueError, match='no source'): Transfers({}, data[0], {})
    dark = views(8)
    dark._masks['a'][:] = False
    with pytest.raises(ValueError, match="target 'a': no image of train"): Transfers(networks, dark, {}, transfers.statistics).learn('b', 'a')
    transfers.add('wide', {s: torch.zeros(n, 2, 8, 8) for s, n in (('train', 48), ('test', 20))})
    with pytest.raises(ValueError, match="source 'wide': its representation has the shape"): transfers.of(['a', 'wide'], 'test')

def test_a_readout_of_vectors():
    assert Readout(Task('n', kind='number', channels=2), (5,))(torch.zeros(3, 5)).shape == (3, 2)
    with pytest.raises(ValueError, match="task 'a'"): Readout(Task('a'), (8, 3, 3), (16, 16))

def test_a_chain_is_one_more_source(transfers):
    name = transfers.chain('b', 'c')
    assert name == 'b>c' and transfers.of([name, 'a'], 'test').shape[1] == transfers.width + 8 and np.isfinite(transfers.losses(transfers.learn(name, 'b'), name, 'b', 'test')).all()

def test_a_source_with_images_of_its_own(networks, data):
    grey = {s: MemoryDataset('S', d.batch(np.arange(len(d)))[0].mean(1, keepdim=True).expand(-1, 3, -1, -1).contiguous(), {'S': torch.ones(len(d), 16, 16, dtype=torch.long)}) for s, d in zip(('train', 'test'), data)}
    plain, other = (Transfers(networks, data[0], {'test': data[1]}, inputs=i) for i in (None, {'b': grey}))
    assert torch.equal(plain.codes['a']['test'], other.codes['a']['test']) and not torch.equal(plain.codes['b']['test'], other.codes['b']['test'])

# ---- the score

def test_the_table(networks, data):
    table = transfer_affinity(networks, *data, share=.5, epochs=2)
    assert [*table] == [*table.index] == [t.key for t in TASKS] and np.isnan(np.diag(table)).all() and ((table > 0) | np.eye(5, dtype=bool)).all(axis=None) and (table.sum() < 1).all()
    both = transfer_affinity(networks, *data, share=.5, epochs=2, symmetric=True)
    pd.testing.assert_frame_equal(both, (table + table.T)/2)

def test_the_network_of_the_target_takes_part(networks, data, transfers):
    losses = transfer_losses(transfers, 'b', ['a', ('a', 'c')], 'test', networks)
    assert [*losses] == ['a', 'a+c', 'b'] and len(losses) == 20

def test_in_the_registry(networks, data):
    assert (SCORES['TA'].needs, SCORES['TA'].symmetric, SCORES['TA'].networks(['S', 'D'])) == ('extra training', False, ['S', 'D'])
    tables, costs = compute(Evidence(networks=networks, data=data[1], train=data[0]), ['TA'], {'TA': dict(epochs=1)})
    assert tables['TA'].notna().sum().sum() == 20 and costs.forward['TA'] >= 5*(6 + 20) and costs.backward['TA'] == 0
    with pytest.raises(ValueError, match="score 'TA': it takes train"): compute(Evidence(networks=networks, data=data[1]), ['TA'])

@pytest.mark.parametrize('share', [0, -1, 1.5])
def test_a_share_that_cannot_be(networks, data, share):
    with pytest.raises(ValueError, match='share is'): transfer_affinity(networks, *data, share=share)
