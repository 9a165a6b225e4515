"Counts, values and files: round trips, every kind of file that is not as it should be, and resizing against sums by hand."
import struct, subprocess, sys, zlib

import numpy as np
import pytest
from hypothesis import assume, given, settings, strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from its_a_match.encoding import decode, encode, read_counts, resize, write_counts
from its_a_match.tasks import RGB, TASKONOMY, Task

S, D, N, K, E = TASKONOMY
X = D.invalid
FLOW = Task('flow', channels=2, bits=8, scale=.5, zero=100, invalid=0)
HOLE = Task('hole', bits=8, invalid=100)  # its count for no label lies among the others
ALL  = (*TASKONOMY, RGB, FLOW, HOLE, Task('seg', kind='classes', channels=5, invalid=255))
tasks = st.sampled_from(ALL)

def shape_of(task, *shape): return (*shape, task.channels) if task.kind == 'dense' and task.channels > 1 else shape

@st.composite
def labels(draw, task=tasks, side=st.integers(1, 7)):
    "A task and the counts of a square label of it, a third of its pixels without label where the task has such."
    task, n = draw(task), draw(side)
    top = task.channels - 1 if task.kind == 'classes' else 2**task.bits - 1
    counts = draw(arrays(task.dtype, shape_of(task, n, n), elements=st.integers(0, top)))
    holes = draw(arrays(bool, (n, n), elements=st.integers(0, 2).map(lambda x: x == 0)))
    if task.invalid is not None: counts[holes] = task.invalid
    elif task.vector: counts[holes] = 127
    return task, counts


# --- counts and values

@given(labels())
def test_encode_undoes_decode(label):
    task, counts = label
    values, mask = decode(counts, task)
    again = encode(values, task, None if mask.all() else mask)
    assert again.dtype == task.dtype and (again[mask] == counts[mask]).all()
    assert (decode(again, task)[1] == mask).all() and (values[~mask] == 0).all()

@given(labels())
def test_decode_takes_batches(label):
    task, counts = label
    values, mask = decode(counts, task)
    for a, b in zip(decode(np.stack([[counts]*2]*3), task), (values, mask)): assert (a == b).all() and a.shape == (3, 2, *b.shape)
    assert values.dtype == (np.int64 if task.kind == 'classes' else np.float32) and mask.shape == counts.shape[:2]

def test_decode_leaves_counts_alone():
    counts = np.full((2, 2), X, np.uint16)
    decode(counts, D)
    assert (counts == X).all()

def test_the_five_tasks_and_the_image():
    assert decode([[0, 17]], S)[0].tolist() == [[0, 17]] and decode([[0, 17]], S)[1].tolist() == [[False, True]]
    assert decode(np.uint16([[0, 512, 65534]]), D)[0].tolist() == [[0, 1, 65534/512]]
    assert decode(np.uint8([[[254, 127, 127], [127, 0, 127]]]), N)[0].tolist() == [[[1, 0, 0], [0, -1, 0]]]
    assert decode(np.uint16([[65535]]), K)[0].tolist() == decode(np.uint8([[[255]*3]]), RGB)[0][..., 0].tolist() == [[1]]

@pytest.mark.parametrize('grey', [126, 127, 128])
def test_grey_is_no_direction(grey): assert not decode(np.full((1, 1, 3), grey, np.uint8), N)[1].any()

@pytest.mark.parametrize('task, value, why', [
    (D, 128.5, 'is not from 0 to 128'), (D, 128, 'is not from 0 to 128'), (D, 127.999, 'is stored as 65535, which means no label'), (D, -.1, 'is not from'),
    (D, np.nan, 'is not from'), (D, np.inf, 'is not from'), (E, 1.01, 'is not from 0 to 1'), (S, 18, 'is not a class from 0 to 17'),
    (S, -1, 'is not a class'), (S, 2.5, 'is not a class'), (S, 0, 'is stored as 0, which means no label'), (HOLE, 256, 'is not from'),
    (HOLE, 100, 'is stored as 100')])
def test_values_that_cannot_be_stored(task, value, why):
    with pytest.raises(ValueError, match=f'^task {task.name!r}: the value {value:g} {why}'): encode([[value]], task)
    if task.invalid is not None: assert encode([[value]], task, [[False]]) == task.invalid

def test_no_count_for_a_missing_response():
    with pytest.raises(ValueError, match="task 'edge_texture': it has no count for a missing label"): encode([[.5]], E, [[False]])


# --- files

@settings(max_examples=40)
@given(label=labels(task=st.sampled_from(ALL)))
def test_files_keep_counts(tmp_path_factory, label):
    task, counts = label
    path = tmp_path_factory.mktemp('files')/'label.png'
    write_counts(path, counts)
    again = read_counts(path, task)
    assert again.dtype == counts.dtype and (again == counts).all()
    assert list(path.parent.iterdir()) == [path]

@pytest.mark.parametrize('counts', [np.zeros((2, 2), int), np.zeros((2, 2)), np.zeros((2, 2, 4), np.uint8), np.zeros((2, 2, 2), np.uint16), np.zeros((2, 2, 3), np.uint16), np.zeros(4, np.uint8)])
def test_what_png_cannot_hold(tmp_path, counts):
    with pytest.raises(ValueError, match=r'label.png: counts of type .* do not fit'): write_counts(tmp_path/'label.png', counts)
    assert not any(tmp_path.iterdir())

def test_two_channels_are_the_first_of_three(tmp_path):
    write_counts(tmp_path/'label.png', np.uint8([[[5, 2], [7, 1]]]))
    assert np.asarray(Image.open(tmp_path/'label.png')).tolist() == [[[5, 2, 0], [7, 1, 0]]]

def test_a_stopped_writer_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path/'label.png'
    write_counts(path, np.zeros((2, 2), np.uint8))
    before = path.read_bytes()
    def half(self, target, *_, **how):
        target.write_bytes(before[:20])
        raise KeyboardInterrupt
    monkeypatch.setattr(Image.Image, 'save', half)
    with pytest.raises(KeyboardInterrupt): write_counts(path, np.ones((2, 2), np.uint8))
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]

def png(width, height, bits, colour, rows, *extra):
    "The bytes of a PNG file; `rows` are the packed bytes of its lines."
    def chunk(name, data): return struct.pack('>I', len(data)) + name + data + struct.pack('>I', zlib.crc32(name + data))
    return (b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, bits, colour, 0, 0, 0)) + b''.join(chunk(*e) for e in extra)
            + chunk(b'IDAT', zlib.compress(b''.join(b'\0' + r for r in rows))) + chunk(b'IEND', b''))

GREY, COLOUR, PALETTE = 0, 2, 3
colours = (b'PLTE', bytes(range(9)))

@pytest.mark.parametrize('data, task, counts', [
    (png(4, 1, 1, GREY,  [b'\xa0']),                              S, [[1, 0, 1, 0]]),
    (png(4, 1, 2, GREY,  [b'\x1b']),                              S, [[0, 1, 2, 3]]),
    (png(4, 1, 4, GREY,  [b'\x0f\x31']),                          S, [[0, 15, 3, 1]]),
    (png(2, 1, 16, GREY, [b'\0\x03\0\x11']),                      S, [[3, 17]]),
    (png(2, 1, 8, PALETTE, [b'\x02\0'], colours),                 S, [[2, 0]]),
    (png(4, 1, 2, PALETTE, [b'\x18'], colours),                   S, [[0, 1, 2, 0]]),
    (png(2, 1, 8, PALETTE, [b'\x02\0'], colours, (b'tRNS', b'\0')), S, [[2, 0]]),
    (png(2, 1, 8, GREY,  [b'\x01\xff']),                          E, [[257, 65535]]),
    (png(2, 1, 16, GREY, [b'\x01\0\xff\xff']),                    D, [[256, X]]),
    (png(1, 1, 8, 6,     [b'\x01\x02\x03\xff']),                  N, [[[1, 2, 3]]]),
    (png(1, 1, 8, 6,     [b'\x01\x02\x03\xff']),                  RGB, [[[1, 2, 3]]]),
    (png(2, 1, 8, 4,     [b'\x05\xff\x02\xff']),                  S, [[5, 2]]),
    (png(2, 1, 8, 4,     [b'\x05\xff\x02\xff']),                  RGB, [[[5]*3, [2]*3]]),
    (png(1, 1, 8, 4,     [b'\x05\x02']),                          FLOW, [[[5, 2]]]),
    (png(1, 1, 8, COLOUR, [b'\x05\x02\x09']),                     FLOW, [[[5, 2]]]),
    (png(1, 1, 8, 6,     [b'\x05\x02\x09\xff']),                 FLOW, [[[5, 2]]]),
    (png(2, 1, 8, COLOUR, [b'\5\5\5\2\2\2']),                    HOLE, [[5, 2]]),
    (png(2, 1, 8, 6,     [b'\5\5\5\xff\2\2\2\xff']),            HOLE, [[5, 2]]),
    (png(2, 1, 8, PALETTE, [b'\x02\0'], colours),                 RGB, [[[6, 7, 8], [0, 1, 2]]]),
    (png(2, 1, 8, PALETTE, [b'\x02\0'], colours, (b'tRNS', b'\xff')), RGB, [[[6, 7, 8], [0, 1, 2]]]),
    (png(4, 1, 1, GREY,  [b'\xa0']),                              RGB, [[[255]*3, [0]*3]*2]),
    (png(2, 1, 8, GREY,  [b'\x05\x06'], (b'tRNS', b'\0\x09')),     RGB, [[[5]*3, [6]*3]]),
    (png(1, 1, 8, COLOUR, [b'\0\1\2'], (b'tRNS', b'\0'*6)),       RGB, [[[0, 1, 2]]])])
def test_files_that_vary(tmp_path, data, task, counts):
    (tmp_path/'label.png').write_bytes(data)
    found = read_counts(tmp_path/'label.png', task)
    assert found.tolist() == counts and found.dtype == task.dtype

@pytest.mark.parametrize('data, task, why', [
    (b'', D, 'it is not an image'),
    (b'GIF', RGB, 'it is not an image'),
    (png(2, 1, 8, GREY, [b'\x01\xff']), D, 'it has 8 bits a channel, not 16'),
    (png(4, 1, 4, GREY, [b'\x0f\x31']), E, 'it has 4 bits a channel, not 16'),
    (png(4, 1, 1, GREY, [b'\xa0']), HOLE, 'it has 1 bit a channel, not 8'),
    (png(1, 1, 16, GREY, [b'\0\1']), HOLE, 'it has 16 bits a channel, not 8'),
    (png(2, 1, 8, GREY, [b'\x01\x12']), S, 'class 18 is not one of 0 to 17'),
    (png(1, 1, 16, GREY, [b'\x01\x01']), S, 'class 257 is not one of 0 to 17'),
    (png(1, 1, 8, COLOUR, [b'\0\1\2']), S, 'it has 3 channels, not 1'),
    (png(1, 1, 8, COLOUR, [b'\0\1\2']), E, 'it has 3 channels, not 1'),
    (png(1, 1, 8, COLOUR, [b'\5\5\6']), HOLE, 'it has 3 channels, not 1, and they differ'),
    (png(1, 1, 16, COLOUR, [b'\0\1'*3]), FLOW, 'it has 3 channels, not 2'),
    (png(1, 1, 8, GREY, [b'\0']), FLOW, 'it has 1 channel, not 2'),
    (png(1, 1, 8, 6, [b'\5\5\5\xfe']), FLOW, 'some of its pixels are transparent'),
    (png(1, 1, 8, GREY, [b'\0']), N, 'it has 1 channel, not 3'),
    (png(1, 1, 16, COLOUR, [b'\0\1'*3]), N, 'it has several channels of 16 bits'),
    (png(1, 1, 16, COLOUR, [b'\0\1'*3]), RGB, 'it has 16 bits a channel, not 8'),
    (png(1, 1, 16, GREY, [b'\0\1']), RGB, 'it has 16 bits a channel, not 8'),
    (png(1, 1, 8, 6, [b'\x01\x02\x03\xfe']), RGB, 'some of its pixels are transparent'),
    (png(1, 1, 8, 6, [b'\x01\x02\x03\xfe']), N, 'some of its pixels are transparent'),
    (png(1, 1, 8, PALETTE, [b'\0'], colours, (b'tRNS', b'\0')), RGB, 'some of its pixels are transparent'),
    (png(1, 1, 8, GREY, [b'\5'], (b'tRNS', b'\0\5')), RGB, 'some of its pixels are transparent'),
    (png(4, 1, 1, GREY, [b'\xa0'], (b'tRNS', b'\0\1')), RGB, 'some of its pixels are transparent'),
    (png(1, 1, 8, PALETTE, [b'\0'], colours), D, 'it has a palette'),
    (png(1, 1, 8, GREY, [b'\0'], (b'IDAT', b'zip')), S, 'it is broken'),
    (png(1, 1, 8, GREY, [b'\0'])[:-12], S, 'it is cut off')])
def test_files_that_cannot_be(tmp_path, data, task, why):
    path = tmp_path/'label.png'
    path.write_bytes(data)
    with pytest.raises(ValueError) as e: read_counts(path, task)
    assert str(e.value).startswith(f'{path}: {why}') and '\n' not in str(e.value)

def test_other_formats(tmp_path):
    "A JPEG file with the name of a PNG file is an image, and is no label."
    Image.new('RGB', (8, 8), (10, 20, 30)).save(tmp_path/'rgb.png', 'JPEG', quality=100)
    assert abs(read_counts(tmp_path/'rgb.png', RGB).astype(int) - [10, 20, 30]).max() <= 2
    with pytest.raises(ValueError, match='it is a JPEG file'): read_counts(tmp_path/'rgb.png', N)
    Image.new('RGB', (8, 8), (10, 20, 30)).save(tmp_path/'web.png', 'WEBP', lossless=True)
    assert (read_counts(tmp_path/'web.png', RGB) == [10, 20, 30]).all()
    with pytest.raises(ValueError, match='it is a WEBP file'): read_counts(tmp_path/'web.png', N)
    with pytest.raises(ValueError, match='lost.png: there is no such file'): read_counts(tmp_path/'lost.png', N)
    with pytest.raises(ValueError, match=f'{tmp_path}: it is broken'): read_counts(tmp_path, N)
    with pytest.raises(ValueError, match="task 'scene': it has one label an image"): read_counts(tmp_path/'rgb.png', Task('scene', kind='number'))

@pytest.mark.parametrize('task', [RGB, D, N, S], ids=lambda t: t.name)
def test_too_few_rows(tmp_path, task):
    "A file that is whole, its checksums right, but holds fewer rows than it says: Pillow alone would leave 0 in the others."
    counts = np.full(shape_of(task, 6, 4), 7, task.dtype)
    rows = [r.astype(r.dtype.newbyteorder('>')).tobytes() for r in counts]
    for n in range(7):
        (tmp_path/'label.png').write_bytes(png(4, 6, task.bits, COLOUR if counts.ndim == 3 else GREY, rows[:n]))
        if n == 6: assert (read_counts(tmp_path/'label.png', task) == 7).all()
        else:
            with pytest.raises(ValueError, match='label.png: it is cut off: it has fewer rows than it says|label.png: it is broken'):
                read_counts(tmp_path/'label.png', task)

def interlaced(counts, bits):
    "The bytes of an interlaced grey PNG file, and the number of its passes that hold anything."
    steps = (0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)  # first row, first column, between rows, columns
    rows = [r for y, x, dy, dx in steps for r in counts[y::dy, x::dx] if len(r)]
    pack = (lambda r: np.packbits(r).tobytes()) if bits == 1 else lambda r: r.astype('>u2').tobytes()
    data = png(*counts.shape[::-1], bits, GREY, [pack(r) for r in rows])
    ihdr = data[12:28] + b'\1'
    return data[:12] + ihdr + struct.pack('>I', zlib.crc32(ihdr)) + data[33:]

@pytest.mark.parametrize('bits, task', [(1, S), (16, D)])
def test_zeros_at_the_end_are_rows(tmp_path, bits, task):
    "Whole files that end in zeros, interlaced or not, of every small size, are read."
    rng, path = np.random.default_rng(0), tmp_path/'label.png'
    for h in range(1, 10):
        for w in range(1, 10):
            counts = rng.integers(0, 2, (h, w)).astype(task.dtype)
            counts[h//2:] = 0
            pack = (lambda r: np.packbits(r).tobytes()) if bits == 1 else lambda r: r.astype('>u2').tobytes()
            for data in (png(w, h, bits, GREY, [pack(r) for r in counts]), interlaced(counts, bits)):
                path.write_bytes(data)
                assert read_counts(path, task).tolist() == counts.tolist()

@pytest.mark.parametrize('task', [D, N, S], ids=lambda t: t.name)
def test_no_damage_goes_unnoticed(tmp_path, task):
    "Whichever byte is changed and wherever the file ends, it is refused; Pillow alone would give other counts for some."
    path = tmp_path/'label.png'
    counts = np.random.default_rng(0).integers(0, 18, shape_of(task, 6, 6)).astype(task.dtype)
    write_counts(path, counts)
    data = path.read_bytes()
    damaged = [data[:n] for n in range(len(data))] + [data[:n] + bytes([data[n] ^ 1 << n % 8]) + data[n + 1:] for n in range(len(data))]
    for d in damaged:
        path.write_bytes(d)
        with pytest.raises(ValueError) as e: read_counts(path, task)
        assert str(e.value).startswith(f'{path}: it is ')


# --- resizing

def by_hand(counts, task, N):
    "Means over the labelled area of each new pixel, and the share of it; areas are whole numbers, in units of 1/N of an old pixel a side."
    n, mask = len(counts), decode(counts, task)[1]
    overlap = np.array([[max(0, min((i + 1)*n, (a + 1)*N) - max(i*n, a*N)) for a in range(n)] for i in range(N)])
    area = overlap @ mask @ overlap.T
    return overlap @ (counts.astype(int)*mask) @ overlap.T / np.maximum(area, 1), area/n**2

@settings(max_examples=60)
@given(labels(task=st.sampled_from([D, K, HOLE])), st.integers(1, 6))
def test_shrinking_is_the_mean_over_the_labelled_area(label, N):
    task, counts = label
    assume(N < len(counts))
    mean, share = by_hand(counts, task, N)
    small = resize(counts, task, N)
    assert small.dtype == task.dtype
    assert (decode(small, task)[1] == (share >= .5)).all()
    away = np.abs(small - mean)[share >= .5]
    assert (away <= (1 if task is HOLE else .51)).all()  # a mean that would mean "no label" goes to its neighbour

@given(labels(), st.integers(1, 9))
def test_resizing_in_general(label, N):
    "The same size changes nothing; rows and columns are alike; no count leaves the range of the valid ones; classes are classes that were there."
    task, counts = label
    assert (resize(counts, task, counts.shape[:2]) == counts).all()
    other = resize(counts, task, N)
    assert other.shape == shape_of(task, N, N) and other.dtype == counts.dtype
    turned = resize(counts.swapaxes(0, 1), task, (N, N)).swapaxes(0, 1)
    valid, new = decode(counts, task)[1], decode(other, task)[1]
    if task.kind == 'classes': assert (turned == other).all() and set(other.flat) <= set(counts.flat)
    elif not task.vector:
        sure = new & decode(turned, task)[1]
        assert (np.abs(turned.astype(int) - other)[sure] <= 1).all()
        if new.any():
            assert valid.any()
            low, high = counts[valid].min(0).astype(int), counts[valid].max(0).astype(int)
            step = task is HOLE or task is FLOW
            assert ((other[new] >= low - step) & (other[new] <= high + step)).all()
    if valid.all() and not task.vector: assert new.all()
    if not valid.any(): assert not new.any()

@given(arrays(bool, (6, 6)), st.integers(1, 12), st.sampled_from([1, 700, 65534]))
def test_holes_do_not_bleed(mask, N, count):
    "A wall of one depth keeps it beside windows."
    counts = np.where(mask, count, X).astype(np.uint16)
    assert set(resize(counts, D, N).flat) <= {count, X}

@given(arrays(bool, (4, 4)), arrays(np.uint8, (4, 4, 3), elements=st.integers(95, 160)), st.integers(1, 8).filter(lambda n: n != 4))
def test_vectors_beside_holes(mask, short, size):
    "One direction stays what it is, and what is stored where there is none has no influence."
    wall   = encode([[[2/7, 3/7, 6/7]]], N)
    counts = np.where(mask[..., None], wall, short).astype(np.uint8)
    new = resize(counts, N, size)
    assert (np.abs(new.astype(int) - wall)[decode(new, N)[1]] <= 1).all()
    assert (new == resize(np.where(mask[..., None], wall, 127).astype(np.uint8), N, size)).all()

@given(arrays(np.float64, (6, 6, 3), elements=st.floats(-1, 1)), st.integers(1, 9))
def test_directions_have_length_one(values, size):
    length = np.linalg.norm(values, axis=-1)
    assume((length > .01).all() and size != 6)
    new, mask = decode(resize(encode(values/length[..., None], N), N, size), N)
    assert np.abs(np.linalg.norm(new[mask], axis=-1) - 1).max(initial=0) < .01

def test_directions_by_hand():
    def normal(*v): return np.round(127 + 127*np.array(v)/np.linalg.norm(v)).astype(np.uint8)
    corner = np.stack([[normal(1, 0, 0), normal(0, 1, 0)], [normal(0, 0, 1), normal(0, 0, 1)]])
    assert resize(corner, N, 1)[0, 0].tolist() == normal(1, 1, 2).tolist()
    opposite = np.stack([[normal(1, 0, 0), normal(-1, 0, 0)]]*2)
    assert not decode(resize(opposite, N, 1), N)[1].any()

def test_counts_by_hand():
    def u(rows, t=D): return np.array(rows, t.dtype)
    assert resize(u([[1, 2], [3, 6]]), D, 1).tolist() == [[3]]
    assert resize(u([[1, 2], [X, X]]), D, 1).tolist() == [[2]]                                # 1.5, half of it labelled
    assert resize(u([[1, X], [X, X]]), D, 1).tolist() == [[X]]
    assert resize(u([[0, 30, 60]]*3), E, 2).tolist() == [[10, 50]]*2
    assert resize(u([[0, X, 60]]*3), D, 2).tolist() == [[0, 60]]*2                            # two thirds are labelled
    assert resize(u([[10, 30]]*2), E, 4).tolist() == [[10, 15, 25, 30]]*4
    assert resize(u([[10, X]]*2), D, 4).tolist() == [[10, 10, X, X]]*4
    assert resize(u([[99, 101]]*2, HOLE), HOLE, 1).tolist() == [[101]]
    assert resize(u([[[10, 20], [30, 0]]]*2, FLOW), FLOW, 1).tolist() == [[[10, 20]]]        # a pixel with one channel missing has no label
    assert resize(u([[1, 2, 3, 4, 5, 6]]*6, S), S, 2).tolist() == [[2, 5]]*2
    assert resize(u([[1, 2]]*2, S), S, 4).tolist() == [[1, 1, 2, 2]]*4

@pytest.mark.parametrize('shape, size, good', [((512, 512), 64, True), ((512, 683), (256, 341), True), ((512, 683), (256, 342), True), ((480, 640), (101, 135), True),
                                               ((1000, 10), (100, 1), True), ((480, 640), 128, False), ((512, 512), (256, 255), False), ((3, 5), 2, False)])
def test_shape_is_kept(shape, size, good):
    for task in (S, D, N):
        counts = np.full(shape_of(task, *shape), 9, task.dtype)
        if good: assert resize(counts, task, size).shape[:2] == (size if isinstance(size, tuple) else (size, size))
        else:
            with pytest.raises(ValueError, match=f'{shape[0]} × {shape[1]} pixels cannot become'): resize(counts, task, size)

def test_without_torch():
    "Processes that read and write images start without it."
    code = "import its_a_match.encoding, its_a_match.folders, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, '-c', code], check=True)

@pytest.mark.parametrize('size', [0, -3, (4, 0)])
def test_no_image_without_pixels(size):
    with pytest.raises(ValueError, match='an image cannot have'): resize(np.zeros((4, 4), np.uint8), Task('mine'), size)
