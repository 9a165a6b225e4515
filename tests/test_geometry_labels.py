"Labels from depth and normals: shapes whose labels are known by formula, pieces against a slow calculation, and adding them to Rooms."
import shutil, subprocess, sys

import numpy as np, pandas as pd, pytest
from hypothesis import assume, given, settings, strategies as st
from hypothesis.extra.numpy import arrays

from its_a_match.encoding import decode, encode, read_counts, write_counts
from its_a_match.geometry_labels import (GEOMETRY_LABELS, depth_euclidean, edge_occlusion, keypoints3d, pieces, pixel_rays, principal_curvature,
                                         reshading, segment_unsup2d, segment_unsup25d)
from its_a_match.gallery import colour_label, view_grid
from its_a_match.labels import LABELS, add_labels, all_labels
from its_a_match.rooms import fields_of_view, render_rooms, view_file
from its_a_match.taskonomy import TaskonomyDataset
from its_a_match.tasks import GEOMETRY, RGB, get_tasks

D, N = get_tasks('DN')
GEOMETRIC = [t.name for t in GEOMETRY]
FOVS = st.floats(30, 110)

def plane(normal, distance, fov, h=24, w=32):
    "Depth and normals, as counts, of a plane that faces the camera, and its depths in metres."
    n = np.array(normal)/np.linalg.norm(normal)
    z = -distance/(pixel_rays(h, w, fov) @ n)
    seen = (z > 0) & (z < 100)
    return encode(np.where(seen, z, 1), D, seen), encode(np.broadcast_to(n, (h, w, 3)), N, seen), np.where(seen, z, np.nan)

def round_thing(radius, kind, at=2., fov=40, size=64):
    "Depth and normals of a ball or of an upright or lying cylinder before nothing, and where it is seen from the front."
    along = {'ball': [1, 1, 1], 'upright': [1, 0, 1], 'lying': [0, 1, 1]}[kind]
    ray = pixel_rays(size, size, fov)*along
    b, a = -ray[..., 2]*at, (ray**2).sum(-1)
    root = b**2 - a*(at**2 - radius**2)
    hit = root > 0
    z = (b - np.sqrt(np.maximum(root, 0)))/a
    n = (ray*z[..., None] + [0, 0, at])/radius
    n = np.where(hit[..., None], n, 0)
    return encode(z, D, hit), encode(n, N, hit), hit & (n[..., 2] > .8)

@settings(max_examples=30)
@given(fov=FOVS, distance=st.floats(.5, 20), h=st.integers(1, 20), w=st.integers(1, 20))
def test_distance(fov, distance, h, w):
    "By the angles of a pixel: sideways and up or down."
    found = depth_euclidean(np.full((h, w), round(512*distance), np.uint16), fov)/512
    focal = w/2/np.tan(np.radians(fov/2))
    x, y = np.meshgrid(np.arange(w) + .5 - w/2, np.arange(h) + .5 - h/2)
    np.testing.assert_allclose(found, round(512*distance)/512*np.sqrt(1 + (x**2 + y**2)/focal**2), atol=.6/512)

@settings(max_examples=30)
@given(fov=FOVS, turn=st.floats(-60, 60))
def test_reshading_of_a_wall_seen_at_an_angle(fov, turn):
    normal = [np.sin(np.radians(turn)), 0, np.cos(np.radians(turn))]
    depth, normals, _ = plane(normal, 3, fov)
    at = np.degrees(np.arctan((2*np.arange(32) - 31)/32*np.tan(np.radians(fov/2))))
    middle = pixel_rays(24, 32, fov)[11]  # half a pixel above the horizon
    expected = np.cos(np.radians(at + turn))*np.sqrt((middle[:, [0, 2]]**2).sum(1)/(middle**2).sum(1))
    seen = depth[11] < 65535
    assert np.abs(reshading(depth, normals, fov)[11] - 255*np.clip(expected, 0, 1))[seen].max(initial=0) < 3
    assert not reshading(depth, normals, fov)[depth == 65535].any()

@settings(max_examples=30)
@given(fov=FOVS, normal=st.tuples(st.floats(-.7, .7), st.floats(-.7, .7), st.floats(.5, 1)), distance=st.floats(1, 4))
def test_a_plane_has_no_edges_no_keypoints_and_no_curvature(fov, normal, distance):
    depth, normals, _ = plane(normal, distance, fov)
    assume(depth.max() < 512*20)  # beyond, a count of depth is too coarse
    assert edge_occlusion(depth).max() < .03*65535 and keypoints3d(depth)[6:-6, 6:-6].max() < .02*65535
    curvature = principal_curvature(depth, normals, fov).astype(int)
    assert curvature.shape == (24, 32, 2) and abs(curvature - 127).max() <= 1

def test_a_floor_that_recedes_has_no_edge_although_its_depth_changes():
    depth, _, z = plane([0, -1, 0], 1.5, 60, 64, 64)
    assert np.nanmax(np.diff(z, axis=0)/-z[1:]) > .3
    assert edge_occlusion(depth)[depth < 65535].max() < .01*65535 and keypoints3d(depth)[40:].max() < .01*65535

@pytest.mark.parametrize('near, far', [(1, 2), (2, 4), (3, 3.3)])
def test_an_edge_is_where_depth_jumps_and_nowhere_else(near, far):
    depth = np.full((32, 32), round(512*far), np.uint16)
    depth[:, 16:] = round(512*near)
    edge = edge_occlusion(depth)/65535
    np.testing.assert_allclose(edge[:, 15:17], 1 - near/far, atol=.005)
    assert not edge[:, :11].any() and not edge[:, 21:].any()
    np.testing.assert_array_equal(edge_occlusion(np.ascontiguousarray(depth.T)), np.round(65535*edge.T).astype(np.uint16))
    assert keypoints3d(depth).max() < .001*65535

def test_holes_are_no_edges():
    depth, _, _ = plane([.3, .4, 1], 2, 60)
    depth[5:12, 8:20] = 65535
    assert edge_occlusion(depth).max() < .01*65535
    assert not keypoints3d(depth)[5:12, 8:20].any() and not keypoints3d(np.full((8, 8), 65535, np.uint16)).any()

def test_edges_and_keypoints_do_not_depend_on_the_scale():
    rng = np.random.default_rng(0)
    depth = np.full((48, 48), 4000, np.uint16)
    for _ in range(6):
        i, j = rng.integers(0, 40, 2)
        depth[i:i + 8, j:j + 8] = rng.integers(500, 3000)
    for f in (edge_occlusion, keypoints3d): assert abs(f(depth).astype(int) - f(2*depth)).max() <= 1
    assert keypoints3d(depth).max() > .1*65535

@pytest.mark.parametrize('kind, expected', [('ball', (1, 1)), ('upright', (1, 0)), ('lying', (1, 0))])
@pytest.mark.parametrize('radius', [.1, .2, .5])
def test_curvature_of_round_things(kind, expected, radius):
    depth, normals, front = round_thing(radius, kind)
    found = (principal_curvature(depth, normals, 40).astype(float) - 127)/127/.03
    inside = front[8:-8, 8:-8]
    for c, e in enumerate(expected): assert np.median(found[8:-8, 8:-8, c][inside]) == pytest.approx(e/radius, abs=.35)

def test_a_hollow_is_negative_and_the_first_is_the_higher():
    depth, normals, _ = round_thing(.2, 'ball')
    z, known = decode(depth, D)
    inward = encode(np.where(known, 4 - z, 1), D, known)  # the same ball seen as a bowl
    n, _ = decode(normals, N)
    bowl = principal_curvature(inward, encode(n*[-1, -1, 1], N, known), 40).astype(int) - 127
    assert bowl[28:36, 28:36].max() < 0
    rng = np.random.default_rng(0)
    k = principal_curvature(rng.integers(400, 2000, (16, 16)).astype(np.uint16), rng.integers(0, 255, (16, 16, 3)).astype(np.uint8), 60)
    assert (k[..., 0] >= k[..., 1]).all()

def slow_pieces(down, right, k, least, known):
    "The same by sets of pixels, with nothing clever."
    h, w = known.shape
    edges = [(down[i, j], i*w + j, (i + 1)*w + j) for i in range(h - 1) for j in range(w)]
    edges += [(right[i, j], i*w + j, i*w + j + 1) for i in range(h) for j in range(w - 1)]
    edges = [e for e in edges if known.flat[e[1]] and known.flat[e[2]]]
    piece, inner = {p: frozenset([p]) for p in range(h*w)}, {}
    for last in (False, True):
        for weight, p, q in sorted(edges, key=lambda e: e[0]):  # which keeps the order of ties
            a, b = piece[p], piece[q]
            small = last and min(len(a), len(b)) < least
            if a != b and (small or not last and weight <= min(inner.get(a, 0) + k/len(a), inner.get(b, 0) + k/len(b))):
                inner[a | b] = weight
                for x in a | b: piece[x] = a | b
    found, ids = sorted({s for p, s in piece.items() if known.flat[p]}, key=lambda s: (-len(s), min(s))), np.zeros(h*w, int)
    for i, s in enumerate(found[:15], 1): ids[list(s)] = i
    return ids.reshape(h, w)

@settings(max_examples=60)
@given(st.data(), st.integers(1, 6), st.integers(1, 6), st.sampled_from([0, .5, 2, 8]), st.integers(1, 5))
def test_pieces(data, h, w, k, least):
    down, right = (data.draw(arrays(np.int8, s, elements=st.integers(0, 5))).astype(float) for s in ((h - 1, w), (h, w - 1)))
    known = data.draw(arrays(bool, (h, w)))
    np.testing.assert_array_equal(pieces(down, right, k, least, known), slow_pieces(down, right, k, least, known))

@pytest.mark.parametrize('size', [32, 64, 128])
def test_two_colours_are_two_pieces(size):
    "Smoothed, a straight edge through the whole image may become a piece, too, so there is no smoothing."
    rgb = np.zeros((size, size, 3), np.uint8)
    rgb[:, 5*size//8:] = [200, 40, 40]
    expected = np.where(np.arange(size) < 5*size//8, 1, 2) + np.zeros((size, 1), int)
    np.testing.assert_array_equal(segment_unsup2d(rgb, sigma=0), expected)
    depth, normals, _ = plane([.2, .1, 1], 2, 60, size, size)
    np.testing.assert_array_equal(segment_unsup25d(rgb, depth, normals, sigma=0), expected)
    depth[:size//4] = 65535
    assert not segment_unsup25d(rgb, depth, normals)[:size//4].any()

def test_geometry_cuts_what_colour_does_not():
    rgb, (depth, normals, _) = np.full((64, 64, 3), 90, np.uint8), plane([0, 0, 1], 4, 60, 64, 64)
    assert segment_unsup2d(rgb).max() == segment_unsup25d(rgb, depth, normals).max() == 1
    depth[20:44, 20:44] = 1024                       # a board before the wall
    normals[48:] = [127, 0, 127]                     # and a floor
    assert segment_unsup25d(rgb, depth, normals).max() == 3 and len(np.unique(segment_unsup25d(rgb, depth, normals)[20:44, 20:44])) == 1

@pytest.mark.parametrize('name', GEOMETRIC)
def test_what_does_not_fit_is_said(name):
    label = GEOMETRY_LABELS[name]
    good = dict(rgb=np.zeros((8, 8, 3), np.uint8), depth_zbuffer=np.full((8, 8), 900, np.uint16), normal=np.full((8, 8, 3), 127, np.uint8))
    fov = dict(fov=60) if label.fov else {}
    out = label.function(*(good[s] for s in label.sources), **fov)
    task, = get_tasks(name)
    assert out.dtype == task.dtype and out.shape == ((8, 8, 2) if task.channels == 2 else (8, 8))
    for s in label.sources:
        for wrong in (good[s].astype(float), good[s][:4] if len(label.sources) > 1 else good[s][..., None]):
            with pytest.raises(ValueError, match='is needed as|are needed as|the image has'): label.function(*((good | {s: wrong})[t] for t in label.sources), **fov)
    if label.fov:
        for f in (0, 180, -5, float('nan')):
            with pytest.raises(ValueError, match='the field of view is'): label.function(*(good[s] for s in label.sources), fov=f)

# In a data set

@pytest.fixture(scope='module')
def rooms(tiny_rooms, tmp_path_factory):
    "A copy of Rooms `tiny` with all labels."
    root = tmp_path_factory.mktemp('labelled')/'rooms'
    shutil.copytree(tiny_rooms, root)
    assert add_labels(root, 'all', processes=1) == 96*7
    return root

def contents(root): return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob('*')) if p.is_file()}

def test_the_loader_reads_them(rooms):
    views = TaskonomyDataset(rooms, 'test', GEOMETRY)
    assert len(views) == 16 and not views.missing.any()
    building, point, _ = views.views.index[3]
    counts = {t.name: read_counts(rooms/view_file(t.name, building, point), t) for t in (RGB, D, N)}
    _, targets, masks = views.batch([3])
    for task, label in GEOMETRY_LABELS.items():
        made = label.function(*(counts[s] for s in label.sources), **(dict(fov=fields_of_view(rooms, building)[point]) if label.fov else {}))
        values, mask = decode(made, get_tasks(task)[0])
        found, there = targets[task][0].numpy(), masks[task][0].numpy()
        np.testing.assert_array_equal(there.reshape(mask.shape), mask)
        np.testing.assert_array_equal(np.moveaxis(found, 0, -1) if values.ndim == 3 else found.reshape(mask.shape), values)

def test_twice_changes_nothing(rooms):
    before = contents(rooms)
    assert add_labels(rooms, 'all') == 0 and contents(rooms) == before
    assert add_labels(rooms, 'all', overwrite=True) == 0
    assert render_rooms(rooms, 'tiny') == rooms and contents(rooms) == before

def test_no_label_is_nearly_constant(rooms):
    for t in GEOMETRY:
        decoded = [decode(read_counts(f, t), t) for f in sorted((rooms/t.name).rglob('*.png'))]
        values, known = np.stack([v for v, _ in decoded]), np.stack([m for _, m in decoded])
        assert known.mean() > .9
        if t.kind == 'classes': assert 5 < np.mean([v.max() for v in values]) < 15 and (np.array([v.max() for v in values]) > 2).all()
        else: assert (values[known].std(0) > .04*(t.valid[1] - t.valid[0])).all() or t.name in ('depth_euclidean', 'principal_curvature')

def test_the_cameras_of_rooms_are_found(tiny_rooms):
    "As told by floors and walls: the distance between two points of a wall is the same from all sides."
    from its_a_match.buildings import make_building, stream
    from its_a_match.rendering import choose_cameras, label_scene, scalar_mitsuba
    for name in ('house0001', 'house0007'):
        building = make_building(name, 0)
        with scalar_mitsuba() as mi: taken = choose_cameras(mi, building, label_scene(mi, building), stream(name, 0, 'views'), 8)
        assert fields_of_view(tiny_rooms, name) == {i: c.fov for i, c in enumerate(taken)}

def test_no_renderer_is_needed(tiny_rooms, tmp_path):
    for t in ('rgb', 'depth_zbuffer', 'normal'): shutil.copytree(tiny_rooms/t/'house0002', tmp_path/t/'house0002')
    shutil.copy(tiny_rooms/'rooms.json', tmp_path)
    code = "import sys; sys.modules['mitsuba'] = None; from its_a_match.labels import add_labels; print(add_labels(sys.argv[1], 'reshading', 1))"
    assert subprocess.run([sys.executable, '-c', code, tmp_path], capture_output=True, text=True).stdout == '8\n'

def test_a_camera_that_the_seed_does_not_tell(tiny_rooms, tmp_path):
    for t in ('rgb', 'depth_zbuffer', 'normal'): shutil.copytree(tiny_rooms/t/'house0002', tmp_path/t/'house0003')
    shutil.copy(tiny_rooms/'rooms.json', tmp_path)
    with pytest.raises(ValueError, match='house0003/point_0_view_0.* no camera that the seed 0 tells took it'): add_labels(tmp_path, 'reshading')
    assert add_labels(tmp_path, 'reshading', fov=60) == 8

def test_rooms_of_which_some_lack_a_source(tiny_rooms, tmp_path):
    for t in ('rgb', 'depth_zbuffer', 'normal'): shutil.copytree(tiny_rooms/t/'house0002', tmp_path/t/'house0002')
    shutil.copy(tiny_rooms/'rooms.json', tmp_path)
    for t, p in (('depth_zbuffer', 3), ('normal', 5)): (tmp_path/view_file(t, 'house0002', p)).unlink()
    assert add_labels(tmp_path, 'reshading') == 6
    with pytest.raises(ValueError, match='of the building house0002, point 5, view 0 is not known, and depth_euclidean needs it'): add_labels(tmp_path, 'depth_euclidean')
    assert add_labels(tmp_path, 'depth_euclidean', fov=60) == 7

@pytest.mark.parametrize('text', ['{"seed": 0', '{}', '[0, 8]', '{"seed": "none", "views": 8}'])
def test_a_damaged_manifest_is_named(tiny_rooms, tmp_path, text):
    for t in ('rgb', 'depth_zbuffer', 'normal'): shutil.copytree(tiny_rooms/t/'house0002', tmp_path/t/'house0002')
    (tmp_path/'rooms.json').write_text(text)
    with pytest.raises(ValueError, match='rooms.json cannot be read, and it tells where the cameras were'): add_labels(tmp_path, 'reshading')

@pytest.mark.parametrize('tasks', ['', [], 'denoising', ['reshading', 'D']])
def test_labels_that_cannot_be_made(others, tasks):
    with pytest.raises(ValueError, match='it cannot be made from image, depth and normals|no task is named'): add_labels(others, tasks, fov=60)

@pytest.fixture
def others(tiny_rooms, tmp_path):
    "Views of which nothing is known but their files, in Taskonomy's own layout; the last has no depth."
    for i in range(3):
        for t in ('rgb', 'depth_zbuffer', 'normal'):
            file = tmp_path/f'cabin_{t}/{t}/point_{i}_view_0_domain_{t}.png'
            file.parent.mkdir(parents=True, exist_ok=True)
            if (i, t) != (2, 'depth_zbuffer'): shutil.copy(tiny_rooms/view_file(t, 'house0001', i), file)
    return tmp_path

def test_the_field_of_view_must_be_known(others):
    with pytest.raises(ValueError, match='the field of view of its cameras is not known, and reshading needs it; give it in degrees, as fov'): add_labels(others, 'reshading')
    with pytest.raises(ValueError, match='the field of view is 200, not between 0 and 180 degrees'): add_labels(others, 'reshading', fov=200)
    with pytest.raises(ValueError, match='of the building cabin, point 1, view 0 is not known'): add_labels(others, 'reshading', fov={('cabin', 0, 0): 60})
    assert add_labels(others, ['edge_occlusion', 'segment_unsup2d']) == 2 + 3
    degrees = {('cabin', 0, 0): 60, ('cabin', 1, 0): 70, ('cabin', 2, 0): 50}
    assert add_labels(others, 'reshading', fov=degrees) == add_labels(others, 'depth_euclidean', fov=60) == 2
    assert (others/'cabin_reshading/reshading/point_1_view_0_domain_reshading.png').exists()
    assert add_labels(others, 'reshading', fov=pd.Series(degrees)) == 0
    with pytest.raises(ValueError, match='point_1_view_0_domain_reshading.png: it is not the reshading of'): add_labels(others, 'reshading', fov=60)

def test_a_view_without_depth_has_no_such_label(others):
    assert add_labels(others, 'all', fov=60) == 3*3 + 6*2
    views = TaskonomyDataset(others, ['cabin'], ['edge_occlusion', 'segment_unsup2d'], require='any')
    assert len(views) == 3 and views.views.edge_occlusion.isna().tolist() == [False, False, True]

def test_a_data_set_without_normals(others):
    shutil.rmtree(others/'cabin_normal')
    with pytest.raises(ValueError, match=f'{others}: no image has a file of normal beside it, from which principal_curvature would be made'):
        add_labels(others, 'principal_curvature', fov=60)
    assert add_labels(others, ['depth_euclidean'], fov=60) == 2

def test_sizes_that_differ_are_named(others):
    write_counts(others/'cabin_normal/normal/point_1_view_0_domain_normal.png', np.full((32, 32, 3), 127, np.uint8))
    with pytest.raises(ValueError, match=r'point_1_view_0_domain_normal.png: normals are needed as 8-bit counts of shape \(64, 64, 3\)'): add_labels(others, 'reshading', fov=60)

def test_the_default_is_as_before(others):
    assert add_labels(others) == 6 and list(LABELS) == ['edge_texture', 'keypoints2d'] and list(all_labels()) == [*LABELS, *GEOMETRIC]

def test_command_line(call, others):
    assert call('label', others, '--tasks', 'reshading,keypoints3d').stderr.startswith(f'its_a_match: {others}: the field of view of its cameras is not known')
    assert call('label', others, '--tasks', 'all', '--fov', 60).stdout == f'21 label files were written into {others}\n'
    assert call('check', others, '--tasks', ','.join(GEOMETRIC), '--require', 'any').returncode == 0
    assert call('check', others, '--tasks', 'edge_occlusion').returncode == 1
    assert call('show', others, '--views', 2, '--out', others.parent/'grid.png').returncode == 0

def test_check_and_show_know_them(call, rooms, tmp_path):
    assert call('check', rooms).returncode == 0
    broken = rooms/view_file('edge_occlusion', 'house0001', 0)
    whole = broken.read_bytes()
    write_counts(broken, np.zeros((64, 64, 3), np.uint8))
    try: assert 'channels' in call('check', rooms).stdout
    finally: broken.write_bytes(whole)
    assert call('show', rooms, '--views', 2, '--out', 'grid.png').returncode == 0

def test_pieces_have_no_legend_and_flat_is_grey(rooms):
    views = TaskonomyDataset(rooms, 'test', ['segment_semantic', 'principal_curvature', 'segment_unsup2d'])
    fig = view_grid(views, [0, 5])
    said = [t.get_text() for legend in fig.legends for t in legend.get_texts()]
    assert 'wall' in said and not any(s.startswith('class ') for s in said)
    flat = colour_label(np.zeros((2, 2, 2)), None, get_tasks('principal_curvature')[0], (-.2, .2))
    assert abs(flat.astype(int) - 128).max() <= 1
