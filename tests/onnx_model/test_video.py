"""Predictions on video files: every frame once and at its time, the model's own boxes, one line for what is wrong."""

import json
import sys
import tomllib
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from ssd_graph.cli import InputError
from ssd_graph.data import video_file
from ssd_graph.data.decode import decode, preprocess
from ssd_graph.data.video_file import VideoReader, find_video
from ssd_graph.onnx_model import video
from ssd_graph.onnx_model.thresholds import ShownFrom
from ssd_graph.onnx_model.video import predict_video
from tests import REPOSITORY
from tests.run import exit_code

av = pytest.importorskip("av")
LEAST = 0.06
TIMES = [0, 40, 55, 300, 1300, 1301, 1400, 1500]  # milliseconds


@pytest.fixture(scope="module")
def picture(tiny_coco):
    return decode(min((tiny_coco / "val2017").iterdir())).resize((161, 120))


def write(path, picture, times=TIMES, turn=None, mirror=False):
    """A video of a picture that moves sideways; `times` in milliseconds."""
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", 30)
        stream.width, stream.height = picture.size
        stream.pix_fmt = "yuv444p"  # which may have odd sides
        stream.codec_context.time_base = Fraction(1, 1000)
        if turn is not None:
            stream.set_display_rotation(turn, mirror)
        for i, time in enumerate(times):
            frame = av.VideoFrame.from_image(Image.fromarray(np.roll(np.asarray(picture), 4 * i, 1)))
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def clip(picture, tmp_path_factory):
    return write(tmp_path_factory.mktemp("clip") / "clip.mkv", picture)


def frames_of(path):
    with av.open(path) as container:
        return list(container.decode(video=0))


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_frame_is_written_once_at_its_time_in_both_files(detector, clip, tmp_path):
    found = predict_video(detector, clip, tmp_path, ShownFrom(LEAST))
    lines = lines_of(tmp_path / "clip.jsonl")
    assert [line["frame"] for line in lines] == list(range(found.num_frames)) == list(range(len(TIMES)))
    assert [line["time"] for line in lines] == pytest.approx([t / 1000 for t in TIMES])
    assert [frame.time for frame in frames_of(tmp_path / "clip.mp4")] == pytest.approx([t / 1000 for t in TIMES])
    assert sum(len(line["objects"]) for line in lines) == found.num_objects > 0
    assert {f.name for f in tmp_path.iterdir()} == {"clip.mp4", "clip.jsonl"}


@pytest.mark.parametrize("number", [0, -1])
def test_the_objects_of_a_frame_are_what_the_model_finds_in_it(detector, clip, tmp_path, number):
    predict_video(detector, clip, tmp_path, ShownFrom(LEAST))
    image = frames_of(clip)[number].to_image()
    num, boxes, scores, labels = (output[0] for output in detector.network(preprocess(image)[None]))
    shown = scores[:num] >= LEAST
    objects = lines_of(tmp_path / "clip.jsonl")[number]["objects"]
    assert [o["score"] for o in objects] == scores[:num][shown].tolist()
    assert [o["category_id"] for o in objects] == labels[:num][shown].tolist()
    np.testing.assert_allclose([o["box_xyxy"] for o in objects], boxes[:num][shown] * np.tile(image.size, 2), rtol=1e-6)


def test_what_is_shown_is_drawn_and_the_rest_keeps_its_colours_and_an_odd_side_grows_by_one(detector, clip, tmp_path):
    highest = predict_video(detector, clip, tmp_path / "none", ShownFrom(1.0)).highest_score
    assert predict_video(detector, clip, tmp_path / "all", ShownFrom(LEAST)).highest_score == highest > LEAST
    before = np.asarray(frames_of(clip)[0].to_image().resize((162, 120)), float)
    plain, drawn = (
        np.asarray(frames_of(tmp_path / name / "clip.mp4")[0].to_image(), float) for name in ("none", "all")
    )
    assert np.abs(plain - before).mean() < 6
    assert np.abs(drawn - before).mean() > 12


@pytest.mark.parametrize(
    ("turn", "mirror", "moves"),
    [
        (90, False, [Image.Transpose.ROTATE_90]),
        (-90, False, [Image.Transpose.ROTATE_270]),
        (180, False, [Image.Transpose.ROTATE_180]),
        (0, True, [Image.Transpose.FLIP_LEFT_RIGHT]),
    ],
)
def test_a_video_taken_sideways_is_turned_upright(picture, tmp_path, turn, mirror, moves):
    stored = frames_of(path := write(tmp_path / "turned.mp4", picture, [0], turn, mirror))[0]
    upright = stored.to_image()
    for move in moves:
        upright = upright.transpose(move)
    assert next(VideoReader(path).frames()).image.tobytes() == upright.tobytes()


def test_a_clock_that_restarts_goes_on_where_it_was(detector, picture, tmp_path):
    for part in ("a.ts", "b.ts"):
        write(tmp_path / part, picture.resize((160, 120)), range(0, 2000, 100))
    joined = tmp_path / "joined.ts"
    joined.write_bytes(b"".join((tmp_path / part).read_bytes() for part in ("a.ts", "b.ts")))
    found = predict_video(detector, joined, tmp_path / "out", ShownFrom())
    times = [line["time"] for line in lines_of(found.video.with_suffix(".jsonl"))]
    assert times == pytest.approx([n / 10 for n in range(40)], abs=1e-3)


def test_a_frame_with_a_wrong_time_moves_no_other(picture, tmp_path, monkeypatch):
    reader = VideoReader(write(tmp_path / "film.mkv", picture, range(0, 6000, 100)))
    decoded = reader._decoded

    def with_a_fault():
        for number, frame in enumerate(decoded()):
            frame.pts = 0 if number == 50 else frame.pts
            yield frame

    monkeypatch.setattr(reader, "_decoded", with_a_fault)
    times = [frame.time for frame in reader.frames()]
    reader.close()
    assert times[:50] + times[51:] == pytest.approx([n / 10 for n in range(60) if n != 50], abs=2e-3)
    assert times[49] + 0.01 < times[50] < times[51]


def test_damage_in_the_middle_costs_what_it_hits_and_is_said(picture, tmp_path, capsys, trained):
    path = write(tmp_path / "hit.mp4", picture, range(0, 2400, 40))
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 300] = np.random.default_rng(0).bytes(300)
    path.write_bytes(content)
    flags = ("--out", tmp_path / "out", "--score", 1)
    assert exit_code("tools/predict_onnx.py", trained / "model.onnx", path, *flags) == 1
    said = capsys.readouterr()
    assert 30 < len(frames_of(tmp_path / "out" / "hit.mp4")) < 60
    assert "images/s" in said.out
    assert "hit.mp4 are damaged" in said.err


def test_ctrl_c_keeps_a_video_that_plays_and_as_many_lines(picture, tmp_path, monkeypatch, capsys, trained):
    path = write(tmp_path / "film.mp4", picture, range(0, 2000, 40))

    def update(bar):
        bar.n += 1
        if bar.n == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(video.tqdm, "update", update)
    out = tmp_path / "out"
    assert exit_code("tools/predict_onnx.py", trained / "model.onnx", path, "--out", out, "--score", 1) == 130
    assert 3 <= len(frames_of(out / "film.mp4")) == len(lines_of(out / "film.jsonl")) < 20
    assert "what there is so far is kept" in capsys.readouterr().err


def test_a_camera_is_used_for_so_many_seconds(detector, tmp_path, monkeypatch):
    monkeypatch.setattr(video_file, "_CAMERAS", {sys.platform: ("lavfi", "testsrc=size=160x{}:rate=10")})
    found = predict_video(detector, 120, tmp_path, ShownFrom(LEAST), seconds=0.5)
    assert (found.num_frames, found.faults) == (5, [])
    assert lines_of(tmp_path / "camera-120.jsonl")[-1]["time"] == pytest.approx(0.4)


def refused(detector, path):
    with pytest.raises(InputError) as error:
        predict_video(detector, path, path.parent / "out", ShownFrom(1.0))
    assert not (path.parent / "out").exists() or not list((path.parent / "out").iterdir())
    return str(error.value)


def test_what_is_no_video_is_refused_in_one_line_and_leaves_nothing(detector, tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    assert "cannot read" in refused(detector, tmp_path / "text.mp4")
    with av.open(tmp_path / "sound.m4a", "w") as container:
        stream = container.add_stream("aac", 8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        sound.sample_rate = 8000
        container.mux([*stream.encode(sound), *stream.encode(None)])
    assert "only sound" in refused(detector, tmp_path / "sound.m4a")


def test_a_playlist_opens_no_other_file(detector, clip, tmp_path):
    (tmp_path / "list.mp4").write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{clip}\n#EXT-X-ENDLIST\n")
    assert "cannot read" in refused(detector, tmp_path / "list.mp4")
    (tmp_path / "concat.mp4").write_text("ffconcat version 1.0\nfile clip.mkv\n")
    (tmp_path / "clip.mkv").write_bytes(clip.read_bytes())
    assert "cannot read" in refused(detector, tmp_path / "concat.mp4")


def test_a_frame_with_more_pixels_than_an_image_may_have_is_not_decoded(detector, clip, monkeypatch, tmp_path):
    monkeypatch.setattr(video_file, "_MOST_PIXELS", 10_000)
    with pytest.raises(InputError, match="no frame"):
        predict_video(detector, clip, tmp_path, ShownFrom(1.0))


def test_a_video_never_overwrites_itself_and_a_colon_is_no_protocol(detector, clip, tmp_path):
    path = tmp_path / "pipe:a.mp4"
    path.write_bytes(clip.read_bytes())
    with pytest.raises(InputError, match="would overwrite it; choose another folder"):
        predict_video(detector, path, tmp_path, ShownFrom(1.0))
    assert predict_video(detector, path, tmp_path / "out", ShownFrom(1.0)).num_frames == len(TIMES)


def test_a_pyav_without_the_encoder_says_which_has_it(detector, clip, monkeypatch, tmp_path):
    monkeypatch.setattr(video, "_ENCODER", "libx264000")
    with pytest.raises(InputError, match="this PyAV has no libx264000, which writes videos"):
        predict_video(detector, clip, tmp_path, ShownFrom(1.0))
    assert not list(tmp_path.iterdir())


def test_a_photograph_of_a_phone_is_no_video(tmp_path):
    (tmp_path / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    with pytest.raises(InputError, match="save it as JPEG"):
        find_video([str(tmp_path / "photo.heic")])


def test_files_are_told_apart_by_trying(clip, picture, tmp_path):
    picture.save(tmp_path / "photo", "PNG")
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    assert find_video([str(tmp_path / "photo")]) is find_video([str(tmp_path / "broken.jpg")]) is None
    (tmp_path / "film").write_bytes(clip.read_bytes())
    assert find_video([str(tmp_path / "film")]) == tmp_path / "film"
    with pytest.raises(InputError, match="one video alone"):
        find_video([str(tmp_path / "film"), str(tmp_path / "photo")])


def test_without_pyav_one_line_says_how_to_install_it(clip, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    install = f'pip install "{project["optional-dependencies"]["video"][0]}"'
    assert f"    {install}\n" in (REPOSITORY / "docs" / "evaluation.md").read_text()
    with pytest.raises(InputError, match=install):
        VideoReader(clip)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [([], "give images"), (["a.jpg", "--camera", 0], "give images"), (["a.jpg", "--seconds", 0], "more than 0")],
)
def test_flags_that_do_not_fit_are_refused(capsys, arguments, said):
    assert exit_code("tools/predict_onnx.py", "model.onnx", *arguments) == 2
    assert said in capsys.readouterr().err
