# Source this to get the built package and its ROS 2 on the path:  source tools/env.sh
# Works with a sourced ROS 2 and with the wheels in .venv alike, in bash and zsh; in a plain sh from the root of the repository (`. tools/env.sh`).
# What one shell knows ends another one where it is read; so it stands in quotes.
if [ -n "${ZSH_VERSION:-}" ]; then
    eval '_etuner_root="${(%):-%x}"'
elif [ -n "${BASH_VERSION:-}" ]; then
    eval '_etuner_root="${BASH_SOURCE[0]}"'
else
    _etuner_root=tools/env.sh
    [ -f "$_etuner_root" ] || echo "etuner_ros: source tools/env.sh in the root of the repository" >&2
fi
_etuner_root="$(cd "$(dirname "$_etuner_root")/.." >/dev/null && pwd)"
export PATH="$_etuner_root/.venv/bin:$PATH"
if [ -f "$_etuner_root/.venv/share/ament_index/resource_index/packages/rclpy" ]; then
    export AMENT_PREFIX_PATH="$_etuner_root/.venv" CMAKE_PREFIX_PATH="$_etuner_root/.venv"
    unset PYTHONPATH COLCON_PREFIX_PATH
fi
if [ -f "$_etuner_root/install/local_setup.bash" ]; then
    if [ -n "${BASH_VERSION:-}" ]; then
        # shellcheck source=/dev/null
        . "$_etuner_root/install/local_setup.bash"
    else  # colcon writes no script for zsh here
        COLCON_CURRENT_PREFIX="$_etuner_root/install"
        if [ -n "${ZSH_VERSION:-}" ]; then
            emulate sh -c '. "$_etuner_root/install/local_setup.sh"'
        else
            . "$_etuner_root/install/local_setup.sh"
        fi
        unset COLCON_CURRENT_PREFIX
    fi
fi
unset _etuner_root
