# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""`inference`: image in, prediction out; bad images and bad weights leave it alive."""

from __future__ import annotations

from pathlib import Path
import threading

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from helpers import Graph, header, image_message, jpeg_message
import numpy as np
import pytest
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from rclpy.parameter import Parameter
from sensor_msgs.msg import CompressedImage, Image

from etuner_ros.core.files import models_home
from etuner_ros.core.images.codec import decode
from etuner_ros.core.labels.value import MOST_EXEMPLARS
from etuner_ros.core.models.store import ModelStore
from etuner_ros.core.models.weights import backbone_digest, pack, read_base, sha256, unpack
from etuner_ros.core.serve.live_model import LiveModel
from etuner_ros.msg import FrameFeature, ModelUpdate, PredictedFrame, Prediction
from etuner_ros.nodes import inference as module
from etuner_ros.nodes.inference import InferenceNode
from etuner_ros.nodes.qos import LATCHED, latched, NEWEST_WINS


def started(ros: Graph, deployed: Path, **parameters: object) -> InferenceNode:
    node = ros.add(InferenceNode, model__weights=str(deployed), autostart=True, **parameters)
    ros.until(lambda: node.diagnostics()['active'], 'inference to be active')
    return node


@pytest.fixture
def duck(frames: list) -> np.ndarray:
    return next(f.image for f in frames if f.label == 'duck')


def update_message(deployed: Path, version: int = 1, **fields: object) -> ModelUpdate:
    """Announce weights that call everything by the name of the next class."""
    base = read_base(deployed)
    state = {k: np.roll(v, 1, axis=0) for k, v in base.state.items() if k.startswith('head.')}
    data = pack(state)
    values = {
        'version': version,
        'base_sha256': base.sha256,
        'sha256': sha256(data),
        'architecture': base.spec.architecture,
        'classes': list(base.spec.classes),
        'weights': data,
        **fields,
    }
    return ModelUpdate(**values)


def test_an_image_becomes_a_prediction_with_its_header(ros, deployed, duck):
    started(ros, deployed, top_k=2)
    predictions = ros.listen(Prediction, 'predictions')
    kept = ros.listen(PredictedFrame, 'predicted_frame')
    features = ros.listen(FrameFeature, 'frame_feature')
    images = ros.speak(Image, 'image_raw', NEWEST_WINS)
    head = header(ros.probe.get_clock().now().nanoseconds, 'left_optical')
    images.publish(image_message(duck, head))
    ros.until(lambda: predictions and kept and features, 'a prediction, its frame and its feature')
    said = predictions[0]
    assert said.header == head
    assert said.labels[0] == 'duck'
    assert len(said.labels) == len(said.scores) == 2
    assert said.confidence == pytest.approx(said.scores[0])
    assert said.model_version == 0
    assert said.kept
    assert len(said.appearance) == 224
    assert said.latency_ms >= said.inference_ms > 0
    assert (kept[0].header, kept[0].label, kept[0].source) == (head, 'duck', 'camera')
    assert bytes(kept[0].image.data).startswith(b'\xff\xd8'), 'the frame is a JPEG'
    assert len(features[0].feature) == 2 * 1904
    assert features[0].backbone_sha256 == backbone_digest(read_base(deployed).sha256, {})
    assert said.frame_uid == kept[0].frame_uid == features[0].frame_uid > 0


def test_pictures_of_one_stamp_have_names_of_their_own_also_after_a_restart(ros, deployed, duck):
    """As of a driver that stamps 0, or a simulator that starts again."""
    node = started(ros, deployed, keep_rate_hz=1000.0)
    predictions = ros.listen(Prediction, 'predictions')
    kept = ros.listen(PredictedFrame, 'predicted_frame')
    images = ros.speak(Image, 'image_raw', NEWEST_WINS)

    def seen(count: int) -> bool:
        images.publish(image_message(duck, header(0)))
        return len(predictions) >= count and len(kept) >= count

    ros.until(lambda: seen(3), 'three pictures')
    ros.remove(node)
    before = len(predictions)
    started(ros, deployed, keep_rate_hz=1000.0)
    ros.until(lambda: seen(before + 3), 'three more')
    uids = [p.frame_uid for p in predictions]
    assert len(set(uids)) == len(uids)
    assert {k.frame_uid for k in kept} <= set(uids)


def test_features_of_exemplars_reach_those_who_come_later(ros, deployed, duck):
    base = read_base(deployed)
    node = started(ros, deployed)
    for who in ('one that was there while they were looked at', 'one that came later'):
        features = ros.listen(FrameFeature, 'exemplar_features', latched(MOST_EXEMPLARS))
        ros.until(lambda heard=features: len(heard) == len(base.exemplars), f'all, by {who}')
    assert len(base.exemplars) > 10
    model = LiveModel(base)
    expected = np.stack([model.feature(decode(code))[0] for _, code in base.exemplars])
    got = np.stack([np.frombuffer(bytes(f.feature), '<f2') for f in features])
    nearest = np.abs(got[:, None] - expected[None]).max(axis=2).min(axis=1)
    assert nearest.max() < 0.02, 'of the same pictures, to the precision of float16'
    assert {f.backbone_sha256 for f in features} == {backbone_digest(base.sha256, {})}

    ros.speak(ModelUpdate, 'model', LATCHED).publish(update_message(deployed))
    ros.until(lambda: node.diagnostics()['model version'] == 1, 'another version')
    predictions = ros.listen(Prediction, 'predictions')
    images = ros.speak(Image, 'image_raw', NEWEST_WINS)

    def seen() -> bool:  # after each frame one would be looked at
        images.publish(image_message(duck, header(len(predictions))))
        return len(predictions) >= 5

    ros.until(seen, 'frames that it answers')
    assert len(features) == len(base.exemplars), 'once for all versions of the same base weights'


def test_a_compressed_image_is_passed_on_as_it_came(ros, deployed, duck):
    started(ros, deployed, image_transport='compressed', keep_size=0)
    predictions = ros.listen(Prediction, 'predictions')
    kept = ros.listen(PredictedFrame, 'predicted_frame')
    images = ros.speak(CompressedImage, 'image_raw/compressed', NEWEST_WINS)
    sent = jpeg_message(duck, header(5 * 10**9))
    images.publish(sent)
    ros.until(lambda: predictions and kept, 'a prediction and its frame')
    assert predictions[0].labels[0] == 'duck'
    assert bytes(kept[0].image.data) == bytes(sent.data)


def test_padded_rows_and_other_encodings_are_read(ros, deployed, duck):
    started(ros, deployed)
    predictions = ros.listen(Prediction, 'predictions')
    images = ros.speak(Image, 'image_raw', NEWEST_WINS)
    height, width = duck.shape[:2]
    padded = np.zeros((height, width * 3 + 32), np.uint8)
    padded[:, : width * 3] = duck[..., ::-1].reshape(height, -1)
    message = Image(
        header=header(1),
        height=height,
        width=width,
        encoding='bgr8',
        step=width * 3 + 32,
        data=padded.tobytes(),
    )
    images.publish(message)
    ros.until(lambda: predictions, 'a prediction')
    assert predictions[0].labels[0] == 'duck'


BAD = {
    'encoding': {'encoding': 'rainbow8'},
    'zero size': {'width': 0, 'height': 0},
    'short buffer': {'data': b'abc'},
    'step': {'step': 5},
    'huge size': {'width': 2**31, 'height': 2**31, 'step': 0},
}


@pytest.mark.parametrize('name', BAD)
def test_a_bad_image_gets_one_clear_warning_and_leaves_the_node_alive(ros, deployed, duck, name):
    started(ros, deployed)
    predictions = ros.listen(Prediction, 'predictions')
    logs = ros.logs()
    reports = ros.listen(DiagnosticArray, '/diagnostics')
    images = ros.speak(Image, 'image_raw', NEWEST_WINS)
    bad = image_message(duck, header(1))
    for field, value in BAD[name].items():
        setattr(bad, field, value)

    def warned() -> list[str]:
        return [m.msg for m in logs if m.level == 30 and m.name.endswith('inference')]

    for _ in range(3):
        images.publish(bad)
        ros.until(lambda: warned(), 'a warning')
    assert len(warned()) == 1, 'repeated faults are throttled'
    assert 'image' in warned()[0]
    ros.until(
        lambda: any(
            s.level == b'\x01' and 'image' in s.message for r in reports for s in r.status
        ),
        'a diagnostic',
    )
    assert not predictions
    images.publish(image_message(duck, header(2)))
    ros.until(lambda: predictions, 'the next good image')
    assert predictions[0].labels[0] == 'duck'


def test_an_undecodable_compressed_image_leaves_the_node_alive(ros, deployed, duck):
    node = started(ros, deployed, image_transport='compressed')
    predictions = ros.listen(Prediction, 'predictions')
    images = ros.speak(CompressedImage, 'image_raw/compressed', NEWEST_WINS)
    images.publish(CompressedImage(header=header(1), format='jpeg', data=b'not a picture'))
    ros.until(lambda: node.diagnostics()['unreadable frames'] == 1, 'the bad frame to be counted')
    images.publish(jpeg_message(duck, header(2)))
    ros.until(lambda: predictions, 'the next good image')


def test_new_weights_take_over_between_two_frames(ros, deployed, duck):
    started(ros, deployed)
    predictions = ros.listen(Prediction, 'predictions')
    images = ros.speak(Image, 'image_raw', NEWEST_WINS)
    models = ros.speak(ModelUpdate, 'model', LATCHED)
    images.publish(image_message(duck, header(1)))
    ros.until(lambda: predictions, 'the first prediction')
    models.publish(update_message(deployed))

    def swapped() -> bool:
        images.publish(image_message(duck, header(2)))
        return predictions[-1].model_version == 1

    ros.until(swapped, 'a prediction of version 1')
    assert predictions[0].labels[0] == 'duck'
    names = read_base(deployed).spec.classes
    shifted = names[(names.index('duck') + 1) % len(names)]
    assert all(
        p.labels[0] == ('duck' if p.model_version == 0 else shifted) for p in predictions
    ), 'no mixed versions'


@pytest.mark.parametrize(
    ('fields', 'words'),
    [
        ({'sha256': 'no'}, 'checksum'),
        ({'weights': b'garbage', 'sha256': sha256(b'garbage')}, 'damaged'),
        ({'classes': ['only one']}, 'shape'),
    ],
)
def test_bad_weights_are_refused_and_the_live_ones_stay(ros, deployed, duck, fields, words):
    node = started(ros, deployed)
    logs = ros.logs()
    models = ros.speak(ModelUpdate, 'model', LATCHED)
    models.publish(update_message(deployed, **fields))
    ros.until(lambda: any('refused' in m.msg and words in m.msg for m in logs), 'the refusal')
    assert node.diagnostics()['model version'] == 0
    models.publish(update_message(deployed, version=2))
    ros.until(
        lambda: node.diagnostics()['model version'] == 2, 'good weights to be taken after bad ones'
    )


def test_a_missing_model_file_fails_configuring_in_one_sentence_and_can_be_mended(
    ros, deployed, tmp_path
):
    node = ros.add(InferenceNode, model__weights=str(tmp_path / 'late.safetensors'))
    logs = ros.logs()
    assert node.trigger_configure() == TransitionCallbackReturn.FAILURE
    ros.until(
        lambda: any('late.safetensors does not exist' in m.msg for m in logs), 'the sentence'
    )
    (tmp_path / 'late.safetensors').write_bytes(deployed.read_bytes())
    assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
    assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS


def test_a_raising_transition_is_logged_with_its_traceback_and_the_node_stays_usable(
    ros, deployed, monkeypatch
):
    node = ros.add(InferenceNode, model__weights=str(deployed))
    logs = ros.logs()

    def explode(*_: object) -> None:
        raise RuntimeError('a bug in configuring')

    with monkeypatch.context() as patch:
        patch.setattr(module, 'read_base', explode)
        assert node.trigger_configure() == TransitionCallbackReturn.ERROR
    text = ros.until(lambda: [m.msg for m in logs if 'a bug in configuring' in m.msg], 'the log')[
        0
    ]
    assert 'Traceback' in text
    assert 'explode' in text
    assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS


def learned(deployed: Path, namespace: str) -> ModelUpdate:
    """Leave a learned version in the store of a robot; return how model_manager announces it."""
    announced = update_message(deployed)
    store = ModelStore(models_home(namespace), deployed)
    store.commit(unpack(bytes(announced.weights)), 0, tuple(announced.classes))
    return announced


def reported(statuses: list, words: str) -> bool:
    return any(
        s.level == DiagnosticStatus.WARN and words in s.message
        for m in statuses
        for s in m.status
        if s.name.endswith('inference: etuner')
    )


def test_a_robot_that_has_learned_predicts_nothing_before_its_weights_are_announced(
    ros, deployed, duck
):
    announced = learned(deployed, ros.namespace)
    logs = ros.logs()
    node = started(ros, deployed)
    predictions = ros.listen(Prediction, 'predictions')
    statuses = ros.listen(DiagnosticArray, '/diagnostics')
    images = ros.speak(Image, 'image_raw', NEWEST_WINS)
    models = ros.speak(ModelUpdate, 'model', LATCHED)

    def shown() -> object:
        images.publish(image_message(duck, header(1)))
        return node.diagnostics()['frames before the model came']

    ros.until(shown, 'frames that are not predicted')
    ros.until(lambda: reported(statuses, 'announce version 1'), 'the diagnostic')
    ros.until(lambda: any('waiting for model_manager' in m.msg for m in logs), 'the log')
    assert not predictions
    models.publish(announced)
    ros.until(lambda: shown() and predictions, 'predictions')
    assert {p.model_version for p in predictions} == {1}
    ros.until(lambda: any('learned last serve' in m.msg for m in logs), 'the end of the waiting')


def test_a_robot_that_does_not_wait_says_that_it_serves_the_base_weights(ros, deployed, duck):
    """At run time too: who looks at a robot that waits may let it go on."""
    learned(deployed, ros.namespace)
    node = started(ros, deployed)
    predictions = ros.listen(Prediction, 'predictions')
    statuses = ros.listen(DiagnosticArray, '/diagnostics')
    images = ros.speak(Image, 'image_raw', NEWEST_WINS)
    node.set_parameters([Parameter('wait_for_model', value=False)])

    def seen() -> bool:
        images.publish(image_message(duck, header(1)))
        return bool(predictions)

    ros.until(seen, 'a prediction')
    assert predictions[0].model_version == 0
    ros.until(lambda: reported(statuses, 'these are the base weights'), 'the warning')


def test_the_store_of_another_namespace_or_another_folder_is_looked_at_where_it_is(
    ros, deployed, tmp_path
):
    learned(deployed, '/somebody_else')
    assert started(ros, deployed)._weights.ready, 'a store of its own, in which nothing is'
    store = ModelStore(tmp_path / 'here', deployed)
    announced = update_message(deployed)
    store.commit(unpack(bytes(announced.weights)), 0, tuple(announced.classes))
    node = started(ros, deployed, models__folder=str(tmp_path / 'here'))
    assert not node._weights.ready


def test_predictions_do_not_wait_for_the_annotated_image(ros, deployed, duck, monkeypatch):
    begun, go_on = threading.Event(), threading.Event()
    annotate = module.annotate

    def slow(*arguments: object) -> object:
        begun.set()
        go_on.wait()
        return annotate(*arguments)

    monkeypatch.setattr(module, 'annotate', slow)
    node = started(ros, deployed, annotated_width=100)
    predictions = ros.listen(Prediction, 'predictions')
    pictures = ros.listen(Image, 'annotated')
    images = ros.speak(Image, 'image_raw', NEWEST_WINS)
    ros.until(lambda: node._cameras[0].watched, 'a viewer')
    number = 0

    def seen(count: int) -> bool:
        nonlocal number
        number += 1
        images.publish(image_message(duck, header(number)))
        return len(predictions) >= count

    try:
        ros.until(lambda: seen(1) and begun.is_set(), 'the drawing to begin')
        ros.until(lambda: seen(6), 'predictions beside the drawing')
        assert not pictures
        last = predictions[-1].header
    finally:
        go_on.set()
    ros.until(lambda: len(pictures) == 2, 'the picture that was drawn, and the newest')
    assert pictures[1].header.stamp.nanosec >= last.stamp.nanosec
    height, width = duck.shape[:2]
    assert pictures[0].width == 100
    assert pictures[0].height == round(100 * height / width)


def test_an_annotated_image_as_wide_as_the_camera_has_it(ros, deployed, duck):
    started(ros, deployed, annotated_width=0)
    pictures = ros.listen(Image, 'annotated')
    images = ros.speak(Image, 'image_raw', NEWEST_WINS)

    def drawn() -> bool:
        images.publish(image_message(duck, header(1)))
        return bool(pictures)

    ros.until(drawn, 'an annotated image')
    assert (pictures[0].height, pictures[0].width) == duck.shape[:2]


def test_who_looks_over_a_radio_has_the_annotated_image_as_jpeg(ros, deployed, duck):
    started(ros, deployed, annotated_width=100)
    pictures = ros.listen(CompressedImage, 'annotated/compressed')
    images = ros.speak(Image, 'image_raw', NEWEST_WINS)

    def drawn() -> bool:
        images.publish(image_message(duck, header(7)))
        return bool(pictures)

    ros.until(drawn, 'an annotated image')
    assert pictures[0].format == 'jpeg'
    assert pictures[0].header == header(7)
    assert decode(bytes(pictures[0].data)).shape[1] == 100


def test_without_a_clock_no_image_is_from_another_time_and_weights_are_taken(ros, deployed, duck):
    """`use_sim_time`, and nobody publishes /clock yet."""

    def make(**options: object) -> InferenceNode:
        options['parameter_overrides'] += [Parameter('use_sim_time', value=True)]
        return InferenceNode(**options)

    node = ros.add(make, model__weights=str(deployed))
    assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
    assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS
    predictions = ros.listen(Prediction, 'predictions')
    images = ros.speak(Image, 'image_raw', NEWEST_WINS)
    models = ros.speak(ModelUpdate, 'model', LATCHED)
    models.publish(update_message(deployed))
    ros.until(lambda: node.diagnostics()['model version'] == 1, 'version 1, without any frame')
    images.publish(image_message(duck, header(1_800_000_000 * 10**9)))
    ros.until(lambda: predictions, 'a prediction')
    assert node.diagnostics()['frame age ms'] == 0.0


def test_it_can_be_released_in_any_state_and_configured_after_a_failed_activation(
    ros, deployed, duck, monkeypatch
):
    node = ros.add(InferenceNode, model__weights=str(deployed))
    node.release()
    node.release()
    assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS

    def explode(*_: object) -> None:
        raise RuntimeError('a bug in activating')

    with monkeypatch.context() as patch:
        patch.setattr(LifecycleNode, 'on_activate', explode)
        assert node.trigger_activate() == TransitionCallbackReturn.ERROR
    assert not node.active
    node.release()
    assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
    assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS
    predictions = ros.listen(Prediction, 'predictions')
    ros.speak(Image, 'image_raw', NEWEST_WINS).publish(image_message(duck, header(1)))
    ros.until(lambda: predictions, 'a prediction')


def test_ten_cycles_leave_nothing_behind(ros, deployed, duck):
    node = ros.add(InferenceNode, model__weights=str(deployed))

    def entities() -> list[int]:
        return [
            len(list(x))
            for x in (
                node.publishers,
                node.subscriptions,
                node.clients,
                node.services,
                node.timers,
                node.guards,
            )
        ]

    node.trigger_configure()
    node.trigger_cleanup()
    before = entities()
    for _ in range(10):
        assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS
        assert node.trigger_deactivate() == TransitionCallbackReturn.SUCCESS
        assert node.trigger_cleanup() == TransitionCallbackReturn.SUCCESS
    assert entities() == before


def test_deactivated_it_is_silent_and_activated_again_it_goes_on(ros, deployed, duck):
    node = started(ros, deployed)
    predictions = ros.listen(Prediction, 'predictions')
    images = ros.speak(Image, 'image_raw', NEWEST_WINS)
    node.trigger_deactivate()

    def arrived() -> bool:
        images.publish(image_message(duck, header(1)))
        return node.diagnostics()['frame age ms'] > 0

    ros.until(arrived, 'an image to come, of long ago')
    assert node.diagnostics()['frames'] == 0, 'nothing is looked at'
    assert not predictions
    node.trigger_activate()

    def answered() -> bool:
        images.publish(image_message(duck, header(2)))
        return any(p.header == header(2) for p in predictions)

    ros.until(answered, 'a prediction')


def test_a_wrong_parameter_is_named(ros, deployed):
    node = ros.add(InferenceNode, model__weights=str(deployed), image_transport='telepathy')
    logs = ros.logs()
    assert node.trigger_configure() == TransitionCallbackReturn.FAILURE
    ros.until(
        lambda: any("image_transport must be one of 'raw', 'compressed'" in m.msg for m in logs),
        'the sentence',
    )
