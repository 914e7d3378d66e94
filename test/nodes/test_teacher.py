# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The teaching page in a real browser: a correction made by clicking ends in a new version."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
import os
from pathlib import Path
import socket
from typing import Any
from urllib.parse import quote

import cv2
from helpers import header
import pytest
from rclpy.parameter import Parameter
from sensor_msgs.msg import CompressedImage
from test_kept_frames import Eye
from test_loop import pictures, Robot

from etuner_ros.core.errors import ConfigError
from etuner_ros.core.labels.desk import Code, Receipt
from etuner_ros.core.labels.frame_buffer import Frame, FrameKey
from etuner_ros.msg import LabelCorrection, LabelReceipt, LabelRequest, Objects, PredictedFrame
from etuner_ros.nodes import teacher
from etuner_ros.nodes.label_collector import LabelCollectorNode
from etuner_ros.nodes.label_messages import key_of, receipt_message
from etuner_ros.nodes.teacher import check_port, TeacherNode
from etuner_ros.nodes.teaching.access import check_access, TokenGuard
from etuner_ros.srv import RenameLabel

CSS, ENTER = 'css selector', '\ue007'  # as selenium calls them; its fixture skips without it


def test_a_correction_made_by_clicking_ends_in_a_new_version(ros, deployed, frames, page, browser):
    robot = Robot(ros, deployed)
    cars = pictures(frames, 'race_car')
    requests = ros.listen(LabelRequest, 'label_requests')
    browser.get(page)

    def find(name: str) -> list[Any]:
        return browser.find_elements(CSS, f'[data-testid={name}]')

    def click(name: str) -> Callable[[], bool]:
        def attempt() -> bool:
            try:
                button = find(name)[0]
                if not button.is_enabled():  # the card has only just come
                    return False
                button.click()
            except Exception:  # it is being drawn again
                return False
            return True

        return attempt

    seen = robot.show(cars[0])
    ros.until(lambda: robot.collector._diagnostics()['frames kept'], 'the frame')
    robot.collector._request_label()
    ros.until(lambda: requests, 'a request for a label')
    ros.until(lambda: find('card'), 'the frame on the wall')
    assert seen.labels[0] != 'race_car'
    ros.until(click('other'), 'the button')
    box = ros.until(
        lambda: [e for e in browser.find_elements(CSS, 'input') if e.is_displayed()],
        'the dialog',
    )[0]
    box.send_keys('race_car', ENTER)
    ros.until(lambda: robot.receipts and robot.receipts[-1].author == 'ann', 'the receipt')
    ros.until(lambda: robot.show(cars[0]).labels[0] == 'race_car', 'the new version')
    assert robot.predictions[-1].model_version > 0

    def answer() -> str:
        try:
            return ' '.join(e.text for e in find('answer'))
        except Exception:  # it is being drawn again
            return ''

    ros.until(lambda: 'race_car: corrected' in answer(), 'the receipt on the page')
    ros.until(click('undo'), 'the button')
    ros.until(lambda: robot.receipts[-1].message == 'withdrawn', 'the withdrawal')
    if folder := os.environ.get('ETUNER_SCREENSHOTS'):
        for width, height, name in ((1280, 900, 'desktop'), (390, 844, 'phone')):
            browser.set_window_size(width, height)
            ros.until(lambda: robot.show(cars[1]), 'a prediction')
            browser.save_screenshot(str(Path(folder) / f'{name}.png'))


def test_a_picture_is_shown_in_full_and_as_it_was_kept_when_that_is_gone(
    ros, deployed, frames, page, browser
):
    eye = Eye(ros, deployed)
    collector = ros.add(LabelCollectorNode, request_period_s=0.0)
    browser.get(page)
    eye.see(cv2.resize(pictures(frames, 'race_car')[0], (640, 480)))
    ros.until(lambda: len(collector._buffer), 'the frame to be buffered')
    ros.until(collector._requests.get_subscription_count, 'the page to listen')
    collector._request_label()

    def script(code: str) -> Any:
        return browser.execute_script(f'return {code}')

    def shown() -> Any:
        return script("document.querySelector('[data-testid=full] img')?.naturalWidth")

    def picture() -> Any:
        return script("document.querySelector('[data-testid=picture] img')?.naturalWidth")

    kept_width = 170  # for a height of 128, twice the input
    ros.until(lambda: picture() == kept_width, 'the frame on the wall, as it was kept')
    script("document.querySelector('[data-testid=picture]').click()")
    ros.until(lambda: shown() == 640, 'the full picture')
    assert script("document.querySelector('[data-testid=why-small]').innerText") == ''
    script("document.querySelector('[data-testid=full]').click()")
    ros.until(lambda: shown() is None, 'the picture to close')

    browser.refresh()  # it remembers the pictures of a page
    ros.until(lambda: picture() == kept_width, 'the wall again')
    assert eye.node.set_parameters([Parameter('full_mb', value=0.0)])[0].successful
    script("document.querySelector('[data-testid=picture]').click()")
    ros.until(lambda: shown() == kept_width, 'what was kept')
    ros.until(
        lambda: 'is gone' in script("document.querySelector('[data-testid=why-small]').innerText"),
        'the reason',
    )
    script("fetch('/full/nothing').then(async a => window.answer = [a.status, await a.text()])")
    answer = ros.until(lambda: script('window.answer'), 'an answer for no card')
    assert answer == [404, 'this frame is not on the wall any more']


def test_enter_that_ends_a_composition_sends_no_half_typed_name(ros, page, browser):
    said = ros.listen(LabelCorrection, 'labels')
    asks = ros.speak(LabelRequest, 'label_requests')
    browser.get(page)

    def displayed(selector: str) -> Any:
        asks.publish(LabelRequest(header=header(1), source='camera', reason='odd'))
        found = browser.find_elements(CSS, selector)
        return [e for e in found if e.is_displayed() and e.is_enabled()]

    ros.until(lambda: displayed('[data-testid=other]'), 'the card')[0].click()
    field = ros.until(lambda: displayed('input'), 'the dialog')[0]
    field.send_keys('오리')
    for mark in ({'isComposing': True}, {'keyCode': 229}):
        event = {'key': 'Enter', 'bubbles': True, **mark}
        script = "arguments[0].dispatchEvent(new KeyboardEvent('keydown', arguments[1]))"
        browser.execute_script(script, field, event)
    field.send_keys(' 인형', ENTER)
    ros.until(lambda: said, 'the label')
    assert [correction.label for correction in said] == ['오리 인형']


def test_a_page_that_was_started_anew_knows_all_names_and_forgets_what_is_renamed(
    ros, monkeypatch
):
    monkeypatch.setattr(teacher, 'LABELS_PERIOD_S', 0.1)
    collector = ros.add(LabelCollectorNode, request_period_s=0.0)
    for number, label in enumerate(('mug', 'tray')):
        key = FrameKey('camera', number, 'eye')
        collector._store.add(Frame(key, b'picture', 'jpeg', '', 0.0, 0.0, 0), label, 'ann', 0)
    node = ros.add(TeacherNode)
    node.watch(1)
    ros.until(lambda: node.state.classes() == ['mug', 'tray'], 'the stored names')
    answer = ros.call(
        RenameLabel,
        f'{collector.get_fully_qualified_name()}/rename_label',
        label='mug',
        new_label='cup',
    )
    assert not answer.error_code
    ros.until(lambda: node.state.classes() == ['cup', 'tray'], 'the new name')


def test_a_page_of_an_author_with_a_long_name_knows_its_receipts(ros):
    node = ros.add(TeacherNode, author='a' * 150)
    asks = ros.speak(LabelRequest, 'label_requests')
    receipts = ros.speak(LabelReceipt, 'label_receipts')
    said = ros.listen(LabelCorrection, 'labels')
    ros.until(node._labels.get_subscription_count, 'somebody who listens')
    asks.publish(LabelRequest(header=header(1), source='camera', frame_uid=7))
    node.label(ros.until(node.state.cards, 'the card')[0], 'duck')
    correction = ros.until(lambda: said, 'the label')[0]
    assert correction.author == 'a' * 150
    answer = Receipt(Code.ACCEPTED, 'corrected')
    receipts.publish(receipt_message(correction, key_of(correction), answer))
    ros.until(lambda: node.state.cards()[0].answer == 'corrected', 'the answer', limit_s=10.0)
    assert node._diagnostics()['labels without an answer'] == 0


def test_a_page_knows_the_receipt_of_a_name_whose_accents_were_spelled_otherwise(ros):
    node = ros.add(TeacherNode)
    asks = ros.speak(LabelRequest, 'label_requests')
    receipts = ros.speak(LabelReceipt, 'label_receipts')
    said = ros.listen(LabelCorrection, 'labels')
    ros.until(node._labels.get_subscription_count, 'somebody who listens')
    asks.publish(LabelRequest(header=header(1), source='camera', frame_uid=7))
    node.label(ros.until(node.state.cards, 'the card')[0], 'Tu\u0308r')
    correction = ros.until(lambda: said, 'the label')[0]
    answer = Receipt(Code.ACCEPTED, 'corrected')
    receipts.publish(receipt_message(correction, key_of(correction), answer))
    ros.until(lambda: node.state.cards()[0].answer == 'corrected', 'the answer', limit_s=10.0)
    assert node._diagnostics()['labels without an answer'] == 0
    assert node.state.classes() == ['T\u00fcr']


def test_only_what_is_looked_at_is_heard(ros):
    node = ros.add(TeacherNode)

    def heard() -> set[str]:
        ours = ('objects', 'predicted_frame', 'annotated/compressed')
        topics = {s.topic_name.replace(f'{ros.namespace}/', '') for s in node.subscriptions}
        return topics & set(ours)

    assert heard() == set()
    node.watch(1)
    ros.until(lambda: len(heard()) == 3, 'the subscriptions')
    frames, objects = ros.speak(PredictedFrame, 'predicted_frame'), ros.speak(Objects, 'objects')

    def boxed() -> bool:
        head = header(ros.probe.get_clock().now().nanoseconds)
        uid = head.stamp.nanosec
        picture = CompressedImage(format='jpeg', data=b'picture')
        frames.publish(PredictedFrame(header=head, frame_uid=uid, image=picture))
        objects.publish(Objects(header=head, frame_uid=uid, kept=True, width=64, height=48))
        return heard() == {'objects', 'predicted_frame'}

    ros.until(boxed, 'the annotated picture to be left alone while boxes come')
    ros.until(lambda: len(heard()) == 3, 'the annotated picture when none come any more')
    node.watch(-1)
    ros.until(lambda: not heard(), 'silence')


@pytest.mark.parametrize('others', ['', 'prefs={"a":1}; ', 'a/b=1; ', 'etuner_token_0=x; '])
def test_cookies_of_other_pages_of_this_host_lock_nobody_out(others):
    """A browser sends them to every port."""
    opened, answers = [], []

    async def page(scope: dict, receive: object, send: object) -> None:
        opened.append(scope)

    async def send(message: dict) -> None:
        answers.append(message)

    guard = TokenGuard(page, 'a secret')

    def ask(query: bytes, cookie: str) -> None:
        headers = [(b'cookie', cookie.encode())]
        scope = {'type': 'http', 'headers': headers, 'query_string': query}
        asyncio.run(guard(scope, None, send))

    ask(b'', others)
    assert (opened, answers[0]['status']) == ([], 401)
    ask(b'token=a%20secret', others)
    sent = dict(answers[2]['headers'])
    ours = sent[b'set-cookie'].decode().partition(';')[0]
    ask(b'', others + ours)
    assert len(opened) == 1
    other = TokenGuard(page, 'another secret')
    assert other.name != guard.name, 'pages of two robots keep each their own'


def test_a_port_that_another_page_has_is_said_in_one_sentence():
    with socket.create_server(('127.0.0.1', 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match='another port or host, or end what is there'):
            check_port('127.0.0.1', port)
    check_port('127.0.0.1', port)
    with pytest.raises(ConfigError, match='can not be served on no such host'):
        check_port('no such host', port)


@pytest.mark.parametrize('token', ['ab+cd/ef==', 'a+b c=de', "(a)!$*,;:@?'b~"])
def test_a_token_opens_the_page_as_it_is_written_and_as_it_is_quoted(token):
    check_access('0.0.0.0', token)
    answers = []

    async def send(message: dict) -> None:
        answers.append(message)

    guard = TokenGuard(None, token)
    for written in (token, quote(token, safe='')):
        # A browser quotes spaces and letters that an address can not have.
        query = f'camera=a&token={written}'.replace(' ', '%20').replace("'", '%27').encode()
        asyncio.run(guard({'type': 'http', 'headers': [], 'query_string': query}, None, send))
    assert [a['status'] for a in answers if 'status' in a] == [303, 303]


@pytest.mark.parametrize('token', ['long#enough', 'long&enough', '50%41secret', 'long enough '])
@pytest.mark.parametrize('host', ['127.0.0.1', '0.0.0.0'])
def test_a_token_that_an_address_does_not_carry_as_it_is_is_refused(host, token):
    with pytest.raises(ConfigError, match='leave out # % &') as refused:
        check_access(host, token)
    assert token not in str(refused.value), 'it goes to the log'


@pytest.mark.parametrize('host', ['0.0.0.0', '192.168.1.4', 'nonsense'])
def test_the_page_is_not_opened_to_a_network_without_a_token(host):
    with pytest.raises(ConfigError, match='token|no address'):
        check_access(host, '')
    check_access('127.0.0.1', '')
    check_access('0.0.0.0', 'long enough')
