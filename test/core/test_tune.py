# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The tuner without its node: rounds, the feed of batches, the link to the worker, saved state."""

from __future__ import annotations

from dataclasses import replace
import json
import math

import numpy as np
import pytest

from etuner_ros.core.config import BudgetConfig, LazyTuneConfig
from etuner_ros.core.decide.budget import Budget
from etuner_ros.core.decide.energy import EnergyLog
from etuner_ros.core.decide.lazy_tune import LazyTune, Prospects
from etuner_ros.core.decide.round_kind import RoundKind
from etuner_ros.core.decide.scenario_log import ScenarioLog
from etuner_ros.core.errors import LearnerError
from etuner_ros.core.tune import batch_feed
from etuner_ros.core.tune.batch_feed import BatchFeed
from etuner_ros.core.tune.frame_features import FrameFeatures
from etuner_ros.core.tune.round_keeper import How, Proposal, RoundKeeper, State, Tried
from etuner_ros.core.tune.state_file import StateFile
from etuner_ros.worker.link import CREDIT, OPENING_S, STEADY_S, WorkerLink


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Kept:
    """A keeper whose worker is ready, and all that it says."""

    def __init__(self, budget: Budget | None = None) -> None:
        self.clock, self.told, self.ends = Clock(), [], []
        self.keeper = RoundKeeper(
            LazyTune(LazyTuneConfig()),
            budget or Budget(),
            ScenarioLog(),
            EnergyLog(None, self.clock),
            self.told.append,
            self.ends.append,
            15.0,
            self.clock,
        )
        self.keeper.on_loaded(0)

    def start(self) -> int:
        self.keeper.lazy.on_batch()
        started = self.keeper.start({'/c': 1})
        assert started is not None
        return started.number


def test_a_round_goes_from_its_start_to_the_version_that_it_made():
    kept = Kept()
    number = kept.start()
    kept.clock.now += 20
    assert kept.keeper.on_step(number, 1, 4)
    assert kept.keeper.progress == 0.25
    assert kept.keeper.on_proposal(number, Proposal('me/1/a', 0, accuracy=0.9))
    kept.clock.now += 3
    assert kept.keeper.on_verdict('me/1/a', True, 'good', 1)
    assert [(e.how, e.seconds, e.version) for e in kept.ends] == [(How.ACCEPTED, 20.0, 1)]
    assert kept.keeper.state is State.ACCEPTED
    kept.keeper.lazy.on_batch()
    assert kept.keeper.start({}) is None, 'from weights that are live no more'
    kept.keeper.on_loaded(1)
    assert kept.keeper.state is State.WAITING
    assert (kept.keeper.completed, kept.keeper.after) == (1, 0.9)


def test_where_rounds_are_switched_off_only_a_person_starts_one():
    kept = Kept()
    lazy, keeper = kept.keeper.lazy, kept.keeper
    lazy.configure(LazyTuneConfig(economy=0.5))
    lazy.on_batch(8)
    lazy.on_prospects(LOST)
    keeper.rounds = False
    assert keeper.start({}) is None
    assert 'rounds are switched off' in keeper.refusal()
    assert keeper.start_retreat({}) is not None, 'that takes rounds back'
    keeper.on_nothing(1)
    assert keeper.start({}, forced=True) is not None


def test_a_refused_round_has_the_worker_go_back():
    kept = Kept()
    kept.keeper.on_proposal(kept.start(), Proposal('me/1/a', 0))
    kept.keeper.on_verdict('me/1/a', False, 'worse', 0)
    assert kept.told == [{'op': 'go_back', 'again': False}]
    assert (kept.ends[0].how, kept.keeper.refused) == (How.REFUSED, 1)


@pytest.mark.parametrize('judged', [True, False])
def test_a_round_that_nobody_could_judge_does_not_count_as_refused(judged):
    kept = Kept()
    lazy = kept.keeper.lazy
    lazy.configure(LazyTuneConfig(economy=0.5))
    waits = Prospects(new=64, passes=1, tuned=False, gained=0, lost=0, compared=0)

    def labels_come() -> None:
        for _ in range(8):
            lazy.on_batch()
        lazy.on_prospects(waits)

    labels_come()
    assert kept.keeper.start({'/c': 8}) is not None, 'a trial'
    kept.keeper.on_proposal(1, Proposal('me/1/a', 0))
    kept.keeper.on_verdict('me/1/a', False, 'weights are pinned', 0, judged)
    assert kept.told == [{'op': 'go_back', 'again': not judged}], 'its labels are learned later'
    assert (kept.ends[0].how, kept.keeper.refused) == (
        (How.REFUSED, 1) if judged else (How.FAILED, 0)
    )
    labels_come()
    assert (kept.keeper.start({'/c': 16}) is None) == judged


@pytest.mark.parametrize('accepted', [True, False])
def test_what_was_found_before_and_after_a_round_is_of_the_weights_that_are_live(
    accepted: bool,
) -> None:
    kept = Kept()
    keeper = kept.keeper
    keeper.on_proposal(kept.start(), Proposal('me/1/a', 0, 8, accuracy=0.6, accuracy_before=0.5))
    assert not keeper.on_verdict('me/2/b', True, 'of another one', 9)
    assert keeper.on_verdict('me/1/a', accepted, 'said the gate', 1)
    assert (keeper.completed, keeper.before) == (1, 0.5)
    assert keeper.after == (0.6 if accepted else 0.5)
    assert (kept.ends[0].text, kept.ends[0].version) == ('said the gate', 1 if accepted else None)
    assert keeper.lazy.state_dict()['points'] == [[8.0, keeper.after]]


@pytest.mark.parametrize('accepted', [True, False])
def test_a_head_that_is_live_is_known_to_describe_frames_as_before(accepted: bool) -> None:
    kept = Kept()
    keeper, rng = kept.keeper, np.random.default_rng(0)
    for i in range(100):
        keeper.scenarios.on_request('front', i, rng.normal(5.0, 1.0, 32), 0)
    keeper.on_head(Proposal('me/head/a', 0))
    assert keeper.on_verdict('me/head/a', accepted, 'said the gate', 1)
    assert keeper.heads == accepted
    assert kept.told == ([] if accepted else [{'op': 'head_refused', 'again': False}])
    assert kept.ends == []
    frames = rng.normal(9.0, 1.0, (60, 32))
    found = [
        keeper.scenarios.on_request('front', 100 + i, x, int(accepted))
        for i, x in enumerate(frames)
    ]
    assert any(found), 'what changed is what is seen'


def test_how_a_round_has_moved_what_frames_look_like_is_no_change_of_surroundings() -> None:
    kept = Kept()
    keeper, rng = kept.keeper, np.random.default_rng(0)
    move = rng.normal(0.0, 0.6, 32)
    looks = np.square(rng.normal(5.0, 0.1, (200, 32)))
    found = [keeper.scenarios.on_request('front', i, x, 0) for i, x in enumerate(looks[:100])]
    keeper.on_proposal(kept.start(), Proposal('me/1/a', 0, move=tuple(move)))
    keeper.on_verdict('me/1/a', True, 'good', 1)
    for i, x in enumerate(looks[100:], 100):
        found.append(keeper.scenarios.on_request('front', i, np.square(np.sqrt(x) + move), 1))
    assert not any(found)


@pytest.mark.parametrize('first', ['weights', 'verdict'])
def test_a_round_ends_once_the_worker_has_its_version_or_a_later_one(first: str) -> None:
    kept = Kept()
    keeper = kept.keeper
    keeper.on_proposal(kept.start(), Proposal('me/1/a', 0))
    if first == 'weights':
        assert not keeper.on_loaded(5)
        assert keeper.state is State.PROPOSED, 'without its verdict it goes on'
        keeper.on_verdict('me/1/a', True, 'good', 5)
    else:
        keeper.on_verdict('me/1/a', True, 'good', 5)
        keeper.on_loaded(4)
        assert keeper.state is State.ACCEPTED, 'an older one was on its way'
        keeper.on_loaded(6)
    assert keeper.state is State.WAITING


def test_accepted_weights_have_their_time_from_the_verdict_on() -> None:
    kept = Kept()
    kept.keeper.on_proposal(kept.start(), Proposal('me/1/a', 0))
    kept.clock.now += 14
    kept.keeper.on_verdict('me/1/a', True, 'good', 1)
    kept.clock.now += 14
    assert kept.keeper.tick() == ''
    kept.clock.now += 2
    assert 'did not arrive' in kept.keeper.tick()
    assert kept.told == [{'op': 'go_back', 'again': False}]


def test_a_version_is_quantised_once_and_by_a_worker_that_says_it_could() -> None:
    kept = Kept()
    keeper = kept.keeper
    assert keeper.start_calibration({}) is None
    keeper.could_quantise = True
    made = keeper.start_calibration({'/c': 7})
    assert made is not None
    assert (made.kind, made.batches, made.cursors) == (RoundKind.CALIBRATE, 0, {'/c': 7})
    keeper.on_failed(made.number, 'no memory')
    assert keeper.start_calibration({}) is None, 'it would fail again'
    for lose in (lambda: keeper.on_down('killed'), keeper.on_starting):
        keeper.could_quantise = True
        lose()
        keeper.on_starting()
        keeper.on_loaded(0)
        assert keeper.start_calibration({}) is None, 'this worker has not said so'


@pytest.mark.parametrize('accepted', [True, False])
def test_a_round_that_only_quantised_says_nothing_of_those_that_train(accepted: bool) -> None:
    kept = Kept()
    keeper = kept.keeper
    keeper.lazy.on_batch()
    trained = keeper.start({'/c': 3}, True, 'abc')
    assert trained is not None
    keeper.on_proposal(trained.number, Proposal('me/1/a', 0, 8, 0.6, 0.5))
    keeper.on_verdict('me/1/a', False, 'worse', 0)
    before = (keeper.lazy.state_dict(), keeper.tried)
    keeper.could_quantise = True
    made = keeper.start_calibration({'/c': 2})
    assert made is not None
    keeper.on_proposal(made.number, Proposal('me/2/b', 0, 0, 0.9, 0.5))
    keeper.on_verdict('me/2/b', accepted, 'said the gate', 1)
    assert (keeper.lazy.state_dict(), keeper.tried) == before
    assert (keeper.completed, keeper.refused) == (2, 1 + (not accepted))


@pytest.mark.parametrize('accepted', [True, False])
def test_what_a_refused_round_learned_is_new_again_for_the_deployed_network(
    accepted: bool,
) -> None:
    kept = Kept()
    keeper = kept.keeper
    keeper.lazy.configure(LazyTuneConfig(economy=0.5))
    trained = keeper.start({'/c': 3}, True, 'abc')
    assert trained is not None
    keeper.on_proposal(trained.number, Proposal('me/1/a', 0))
    keeper.on_verdict('me/1/a', False, 'worse', 0)
    keeper.lazy.on_prospects(LOST)
    made = keeper.start_retreat({'/c': 2})
    assert made is not None
    keeper.on_proposal(made.number, Proposal('me/2/b', 0))
    keeper.on_verdict('me/2/b', accepted, 'said the gate', 1)
    assert keeper.tried == (Tried() if accepted else Tried('abc', {'/c': 3}))


LOST = Prospects(64, 480, True, compared=64, gained=0, lost=3, since_round=64)


@pytest.mark.parametrize('accepted', [True, False])
def test_a_retreat_that_was_judged_is_not_proposed_again(accepted):
    kept = Kept()
    lazy, keeper = kept.keeper.lazy, kept.keeper
    lazy.configure(LazyTuneConfig(economy=0.5))
    assert keeper.start_retreat({}) is None
    lazy.on_prospects(LOST)
    made = keeper.start_retreat({'/c': 7})
    assert made is not None
    assert (made.kind, made.batches, made.cursors) == (RoundKind.RETREAT, 0, {'/c': 7})
    assert 'won 0 and lost 3 of 64 labels' in keeper.note
    keeper.on_proposal(made.number, Proposal('me/1/a', 5))
    keeper.on_verdict('me/1/a', accepted, 'said the gate', 6)
    keeper.on_loaded(6)
    lazy.on_batch(8)
    lazy.on_prospects(replace(LOST, new=72, tuned=not accepted))
    assert keeper.start_retreat({}) is None, 'nothing new is known'
    assert keeper.start({'/c': 8}) is None
    assert lazy.state_dict()['retreated'] is accepted


@pytest.mark.parametrize('end', ['nothing', 'failed', 'cancelled', 'not judged'])
def test_a_retreat_that_nobody_judged_is_proposed_again_with_the_next_label(end):
    kept = Kept()
    lazy, keeper = kept.keeper.lazy, kept.keeper
    lazy.configure(LazyTuneConfig(economy=0.5))
    lazy.on_prospects(LOST)
    made = keeper.start_retreat({})
    assert made is not None
    if end == 'nothing':
        keeper.on_nothing(made.number)
    elif end == 'failed':
        keeper.on_failed(made.number, 'no memory')
    elif end == 'cancelled':
        keeper.cancel()
        keeper.on_stopped(made.number)
    else:
        keeper.on_proposal(made.number, Proposal('me/1/a', 5))
        keeper.on_verdict('me/1/a', False, 'the disk is full', 0, judged=False)
    assert keeper.state is State.WAITING
    assert 'no labelled sample' not in kept.ends[0].text, 'it looked for none'
    lazy.on_prospects(LOST)
    assert keeper.start_retreat({}) is None, 'it would end the same'
    lazy.on_prospects(replace(LOST, new=65))
    assert keeper.start_retreat({}) is not None


def test_while_weights_are_pinned_no_round_starts_by_itself():
    kept = Kept()
    kept.keeper.pinned = True
    kept.keeper.lazy.on_batch()
    assert kept.keeper.start({'/c': 1}) is None
    assert 'pinned' in kept.keeper.refusal()
    kept.keeper.pinned = False
    assert kept.keeper.start({'/c': 1}) is not None


def test_a_head_that_nobody_could_judge_is_offered_again():
    kept = Kept()
    for judged in (True, False):
        kept.keeper.on_head(Proposal('me/head/a', 0))
        kept.keeper.on_verdict('me/head/a', False, 'the disk is full', 0, judged)
    assert [m['again'] for m in kept.told] == [False, True]


def test_a_candidate_of_a_cancelled_round_is_never_proposed():
    kept = Kept()
    number = kept.start()
    assert kept.keeper.cancel() == number
    assert not kept.keeper.on_proposal(number, Proposal('me/1/a', 0))
    assert kept.told == [{'op': 'go_back', 'again': True}]
    assert kept.ends[0].how is How.CANCELLED
    assert not kept.keeper.on_verdict('me/1/a', True, 'good', 1)
    assert kept.keeper.lazy.waiting == 1, 'nothing was learned from it'


def test_what_an_earlier_round_says_late_is_not_taken_for_the_running_one():
    kept = Kept()
    first = kept.start()
    kept.keeper.on_stopped(first)
    second = kept.start()
    kept.keeper.on_stopped(first)
    kept.keeper.on_failed(first, 'late')
    assert not kept.keeper.on_proposal(first, Proposal('me/1/a', 0))
    assert (kept.keeper.state, len(kept.ends)) == (State.TUNING, 1)
    assert kept.keeper.cancel() == second


def test_a_candidate_that_is_on_its_way_can_not_be_cancelled():
    kept = Kept()
    kept.keeper.on_proposal(kept.start(), Proposal('me/1/a', 0))
    assert kept.keeper.cancel() is None


@pytest.mark.parametrize('how', ['cancelled', 'failed', 'worker lost', 'no verdict'])
def test_each_round_costs_the_budget_the_time_that_it_took(how):
    kept = Kept(Budget(BudgetConfig(seconds_per_hour=60)))
    keeper, number = kept.keeper, kept.start()
    kept.clock.now += 100
    if how == 'cancelled':
        keeper.on_stopped(number)
    elif how == 'failed':
        keeper.on_failed(number, 'out of memory')
    elif how == 'worker lost':
        keeper.on_down('killed')
        keeper.on_starting()
        keeper.on_loaded(0)
    else:
        keeper.on_proposal(number, Proposal('me/1/a', 0))
        kept.clock.now += 16
        assert 'no verdict' in keeper.tick()
    assert kept.ends[0].seconds == 100.0
    assert 'used up' in keeper.refusal()
    keeper.lazy.on_batch()
    assert keeper.start({}) is None


def test_a_head_without_a_verdict_is_given_up():
    kept = Kept()
    kept.keeper.on_head(Proposal('me/head/a', 0))
    assert kept.keeper.tick() == ''
    kept.clock.now += 16
    assert 'no verdict' in kept.keeper.tick()
    assert kept.told == [{'op': 'head_refused', 'again': True}]
    assert not kept.keeper.on_verdict('me/head/a', True, 'good', 1)


def test_accepted_weights_that_never_come_do_not_stop_rounds_for_ever():
    kept = Kept()
    kept.keeper.on_proposal(kept.start(), Proposal('me/1/a', 0))
    kept.keeper.on_verdict('me/1/a', True, 'good', 1)
    kept.clock.now += 16
    assert 'did not arrive' in kept.keeper.tick()
    kept.start()


def test_states_follow_one_table():
    kept = Kept()
    with pytest.raises(LearnerError, match='waiting, it can not be proposed'):
        kept.keeper._move(State.PROPOSED, '')


def test_what_was_learned_of_tuning_survives_a_restart(tmp_path):
    kept = Kept(Budget(BudgetConfig(seconds_per_hour=60)))
    number = kept.start()
    kept.clock.now += 100
    for _ in range(300):
        kept.keeper.scenarios.on_request('front', 1, [0.0, 1.0])
    kept.keeper.on_proposal(number, Proposal('me/1/a', 0, 10, accuracy=0.5))
    kept.keeper.on_verdict('me/1/a', True, 'good', 1)
    kept.keeper.lazy.on_batch(7)
    file = tmp_path / 'tuner.json'
    assert StateFile(file, lambda: kept.keeper.state_dict(5000.0), kept.clock).save() == ''
    again = Kept(Budget(BudgetConfig(seconds_per_hour=60)))
    loaded = StateFile(file, dict, kept.clock).load(
        lambda s: again.keeper.load_state_dict(s, 5000.0)
    )
    assert loaded == ''
    assert again.keeper.lazy.batches_needed == kept.keeper.lazy.batches_needed == 2
    assert again.keeper.lazy.waiting == 0, 'what no version has learned will come again'
    assert 'used up' in again.keeper.refusal()
    assert again.keeper.scenarios.current == {'front': 0}


def test_what_a_refused_round_learned_is_remembered_until_one_is_accepted(tmp_path):
    kept = Kept()
    for accepted, cursors in ((False, {'/c': 3}), (True, {})):
        kept.keeper.lazy.on_batch()
        number = kept.keeper.start({'/c': 3}, True, 'abc').number
        kept.keeper.on_proposal(number, Proposal('me/1/a', 0))
        kept.keeper.on_verdict('me/1/a', accepted, 'so', 1)
        kept.keeper.on_loaded(1)
        file, again = tmp_path / 'tuner.json', Kept()
        assert StateFile(file, lambda: kept.keeper.state_dict(0.0), kept.clock).save() == ''
        loaded = StateFile(file, dict, kept.clock).load(
            lambda s, again=again: again.keeper.load_state_dict(s, 0.0)
        )
        assert loaded == ''
        assert again.keeper.tried.cursors == cursors
        assert again.keeper.tried.backbone == ('' if accepted else 'abc')


@pytest.mark.parametrize('text', ['{', '[]', '{"scenarios": 3}', '{}', '[' * 100000])
def test_a_damaged_file_is_said_and_the_tuner_starts_anew(tmp_path, text):
    (tmp_path / 'tuner.json').write_text(text)
    kept = Kept()
    file = StateFile(tmp_path / 'tuner.json', lambda: kept.keeper.state_dict(0.0), kept.clock)
    said = file.load(lambda s: kept.keeper.load_state_dict(s, 0.0))
    assert 'tuner.json is damaged' in said
    kept.start()
    assert file.save() == ''
    assert json.loads((tmp_path / 'tuner.json').read_text())['lazy_tune']
    assert file.save_if_due() == ''


def test_a_folder_that_can_not_be_written_is_said(tmp_path):
    (tmp_path / 'taken').write_text('')
    assert 'could not be saved' in StateFile(tmp_path / 'taken' / 'a.json', dict).save()


# The feed


def fed(learned: dict[str, int] | None = None, room: int = 100) -> tuple[BatchFeed, Clock]:
    clock = Clock()
    feed = BatchFeed(clock)
    feed.restart(learned or {}, room)
    return feed, clock


def test_a_worker_gets_first_what_was_learned_then_what_was_not_and_rounds_wait():
    feed, _ = fed({'/c': 5})
    (ask,) = feed.asks(True)
    assert (ask.replay, ask.up_to, ask.count, ask.skip) == (True, 5, 100, 0)
    assert feed.asks(True) == [], 'one at a time'
    assert feed.on_replay(ask, 30, 50)
    assert feed.asks(False) == [], 'not before the worker took the last'
    (ask,) = feed.asks(True)
    assert ask.skip == 30
    assert feed.on_replay(ask, 20, 50)
    (ask,) = feed.asks(True)
    assert (ask.replay, ask.first) == (False, 6)
    assert feed.on_batches(ask, [6, 7], 8) == [6, 7]
    assert feed.behind == ['/c']
    (ask,) = feed.asks(True)
    assert feed.on_batches(ask, [8], 8) == [8]
    assert feed.behind == []
    assert feed.cursors == {'/c': 8}
    assert feed.on_batch('/c', 9, True)


def test_a_worker_is_told_what_was_in_a_refused_round_unless_the_store_is_another_one():
    feed, _ = fed()
    for newest, tried in ((8, [True, True, False]), (5, [False, False, False])):
        feed.restart({}, 100, {'/c': 6})
        feed.on_batch('/c', newest, True)
        (ask,) = feed.asks(True)
        assert feed.on_batches(ask, [1, 2], newest) == [1, 2]
        assert [feed.was_tried('/c', n) for n in (1, 6, 7)] == tried
        assert not feed.was_tried('/other', 1)
    feed.restart({}, 100, {'/c': 6})
    assert feed.on_batch('/c', 1, True), 'of a store that was begun anew'
    assert not feed.was_tried('/c', 1)


def test_a_lost_answer_is_asked_for_again():
    feed, clock = fed()
    assert not feed.on_batch('/c', 3, True)
    (lost,) = feed.asks(True)
    clock.now += batch_feed.ANSWER_TIMEOUT_S + 1
    assert feed.asks(True) == []
    clock.now += 2
    (again,) = feed.asks(True)
    assert again.first == 1
    assert feed.on_batches(lost, [1, 2], 3) == [], 'it comes too late'
    assert feed.on_batches(again, [1, 2, 3], 3) == [1, 2, 3]


def test_over_a_slow_link_an_answer_may_take_long():
    feed, clock = fed()
    feed.answer_timeout_s = batch_feed.SLOW_ANSWER_TIMEOUT_S
    feed.on_batch('/c', 3, True)
    (ask,) = feed.asks(True)
    clock.now += batch_feed.SLOW_ANSWER_TIMEOUT_S - 1
    assert feed.asks(True) == [], 'asked again, it would come twice'
    assert feed.on_batches(ask, [1], 3) == [1]


def test_a_batch_that_comes_while_the_worker_is_busy_is_asked_for_later():
    feed, _ = fed()
    feed.on_batch('/c', 1, True)
    assert not feed.on_batch('/c', 2, False)
    assert feed.asks(False) == []
    (ask,) = feed.asks(True)
    assert ask.first == 2


def test_a_collector_that_does_not_answer_keeps_rounds_waiting_for_seconds_only():
    feed, clock = fed({'/gone': 5})
    assert feed.behind == ['/gone']
    clock.now += batch_feed.PATIENCE_S + 1
    assert feed.behind == []


def test_names_of_collectors_that_never_answer_do_not_pile_up():
    feed, clock = fed()
    assert feed.on_batch('/real', 1, True)
    for number in range(600):
        feed.on_batch(f'/x{number}', 2, True)
        for ask in feed.asks(True):
            feed.on_failure(ask)
        clock.now += 0.1
    assert len(feed.collectors) <= batch_feed.MOST_COLLECTORS
    assert '/real' in feed.collectors
    for _ in range(10):
        clock.now += 100
        for ask in feed.asks(True):
            feed.on_failure(ask)
    assert feed.collectors == ['/real']


def test_without_a_replay_service_the_batches_come_all_the_same():
    """As of a robot of an older release: it answers, and that service is never there."""
    feed, clock = fed({'/c': 5})
    for _ in range(batch_feed.REPLAY_TRIES):
        clock.now += 100
        (ask,) = feed.asks(True)
        assert ask.replay
        feed.on_missing(ask)
        clock.now += 100
        (ask,) = feed.asks(True)
        assert (ask.replay, ask.first) == (False, 6), 'is it there at all?'
        taken = feed.on_batches(ask, [6], 7)
    assert taken == [6]
    assert [a.first for a in feed.asks(True)] == [7]


def test_a_replay_that_is_answered_by_errors_is_given_up():
    feed, clock = fed({'/c': 5})
    for _ in range(batch_feed.REPLAY_TRIES):
        (ask,) = feed.asks(True)
        assert ask.replay
        feed.on_failure(ask)
        clock.now += 100
    assert [a.first for a in feed.asks(True)] == [6]


@pytest.mark.parametrize('late_s', [0.5, 3.5, 20.0, 300.0])
@pytest.mark.parametrize('known', [True, False], ids=['it answered before', 'it never answered'])
def test_a_collector_that_starts_late_still_replays_what_was_learned(late_s, known):
    """Without it no head would be offered any more, until the next start of a worker."""
    feed, clock = fed({'/c': 5})
    if known:
        assert feed.on_replay(feed.asks(True)[0], 7, 7, 5)
        feed.restart({'/c': 5}, 100)
    there = clock.now + late_s
    while clock.now < there:
        for ask in feed.asks(True):
            feed.on_missing(ask)
        clock.now += 0.1
    feed.on_batch('/c', 5, True)  # that it has last is published at its start
    replayed = 0
    for _ in range(700):
        for ask in feed.asks(True):
            if ask.replay:
                assert feed.on_replay(ask, 7, 7, 5)
                replayed += 7
            else:
                assert feed.on_batches(ask, [], 5) == []
        clock.now += 0.1
    assert replayed == 7
    assert feed.complete


def test_no_batch_is_learned_before_the_replay_that_is_late():
    feed, clock = fed({'/c': 5})
    feed.on_missing(feed.asks(True)[0])
    clock.now += 2
    (ask,) = feed.asks(True)
    assert feed.on_batches(ask, [6], 6) == []
    (ask,) = feed.asks(True)
    assert feed.on_replay(ask, 7, 7, 6)
    (ask,) = feed.asks(True)
    assert feed.on_batches(ask, [6], 6) == [6]
    assert feed.complete


def test_batches_that_a_collector_has_no_more_are_not_waited_for():
    feed, _ = fed()
    feed.on_batch('/c', 9, True)
    (ask,) = feed.asks(True)
    feed.on_batches(ask, [], 9)
    assert feed.behind == []
    assert feed.on_batch('/c', 10, True)


@pytest.mark.parametrize('room', [0, 100])
@pytest.mark.parametrize('published', [True, False], ids=['while it runs', 'at its start'])
def test_a_label_store_that_was_begun_anew_is_learned_from_its_start(published, room):
    """It counts from 1, and the live version says that it has learned up to 120."""
    feed, _ = fed({'/c': 120}, room)
    if published:
        (ask,) = feed.asks(True)
        if room:
            assert feed.on_replay(ask, 9, 9, 120)
            (ask,) = feed.asks(True)
        assert feed.on_batches(ask, [], 120) == []
        assert feed.behind == []
        assert feed.learned({'/c': 120, '/d': 3}) == {'/c': 120, '/d': 3}
        assert not feed.on_batch('/c', 1, True)
    (ask,) = feed.asks(True)
    if ask.replay:
        assert not feed.on_replay(ask, 8, 8, 1), 'they are new, and no round would see them'
    else:
        assert feed.on_batches(ask, [], 1) == []
    (ask,) = feed.asks(True)
    assert (ask.replay, ask.first) == (False, 1)
    assert feed.on_batches(ask, [1], 1) == [1]
    assert feed.on_batch('/c', 2, True)
    assert feed.learned({'/c': 120, '/d': 3}) == {'/d': 3}, 'what was learned was of other labels'
    assert feed.learned({'/c': 2}) == {'/c': 2}, 'and this of these'
    assert feed.cursors == {'/c': 2}
    for number in range(3, 125):
        assert feed.on_batch('/c', number, True)
        assert feed.learned({'/c': 120}) == {}, 'also where the new store has come so far'


def test_what_waits_is_sent_as_new_only_as_far_as_the_worker_lets_it_wait():
    """Where rounds do not pay, all labels that there are wait."""
    feed, _ = fed(room=100)
    feed.on_batch('/c', 1000, True)
    (ask,) = feed.asks(True)
    assert feed.on_batches(ask, [1, 2], 1000, samples=10) == [], 'there is room for 10 batches'
    assert feed.cursors == {}, 'no round may say that it has learned them'
    (ask,) = feed.asks(True)
    assert (ask.replay, ask.up_to, ask.count, ask.skip) == (True, 990, 100, 0)
    assert not feed.complete
    assert feed.on_replay(ask, 100, 100)
    assert feed.behind == ['/c']
    new = []
    while feed.behind:
        (ask,) = feed.asks(True)
        ids = list(range(ask.first, min(ask.first + ask.limit, 1001)))
        new += feed.on_batches(ask, ids, 1000, samples=5 * len(ids))
    assert new == list(range(991, 1001))
    assert feed.complete
    assert feed.on_batch('/c', 1001, True)


def test_what_waits_is_sent_whole_where_it_can_not_be_replayed():
    feed, clock = fed({'/c': 5}, room=100)
    (ask,) = feed.asks(True)
    assert feed.on_replay(ask, 7, 7)
    (ask,) = feed.asks(True)
    assert feed.on_batches(ask, [6, 7], 1000, samples=10) == []
    for _ in range(batch_feed.REPLAY_TRIES):
        (ask,) = feed.asks(True)
        assert (ask.replay, ask.up_to, ask.skip) == (True, 990, 0)
        feed.on_failure(ask)
        clock.now += 100
    (ask,) = feed.asks(True)
    assert (ask.replay, ask.first) == (False, 6)
    assert feed.on_batches(ask, [6, 7], 1000, samples=10) == [6, 7]


def test_a_second_replay_says_what_the_worker_has_and_no_batch_of_it_comes_again():
    feed, clock = fed({'/c': 5}, room=100)
    (ask,) = feed.asks(True)
    assert (ask.up_to, ask.since) == (5, 0), 'a worker that starts has nothing'
    assert feed.on_replay(ask, 7, 7)
    (ask,) = feed.asks(True)
    assert feed.on_batches(ask, [6, 7], 1000, samples=10) == []
    (ask,) = feed.asks(True)
    assert (ask.up_to, ask.since) == (990, 5)
    assert feed.on_replay(ask, 50, 100)
    for _ in range(batch_feed.REPLAY_TRIES):
        (ask,) = feed.asks(True)
        assert (ask.up_to, ask.since, ask.skip) == (990, 5, 50)
        feed.on_failure(ask)
        clock.now += 100
    (ask,) = feed.asks(True)
    assert ask.first == 991, 'what was renamed up to there is renamed'


def test_what_a_worker_has_room_for_is_sent_as_it_is():
    feed, _ = fed(room=100)
    feed.on_batch('/c', 11, True)
    (ask,) = feed.asks(True)
    assert feed.on_batches(ask, [1, 2], 10, samples=10) == [1, 2]


def test_a_collector_is_not_let_go_while_it_is_the_worker_that_is_late():
    """Its head would be proposed from a part of the labels."""
    feed, clock = fed({'/c': 5})
    for _ in range(5):
        clock.now += batch_feed.PATIENCE_S - 1
        assert feed.asks(False) == []
        assert feed.behind == ['/c']
    (ask,) = feed.asks(True)
    clock.now += batch_feed.PATIENCE_S + 1
    feed.asks(False)
    assert feed.behind == [], 'now it was asked'
    assert not feed.on_replay(ask, 1, 1)


def test_a_batch_that_comes_while_something_was_asked_for_keeps_its_turn() -> None:
    feed, _ = fed({'/c': 5})
    assert not feed.on_batch('/c', 6, True), 'first what the live weights have learned'
    (ask,) = feed.asks(True)
    assert ask.replay
    assert not feed.on_batch('/c', 6, True)
    assert feed.on_replay(ask, 7, 7)
    (ask,) = feed.asks(True)
    assert not feed.on_batch('/c', 6, True), 'it is on its way already'
    assert feed.on_batches(ask, [6, 7], 7) == [6, 7]
    assert feed.on_batch('/c', 8, True)


def test_a_collector_that_answers_is_asked_again_soon_and_never_forgotten() -> None:
    feed, clock = fed()
    feed.on_batch('/c', 9, True)

    def fail(times: int) -> list[float]:
        """Return after how long it was asked each time."""
        waits = []
        for _ in range(times):
            began = clock.now
            while not (asks := feed.asks(True)) and clock.now < began + 100.0:
                clock.now += 1.0
            waits.append(clock.now - began)
            feed.on_failure(asks[0])
        return waits

    assert fail(3) == [0.0, 1.0, 2.0]
    clock.now += 100.0
    (ask,) = feed.asks(True)
    assert feed.on_batches(ask, [1, 2], 9) == [1, 2]
    assert fail(9) == [0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
    assert feed.collectors == ['/c']


# Features


def test_a_frame_without_a_label_waits_for_its_feature():
    clock = Clock()
    features = FrameFeatures(True, clock)
    assert features.wants_frame()
    features.put({'id': 'a'})
    assert not features.wants_frame()
    assert features.take() is None
    features.add('a', 'digest', b'12')
    assert features.take() == {'id': 'a', 'backbone': 'digest', 'feature': b'12'}
    assert features.take() is None
    clock.now += 1
    assert features.wants_frame()
    assert features.passed_on == 1


def test_where_no_feature_is_wanted_a_frame_without_a_label_waits_for_none() -> None:
    features = FrameFeatures(False, Clock())
    features.put({'id': 'a'})
    assert features.take() == {'id': 'a', 'backbone': '', 'feature': b''}
    features.add('b', 'digest', b'12')
    features.put({'id': 'b'})
    assert features.take() == {'id': 'b', 'backbone': 'digest', 'feature': b'12'}
    assert features.take() is None


# The link to the worker


class FakeWorker:
    def __init__(self) -> None:
        self.sent, self.closed = [], False

    def send(self, message: dict) -> None:
        self.sent.append(message)

    def close(self) -> None:
        self.closed = True


def linked() -> tuple[WorkerLink, list[FakeWorker], Clock]:
    clock, made = Clock(), []

    def start() -> FakeWorker:
        made.append(FakeWorker())
        return made[-1]

    def opening(base: str) -> dict:
        return {'op': 'open', 'path': base}

    link = WorkerLink(start, opening, timeout_s=60.0, delay_s=2.0, clock=clock)
    link.start('base')
    return link, made, clock


def opened(link: WorkerLink, worker: FakeWorker) -> None:
    """Have a worker open its base weights."""
    link.heard({'op': 'taken', 'serial': worker.sent.pop(0)['serial']})


def test_pictures_are_sent_as_fast_as_the_worker_takes_them():
    link, made, _ = linked()
    opened(link, made[0])
    sent = 0
    while link.has_credit:
        link.send({'op': 'samples', 'samples': [{'image': bytes(CREDIT // 4)}]})
        sent += 1
    assert sent == 4
    link.heard({'op': 'taken', 'serial': made[0].sent[0]['serial']})
    assert link.has_credit


def test_a_worker_that_owes_an_answer_and_is_silent_hangs():
    link, made, clock = linked()
    opened(link, made[0])
    clock.now += 1000
    assert not link.hangs, 'it has nothing to do'
    link.send({'op': 'round', 'id': 1})
    for _ in range(10):
        clock.now += 50
        link.heard({'op': 'progress'})
        assert not link.hangs
    clock.now += 61
    assert link.hangs
    link.died()
    assert made[0].closed
    assert not link.restart_if_due()
    clock.now += 3
    assert link.restart_if_due()
    assert made[1].sent[0]['path'] == 'base'


def test_a_worker_may_take_long_for_its_network_but_not_for_ever():
    link, _, clock = linked()
    clock.now += 600
    assert not link.hangs, 'weights may be on their way over a slow link'
    clock.now += OPENING_S
    assert link.hangs


def test_a_worker_that_can_not_be_started_is_started_later(monkeypatch):
    link, made, clock = linked()
    start, full = link._start, [True]

    def refuse() -> FakeWorker:
        if full:
            raise BlockingIOError('no process can be made')
        return start()

    link._start = refuse
    link.died()
    clock.now += 10
    with pytest.raises(OSError, match='no process'):
        link.restart_if_due()
    assert not link.restart_if_due(), 'not at once'
    full.clear()
    clock.now += 60
    assert link.restart_if_due()
    assert len(made) == 2


def test_a_worker_that_dies_again_and_again_is_started_less_and_less_often():
    link, _, clock = linked()
    waits = []
    for _ in range(7):
        link.died()
        began = clock.now
        while not link.restart_if_due():
            clock.now += 1
        waits.append(clock.now - began)
    assert waits == [2, 4, 8, 16, 32, 60, 60]
    link.heard({'op': 'model_loaded'})
    link.heard({'op': 'progress'})
    link.died()
    clock.now += 59
    assert not link.restart_if_due(), 'it may die in each round'
    clock.now += 1
    assert link.restart_if_due()
    link.heard({'op': 'candidate'})
    link.died()
    clock.now += 2
    assert link.restart_if_due()
    for _ in range(3):
        link.died()
        clock.now += 60
        assert link.restart_if_due()
    clock.now += STEADY_S + 1
    link.heard({'op': 'alive'})
    link.died()
    clock.now += 2
    assert link.restart_if_due(), 'it has lived long'


def test_nothing_is_sent_to_a_worker_that_is_not_there():
    link, made, _ = linked()
    opened(link, made[0])
    link.died()
    link.send({'op': 'round', 'id': 1})
    assert made[0].sent == []
    assert not link.has_credit
    assert not link.hangs
    assert math.isfinite(link.delay_s)
