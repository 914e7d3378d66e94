# Source this to get the built package and its ROS 2 on the path:  source tools/env.sh
# Works with a sourced ROS 2 and with the wheels in .venv alike.
_etuner_root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
export PATH="$_etuner_root/.venv/bin:$PATH"
if [ -f "$_etuner_root/.venv/share/ament_index/resource_index/packages/rclpy" ]; then
    export AMENT_PREFIX_PATH="$_etuner_root/.venv" CMAKE_PREFIX_PATH="$_etuner_root/.venv"
    unset PYTHONPATH COLCON_PREFIX_PATH
fi
if [ -f "$_etuner_root/install/local_setup.bash" ]; then
    # shellcheck source=/dev/null
    source "$_etuner_root/install/local_setup.bash"
fi
unset _etuner_root
