"""The face engine with the real networks: who is near, how good, who it is."""

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gated.biometrics import quality
from gated.biometrics.face import FaceEngine, Image, Look, OnnxFaceEngine, TemplateUnusable, Threshold, template_of
from gated.biometrics.quality import Measures, Pose
from gated.lane.events import Advice
from models.manifest import ModelError
from models.sface import TEMPLATE, align, similarity
from models.warp import sample
from models.yunet import Face
from tests.data import shared_data
from tests.networks import networks


@pytest.fixture(scope="module")
def engine() -> OnnxFaceEngine:
    return OnnxFaceEngine(networks(), "fmr_1e-3", 1)


@pytest.fixture(scope="module")
def people() -> dict[str, list[Image]]:
    """Pictures, enlarged to what a gate's camera would see, of some people with two or more."""
    folder = shared_data() / "faces" / "images"
    chosen: dict[str, list[Image]] = {}
    for person in sorted(folder.iterdir()):
        files = sorted(person.glob("*.jpg"))
        if len(files) >= 2 and len(chosen) < 10:
            chosen[person.name] = [_read(file) for file in files[:2]]
    return chosen


def _read(path: Path) -> Image:
    image = cv2.imread(str(path))
    assert image is not None
    return _scaled(image, 2.0)  # type: ignore[arg-type]


def _scaled(image: Image, factor: float) -> Image:
    way = cv2.INTER_CUBIC if factor > 1 else cv2.INTER_AREA
    return cv2.resize(image, None, fx=factor, fy=factor, interpolation=way)  # type: ignore[return-value]


def _alone(engine: OnnxFaceEngine, people: dict[str, list[Image]]) -> Image:
    """A picture with one person near."""
    return next(image for images in people.values() for image in images if engine.look(image).usable)


def _on_canvas(image: Image, width: int, height: int, left: int = 0, top: int = 0) -> Image:
    canvas = np.full((height, width, 3), 90, np.uint8)
    canvas[top : top + image.shape[0], left : left + image.shape[1]] = image
    return canvas


class TestAlignment:
    @given(
        st.lists(st.tuples(st.floats(-500, 500), st.floats(-500, 500)), min_size=5, max_size=5),
    )
    def test_similarity_is_the_least_squares_solution(self, points: list[tuple[float, float]]) -> None:
        """Against numpy's solver on the four unknowns a, b, c, d of x' = a x - b y + c, y' = b x + a y + d."""
        landmarks = np.array(points)
        if np.ptp(landmarks, axis=0).max() < 1:
            return
        rows, wanted = [], []
        for (x, y), (u, v) in zip(landmarks, TEMPLATE, strict=True):
            rows += [[x, -y, 1, 0], [y, x, 0, 1]]
            wanted += [u, v]
        (a, b, c, d), *_ = np.linalg.lstsq(np.array(rows), np.array(wanted), rcond=None)
        np.testing.assert_allclose(similarity(landmarks), [[a, -b, c], [b, a, d]], rtol=1e-6, atol=1e-6)

    def test_a_turned_scaled_shifted_template_comes_back_exactly(self) -> None:
        angle, scale = math.radians(25), 3.7
        turn = scale * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        landmarks = TEMPLATE @ turn.T + [120, -40]
        matrix = similarity(landmarks)
        np.testing.assert_allclose(landmarks @ matrix[:, :2].T + matrix[:, 2], TEMPLATE, atol=1e-9)

    def test_one_point_is_no_face(self) -> None:
        with pytest.raises(ValueError, match="cannot be one point"):
            similarity(np.ones((5, 2)))

    def test_the_crop_is_the_one_of_opencv(self, people: dict[str, list[Image]], engine: OnnxFaceEngine) -> None:
        """FaceRecognizerSF aligns on the same template: an independent implementation, on faces of crop size."""
        recogniser = cv2.FaceRecognizerSF.create(str(networks() / "sface.onnx"), "")
        for images in people.values():
            image = _scaled(images[0], 0.5)
            face = engine.faces(image)[0]
            row = np.concatenate((face.box, face.landmarks.ravel(), [face.score])).astype(np.float32)[None]
            theirs = recogniser.alignCrop(image, row)
            assert np.abs(align(image, face.landmarks).astype(int) - theirs.astype(int)).mean() < 0.05

    @pytest.mark.parametrize("factor", [1, 2, 3, 4, 7])
    def test_large_pictures_are_averaged_down_in_the_right_place(self, factor: int) -> None:
        """A smooth ramp keeps its values, so every crop of it is known exactly."""
        side = 112 * factor + 300
        rows, columns = np.mgrid[0:side, 0:side].astype(np.float64)
        image = np.stack([rows, columns, rows + columns], axis=2) / (2 * side) * 250
        scale = 1 / (factor * 1.1)
        matrix = np.array([[scale, 0, -20 * scale], [0, scale, -35 * scale]])
        crop = sample(image.round().astype(np.uint8), matrix, 112).astype(float)
        v, u = np.mgrid[0:112, 0:112]
        expected = np.stack([v / scale + 35, u / scale + 20, (u + v) / scale + 55], axis=2) / (2 * side) * 250
        assert np.abs(crop - expected)[2:-2, 2:-2].max() < 1.5

    def test_a_fine_pattern_does_not_alias(self) -> None:
        checks = (np.indices((900, 900)).sum(axis=0) % 2 * 255).astype(np.uint8)
        crop = sample(np.repeat(checks[:, :, None], 3, axis=2), np.array([[0.13, 0, 0], [0, 0.13, 0.0]]), 112)
        assert crop.astype(float).std() < 12


class TestWhoIsNear:
    def test_it_is_a_face_engine(self, engine: OnnxFaceEngine) -> None:
        plain: FaceEngine = engine
        assert plain.threshold == Threshold("fmr_1e-3", 0.366, 1e-3)
        assert plain.model.startswith("sface-")

    def test_an_empty_room(self, engine: OnnxFaceEngine) -> None:
        look = engine.look(np.full((480, 640, 3), 127, np.uint8))
        assert (look.persons, look.usable, look.advice, look.face) == (0, False, "nobody", None)
        with pytest.raises(ValueError, match="no face near"):
            engine.embed(np.full((480, 640, 3), 127, np.uint8), look)

    def test_one_person(self, engine: OnnxFaceEngine, people: dict[str, list[Image]]) -> None:
        look = engine.look(_alone(engine, people))
        assert (look.persons, look.usable, look.advice) == (1, True, None)
        assert look.crop is not None
        assert look.crop.shape == (112, 112, 3)
        assert 0 < look.quality <= 1

    def test_two_persons(self, engine: OnnxFaceEngine, people: dict[str, list[Image]]) -> None:
        one, other = ([image for image in images if engine.look(image).usable] for images in list(people.values())[:2])
        assert one
        assert other
        look = engine.look(np.hstack([one[0], other[0]]))
        assert (look.persons, look.usable, look.advice) == (2, False, "one_person_only")

    def test_a_person_far_behind_is_not_near(self, engine: OnnxFaceEngine, people: dict[str, list[Image]]) -> None:
        image = _alone(engine, people)
        both = _on_canvas(image, 800, 500)
        small = _scaled(image, 0.25)
        both[20 : 20 + small.shape[0], 620 : 620 + small.shape[1]] = small
        assert len(engine.faces(both)) == 2
        look = engine.look(both)
        assert (look.persons, look.usable) == (1, True)

    def test_a_person_far_away_is_asked_closer(self, engine: OnnxFaceEngine, people: dict[str, list[Image]]) -> None:
        far = _on_canvas(_scaled(_alone(engine, people), 0.25), 640, 480, 200, 200)
        look = engine.look(far)
        assert (look.persons, look.usable, look.advice, look.face) == (0, False, "come_closer", None)

    def test_from_where_on_a_face_is_near_is_configured(self, people: dict[str, list[Image]]) -> None:
        engine = OnnxFaceEngine(networks(), near_eye_px_min=10)
        image = _alone(engine, people)
        assert engine.look(_on_canvas(_scaled(image, 0.25), 640, 480, 200, 200)).persons == 1
        distance = quality.eye_px(engine.faces(image)[0])
        assert OnnxFaceEngine(networks(), near_eye_px_min=distance + 1).look(image).persons == 0

    def test_a_large_picture_is_searched_small_and_embedded_large(
        self, engine: OnnxFaceEngine, people: dict[str, list[Image]]
    ) -> None:
        image = _alone(engine, people)
        large = _scaled(image, 4.0)
        assert large.shape[1] > 640
        near, far = engine.look(large), engine.look(image)
        assert near.face is not None
        assert far.face is not None
        assert np.abs(near.face.landmarks / 4 - far.face.landmarks).max() < 0.1 * quality.eye_px(far.face)
        score = engine.score(engine.embed(large, near), template_of(engine.embed(image, far)))
        assert score > 0.9

    def test_what_is_not_a_picture_is_refused(self, engine: OnnxFaceEngine) -> None:
        for wrong in (np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8), "no"):
            with pytest.raises(ValueError, match="picture"):
                engine.look(wrong)  # type: ignore[arg-type]

    @pytest.mark.parametrize("shape", [(1, 1, 3), (31, 33, 3), (480, 5, 3), (7, 1300, 3)])
    def test_odd_shapes_hold_nobody(self, engine: OnnxFaceEngine, shape: tuple[int, int, int]) -> None:
        noise = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
        assert engine.look(noise).persons == 0


class TestWhoItIs:
    def test_people_are_told_apart(self, engine: OnnxFaceEngine, people: dict[str, list[Image]]) -> None:
        looks = {name: [(image, engine.look(image)) for image in images] for name, images in people.items()}
        known = {
            name: [engine.embed(image, look) for image, look in pair]
            for name, pair in looks.items()
            if all(look.usable for _, look in pair)
        }
        assert len(known) >= 6
        genuine = [engine.score(a, template_of(b)) for a, b in known.values()]
        impostor = [
            engine.score(one[0], template_of(other[1])) for one, other in pairwise([*known.values(), *known.values()])
        ]
        assert sum(score >= engine.threshold.score for score in genuine) >= len(genuine) - 1
        assert max(impostor) < engine.threshold.score

    def test_embeddings_are_units_and_repeat(self, engine: OnnxFaceEngine, people: dict[str, list[Image]]) -> None:
        image = _alone(engine, people)
        first = engine.embed(image, engine.look(image))
        kept = first.copy()
        for images in people.values():
            engine.look(images[0])
        again = engine.embed(image, engine.look(image))
        assert first.dtype == np.float32
        assert first.shape == (128,)
        assert np.linalg.norm(first) == pytest.approx(1, abs=1e-5)
        np.testing.assert_array_equal(first, kept)
        np.testing.assert_array_equal(again, first)
        assert engine.score(first, template_of(first)) == pytest.approx(1, abs=1e-5)

    def test_a_crop_that_was_not_kept_is_made_again(
        self, engine: OnnxFaceEngine, people: dict[str, list[Image]]
    ) -> None:
        image = _alone(engine, people)
        look = engine.look(image)
        np.testing.assert_array_equal(engine.embed(image, replace(look, crop=None)), engine.embed(image, look))

    def test_a_template_is_little_endian_float32(self, engine: OnnxFaceEngine) -> None:
        embedding = np.zeros(128, np.float32)
        embedding[0] = 1
        assert template_of(embedding) == b"\x00\x00\x80\x3f" + bytes(508)
        assert engine.score(embedding, template_of(embedding)) == 1.0
        with pytest.raises(TemplateUnusable, match="has 512 bytes, not 100"):
            engine.score(embedding, bytes(100))

    @pytest.mark.parametrize("length", [0.0, 0.9, 1.1, 1e30, float("inf"), float("nan")])
    def test_a_template_that_would_be_like_everybody_is_none(self, engine: OnnxFaceEngine, length: float) -> None:
        """Similarity grows with a template's length: whoever could enrol a long one would open the gate for all."""
        embedding, long = np.zeros(128, np.float32), np.zeros(128, np.float32)
        embedding[0], long[0] = 1, length
        with pytest.raises(TemplateUnusable, match="a unit vector"):
            engine.score(embedding, template_of(long))

    def test_rounding_makes_no_template_unusable(self, engine: OnnxFaceEngine) -> None:
        dice = np.random.default_rng(7)
        for _ in range(200):
            one = dice.normal(size=128).astype(np.float32)
            one /= np.linalg.norm(one)
            assert engine.score(one, template_of(one)) == pytest.approx(1.0, abs=1e-5)

    def test_nothing_prints_a_face(self, engine: OnnxFaceEngine, people: dict[str, list[Image]]) -> None:
        assert repr(engine.look(_alone(engine, people))).endswith("usable=True, advice=None)")


class TestSettings:
    def test_an_unknown_threshold_names_the_known_ones(self) -> None:
        with pytest.raises(ModelError, match=r"no threshold called 'fmr_0' for sface; there are fmr_1e-2, .*fmr_1e-5"):
            OnnxFaceEngine(networks(), "fmr_0")

    def test_missing_networks_are_told(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match=r"python -m models\.obtain"):
            OnnxFaceEngine(tmp_path)

    @pytest.mark.parametrize("wrong", [{"near_eye_px_min": 0.0}, {"detection_width_px": 0}, {"quality_min": 1.5}])
    def test_settings_out_of_range(self, wrong: dict[str, float]) -> None:
        with pytest.raises(ValueError, match="near_eye_px_min"):
            OnnxFaceEngine(networks(), **wrong)  # type: ignore[arg-type]


class TestQuality:
    @pytest.mark.parametrize(
        "spoil",
        [
            lambda image: cv2.GaussianBlur(image, (0, 0), 6),
            lambda image: cv2.blur(image, (25, 1)),
            lambda image: (image * 0.12).astype(np.uint8),
            lambda image: np.clip(image.astype(int) * 6, 0, 255).astype(np.uint8),
            lambda image: cv2.resize(_scaled(image, 0.1), image.shape[1::-1], interpolation=cv2.INTER_CUBIC),
        ],
        ids=["out of focus", "moving", "dark", "overexposed", "few pixels"],
    )
    def test_a_spoilt_picture_is_worse(
        self, engine: OnnxFaceEngine, people: dict[str, list[Image]], spoil: Callable[[Image], Image]
    ) -> None:
        image = _alone(engine, people)
        spoilt = engine.look(spoil(image))
        assert spoilt.quality < 0.7 * engine.look(image).quality

    def test_walking_up_gets_better(self, engine: OnnxFaceEngine, people: dict[str, list[Image]]) -> None:
        image = _alone(engine, people)
        steps = [_on_canvas(_scaled(image, factor), 640, 640, 20, 20) for factor in (0.4, 0.6, 0.8)]
        found = [engine.look(step).quality for step in steps]
        assert found == sorted(found)
        assert found[0] < found[-1]

    def test_a_head_leaning_over_is_measured(self, engine: OnnxFaceEngine, people: dict[str, list[Image]]) -> None:
        image = _alone(engine, people)
        upright = engine.look(image)
        assert upright.face is not None
        known = template_of(engine.embed(image, upright))
        for lean in (-20, 10, 20):
            centre = (image.shape[1] / 2, image.shape[0] / 2)
            turn = cv2.getRotationMatrix2D(centre, -lean, 1.0)
            leaning: Image = cv2.warpAffine(image, turn, image.shape[1::-1])  # type: ignore[assignment]
            look = engine.look(leaning)
            assert look.face is not None
            rolled = quality.pose(look.face.landmarks).roll - quality.pose(upright.face.landmarks).roll
            assert rolled == pytest.approx(lean, abs=6)
            assert engine.score(engine.embed(leaning, look), known) > 0.75

    def test_pose_of_a_drawn_head(self) -> None:
        """Five points of a head in space, turned by known angles and seen from far away."""
        head = np.array([[-0.5, 0, 0], [0.5, 0, 0], [0, 0.635, 0.4], [-0.415, 1.155, 0], [0.415, 1.155, 0]])
        for yaw in (-30, 0, 25):
            turn = math.radians(yaw)
            spun = head.copy()
            spun[:, 0] = head[:, 0] * math.cos(turn) + head[:, 2] * math.sin(turn)
            found = quality.pose(spun[:, :2] * 100 + 300)
            assert found.yaw == pytest.approx(yaw, abs=2)
            assert found.roll == pytest.approx(0, abs=2)
        for pitch in (-20, 20):
            turn = math.radians(pitch)
            nodded = head.copy()
            nodded[:, 1] = head[:, 1] * math.cos(turn) + head[:, 2] * math.sin(turn)
            assert quality.pose(nodded[:, :2] * 100 + 300).pitch == pytest.approx(pitch, abs=6)

    def test_a_head_in_profile_keeps_its_size(self) -> None:
        frontal = Face(np.array([0, 0, 100, 130], np.float32), (TEMPLATE * 2).astype(np.float32), 0.9)
        profile = replace(frontal, landmarks=(TEMPLATE * [0.4, 2]).astype(np.float32))
        assert quality.eye_px(profile) == pytest.approx(quality.eye_px(frontal), rel=0.02)

    @pytest.mark.parametrize(
        ("change", "advice"),
        [
            ({"eye_px": 18.0}, "come_closer"),
            ({"fill": 0.98}, "step_back"),
            ({"cut": 0.35}, "step_back"),
            ({"pose": Pose(55, 0, 0)}, "look_at_camera"),
            ({"sharpness": 0.03}, "hold_still"),
            ({"confidence": 0.45}, "uncover_face"),
            ({"brightness": 20.0}, None),
            ({"clipped": 0.55}, None),
        ],
    )
    def test_the_weakest_measure_gives_the_advice(self, change: dict[str, object], advice: str | None) -> None:
        good = Measures(
            eye_px=80, fill=0.4, cut=0, sharpness=0.3, brightness=120, clipped=0, confidence=0.93, pose=Pose(0, 0, 0)
        )
        assert quality.judge(good).value == 1.0
        judged = quality.judge(replace(good, **change))  # type: ignore[arg-type]
        assert judged.value < 0.2
        assert judged.advice == advice
        assert advice is None or Advice(advice)

    def test_every_advice_is_one_the_lane_knows(self, engine: OnnxFaceEngine, people: dict[str, list[Image]]) -> None:
        given_advice = {engine.look(image).advice for images in people.values() for image in images}
        assert all(Advice(advice) for advice in given_advice if advice is not None)


def test_a_look_without_a_picture_is_cheap_to_keep() -> None:
    look = Look(1, 0.5, True, None)
    assert look.face is None
    assert look.crop is None
