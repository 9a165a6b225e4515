"Decoders and networks: the papers' numbers, outputs at the size of the image, weights that depend on the seed alone, and what is refused."
import copy, sys

import pytest, torch
from torch import nn

from its_a_match.costs import multiply_adds, parameters
from its_a_match.decoders import DenseHead, PooledHead, SmallDecoder, head_for
from its_a_match.encoders import code_shape, get_encoder
from its_a_match.losses import TaskLosses
from its_a_match.models import MODELS, MultiTaskNet, build, describe, get_model, inference_cost, input_channels
from its_a_match.published import rsa_small_network
from its_a_match.tasks import TASKONOMY, Task

SCENE, ANGLE = Task('scene', kind='classes', channels=4, per_image=True), Task('angle', kind='number', channels=2)

def state(module): return {k: v.clone() for k, v in module.state_dict().items()}
def same(a, b): return a.keys() == b.keys() and all(torch.equal(v, b[k]) for k, v in a.items())

class Encoder(nn.Module):
    "An encoder of one convolution, whose code is `stride` times smaller than the image."
    def __init__(self, channels=3, stride=4, code=6, padding=0):
        super().__init__()
        self.conv = nn.Conv2d(channels, code, stride, stride, padding)
    def forward(self, x): return self.conv(x)

# decoders

@pytest.mark.parametrize('task,count', list(zip(TASKONOMY, (116_624, 115_808, 115_904, 115_808, 115_808))))
def test_the_decoder_of_which_tasks_has_its_parameters(task, count):
    head = head_for(task, (256, 16, 16), (256, 256))
    assert parameters(head) == count and head(torch.zeros(1, 256, 4, 4)).shape == (1, task.channels, 64, 64)
    assert sum(isinstance(m, nn.ConvTranspose2d) for m in head.modules()) == 4

def test_the_small_decoder_is_table_s1():
    rows = rsa_small_network().query('part == "decoder"')
    head, x = SmallDecoder(8, 5), torch.randn(2, 8, 3, 4)
    convs = [m for m in head.modules() if isinstance(m, nn.Conv2d)]
    printed = rows[rows.layer != 'Upscale']
    assert [c.out_channels for c in convs] == [*printed.channels.dropna(), 5] and [c.kernel_size[0] for c in convs] == printed.kernel.tolist()
    assert [m.scale_factor for m in head.modules() if isinstance(m, nn.Upsample)] == rows.upscale.dropna().tolist()
    assert head(x).shape == (2, 5, 48, 64)
    order = [type(m) for m in head.modules() if isinstance(m, (nn.Conv2d, nn.Upsample))]
    assert order == [nn.Upsample if layer == 'Upscale' else nn.Conv2d for layer in rows.layer]

@pytest.mark.parametrize('doublings', range(7))
def test_a_head_doubles_as_often_as_asked(doublings):
    head = DenseHead(7, 3, doublings).eval()
    assert head(torch.randn(1, 7, 2, 3)).shape == (1, 3, 2*2**doublings, 3*2**doublings)
    assert sum(isinstance(m, nn.ConvTranspose2d) for m in head.modules()) == doublings

@pytest.mark.parametrize('task,shape', [(SCENE, (5, 4)), (ANGLE, (5, 2))])
def test_a_label_of_an_image_takes_the_mean_of_the_code(task, shape):
    code = torch.randn(5, 6, 3, 3)
    head = head_for(task, (6, 3, 3))
    assert isinstance(head, PooledHead) and head(code).shape == shape
    assert torch.allclose(head(code), head(code.flip(2, 3)), atol=1e-6)

def test_heads_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="there is no style 'large' of heads"): head_for(TASKONOMY[0], (8, 4, 4), style='large')
    with pytest.raises(ValueError, match='the small decoder enlarges a code 16 times at most, and one of 2 × 2 from 64 × 64'): head_for(TASKONOMY[0], (8, 2, 2), style='small')
    assert head_for(TASKONOMY[0], (8, 8, 8), style='small')(torch.zeros(1, 8, 8, 8)).shape == (1, 18, 64, 64)

# outputs

@pytest.mark.parametrize('model', MODELS)
@pytest.mark.parametrize('size', [(64, 64), (48, 80), (50, 71)])
def test_outputs_have_the_size_of_the_image_and_every_parameter_a_gradient(model, size):
    net = get_model(model, [*TASKONOMY, SCENE, ANGLE], seed=0)
    outputs = net(torch.rand(2, 3, *size))
    assert {k: tuple(v.shape) for k, v in outputs.items()} == {
        **{t.key: (2, t.channels, *size) for t in TASKONOMY}, 'scene': (2, 4), 'angle': (2, 2)}
    sum(v.square().mean() for v in outputs.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())

@pytest.mark.parametrize('stride', [1, 2, 4, 8, 14, 16, 32])
def test_any_stride_is_undone(stride):
    net = get_model(Encoder(stride=stride), 'DN')
    assert [net(torch.rand(1, 3, s, s + stride))['N'].shape[2:] for s in (64, 70)] == [(s, s + stride) for s in (64, 70)]

def test_what_is_decoded_beyond_the_image_is_cut_off_and_what_lacks_is_interpolated():
    over, under = (MultiTaskNet(Encoder(stride=4, padding=p), {'D': nn.Upsample(scale_factor=4)}) for p in (3, 0))
    images = torch.rand(1, 3, 10, 13)
    code = over.encode(images)
    assert code.shape[2:] == (4, 4)                       # 16 × 16 decoded: more than a block too many in height
    assert over(images)['D'].shape[2:] == (10, 13)
    images = torch.rand(1, 3, 14, 15)
    decoded = over.decoders['D'](over.encode(images))
    assert decoded.shape[2:] == (20, 20) and over(images)['D'].shape[2:] == (14, 15)
    tight = MultiTaskNet(Encoder(stride=4, padding=1), {'D': nn.Upsample(scale_factor=4)})
    images = torch.rand(1, 3, 10, 11)
    decoded = tight.decoders['D'](tight.encode(images))
    assert decoded.shape[2:] == (12, 12) and torch.equal(tight(images)['D'], decoded[..., :10, :11])
    images = torch.rand(1, 3, 11, 11)
    assert under.decoders['D'](under.encode(images)).shape[2:] == (8, 8) and under(images)['D'].shape[2:] == (11, 11)

def test_channels_last_gives_the_same():
    net, images = get_model('wide', 'SN', seed=0).eval(), torch.rand(2, 3, 64, 64)
    a = net(images)
    b = net.to(memory_format=torch.channels_last)(images.contiguous(memory_format=torch.channels_last))
    assert all(torch.allclose(a[k], b[k], atol=1e-5) for k in 'SN')

def test_images_are_centred_and_injected_labels_are_not():
    seen = []
    class Seen(nn.Module):
        def forward(self, x): seen.append(x); return x
    image = torch.tensor([.1, .5, 1., 7.]).view(1, 4, 1, 1)
    MultiTaskNet(Seen(), {'S': nn.Identity()})(image[:, :3])
    MultiTaskNet(Seen(), {'S': nn.Identity()}, mean=[.1, .2, .3], std=[1, .5, .1], injected=TASKONOMY[1])(image)
    assert seen[0].flatten().tolist() == pytest.approx([-.8, 0, 1]) and seen[1].flatten().tolist() == pytest.approx([0, .6, 7, 7])

def test_images_of_another_number_of_channels_are_refused():
    with pytest.raises(ValueError, match='takes images of 3 channels, not 4'): get_model('small', 'D')(torch.rand(1, 4, 64, 64))
    with pytest.raises(ValueError, match='takes images of 21 channels, not 3'): get_model('small', 'D', injected='S')(torch.rand(1, 3, 64, 64))

# the network's parts

def test_tasks_are_in_the_order_of_the_columns():
    heads = {'E': nn.Identity(), 'zebra': nn.Identity(), TASKONOMY[1]: nn.Identity(), SCENE: nn.Identity(), 'segment_semantic': nn.Identity()}
    net = MultiTaskNet(nn.Identity(), heads)
    assert net.tasks == tuple(net(torch.rand(1, 3, 2, 2))) == ('S', 'D', 'E', 'zebra', 'scene')
    assert get_model('small', [SCENE, 'E', 'D']).tasks == ('D', 'E', 'scene')

def test_parameters_are_shared_or_a_tasks_own():
    net = get_model('small', 'SDN')
    parts = [net.shared_parameters(), *map(net.task_parameters, net.tasks)]
    assert [id(p) for part in parts for p in part] == [id(p) for p in net.parameters()]
    with pytest.raises(ValueError, match="task 'K': the network has only S, D, N"): net.task_parameters('K')

@pytest.mark.parametrize('tasks,keys,left', [('SDN', 'ND', ('D', 'N')), ('SDN', ['S'], ('S',)), ([SCENE, ANGLE], 'angle', ('angle',)),
                                             ([Task('x', channels=2), Task('seg', 'S', channels=2)], ['S', 'x'], ('x', 'S'))])
def test_a_part_of_the_network_shares_its_weights(tasks, keys, left):
    net = get_model('wide', tasks, mean=.4)
    before, part, images = state(net), net.only(keys), torch.rand(1, 3, 64, 64)
    assert part.tasks == left and same(before, state(net)) and len(net.tasks) == len(net.decoders) >= len(left)
    net.eval(), part.eval()
    assert all(torch.equal(part(images)[k], net(images)[k]) for k in left)
    assert all(any(p is q for q in net.parameters()) for p in part.parameters())
    assert part.state_dict().keys() == {k for k in net.state_dict() if not k.startswith('decoders') or k.split('.')[1] in left}
    with pytest.raises(ValueError, match="task 'K': the network has only"): net.only(['K'])

def test_weights_are_loaded_again_by_name():
    net, other = get_model('wide', 'SD', seed=0, mean=[.1, .2, .3]), get_model('wide', 'SD', seed=1, mean=[0, 0, 0])
    other.load_state_dict(net.state_dict())
    assert same(state(net), state(other)) and same(state(copy.deepcopy(net)), state(net))
    assert {k.partition('.')[0] for k in state(net)} == {'encoder', 'decoders', 'mean', 'std'}
    assert {k.split('.')[1] for k in state(net) if k.startswith('decoders')} == {'S', 'D'}

@pytest.mark.parametrize('decoders,said', [({}, 'a network without a task'), ({'a.b': nn.Identity()}, "task 'a.b': PyTorch has no room"),
                                           ({'type': nn.Identity()}, "task 'type': PyTorch has no room"), ({'keys': nn.Identity()}, "task 'keys'"),
                                           ({'S': nn.Identity(), TASKONOMY[0]: nn.Identity()}, "task 'S': it comes twice")])
def test_tasks_that_cannot_be_are_refused(decoders, said):
    with pytest.raises(ValueError, match=said): MultiTaskNet(nn.Identity(), decoders)

def test_a_name_that_pytorch_has_no_room_for_does_with_a_letter():
    assert MultiTaskNet(nn.Identity(), {Task('depth.v2', 'V'): nn.Identity()}).tasks == ('V',)

def test_a_mean_of_two_numbers_is_refused():
    with pytest.raises(ValueError, match='mean has 2 numbers, not 1 or 3'): MultiTaskNet(nn.Identity(), {'D': nn.Identity()}, mean=[.1, .2])

# models by name

@pytest.mark.parametrize('model', ['wide', 'xception17'])
def test_initial_weights_depend_on_the_seed_alone(model):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    five, again, pair, other = [get_model(model, t, seed=s) for t, s in (('SDNKE', 0), ('SDNKE', 0), ('NE', 0), ('SDNKE', 1))]
    assert torch.equal(torch.get_rng_state(), before)
    assert same(state(five), state(again)) and same(state(five.only('NE')), state(pair))
    assert not torch.equal(five.shared_parameters()[0], other.shared_parameters()[0])
    assert not torch.equal(five.task_parameters('D')[0], five.task_parameters('K')[0])
    assert not torch.equal(five.task_parameters('D')[0], other.task_parameters('D')[0])

def test_without_a_seed_weights_are_drawn_from_the_global_stream():
    torch.manual_seed(3); a, b = get_model('small', 'SD'), get_model('small', 'SD')
    torch.manual_seed(3); c = get_model('small', 'SD')
    assert same(state(a), state(c)) and not same(state(a), state(b))
    assert not torch.equal(a.task_parameters('D')[0], b.task_parameters('D')[0])

@pytest.mark.parametrize('model,size', [('wide', 1), ('wide', .5), ('xception17', .5), ('resnet18', 1)])
def test_an_injected_label_changes_the_first_layer_alone(model, size):
    plain, given = get_model(model, 'S', size, seed=0), get_model(model, 'S', size, injected='N', seed=0)
    differ = [k for k, v in plain.state_dict().items() if v.shape != given.state_dict()[k].shape]
    assert len(differ) == 1 and plain.state_dict().keys() == given.state_dict().keys()
    first = given.state_dict()[differ[0]]
    assert first.shape[1] == 6 and torch.equal(first[:, :3], plain.state_dict()[differ[0]]) and first[:, 3:].std() > 0
    assert all(torch.equal(v, given.state_dict()[k]) for k, v in plain.state_dict().items() if k not in differ)
    assert given.injected == TASKONOMY[2] and given.channels == 6 and given(torch.rand(1, 6, 64, 64))['S'].shape == (1, 18, 64, 64)

def test_channels_of_an_injected_label():
    assert [input_channels(t) for t in TASKONOMY] == [18, 1, 3, 1, 1]
    with pytest.raises(ValueError, match="task 'D': its label cannot be injected where it is predicted"): get_model('small', 'SD', injected='D')

def test_the_cpu_default_is_twice_table_s1():
    small, wide = (get_model(m, 'D', seed=0) for m in ('small', 'wide'))
    convs = lambda net: [m.out_channels for m in net.modules() if isinstance(m, nn.Conv2d)]
    assert convs(small) == [16, 32, 64, 64, 8, 32, 16, 4, 4, 1]
    assert convs(wide)  == [32, 64, 128, 128, 32, 64, 32, 8, 8, 1]
    assert convs(get_model('small', 'D', width=.5)) == [8, 16, 32, 32, 4, 16, 8, 2, 2, 1]

def test_heads_stay_the_same_whatever_the_size_of_the_encoder():
    assert [parameters(get_model('xception17', 'D', size).decoders) for size in (.5, 1, 2, 'half')] == [115_808]*4
    assert parameters(get_model('xception17', 'D', 'half').encoder) == 2_051_632

def test_an_encoder_of_ones_own_is_copied():
    encoder = Encoder()
    nets = [get_model(encoder, 'D', seed=s) for s in (0, 1)]
    assert all(same(state(net.encoder), state(encoder)) and net.encoder is not encoder for net in nets)
    with pytest.raises(ValueError, match='size'): get_model(encoder, 'D', 2)

def test_an_encoder_that_takes_the_label_itself():
    net = get_model(Encoder(channels=4), 'S', injected='D')
    assert net(torch.rand(1, 4, 32, 32))['S'].shape == (1, 18, 32, 32)

def test_a_function_may_make_the_network():
    def mine(tasks, size, injected, code=5):
        return build(Encoder(channels=3 if injected is None else 3 + input_channels(injected), code=code), tasks, injected=injected)
    a, b = (get_model(mine, 'DS', injected='K', seed=4, code=7) for _ in range(2))
    assert a.tasks == ('S', 'D') and a.injected == TASKONOMY[3] and a.encoder.conv.out_channels == 7 and same(state(a), state(b))

@pytest.mark.parametrize('model,options,said', [
    ('magic', {}, "there is no model 'magic': choose small, wide, fine, xception17, resnet18, timm:NAME"), (7, {}, 'there is no model 7'),
    (lambda tasks, size, injected: 'net', {}, 'the model gives a str, not a MultiTaskNet'),
    (lambda tasks, size, injected: MultiTaskNet(nn.Identity(), {'E': nn.Identity()}), {}, 'the model has the tasks E, not D'),
    ('wide', dict(size=9), 'size is 9'), ('wide', dict(depth=3), "depth"), ('xception17', dict(width=2), 'width'),
    (nn.Flatten(2), {}, 'Flatten gives'), (nn.Flatten(), {}, 'the encoder gives a vector of 12288 numbers')])
def test_models_that_cannot_be_are_refused(model, options, said):
    with pytest.raises(ValueError, match=said): get_model(model, 'D', **options)

def test_models_of_timm():
    pytest.importorskip('timm')
    net = get_model('timm:resnet10t', 'DN', seed=0).eval()
    assert net(torch.rand(2, 3, 64, 64))['N'].shape == (2, 3, 64, 64)
    assert same(state(net), state(get_model('timm:resnet10t', 'DN', seed=0)))

def test_timm_that_is_not_there_is_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, 'timm', None)
    with pytest.raises(ValueError, match='pip install timm'): get_model('timm:resnet10t', 'D')

def test_a_network_without_memory_is_counted_alike():
    with torch.device('meta'): net = get_model('wide', 'SD', .5, injected='N', seed=0)
    assert all(p.is_meta for p in net.parameters())
    assert describe(net, (3, 64, 64)).equals(describe(get_model('wide', 'SD', .5, injected='N', seed=0), (3, 64, 64)))

# costs

def test_the_cost_is_that_of_the_encoder_unless_decoders_are_asked_for():
    one, five = get_model('xception17', 'S', seed=0), get_model('xception17', 'SDNKE', seed=0)
    shape = 3, 64, 64
    assert inference_cost(five, one, shape) == 1
    assert inference_cost(five, one, shape, decoders=True) == multiply_adds(five, shape)/multiply_adds(one, shape) > 1.3
    assert inference_cost(get_model('xception17', 'S', .5), one) == pytest.approx(.5, rel=.03)
    assert 1 < inference_cost(get_model('xception17', 'S', injected='D'), one) < 1.01
    assert inference_cost(five, one, shape, by='time', repeats=2) > 0
    with pytest.raises(TypeError, match='repeats'): inference_cost(one, one, repeats=2)
    with pytest.raises(ValueError, match="cost by 'watts': choose macs or time"): inference_cost(one, one, by='watts')

def test_the_parts_add_up_and_nothing_is_changed_by_measuring():
    net = get_model('resnet18', [*TASKONOMY, ANGLE], injected=SCENE, seed=0).train()
    net.decoders['D'].eval()
    before, modes = state(net), [m.training for m in net.modules()]
    table = describe(net, (3, 96, 64))
    parts = table.drop('all')
    assert table.loc['all', ['parameters', 'multiply_adds']].tolist() == parts[['parameters', 'multiply_adds']].sum().tolist()
    assert table.output.tolist()[:3] == [(512, 3, 2), (18, 96, 64), (1, 96, 64)] and table.output['decoder angle'] == (2,)
    assert same(before, state(net)) and modes == [m.training for m in net.modules()]

def test_a_network_learns_an_image_and_its_labels():
    tasks = [TASKONOMY[0], TASKONOMY[1], SCENE]
    net, losses = get_model('wide', tasks, seed=0), TaskLosses(tasks)
    g = torch.Generator().manual_seed(0)
    images = torch.rand(4, 3, 32, 32, generator=g)
    targets = {'S': (images[:, 0] > .5).long(), 'D': images[:, 1:2], 'scene': torch.tensor([0, 1, 2, 3])}
    masks = {'S': torch.ones(4, 32, 32).bool(), 'D': torch.ones(4, 1, 32, 32).bool(), 'scene': torch.ones(4).bool()}
    optimizer, seen = torch.optim.AdamW(net.parameters(), 5e-3), []
    for _ in range(25):
        found = losses(net(images), targets, masks)
        optimizer.zero_grad(); sum(found.values()).backward(); optimizer.step()
        seen.append({k: v.item() for k, v in found.items()})
    assert all(seen[-1][k] < .8*seen[0][k] for k in seen[0])

@pytest.mark.parametrize('name', ['small', 'xception17', 'resnet18'])
def test_codes_are_those_of_the_encoders(name):
    net = get_model(name, 'D', seed=0)
    assert code_shape(net.encoder) == code_shape(get_encoder(name))
