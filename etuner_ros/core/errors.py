# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What can go wrong, in words that say what to do."""


class EtunerError(Exception):
    """Base of all errors that etuner_ros raises on purpose."""


class ConfigError(EtunerError):
    """A setting is out of its range or contradicts another one."""


class StateError(EtunerError):
    """What a decision had saved is damaged, or of a release that saved something else."""


class ImageError(EtunerError):
    """An image can't be read: wrong encoding, zero size, short buffer, damaged file."""


class WeightsError(EtunerError):
    """Weights are missing, damaged, or of another architecture."""


class StoreError(EtunerError):
    """A store on disk can't be opened or written."""


class MessageError(EtunerError):
    """A received message can't be used."""


class LearnerError(EtunerError):
    """The learner was asked for something that its state does not allow."""


class EngineError(EtunerError):
    """An engine can't serve: not installed, a network that it can't take, a damaged graph."""
