# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What each message does to the learner."""

from __future__ import annotations

from collections.abc import Callable
import os
from pathlib import Path
from typing import Any

from etuner_ros.core.config import HeadConfig, SimFreezeConfig, TrainConfig
from etuner_ros.core.errors import EtunerError, LearnerError
from etuner_ros.core.identity import Scenario
from etuner_ros.core.learn.phase import Phase
from etuner_ros.core.serve.devices import engines_for
from etuner_ros.core.serve.engines import Engines, EngineSettings

Message = dict[str, Any]


class Commands:
    """
    Does what messages say; `do` is for all but rounds, which the loop drives.

    :param reply: sends a message to the node
    :param alive: called now and then in what takes long
    """

    def __init__(self, reply: Callable[..., None], alive: Callable[[], None]) -> None:
        self._reply, self._alive = reply, alive
        self._configs = (TrainConfig(), SimFreezeConfig(), HeadConfig())
        self._engine = EngineSettings(engine='torch')
        self._engines: Engines | None = None
        self._told = ''  # why nothing is quantised
        self._learner: Any = None
        self._base_sha256 = ''
        self._base: Any = {}  # tensors of the base weights, by name
        self._backbone: tuple[str, Any] = '', {}  # of the weights told last: digest and tensors
        self.knows_labels = False  # all labels that there are have come
        self._untold = False  # what a round would find has changed

    @property
    def ready(self) -> bool:
        """Whether base weights are loaded."""
        return self._learner is not None

    @property
    def learner(self) -> Any:
        """
        The learner.

        :raises LearnerError: before base weights are loaded
        """
        if self._learner is None:
            raise LearnerError('no base weights are loaded')
        return self._learner

    @property
    def head_interval_s(self) -> float:
        """Least time between two updates of the head."""
        return self._configs[2].interval_s

    def do(self, message: Message) -> None:
        """
        Work off a message.

        :raises EtunerError: in words for the user; anything else is a defect
        """
        self._untold |= message['op'] != 'unlabelled'
        getattr(self, f'_on_{message["op"]}')(message)

    def _on_configure(self, message: Message) -> None:
        self._configs = (
            TrainConfig(**message['train']),
            SimFreezeConfig(**message['sim_freeze']),
            HeadConfig(**message['head']),
        )
        self._engine = EngineSettings(**message['engine'])
        os.nice(self._configs[0].niceness)

    def _on_open(self, message: Message) -> None:
        """Load base weights: those of a file, or those that the model settings name."""
        import torch

        from etuner_ros.core.identity import DEPLOYED
        from etuner_ros.core.images.codec import decode, resize_square
        from etuner_ros.core.learn.learner import Learner
        from etuner_ros.core.learn.sample import Sample
        from etuner_ros.core.models.base_weights import prepare
        from etuner_ros.core.models.networks import choose_device, forward_shares, from_base
        from etuner_ros.core.models.weights import read_base
        from etuner_ros.worker.idle_compiler import leave_compiler_out

        leave_compiler_out()
        train, sim_freeze, head = self._configs
        torch.set_num_threads(train.threads)
        torch.manual_seed(train.seed)
        path = message['path'] or prepare(
            message['architecture'], message['input_size'], message['weights']
        )
        base = read_base(Path(path))
        device = choose_device(train.device)
        model = from_base(base.state, base.spec).to(device)
        if self._engines is not None:
            self._engines.close()
        # Where a GPU serves, torch does it, unless 8 bit are asked for.
        precision = self._engine.precision
        fits = precision == 'int8' or (device.type == 'cpu' and precision != 'fp16')
        self._engines = engines_for(self._engine, 'cpu', train.threads) if fits else None
        learner = Learner(
            model,
            train,
            sim_freeze,
            head,
            base_sha256=base.sha256,
            engines=self._engines,
            alive=self._alive,
        )
        size = base.spec.input_size
        learner.add_exemplars(
            [
                Sample.of(f'deployed/{i}', label, DEPLOYED, resize_square(decode(code), size))
                for i, (label, code) in enumerate(base.exemplars)
            ]
        )
        self._learner = learner
        self._base_sha256, self._base = base.sha256, base.state
        self._backbone = learner.backbone, {}
        self._reply(
            op='ready',
            base_sha256=base.sha256,
            architecture=base.spec.architecture,
            input_size=size,
            units=learner.live.unit_names,
            forward_shares=forward_shares(learner.live),
        )

    def _on_model(self, message: Message) -> None:
        from etuner_ros.core.models.weights import backbone_digest, unpack

        name = message['backbone_sha256']
        if name != self._backbone[0]:  # else it is not sent again
            tensors = unpack(self._inflated(message['backbone']))
            if backbone_digest(self._base_sha256, tensors) != name:
                raise LearnerError('the backbone of the live weights is missing or damaged')
            self._backbone = name, tensors
        update = {**self._backbone[1], **unpack(message['weights'])}
        self.learner.set_live(update, tuple(message['classes']), message['version'])
        self._reply(op='model_loaded', version=message['version'])

    def _inflated(self, data: bytes) -> bytes:
        """Return safetensors bytes of what may have come deflated."""
        from etuner_ros.core.models.deflate import inflated, is_deflated

        if not is_deflated(data):
            return data
        return bytes(inflated(bytearray(data), self._base))

    def is_head_only(self, message: Message) -> bool:
        """Return whether a `model` message changes nothing but the head."""
        from etuner_ros.core.models.weights import unpack

        name, tensors = self._backbone
        if message['backbone_sha256'] != name:
            return False
        return bool(self.learner.is_head_only({**tensors, **unpack(message['weights'])}))

    def _on_caught_up(self, message: Message) -> None:
        """
        Note whether all labels that there are have come.

        Until then the head has seen a part of what the live one was made from.
        """
        self.knows_labels = message['value']
        if self._learner is not None:
            self._learner.knows_all_labels = message['complete']

    def _on_go_back(self, message: Message) -> None:
        self.learner.go_back(learn_again=message.get('again', False))

    def _on_correction(self, message: Message) -> None:
        """Learn a correction from the feature of its frame; its picture comes with a batch."""
        scenario = Scenario(*message['scenario'])
        feature = _feature(message['feature'])
        backbone = message['backbone']
        self.learner.correct(
            message['id'],
            message['label'],
            feature,
            backbone,
            scenario,
            message.get('thing', False),
        )

    def _on_withdraw(self, message: Message) -> None:
        self.learner.withdraw(message['ids'])

    def _on_head_refused(self, message: Message) -> None:
        """Offer it anew where it was not judged; the loop waits a while before it does."""
        if message.get('again') and self._learner is not None:
            self._learner.head.is_new = True

    def _on_samples(self, message: Message) -> None:
        for label, new_label in message['renamed']:
            self.learner.rename(label, new_label)
        self.learner.withdraw(message['withdrawn'])
        samples = []
        for raw in message['samples']:
            try:
                samples.append(self._sample(raw))
            except EtunerError as error:
                text = f'sample {raw["id"]} is left out: {error}'
                self._reply(op='error', during='samples', text=text)
        self.learner.add_samples(samples, message['new'])

    def _sample(self, raw: Message) -> Any:
        from etuner_ros.core.images.codec import decode, resize_square
        from etuner_ros.core.learn.sample import Sample

        image = resize_square(decode(raw['image']), self.learner.input_size)
        scenario = Scenario(*raw['scenario'])
        return Sample.of(
            raw['id'], raw['label'], scenario, image, raw['predicted'], raw.get('thing', False)
        )

    def _on_unlabelled(self, message: Message) -> None:
        """Take a frame that nobody labelled, with its feature where that is known."""
        sample = self._sample({**message, 'label': '', 'predicted': ''})
        known = {sample.sample_id: _feature(message['feature'])} if message['feature'] else {}
        self.learner.add_unlabelled([sample], known, message['backbone'])

    def _on_scenarios(self, message: Message) -> None:
        self.learner.set_scenarios(dict(message['scenarios']))

    def _on_layers(self, message: Message) -> None:
        self.learner.sim_freeze.set_layers(message['frozen'], message['pinned'])

    def propose_head(self) -> bool:
        """Send the instant head as a candidate when it has learned something; say whether."""
        head = self.learner.propose_head()
        if head is not None:
            self._reply_candidate('head', 0, head, head.weights)
        return head is not None

    def on_news(self) -> None:
        """Note that what a round would find is to be told again."""
        self._untold = True

    def tell_prospects(self) -> None:
        """Tell what a round would take, and what rounds have brought, when that is new."""
        if not self._untold or not self.ready or self.learner.phase is not Phase.IDLE:
            return
        self._untold = False
        self._reply(op='prospects', **vars(self.learner.weigh_rounds()))

    def propose_round(self, number: int, candidate: Any, deflate: bool) -> None:
        """
        Send what a round has made.

        :param deflate: also made smaller, for a slow link
        """
        from etuner_ros.core.models.deflate import deflated
        from etuner_ros.core.models.weights import pack

        small = b''
        if deflate:
            small = deflated(pack(candidate.update), self._base)
        self._reply_candidate('candidate', number, candidate, candidate.update, deflated=small)
        self.tell_why_not()

    def tell_why_not(self) -> None:
        """Tell why nothing is quantised, when that is new."""
        quantiser = self.learner.quantiser
        why = quantiser.why_not if quantiser is not None else ''
        if why != self._told:
            self._told = why
            self._reply(op='engine', text=why)

    def _reply_candidate(self, op: str, number: int, made: Any, weights: Any, **more: Any) -> None:
        from etuner_ros.core.models.weights import pack

        apart = ('update', 'weights', 'live_update', 'outcomes')
        facts = {k: v for k, v in vars(made).items() if k not in apart}
        outcomes = [list(vars(o).values()) for o in made.outcomes]
        self._reply(op=op, id=number, weights=pack(weights), outcomes=outcomes, **facts, **more)


def _feature(data: bytes) -> Any:
    import torch

    return torch.frombuffer(bytearray(data), dtype=torch.float16).float()
