# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""tools/env.sh in the shells of people."""

from __future__ import annotations

from pathlib import Path
import shutil
import subprocess

import pytest

SHELLS = {'bash': [], 'zsh': ['-f'], 'dash': []}  # and what keeps them from files of their own


@pytest.fixture
def tree(repository: Path, tmp_path: Path) -> Path:
    """Return a repository with a space in its path, as it is built."""
    root = tmp_path / 'a robot'
    (root / 'tools').mkdir(parents=True)
    shutil.copy(repository / 'tools' / 'env.sh', root / 'tools')
    mark = root / '.venv' / 'share' / 'ament_index' / 'resource_index' / 'packages' / 'rclpy'
    mark.parent.mkdir(parents=True)
    mark.touch()
    (root / 'install').mkdir()
    (root / 'install' / 'local_setup.bash').write_text('SETUP=bash\n')
    # That of colcon does not know where it lies, and expects words to be split.
    (root / 'install' / 'local_setup.sh').write_text(
        'words="1 2"; for word in $words; do SETUP="$SETUP$word"; done\n'
        'SETUP="$SETUP $COLCON_CURRENT_PREFIX"\n'
    )
    return root


@pytest.mark.parametrize('shell', SHELLS)
def test_it_finds_its_repository(tree, shell):
    found = shutil.which(shell)
    if found is None:
        pytest.skip(f'{shell} is not installed')
    # Only bash and zsh tell where a script lies.
    script, folder = (str(tree / 'tools' / 'env.sh'), '/')
    if shell == 'dash':
        script, folder = './tools/env.sh', str(tree)
    told = 'echo "${PATH%%:*}|$AMENT_PREFIX_PATH|$SETUP|$COLCON_CURRENT_PREFIX$_etuner_root"'
    done = subprocess.run(
        [found, *SHELLS[shell], '-c', f'. "{script}"; {told}'],
        cwd=folder,
        env={'PATH': '/usr/bin:/bin'},
        capture_output=True,
        text=True,
    )
    setup = 'bash' if shell == 'bash' else f'12 {tree}/install'
    assert done.stderr == ''
    assert done.stdout == f'{tree}/.venv/bin|{tree}/.venv|{setup}|\n'
