# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Rounds, from the decision to start one to its end; what each took is charged to the budget.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
import math
import time
from typing import Any

from etuner_ros.core.decide.budget import Budget
from etuner_ros.core.decide.energy import EnergyLog
from etuner_ros.core.decide.lazy_tune import LazyTune
from etuner_ros.core.decide.round_kind import RoundKind
from etuner_ros.core.decide.scenario_log import ScenarioLog
from etuner_ros.core.decide.state import Saved
from etuner_ros.core.errors import LearnerError

NO_VERDICT = 'no verdict: is model_manager running?'


class State(Enum):
    """What the tuner is doing."""

    STARTING = 'starting'  # the worker loads the model
    WAITING = 'waiting'  # for labels
    TUNING = 'tuning'  # a round runs
    PROPOSED = 'proposed'  # its candidate waits for its verdict
    ACCEPTED = 'accepted'  # but the worker does not have the new version yet
    DOWN = 'down'  # the worker is gone


_LOST = {State.STARTING, State.DOWN}  # what a restart of the worker makes of any state
_MOVES: dict[State, set[State]] = {
    State.STARTING: {State.WAITING, *_LOST},
    State.WAITING: {State.TUNING, *_LOST},
    State.TUNING: {State.PROPOSED, State.WAITING, *_LOST},
    State.PROPOSED: {State.ACCEPTED, State.WAITING, *_LOST},
    # A round that started before the new version is there would be refused as stale.
    State.ACCEPTED: {State.WAITING, *_LOST},
    State.DOWN: _LOST,
}


class How(Enum):
    """How a round ended."""

    ACCEPTED = 'accepted'
    REFUSED = 'refused'
    CANCELLED = 'cancelled'
    FAILED = 'failed'
    NOTHING = 'nothing to learn'


@dataclass(frozen=True)
class End:
    """What became of a round."""

    how: How
    text: str
    seconds: float  # that it worked
    version: int | None = None  # that it made


@dataclass(frozen=True)
class Proposal:
    """What is remembered of a candidate until its verdict."""

    candidate_id: str
    parent: int
    iterations: int = 0
    accuracy: float = math.nan
    accuracy_before: float = math.nan
    move: Sequence[float] = ()  # of the appearance


@dataclass
class Round:
    """The round that runs, or whose candidate waits."""

    number: int
    batches: int
    cursors: dict[str, int]
    began: float
    seconds: float | None = None  # that it worked, once it does no more
    cancelled: bool = False
    kind: RoundKind = RoundKind.TRAIN
    proposal: Proposal | None = None
    backbone: str = ''  # that it started from


@dataclass(frozen=True)
class Tried:
    """What the last round learned that the gate refused; trying the same again costs the same."""

    backbone: str = ''  # that is live since then, by its digest
    cursors: Mapping[str, int] = field(default_factory=dict)  # by collector, the last batch

    @classmethod
    def read(cls, state: Any) -> Tried:
        """
        Return what was saved.

        :raises StateError: naming what is wrong
        """
        saved = Saved('the refused round', state)
        names = saved.get('cursors')
        cursors = Saved('the refused round', names)
        return cls(str(saved.get('backbone')), {str(name): cursors.whole(name) for name in names})


class RoundKeeper:
    """
    Keeps the one round that may run, and the one head that may wait for its verdict.

    :param tell: sends a message to the worker
    :param ended: called at the end of each round
    :param clock: monotonic time in s
    """

    def __init__(
        self,
        lazy: LazyTune,
        budget: Budget,
        scenarios: ScenarioLog,
        energy: EnergyLog,
        tell: Callable[[dict[str, Any]], None],
        ended: Callable[[End], None],
        verdict_timeout_s: float = 15.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.lazy, self.budget, self.scenarios, self.energy = lazy, budget, scenarios, energy
        self._tell, self._ended, self._clock = tell, ended, clock
        self.verdict_timeout_s = verdict_timeout_s
        self.state, self.note = State.STARTING, 'the worker loads the model'
        self.round: Round | None = None
        self.could_quantise = False  # what is live, says the worker
        self.pinned = False  # no version could go live, said the last verdict
        self.rounds = True  # whether any start by themselves
        # Labels that were compared, and of these won and lost by rounds; see `Prospects`.
        self.standing = (0, 0, 0)
        self.started = self.completed = self.refused = self.heads = 0
        self.progress = self.last_round_s = self.tuning_s = 0.0
        self.before = self.after = math.nan
        self._head: Proposal | None = None
        self._head_sent = self._sent = 0.0
        self._awaited: int | None = None  # version that was accepted
        self._loaded = -1  # version that the worker has
        self.tried = Tried()

    def _move(self, state: State, note: str) -> None:
        if state not in _MOVES[self.state] and state is not self.state:
            raise LearnerError(
                f'the tuner is {self.state.value}, it can not be {state.value} next'
            )
        self.state, self.note = state, note

    # The worker

    @property
    def ready(self) -> bool:
        """Whether the worker has the live weights."""
        return self.state not in _LOST

    def on_starting(self, note: str = 'the worker loads the model') -> None:
        """The worker was started, or waits for weights; it has learned nothing yet."""
        self._lose(How.FAILED, 'the worker is started anew')
        self._move(State.STARTING, note)

    def on_down(self, note: str) -> None:
        """The worker is gone; all that no version has learned will be sent to the next one."""
        self._lose(How.FAILED, note)
        self._move(State.DOWN, note)

    def _lose(self, how: How, text: str) -> None:
        running, self._awaited, self._head, self._loaded = self.round, None, None, -1
        self.could_quantise = False
        if running is not None:
            self._end(how, text)
        self.lazy.forget_waiting()

    def on_loaded(self, version: int) -> bool:
        """The worker has a version; return whether it was not ready before."""
        self._loaded = version
        was_ready = self.ready
        if not was_ready or (self._awaited is not None and version >= self._awaited):
            self._awaited = None
            self._move(State.WAITING, self.lazy.reason)
        return not was_ready

    # A round

    def refusal(self, trains: bool = True) -> str:
        """
        Return why no round may start by itself now, apart from LazyTune; nothing when it may.

        :param trains: one that trains, not one that calibrates or takes others back
        """
        if trains and not self.rounds:
            return 'rounds are switched off: the instant head alone learns (parameter rounds)'
        if self.pinned:
            return 'weights are pinned: model_manager is not active'
        return self.budget.refusal(self._clock())

    def start(
        self, cursors: Mapping[str, int], forced: bool = False, backbone: str = ''
    ) -> Round | None:
        """
        Start a round when it pays, or when it is forced.

        :param cursors: by collector, the last batch that the worker has
        :param backbone: digest of the backbone that is live
        :return: the round; None when none starts
        """
        if self.state is not State.WAITING or not (forced or self.lazy.should_tune):
            return None
        if not forced and self.refusal():
            return None
        self.started += 1
        batches = self.lazy.on_round_start()
        self.round = Round(self.started, batches, dict(cursors), self._clock(), backbone=backbone)
        self.progress = 0.0
        self.energy.begin()
        self._move(State.TUNING, f'round {self.started} on {batches} batches')
        return self.round

    def start_calibration(self, cursors: Mapping[str, int]) -> Round | None:
        """
        Start a round that trains nothing and quantises what is live, when the worker could do it.

        :param cursors: by collector, the last batch that the live version has learned
        :return: the round; None when none starts
        """
        if self.state is not State.WAITING or not self.could_quantise:
            return None
        if self.refusal(trains=False):
            return None
        self.could_quantise = False
        return self._start_without_training(
            RoundKind.CALIBRATE, cursors, 'quantises the live version'
        )

    def start_retreat(self, cursors: Mapping[str, int]) -> Round | None:
        """
        Start a round that trains nothing and puts the deployed network back, when LazyTune wants
        it.

        :param cursors: by collector, the last batch that the live version has learned
        :return: the round; None when none starts
        """
        if self.state is not State.WAITING or not self.lazy.wants_retreat:
            return None
        if self.refusal(trains=False):
            return None
        self.lazy.on_retreat_start()
        return self._start_without_training(
            RoundKind.RETREAT, cursors, f'takes rounds back: {self.lazy.brought}'
        )

    def _start_without_training(
        self, kind: RoundKind, cursors: Mapping[str, int], what: str
    ) -> Round:
        self.started += 1
        self.round = Round(self.started, 0, dict(cursors), self._clock(), kind=kind)
        self.progress = 0.0
        self.energy.begin()
        self._move(State.TUNING, f'round {self.started} {what}')
        return self.round

    def on_step(self, number: int, iteration: int, total: int) -> bool:
        """Note a training batch; return whether it is of the running round."""
        if self._running(number) is None:
            return False
        self.progress = iteration / total
        return True

    def cancel(self) -> int | None:
        """
        Cancel the running round.

        :return: its number, for the worker; None when none runs, or its candidate is on its way
        """
        if self.state is not State.TUNING or self.round is None:
            return None
        self.round.cancelled = True
        return self.round.number

    def on_proposal(self, number: int, proposal: Proposal) -> bool:
        """
        Take the candidate of a round.

        :return: whether it is to be published: one of a cancelled round is given up
        """
        running = self._running(number)
        if running is None or running.cancelled:
            self._tell({'op': 'go_back', 'again': True})
            if running is not None:
                self.on_stopped(number)
            return False
        self._charge(running)
        running.proposal, self._sent = proposal, self._clock()
        self._move(State.PROPOSED, f'round {number} waits for its verdict')
        return True

    def on_stopped(self, number: int) -> None:
        """A round was cancelled: what it took waits again."""
        running = self._running(number)
        if running is not None:
            self.lazy.on_round_failed(running.batches)
            self._end(How.CANCELLED, 'cancelled')

    def on_failed(self, number: int, text: str) -> None:
        """
        A round failed.

        Its samples wait in the worker and are learned with the next batch; trying the same again
        at once would fail the same.
        """
        if self._running(number) is not None:
            self._end(How.FAILED, text)

    def on_nothing(self, number: int) -> None:
        """A round found no sample to learn, or nothing else to make."""
        running = self._running(number)
        if running is not None:
            trains = running.kind is RoundKind.TRAIN
            text = 'no labelled sample waits' if trains else 'there is nothing to make now'
            self._end(How.NOTHING, text)

    def on_head(self, proposal: Proposal) -> None:
        """A head is proposed; what rounds have learned stays as it is."""
        self._head, self._head_sent = proposal, self._clock()

    def on_verdict(
        self, candidate_id: str, accepted: bool, reason: str, version: int, judged: bool = True
    ) -> bool:
        """
        Take a verdict; return whether it is of a candidate that waits here.

        :param judged: by the gate; not where nothing could go live, whatever it was: weights are
            pinned, the disk is full, somebody has swapped meanwhile
        """
        head, running = self._head, self.round
        if head is not None and candidate_id == head.candidate_id:
            self._head = None
            self.heads += accepted
            if accepted:
                self.scenarios.on_version(version, head.parent, ())
            else:
                self._tell({'op': 'head_refused', 'again': not judged})
            return True
        proposal = running.proposal if running is not None else None
        if running is None or proposal is None or candidate_id != proposal.candidate_id:
            return False
        self.completed += 1
        self.before = proposal.accuracy_before
        self.after = proposal.accuracy if accepted else proposal.accuracy_before
        if judged and running.kind is RoundKind.RETREAT:
            self.lazy.on_retreat_end(accepted)
            self.tried = Tried() if accepted else self.tried
        if judged and running.kind is RoundKind.TRAIN:
            self.lazy.on_round_end(proposal.iterations, self.after, accepted)
            self.tried = Tried() if accepted else Tried(running.backbone, running.cursors)
        if accepted:
            self.scenarios.on_version(version, proposal.parent, proposal.move)
            self._awaited = version if self._loaded < version else None
            self._sent = self._clock()
            self._end(How.ACCEPTED, reason, version)
        else:
            self.refused += judged
            self._tell({'op': 'go_back', 'again': not judged})
            self._end(How.REFUSED if judged else How.FAILED, reason)
        return True

    def on_fetching(self) -> None:
        """A piece of the candidate that waits is on its way: its verdict has time again."""
        if self.state is State.PROPOSED:
            self._sent = self._clock()

    def tick(self) -> str:
        """Look at what waits too long; return what is wrong, or nothing."""
        now = self._clock()
        if self._head is not None and now - self._head_sent > self.verdict_timeout_s:
            self._head = None
            self._tell({'op': 'head_refused', 'again': True})
            return f'a head got {NO_VERDICT}'
        if now - self._sent <= self.verdict_timeout_s:
            return ''
        if self.state is State.PROPOSED:
            self._tell({'op': 'go_back', 'again': True})
            self._end(How.FAILED, NO_VERDICT)
            return NO_VERDICT
        if self.state is State.ACCEPTED:
            self._awaited = None
            self._tell({'op': 'go_back', 'again': False})
            self._move(State.WAITING, self.lazy.reason)
            return 'the accepted weights did not arrive on model'
        return ''

    def _running(self, number: int) -> Round | None:
        """Return the round that runs, if it has this number: others are history."""
        ours = self.round is not None and self.round.number == number
        return self.round if ours and self.state is State.TUNING else None

    def _charge(self, running: Round) -> float:
        """Charge the budget with a round that works no more; return its seconds."""
        if running.seconds is None:
            now = self._clock()
            running.seconds = now - running.began
            self.budget.on_round(now, running.seconds, self.energy.end(running.seconds))
        return running.seconds

    def _end(self, how: How, text: str, version: int | None = None) -> None:
        assert self.round is not None
        seconds, self.round = self._charge(self.round), None
        self.last_round_s, self.tuning_s = seconds, self.tuning_s + seconds
        awaited = how is How.ACCEPTED and self._awaited is not None
        self._move(State.ACCEPTED if awaited else State.WAITING, text)
        self._ended(End(how, text, seconds, version))

    # All that outlives the process

    def state_dict(self, wall: float) -> dict[str, Any]:
        """
        Return what is to outlive the tuner, as plain values.

        :param wall: time of day in s
        """
        return {
            'lazy_tune': self.lazy.state_dict(),
            'budget': self.budget.state_dict(self._clock(), wall),
            'scenarios': self.scenarios.state_dict(),
            'tried': {'backbone': self.tried.backbone, 'cursors': dict(self.tried.cursors)},
        }

    def load_state_dict(self, state: Mapping[str, Any], wall: float) -> None:
        """
        Continue from `state_dict` of an earlier run.

        :raises StateError: naming what is wrong; the decisions before it are loaded
        """
        self.scenarios.load_state_dict(state.get('scenarios', {}))
        self.budget.load_state_dict(state.get('budget', {}), self._clock(), wall)
        self.lazy.load_state_dict(state.get('lazy_tune', {}))
        saved = state.get('tried')
        if saved is not None:  # earlier versions did not note it
            self.tried = Tried.read(saved)
        self.lazy.forget_waiting()
