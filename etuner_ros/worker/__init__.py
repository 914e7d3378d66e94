# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
The tuner's worker process: trains where no node is disturbed, and can be cancelled, crash or be
killed at any moment.

The two ends talk over a socket pair in msgpack; nothing is pickled. `client` and `link` are the
node's end, `loop` and `commands` the process's. A message with a `serial` is answered by `taken`
once it was worked off; when the parent goes away, the process ends.
"""
