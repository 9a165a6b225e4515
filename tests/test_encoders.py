"Costs and encoders: counts against hand and the papers, sizes on target for every encoder, torchvision's and timm's numbers, and modules left as they were."
import copy, importlib.util, pickle, sys

import numpy as np, pytest, torch, torch.nn.functional as F
from hypothesis import given, strategies as st
from torch import nn

from its_a_match.costs import black_images, cost_of_widths, evaluating, multiply_adds, parameters, seconds_per_image, solve_widths
from its_a_match.encoders import (ENCODERS, HALF, ResNet18, Small, Xception17, XceptionBlock, code_shape, get_encoder, resnet18, small,
                                  xception17)
from its_a_match.published import rsa_small_network

SIZES = (.2, .3, .4, .5, .6, .8, 1, 2, 2.5, 3, 4)                         # of Which tasks
BUILT = [('xception17', {}), ('resnet18', {}), ('small', {}), ('small', dict(width=2, code=32)), ('small', dict(width=3.5))]
SOLVED = [(Xception17, (24, 48, 96, 192, 512), (4, 4, 4, 4, 8), ()), (ResNet18, (64, 128, 256, 512), (2, 4, 4, 8), ()), (Small, (16, 32, 64, 64), 1, (8,)),
          (Small, (32, 64, 128, 128), 1, (32,))]
cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA GPU')
timm_only = pytest.mark.skipif(importlib.util.find_spec('timm') is None, reason='needs timm')


@pytest.fixture(autouse=True)
def torch_seed(): torch.manual_seed(0)


def on_meta(make, *args, **kwargs):
    with torch.device('meta'): return make(*args, **kwargs)


def refused(f, *words):
    "The message of the ValueError of `f`: one line that has all `words`."
    with pytest.raises(ValueError) as e: f()
    message = str(e.value)
    assert '\n' not in message and all(w in message for w in words), message
    return message


class Untouched:
    "Asserts that a module has the same state, modes and gradients after the block, and torch's random stream too."
    def __init__(self, module): self.module = module

    def look(self):
        m = self.module
        return ([(k, v.clone()) for k, v in m.state_dict().items()], [x.training for x in m.modules()], [p.requires_grad for p in m.parameters()],
                [p.grad for p in m.parameters()], torch.get_rng_state())

    def __enter__(self): self.before = self.look()

    def __exit__(self, *error):
        if error[0]: return
        before, after = self.before, self.look()
        assert before[1:4] == after[1:4] and torch.equal(before[4], after[4])
        assert all(k == l and torch.equal(v, w) for (k, v), (l, w) in zip(before[0], after[0], strict=True))


@pytest.fixture
def net():
    "Some modes differ, and a forward pass in training mode would change it."
    made = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.Dropout(), nn.Sequential(nn.Conv2d(8, 4, 1, bias=False), nn.BatchNorm2d(4)))
    made[3].eval()
    for b in (made[1], made[3][1]): b.running_mean.normal_()
    return made


# costs

@pytest.mark.parametrize('module, shape, macs, weights', [
    (nn.Conv2d(3, 8, 3, 2, 1), (3, 32, 32), 16*16*8*3*9, 8*3*9 + 8),
    (nn.Conv2d(6, 12, (1, 5), groups=3, bias=False), (6, 9, 9), 9*5*12*2*5, 12*2*5),
    (nn.ConvTranspose2d(8, 5, 2, 2), (8, 10, 7), 10*7*8*5*4, 8*5*4 + 5),
    (nn.Sequential(nn.Flatten(), nn.Linear(3*4*4, 7)), (3, 4, 4), 48*7, 48*7 + 7),
    (nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2)), (3, 8, 8), 0, 6),
    (nn.Identity(), (3, 8, 8), 0, 0)])
def test_counts_by_hand(module, shape, macs, weights):
    assert (multiply_adds(module, shape), parameters(module)) == (macs, weights)
    assert isinstance(multiply_adds(module, shape), int)
    assert multiply_adds(module.to('meta'), shape) == macs


def test_frozen_parameters_are_counted_and_tied_ones_once():
    a, b = nn.Linear(3, 3), nn.Linear(3, 3)
    b.weight = a.weight
    a.weight.requires_grad_(False)
    assert parameters(nn.ModuleList([a, b])) == 9 + 3 + 3


@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16])
def test_counting_in_the_weights_precision(net, dtype):
    assert multiply_adds(net.to(dtype), (3, 32, 32)) == 16*16*(8*3*9 + 8*4)
    assert black_images(net, 2, (3, 4, 5)).dtype == dtype and black_images(net, 2, (3, 4, 5)).shape == (2, 3, 4, 5)


def test_measuring_leaves_no_trace(net):
    with Untouched(net):
        multiply_adds(net, (3, 32, 32))
        seconds_per_image(net, (3, 8, 8), batch=2, repeats=2)
        code_shape(net)
        get_encoder(net)


def test_modes_come_back_after_an_error(net):
    with Untouched(net):
        with pytest.raises(RuntimeError): multiply_adds(net, (5, 32, 32))
        refused(lambda: code_shape(net, (5, 32, 32)), 'Sequential does not take images of shape (5, 32, 32)')


def test_evaluating_has_no_gradients_and_one_mode(net):
    with evaluating(net) as same:
        assert same is net and not any(m.training for m in net.modules()) and not torch.is_grad_enabled()
    assert torch.is_grad_enabled()


def test_seconds_per_image(net):
    assert seconds_per_image(net, (3, 8, 8), repeats=1) > 0
    for n in (0, -1, 1.5, None): refused(lambda: seconds_per_image(net, (3, 8, 8), batch=n), f'batch is {n!r}')
    refused(lambda: seconds_per_image(net, (3, 8, 8), repeats=0), 'repeats is 0')
    refused(lambda: seconds_per_image(net, (3, 8, 8), device='meta'), 'nothing is computed on the device meta')
    refused(lambda: seconds_per_image(copy.deepcopy(net).to('meta'), (3, 8, 8)), 'nothing is computed on the device meta')


def test_seconds_are_the_median_for_one_image(net, monkeypatch):
    ticks = iter([0, 90, 0, 90, 0, 90, 0, 8, 0, 4, 0, 60])  # three passes of 90 s that do not count, then 8, 4 and 60
    monkeypatch.setattr('its_a_match.costs.time.perf_counter', lambda: next(ticks))
    assert seconds_per_image(net, (3, 8, 8), batch=4, repeats=3) == 2


@cuda
def test_costs_on_a_gpu(net):
    with Untouched(net):
        assert seconds_per_image(net, (3, 64, 64), device='cuda') > 0 and next(net.parameters()).device.type == 'cpu'
    assert multiply_adds(copy.deepcopy(net).cuda(), (3, 32, 32)) == multiply_adds(net, (3, 32, 32))
    assert code_shape(xception17().cuda().to(memory_format=torch.channels_last)) == (256, 4, 4)


# the papers

def test_small_is_table_s1():
    table = rsa_small_network().query('part == "encoder"')
    convs = [m for m in small().modules() if isinstance(m, nn.Conv2d)]
    assert [(c.out_channels, *c.kernel_size, *c.stride) for c in convs] == [(r.channels, r.kernel, r.kernel, r.stride, r.stride) for r in table.itertuples()]
    assert all(c.bias is None and c.padding == (1, 1) for c in convs)
    kinds = [type(m) for m in small().layers]
    assert kinds == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]*5


@pytest.mark.parametrize('size, count, macs', [(1, 4_089_192, 2.255e9), ('half', 2_051_632, 1.20e9)])
def test_xception_is_the_authors(size, count, macs):
    encoder = on_meta(xception17, size)
    assert parameters(encoder) == count
    assert multiply_adds(encoder) == pytest.approx(macs, rel=.003)
    assert code_shape(encoder, (3, 256, 256)) == (256, 16, 16)


def test_xception_is_the_papers():
    assert parameters(xception17()) == pytest.approx(4e6, rel=.03) and multiply_adds(xception17()) == pytest.approx(2.28e9, rel=.03)
    convs = [m for m in xception17().modules() if isinstance(m, nn.Conv2d)]
    depthwise, pooling = [c for c in convs if c.groups > 1], [c for c in convs if c.kernel_size == (2, 2)]
    assert (len(depthwise) + 2, len(pooling)) == (17, 3)
    assert [c.bias is not None for c in convs] == [c in pooling for c in convs]
    assert not any(isinstance(m, (nn.MaxPool2d, nn.AvgPool2d)) for m in xception17().modules())


def test_xception_by_hand():
    "The forward pass written out with functions, from the weights in their order."
    encoder = Xception17((4, 6, 8, 10, 12), code=5).eval()
    for m in encoder.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.normal_(std=.1); m.running_var.uniform_(.01, .1)
    def bn(x, m): return F.batch_norm(x, m.running_mean, m.running_var, m.weight, m.bias)
    def separable(x, depth, point, norm): return bn(F.conv2d(F.conv2d(x, depth.weight, padding=1, groups=len(depth.weight)), point.weight), norm)
    def block(x, b, relu, down):
        convs, norms = ([m for m in b.body if isinstance(m, kind)] for kind in (nn.Conv2d, nn.BatchNorm2d))
        y = separable(F.relu(x) if relu else x, *convs[:2], norms[0])
        y = separable(F.relu(y), *convs[2:4], norms[1])
        return F.conv2d(y, convs[4].weight, convs[4].bias, 2) + bn(F.conv2d(x, b.skip[0].weight, stride=2), b.skip[1]) if down else y + x
    images, e = torch.rand(2, 3, 32, 48), encoder.entry
    with torch.no_grad():
        x = F.relu(bn(F.conv2d(images, e[0].weight, stride=2, padding=1), e[1]))
        x = F.relu(bn(F.conv2d(x, e[3].weight, padding=1), e[4]))
        for i, b in enumerate(e[6:]): x = block(x, b, i > 0, True)
        for b in encoder.middle: x = block(x, b, True, False)
        x = F.relu(separable(x, *encoder.exit[:3]))
        torch.testing.assert_close(encoder(images), x)
    assert x.shape == (2, 5, 2, 3) and x.std() > 0


@pytest.mark.parametrize('block', [XceptionBlock(4, 4, down=False), XceptionBlock(4, 6), XceptionBlock(4, 6, first=True)])
def test_a_block_leaves_its_input_alone(block):
    x = torch.randn(2, 4, 8, 8)
    kept = x.clone()
    block(x)
    assert torch.equal(x, kept)


def test_resnet_is_torchvisions():
    torchvision = pytest.importorskip('torchvision')
    theirs = torchvision.models.resnet18()
    images = torch.rand(2, 3, 64, 96)
    theirs(images)                                                # running means that are not those of a fresh network
    state = theirs.state_dict()
    ours, cut = resnet18(weights=state).eval(), nn.Sequential(*list(theirs.eval().children())[:-2])
    assert list(ours.state_dict()) == [k for k in state if not k.startswith('fc.')]
    with torch.no_grad(): assert torch.equal(ours(images), cut(images))
    assert parameters(ours) == parameters(cut) and multiply_adds(ours) == multiply_adds(cut)
    assert set(state) == set(theirs.state_dict())                 # what was given is not changed
    old = {k: v for k, v in state.items() if not k.endswith('num_batches_tracked')}
    with torch.no_grad(): assert torch.equal(resnet18(weights=old).eval()(images), cut(images))


def test_resnet_starts_as_torchvisions():
    torchvision = pytest.importorskip('torchvision')
    theirs, ours = torchvision.models.resnet18().state_dict(), resnet18().state_dict()
    for name in (k for k in ours if k.endswith('weight')): assert ours[name].std() == pytest.approx(float(theirs[name].std()), rel=.05), name


def test_weights_that_do_not_fit():
    state = resnet18().state_dict()
    refused(lambda: resnet18(.6, weights=state), 'size 0.6', 'conv1.weight is (64, 3, 7, 7), not (48, 3, 7, 7)')
    refused(lambda: resnet18(channels=4, weights=state), '4 channels', 'conv1.weight is (64, 3, 7, 7), not (64, 4, 7, 7)')
    refused(lambda: resnet18(weights={k: v for k, v in state.items() if k != 'layer2.0.conv1.weight'}), 'layer2.0.conv1.weight is nothing')
    refused(lambda: resnet18(weights=state | dict(other=torch.zeros(3))), 'other is (3,), not nothing')


# sizes

@pytest.mark.parametrize('name, options', BUILT)
@pytest.mark.parametrize('size', SIZES)
def test_sizes_are_measured_on_the_network(name, options, size):
    standard, encoder = on_meta(get_encoder, name, **options), on_meta(get_encoder, name, size, **options)
    assert multiply_adds(encoder)/multiply_adds(standard) == pytest.approx(size, rel=.03)
    assert name == 'resnet18' or encoder.code == standard.code
    assert code_shape(encoder, (3, 256, 256))[1:] == code_shape(standard, (3, 256, 256))[1:] and code_shape(encoder)[0] == encoder.code
    assert min(encoder.widths) >= 1 and (size != 1 or encoder.widths == standard.widths)


@given(case=st.sampled_from(SOLVED), size=st.floats(.2, 4))
def test_any_size_is_within_3_percent(case, size):
    build, full, unit, options = case
    widths, cost = solve_widths(build, full, size, unit, options), cost_of_widths(build, len(full), options)
    assert cost(widths)/cost(full) == pytest.approx(size, rel=.03)
    assert all(w % u == 0 for w, u in zip(widths, np.broadcast_to(unit, len(full))))
    factors = np.array(widths)/full
    assert factors.max()/factors.min() < 1.4                   # the proportions of the full network


@given(case=st.sampled_from(SOLVED), small=st.floats(.2, 3.8), more=st.floats(1.05, 4))
def test_a_larger_size_costs_more(case, small, more):
    build, full, unit, options = case
    cost, large = cost_of_widths(build, len(full), options), min(4, small*more)
    if large > 1.05*small: assert cost(solve_widths(build, full, large, unit, options)) > cost(solve_widths(build, full, small, unit, options))


@pytest.mark.parametrize('build, full, unit, options', SOLVED)
def test_the_polynomial_is_the_count(build, full, unit, options):
    cost, rng = cost_of_widths(build, len(full), options), np.random.default_rng(0)
    for _ in range(4):
        widths = tuple(rng.integers(1, 700, len(full)).tolist())
        assert cost(widths) == multiply_adds(on_meta(build, widths, 3, *options))


@pytest.mark.parametrize('name, options', BUILT)
def test_the_share_of_cost_is_the_same_at_64_pixels(name, options):
    a, b = on_meta(get_encoder, name, **options), on_meta(get_encoder, name, .5, **options)
    assert multiply_adds(b, (3, 64, 64))/multiply_adds(a, (3, 64, 64)) == pytest.approx(multiply_adds(b)/multiply_adds(a))


def test_half_is_the_authors_and_a_number_is_solved():
    assert xception17('half').widths == HALF != xception17(.5).widths
    assert multiply_adds(xception17('half'))/multiply_adds(xception17()) == pytest.approx(.533, abs=.001)
    assert multiply_adds(xception17(.5))/multiply_adds(xception17()) == pytest.approx(.5, rel=.03)


@pytest.mark.parametrize('name', ENCODERS)
@pytest.mark.parametrize('size', [0, .1999, 4.001, -1, float('nan'), float('inf'), True, None, 'full', [1], 1j])
def test_sizes_out_of_range(name, size): refused(lambda: get_encoder(name, size), f'size is {size!r}, not a number of SNT from 0.2 to 4')


def test_half_is_xceptions_alone():
    for name in ('small', 'resnet18'): refused(lambda: get_encoder(name, 'half'), "size is 'half'")


def test_numbers_of_numpy():
    assert small(np.float64(.5)).widths == small(.5).widths == small(np.float32(.5)).widths
    assert small(np.int64(2)).widths == small(2).widths == small(2.).widths


def test_a_size_that_no_channels_give():
    refused(lambda: small(.3, width=.1), 'come within 3 % of size 0.3')
    assert min(small(1, width=.01).widths) == 1


def test_solving_draws_no_random_numbers():
    class Fresh(Small): pass
    before = torch.get_rng_state()
    solve_widths(Fresh, (16, 32, 64, 64), .7, options=(8,))
    assert torch.equal(before, torch.get_rng_state())


# options and registry

def test_width_and_code():
    assert (small(width=2).widths, small(width=2).code) == ((32, 64, 128, 128), 16)
    assert (small(width=2, code=32).code, small(.3, width=2, code=32).code, small(code=5).widths) == (32, 32, (16, 32, 64, 64))
    for width in (0, -1, float('nan'), float('inf'), '2'): refused(lambda: small(width=width), f'width is {width!r}')
    for code in (0, -3, 1.5, '8'): refused(lambda: small(code=code), f'code is {code!r}')


@pytest.mark.parametrize('name', ENCODERS)
def test_more_input_channels_change_the_first_convolution_alone(name):
    plain, injected = (get_encoder(name, .5, channels).state_dict() for channels in (3, 3 + 17))
    different = [k for k in plain if plain[k].shape != injected[k].shape]
    assert len(different) == 1 and plain.keys() == injected.keys() and different[0] == next(iter(plain))
    assert injected[different[0]].shape[1] == 20


@pytest.mark.parametrize('name', ENCODERS)
def test_every_parameter_has_a_gradient(name):
    encoder = get_encoder(name, .2)
    encoder(torch.rand(2, 3, 64, 64)).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())


@pytest.mark.parametrize('name', ENCODERS)
def test_encoders_can_be_copied_and_sent(name):
    encoder, images = get_encoder(name, .2).eval(), torch.rand(1, 3, 32, 32)
    for again in (copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))):
        with torch.no_grad(): assert torch.equal(again(images), encoder(images)) and again.widths == encoder.widths


@pytest.mark.parametrize('name', ENCODERS)
def test_channels_last_gives_the_same(name):
    encoder, images = get_encoder(name, .2).eval(), torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(encoder.to(memory_format=torch.channels_last)(images.to(memory_format=torch.channels_last)), encoder(images),
                                   atol=1e-5, rtol=1e-4)


def test_unknown_options_and_names():
    refused(lambda: get_encoder('small', depth=3), 'small', "'depth'", 'size, channels, width, code')
    refused(lambda: get_encoder('xception17', width=2), "'width'")
    refused(lambda: get_encoder('smal'), "no encoder 'smal'", 'small, xception17, resnet18')
    for wrong in (3, None, ['small']): refused(lambda: get_encoder(wrong), f'not {wrong!r}')


def test_a_registered_encoder(monkeypatch):
    monkeypatch.setitem(ENCODERS, 'mine', lambda size, channels, depth=1: nn.Conv2d(channels, depth, 3, 2))
    assert code_shape(get_encoder('mine', depth=7)) == (7, 31, 31)


# encoders of others

def test_a_module_is_taken_as_it_is(net):
    with Untouched(net): assert get_encoder(net) is net and get_encoder(net, size=1.) is net
    refused(lambda: get_encoder(net, .5), 'Sequential has one size, 1, and size is 0.5')
    refused(lambda: get_encoder(net, 'half'), "size is 'half'")
    refused(lambda: get_encoder(net, code=8), "takes no option 'code'")
    refused(lambda: get_encoder(net, channels=5), 'Sequential does not take images of shape (5, 64, 64)')


class Odd(nn.Module):
    def __init__(self, result): super().__init__(); self.result = result
    def forward(self, x): return self.result(x)


@pytest.mark.parametrize('result, found', [(lambda x: [x], 'a list'), (lambda x: None, 'a NoneType'), (lambda x: x.flatten(2), 'a tensor of shape (1, 3, 4096)'),
                                           (lambda x: x[0], 'a tensor of shape (3, 64, 64)'), (lambda x: x.repeat(2, 1, 1, 1), 'a tensor of shape (2, 3,')])
def test_what_is_no_feature_map(result, found): refused(lambda: get_encoder(Odd(result)), f'Odd gives {found}', 'feature map')


def test_a_module_for_one_size_of_image():
    fixed = Odd(lambda x: x if x.shape[-1] == 96 else 1/0)
    refused(lambda: get_encoder(fixed), 'does not take images of shape (3, 64, 64): division by zero')
    assert get_encoder(fixed, side=96) is fixed


def test_functions_and_classes_that_make_one():
    class Mine(nn.Conv2d):
        def __init__(self, size, channels, depth=4): super().__init__(channels, depth*size, 3, 2)
    assert code_shape(get_encoder(Mine, 2)) == (8, 31, 31) and code_shape(get_encoder(Mine, 2, 5, depth=3), (5, 64, 64)) == (6, 31, 31)
    refused(lambda: get_encoder(Mine, deep=3), 'Mine', "'deep'", 'size, channels, depth')
    refused(lambda: get_encoder(lambda width: None), "'width'")
    refused(lambda: get_encoder(lambda size, channels: 3), 'gives a int, not an nn.Module')
    refused(lambda: get_encoder(lambda size, channels: nn.Flatten(2)), 'Flatten gives a tensor')


@timm_only
@pytest.mark.parametrize('name', ['timm:mobilenetv3_small_050', 'mobilenetv3_small_050'])
def test_timm(name):
    import timm
    encoder, images = get_encoder(name).eval(), torch.rand(2, 3, 64, 64)
    theirs = timm.create_model('mobilenetv3_small_050', features_only=True).eval()
    theirs.load_state_dict(encoder.net.state_dict())
    with torch.no_grad(): assert torch.equal(encoder(images), theirs(images)[-1])
    assert code_shape(encoder) == (288, 2, 2) and next(encoder.parameters()).requires_grad
    assert code_shape(get_encoder(name, channels=5), (5, 64, 64)) == (288, 2, 2)


@timm_only
def test_timm_with_channels_last_and_tokens():
    assert code_shape(on_meta(get_encoder, 'swin_tiny_patch4_window7_224', img_size=64)) == (768, 2, 2)
    assert code_shape(on_meta(get_encoder, 'vit_tiny_patch16_224', img_size=64)) == (192, 4, 4)
    refused(lambda: on_meta(get_encoder, 'vit_tiny_patch16_224'), 'does not take images of shape (3, 64, 64)', '224')
    assert on_meta(get_encoder, 'vit_tiny_patch16_224', side=224).net is not None


@timm_only
def test_timm_refuses():
    refused(lambda: get_encoder('timm:mobilenetv3_small_050', .5), 'timm:mobilenetv3_small_050 has one size, 1, and size is 0.5')
    refused(lambda: get_encoder('timm:nonsense'), "no encoder 'nonsense'")
    assert type(get_encoder('resnet18')) is ResNet18 and type(get_encoder('timm:resnet18')) is not ResNet18


def test_without_timm(monkeypatch):
    monkeypatch.setitem(sys.modules, 'timm', None)
    for name in ('timm:resnet18', 'smal'): refused(lambda: get_encoder(name), 'timm is not installed (pip install timm)', 'small, xception17, resnet18')
    assert code_shape(get_encoder('small')) == (8, 4, 4)
