#!/usr/bin/env bash
# Build the package with colcon into install/. Quiet when all is well; the log is shown when it fails.
set -eo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# What an older build installed must not stay on the path while the next one is made.
source tools/env.sh
# A build for another ROS 2 is of no use.
if [ -d build ] && ! cmp -s .venv/.steps/ros build/.environment; then
    rm -rf build install
fi
# The environment with numpy's headers lies inside the repository, and CMake refuses to install targets that use headers from below their own
# source folder; so the package is built through a link that lies elsewhere.
mkdir -p build/src
ln -sfn ../.. build/src/etuner_ros
# The wheels of Jazzy (rclpy 7) have no rclcpp, so messages are made for Python alone; with others that was not tried.
python_alone=OFF
grep -qs '<version>7\.' .venv/share/rclpy/package.xml && python_alone=ON
began=$SECONDS
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if ! colcon build --symlink-install --base-paths build/src --event-handlers console_cohesion+ \
    --cmake-args "-DETUNER_MESSAGES_FOR_PYTHON=$python_alone" -DPython3_EXECUTABLE="$(command -v python3)" -DBUILD_TESTING=OFF -Wno-dev "$@" >"$log" 2>&1; then
    cat "$log"
    echo "etuner_ros: the build failed; the messages above say where." >&2
    exit 1
fi
find install -xtype l -delete  # links to files that were moved or deleted since the last build
cp .venv/.steps/ros build/.environment
echo "built in $((SECONDS - began)) s"
