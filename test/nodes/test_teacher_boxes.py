# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Things are named on the teaching page, in a real browser, and found in later frames."""

from __future__ import annotations

from collections.abc import Callable
import os
from pathlib import Path
from typing import Any

import cv2
from helpers import Graph, header, image_message
import numpy as np
import pytest
from rclpy.parameter import Parameter
from test_loop import pictures, Robot

from etuner_ros.core.boxes.geometry import as_boxes, overlaps
from etuner_ros.msg import (
    Box,
    DetectedObject,
    LabelReceipt,
    LabelRequest,
    Objects,
    Region,
    Regions,
)

CSS, ENTER = 'css selector', '\ue007'  # as selenium calls them; its fixture skips without it
DUCK, CAR, MUG = (40, 40, 160, 160), (240, 280, 180, 180), (440, 60, 160, 160)  # in px


class Table:
    """A robot before a table with a duck, a race car and a mug; a person before a browser."""

    def __init__(self, ros: Graph, robot: Robot, frames: list, browser: Any) -> None:
        self.ros, self.robot, self.browser = ros, robot, browser
        self.objects: list[Objects] = ros.listen(Objects, 'objects')
        self._regions = ros.speak(Regions, 'regions')
        self._stamp = ros.probe.get_clock().now().nanoseconds
        image = np.full((480, 640, 3), 110, np.uint8)
        image[:, ::40] = image[::40] = 130
        for kind, (x, y, width, height) in (('duck', DUCK), ('race_car', CAR), ('mug', MUG)):
            thing = pictures(frames, kind)[0]
            image[y : y + height, x : x + width] = cv2.resize(thing, (width, height))
        self.image = image
        self.proposed: tuple[tuple[int, ...], ...] = (DUCK, MUG)

    def look(self) -> None:
        """Show the robot the table once more, and where things may be."""
        self._stamp += 10**7  # while the browser is waited for no time passes for the camera
        head = header(self._stamp)
        boxes = [
            Box(x=float(x), y=float(y), width=float(width), height=float(height))
            for x, y, width, height in self.proposed
        ]
        self.robot.images.publish(image_message(self.image, head))
        self._regions.publish(Regions(header=head, regions=[Region(box=b) for b in boxes]))

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        """Let the camera run until something holds."""

        def holds() -> Any:
            self.look()
            try:
                return condition()
            except Exception:  # the page draws that part again
                return None

        return self.ros.until(holds, what)

    def found(self, box: tuple[int, ...]) -> DetectedObject | None:
        """Return what the robot takes a place for in the newest frame."""
        for thing in self.objects[-1].objects if self.objects else ():
            if overlap(thing.box, box) > 0.5:
                return thing
        return None

    def find(self, name: str) -> list[Any]:
        return self.browser.find_elements(CSS, f'[data-testid={name}]')

    def press(self, name: str) -> None:
        def pressed() -> bool:
            button = self.find(name)[0]
            if not button.is_enabled():  # the card has only just come
                return False
            button.click()
            return True

        self.until(pressed, f'the button {name}')

    def draw(self, box: tuple[int, ...], finger: bool = False) -> None:
        """Draw a box (of no size: touch a point) by mouse or by finger."""
        layer = self.until(lambda: self.find('layer')[0], 'the picture')
        self.browser.execute_script('arguments[0].scrollIntoView({block: "center"})', layer)
        size = layer.size
        from selenium.webdriver.common.action_chains import ActionChains
        from selenium.webdriver.common.actions.pointer_input import PointerInput

        kind = PointerInput('touch', 'finger') if finger else PointerInput('mouse', 'mouse')
        chain = ActionChains(self.browser, devices=[kind], duration=20)
        pointer = chain.w3c_actions.pointer_action
        x, y, width, height = box
        corners = (x, y), (x + width / 2, y + height), (x + width, y + height)
        for step, (px, py) in enumerate(corners):
            across, down = (px / 640 - 0.5) * size['width'], (py / 480 - 0.5) * size['height']
            pointer.move_to(layer, round(across), round(down))
            if step == 0:
                pointer.pointer_down()
        pointer.pointer_up()
        chain.w3c_actions.perform()

    def touch(self, box: tuple[int, ...], finger: bool = False) -> None:
        """Touch the middle of a thing."""
        x, y, width, height = box
        self.draw((x + width // 2, y + height // 2, 0, 0), finger)

    def dialog(self) -> Any:
        """Return the field of the dialog once it is open."""
        return self.until(
            lambda: next(e for e in self.find_inputs() if e.is_displayed() and e.is_enabled()),
            'the dialog',
        )

    def find_inputs(self) -> list[Any]:
        return self.browser.find_elements(CSS, 'input')

    def closed(self) -> None:
        """Wait until the dialog has gone."""
        self.until(
            lambda: not any(e.is_displayed() for e in self.find_inputs()), 'the dialog to close'
        )

    def receipt(self, count: int) -> LabelReceipt:
        self.until(lambda: len(self.robot.receipts) > count, 'the receipt')
        return self.robot.receipts[-1]

    def keep(self, name: str) -> None:
        """Save what the browser shows, where somebody wants to look at it."""
        if folder := os.environ.get('ETUNER_SCREENSHOTS'):
            self.browser.save_screenshot(str(Path(folder) / f'{name}.png'))


def overlap(box: Box, other: tuple[int, ...]) -> float:
    ours = as_boxes([(box.x, box.y, box.width, box.height)])
    return float(overlaps(ours, as_boxes([other]))[0, 0])


@pytest.fixture
def table(ros: Graph, deployed: Path, frames: list, page: str, browser: Any) -> Table:
    robot = Robot(ros, deployed)  # whose batches are of four, and wait for ever
    browser.get(page)
    made = Table(ros, robot, frames, browser)
    scene = '[data-testid=scene] svg[data-uid]'
    made.until(lambda: browser.find_element(CSS, scene).is_displayed(), 'boxes')
    return made


def test_a_thing_that_is_drawn_and_named_is_found_in_later_frames(table, frames):
    table.draw(CAR)
    field = table.dialog()
    table.keep('boxes_dialog')
    spoken_of = table.browser.find_element(CSS, '[data-uid]').get_attribute('data-uid')
    before, ball = table.image, cv2.resize(pictures(frames, 'soccer_ball')[0], (640, 480))

    def page_knows(image: np.ndarray, ball_is_there: bool) -> None:
        def said() -> bool:
            text = table.find('now')[0].get_attribute('textContent')
            return 'version' in text and ('soccer_ball' in text) == ball_is_there

        table.image = image
        table.until(said, 'the page to know later frames')

    page_knows(ball, True)
    page_knows(before, False)
    shown = table.browser.find_element(CSS, '[data-uid]').get_attribute('data-uid')
    assert shown == spoken_of, 'the view holds still'
    field.send_keys('race_car', ENTER)
    receipt = table.receipt(0)
    assert (receipt.code, receipt.label, receipt.author) == (
        LabelReceipt.ACCEPTED,
        'race_car',
        'ann',
    )
    assert receipt.frame_uid == int(spoken_of)
    assert overlap(receipt.box, CAR) > 0.9
    table.closed()
    table.proposed = (DUCK, CAR, MUG)
    table.until(lambda: table.found(CAR).labels[0] == 'race_car', 'the car by its name')
    assert table.found(DUCK).labels[0] == 'duck', 'and the others by theirs'
    table.until(lambda: 'race_car: corrected' in table.find('word')[0].text, 'the answer')
    table.keep('boxes_desktop')

    table.touch(DUCK)
    table.dialog()
    table.press('thing-confirm')
    confirmed = table.receipt(1)
    assert (confirmed.label, confirmed.message) == ('duck', 'confirmed')
    assert overlap(confirmed.box, DUCK) > 0.9
    table.closed()
    table.touch(DUCK)  # in a later frame
    table.dialog()
    table.press('thing-undo')
    withdrawn = table.receipt(2)
    assert (withdrawn.message, withdrawn.frame_uid) == ('withdrawn', confirmed.frame_uid)
    table.closed()

    table.touch(MUG)
    table.dialog()
    table.press('no-thing')
    assert table.receipt(3).label == 'background'
    table.closed()
    table.until(lambda: 'not a thing: corrected' in table.find('word')[0].text, 'the answer')
    table.press('word-undo')
    assert table.receipt(4).message == 'withdrawn'


def test_a_thing_without_a_name_is_asked_about_and_answered_by_its_box(table, ros):
    requests = ros.listen(LabelRequest, 'label_requests')
    strict = Parameter('unknown_below', value=1.0)
    assert table.robot.inference.set_parameters([strict])[0].successful
    table.proposed = (CAR,)
    table.until(lambda: table.found(CAR).unknown, 'an unknown thing')

    def asked() -> bool:
        table.robot.collector._request_label()
        return bool(requests)

    table.until(asked, 'a request')
    assert overlap(requests[0].box, CAR) > 0.9
    assert 'no name' in requests[0].reason
    table.press('other')
    table.dialog().send_keys('race_car', ENTER)
    receipt = table.receipt(0)
    assert (receipt.code, receipt.box, receipt.frame_uid) == (
        LabelReceipt.ACCEPTED,
        requests[0].box,
        requests[0].frame_uid,
    )
    table.until(lambda: 'race_car: corrected' in table.find('answer')[0].text, 'the answer')
    table.keep('boxes_unknown')


def test_on_a_phone_all_fits_and_a_finger_names_things(table):
    table.browser.execute_cdp_cmd(
        'Emulation.setDeviceMetricsOverride',
        {'width': 390, 'height': 844, 'deviceScaleFactor': 2, 'mobile': True},
    )
    table.browser.execute_cdp_cmd('Emulation.setTouchEmulationEnabled', {'enabled': True})
    script = table.browser.execute_script
    table.until(lambda: script('return window.innerWidth') == 390, 'the small page')
    assert script('return document.documentElement.scrollWidth') <= 390
    edges = script("return document.querySelector('[data-testid=layer]').getBoundingClientRect()")
    assert edges['left'] >= 0
    assert edges['right'] <= 390
    assert edges['width'] > 300
    table.touch(DUCK, finger=True)
    table.dialog()
    table.press('thing-confirm')
    assert table.receipt(0).label == 'duck'
    table.closed()
    table.keep('boxes_phone')
    table.draw(CAR, finger=True)
    table.dialog().send_keys('race_car')
    table.keep('boxes_phone_dialog')
    table.press('send')
    assert overlap(table.receipt(1).box, CAR) > 0.8
    assert script('return document.documentElement.scrollWidth') <= 390
