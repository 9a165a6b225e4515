"Edges and keypoints: symmetries, an independent calculation, no clipping; and adding them to data sets of any layout, interrupted or not."
import os, shutil, subprocess, sys

import numpy as np, pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import convolve, gaussian_filter
from skimage import data
from skimage.feature import hessian_matrix

from its_a_match.encoding import read_counts, write_counts
from its_a_match.folders import find_views
from its_a_match.labels import LABELS, add_labels, blob_response, edge_texture, keypoints2d, label_file
from its_a_match.taskonomy import TaskonomyDataset
from its_a_match.tasks import get_tasks

BOTH    = pytest.mark.parametrize('f', LABELS.values(), ids=list(LABELS))
LAYOUTS = ['rgb/{b}/point_{p}_view_0_domain_rgb.png', 'rgb/{b}/point_{p}_view_0.png', 'rgb/taskonomy/{b}/point_{p}_view_0_domain_rgb.png',
           '{b}_rgb/rgb/point_{p}_view_0_domain_rgb.png', '{b}/rgb/point_{p}_view_0_domain_rgb.png']
images  = st.tuples(st.integers(1, 24), st.integers(1, 24)).flatmap(lambda s: arrays(np.uint8, (*s, 3)))

@pytest.fixture
def photo(): return data.astronaut()[100:148, 180:244]

def near(a, b, counts=1): assert np.abs(a.astype(int) - b.astype(int)).max() <= counts

@BOTH
@given(rgb=images)
@settings(max_examples=40)
def test_any_image(f, rgb):
    out = f(rgb)
    assert out.shape == rgb.shape[:2] and out.dtype == np.uint16
    near(f(255 - rgb), out)
    for turned in (lambda a: a[::-1], lambda a: a[:, ::-1], lambda a: a.swapaxes(0, 1)): near(f(np.ascontiguousarray(turned(rgb))), turned(out))

@BOTH
@given(black=arrays(bool, (12, 12)), zoom=st.integers(1, 6))
@settings(max_examples=60)
def test_black_and_white_is_not_clipped(f, black, zoom):
    rgb = np.repeat(np.kron(black, np.ones((zoom, zoom), bool))[..., None], 3, 2)*np.uint8(255)
    assert f(rgb).max() < 65535

@BOTH
def test_nothing_to_see(f):
    for v in (0, 77, 255): assert not f(np.full((20, 30, 3), v, np.uint8)).any()

def test_against_the_formulas(photo):
    grey = photo @ [.2125, .7154, .0721]/255
    smooth = gaussian_filter(grey, 1, mode='nearest')
    sobel = np.outer([1, 2, 1], [1, 0, -1])/8
    edge = np.sqrt(2*np.pi)*np.hypot(convolve(smooth, sobel, mode='nearest'), convolve(smooth, sobel.T, mode='nearest'))
    near(edge_texture(photo)[1:-1, 1:-1], np.round(65535*edge)[1:-1, 1:-1])
    rr, rc, cc = hessian_matrix(grey, 1.5, mode='nearest', use_gaussian_derivatives=True)  # two first derivatives, one after the other
    expected = gaussian_filter(16*1.5**4*np.maximum(rr*cc - rc**2, 0), 1.5, mode='nearest')
    assert np.abs(keypoints2d(photo)/65535 - expected)[8:-8, 8:-8].max() < .01*expected.max()

@pytest.mark.parametrize('axis', [0, 1])
def test_a_slope_ends_at_no_border(axis):
    ramp = np.broadcast_to(np.expand_dims(np.arange(20, 220, 5, dtype=np.uint8), (1 - axis, 2)), (40, 40, 3))
    edge = edge_texture(ramp)
    assert edge[20, 20] == round(65535*np.sqrt(2*np.pi)*5/255)
    assert abs(edge/edge[20, 20] - 1).max() < .4 and abs(edge/edge[20, 20] - 1)[3:-3, 3:-3].max() < .01
    assert keypoints2d(ramp).max() < 2

def test_contrast():
    faint = np.where(np.hypot(*(np.mgrid[:31, :31] - 15)) < 4, 100, 60).astype(np.uint8)[..., None].repeat(3, 2)
    strong = ((faint.astype(int) - 60)*3 + 60).astype(np.uint8)
    assert edge_texture(strong).max()/edge_texture(faint).max() == pytest.approx(3, rel=1e-3)
    assert keypoints2d(strong).max()/keypoints2d(faint).max() == pytest.approx(9, rel=1e-3)

@pytest.mark.parametrize('angle', np.linspace(0, np.pi, 13))
def test_straight_edges_have_no_keypoints(angle):
    y, x = (np.mgrid[:384, :384] + .5)/8 - 24
    grey = (x*np.cos(angle) + y*np.sin(angle) > .3).reshape(48, 8, 48, 8).mean((1, 3))
    assert blob_response(grey)[12:-12, 12:-12].max() < .02                  # a corner has .5, a spot over 1
    edge = edge_texture(np.round(255*grey[..., None]).astype(np.uint8).repeat(3, 2))[12:-12, 12:-12].max()/65535
    assert .77 < edge < .83                                                 # the same in all directions

@BOTH
@pytest.mark.parametrize('rgb', [np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8)])
def test_refuses_what_is_no_image(f, rgb):
    with pytest.raises(ValueError, match='an image is needed as 8-bit counts of shape'): f(rgb)

def put(root, layout, photo, points=3, buildings=('one', 'two')):
    for b in buildings:
        for p in range(points):
            file = root/layout.format(b=b, p=p)
            file.parent.mkdir(parents=True, exist_ok=True)
            write_counts(file, np.roll(photo, 5*p + len(b), 1))

def content(root): return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob('*')) if p.is_file()}

@pytest.mark.parametrize('layout', LAYOUTS)
def test_the_loader_finds_them_in_every_layout(tmp_path, photo, layout):
    put(tmp_path, layout, photo)
    assert add_labels(tmp_path) == 12
    views = TaskonomyDataset(tmp_path, None, 'KE')
    assert len(views) == 6 and not views.missing.any()
    for t in views.tasks: assert np.array_equal(views.counts(1, t), LABELS[t.name](np.roll(photo, 8, 1)))
    before = content(tmp_path)
    assert add_labels(tmp_path) == 0 and content(tmp_path) == before

def test_as_many_processes_as_wanted(tmp_path, photo):
    put(tmp_path/'a', LAYOUTS[0], photo, 35)
    shutil.copytree(tmp_path/'a', tmp_path/'b')
    seen = []
    assert add_labels(tmp_path/'a', processes=2, progress=lambda *a: seen.append(a)) == add_labels(tmp_path/'b', processes=1) == 140
    assert seen == [(i, 70) for i in range(1, 71)]
    assert content(tmp_path/'a') == content(tmp_path/'b')

def test_one_label_only(tmp_path, photo):
    put(tmp_path, LAYOUTS[4], photo)
    assert add_labels(tmp_path, 'keypoints2d') == 6
    assert not (tmp_path/'one/edge_texture').exists()
    assert add_labels(tmp_path) == 6

def test_others_labels_are_not_touched(tmp_path, photo):
    put(tmp_path, LAYOUTS[0], photo)
    theirs = tmp_path/'keypoints2d/two/point_2_view_0_domain_keypoints2d.png'
    theirs.parent.mkdir(parents=True)
    write_counts(theirs, np.full(photo.shape[:2], 7, np.uint16))
    before = content(tmp_path)
    with pytest.raises(ValueError, match='two/point_2_view_0_domain_keypoints2d.png: it is not the keypoints2d of rgb/two/point_2'): add_labels(tmp_path)
    assert content(tmp_path) == before                                       # nothing was begun
    assert add_labels(tmp_path, 'edge_texture') == 6                         # which does not need it
    assert add_labels(tmp_path, overwrite=True) == 6
    assert add_labels(tmp_path) == 0

def test_a_broken_label_is_named(tmp_path, photo):
    put(tmp_path, LAYOUTS[0], photo)
    add_labels(tmp_path)
    broken = tmp_path/'edge_texture/one/point_0_view_0_domain_edge_texture.png'
    whole = broken.read_bytes()
    broken.write_bytes(whole[:100])
    with pytest.raises(ValueError, match='one/point_0_view_0_domain_edge_texture.png'): add_labels(tmp_path)
    assert add_labels(tmp_path, overwrite=True) == 1 and broken.read_bytes() == whole

@pytest.mark.parametrize('processes', [1, 2])
def test_a_broken_image_is_named(tmp_path, photo, processes):
    put(tmp_path, LAYOUTS[0], photo, 40)
    broken = tmp_path/'rgb/two/point_7_view_0_domain_rgb.png'
    broken.write_bytes(broken.read_bytes()[:100])
    with pytest.raises(ValueError, match='rgb/two/point_7_view_0_domain_rgb.png'): add_labels(tmp_path, processes=processes)

def test_goes_on_where_it_was_killed(tmp_path, photo):
    put(tmp_path, LAYOUTS[0], photo, 10)
    code = "import os, sys; from its_a_match.labels import add_labels; add_labels(sys.argv[1], progress=lambda done, total: done == 7 and os._exit(9))"
    assert subprocess.run([sys.executable, '-c', code, tmp_path]).returncode == 9
    E, = get_tasks('E')
    done = list(tmp_path.glob('edge_texture/*/*.png'))
    assert len(done) == 7 and all(read_counts(p, E).shape == photo.shape[:2] for p in done)
    assert add_labels(tmp_path) == 2*(20 - 7)

def test_rooms_has_these_labels(tiny_rooms):
    assert add_labels(tiny_rooms, processes=1) == 0

def test_what_cannot_be(tmp_path):
    with pytest.raises(ValueError, match="task 'normal': it cannot be made from image, depth and normals"): add_labels(tmp_path, ['normal'])
    with pytest.raises(ValueError, match='there are no images'): add_labels(tmp_path)
    with pytest.raises(ValueError, match='no such folder'): add_labels(tmp_path/'nowhere')

@pytest.mark.parametrize('end', ['', '_domain_{}'])
def test_a_building_whose_name_ends_in_rgb(tmp_path, photo, end):
    "x_rgb/rgb with other labels beside it is of the building x_rgb, and so are its new labels; without, it is Taskonomy's archive of x."
    for task in ('rgb', 'normal'):
        file = tmp_path/f'x_rgb/{task}/point_0_view_0{end.format(task)}.png'
        file.parent.mkdir(parents=True)
        write_counts(file, photo)
    assert (add_labels(tmp_path), add_labels(tmp_path)) == (2, 0)
    views = find_views(tmp_path)
    assert views.index.tolist() == [('x_rgb', 0, 0)] and views.notna().all(axis=None)
    shutil.rmtree(tmp_path/'x_rgb')
    (tmp_path/'x_rgb/rgb').mkdir(parents=True)
    write_counts(tmp_path/f"x_rgb/rgb/point_0_view_0{end.format('rgb')}.png", photo)
    assert (add_labels(tmp_path), add_labels(tmp_path)) == (2, 0) and (tmp_path/'x_edge_texture/edge_texture').exists()

def test_label_files():
    assert label_file('rgb/house_rgb/point_1_view_2.png', 'edge_texture') == 'edge_texture/house_rgb/point_1_view_2.png'
    assert label_file('rgb_rgb/rgb/point_1_view_2.png', 'edge_texture') == 'rgb_edge_texture/edge_texture/point_1_view_2.png'
    assert label_file('rgb/rgb_house/point_1_view_2_domain_rgb.png', 'edge_texture') == 'edge_texture/rgb_house/point_1_view_2_domain_edge_texture.png'

def test_no_torch_needed():
    code = "import sys, its_a_match.labels, its_a_match.gallery; assert not {'torch', 'mitsuba', 'matplotlib.pyplot'} & set(sys.modules)"
    subprocess.run([sys.executable, '-c', code], check=True, env=os.environ)
