# Untried: this file was written where no container could be built.
# x86:    docker build -t etuner_ros .
# Jetson: docker build -t etuner_ros --build-arg BASE=<a JetPack image with ROS 2 and NVIDIA's torch> .
ARG BASE=ros:jazzy-ros-base
FROM ${BASE}
SHELL ["/bin/bash", "-c"]
RUN apt-get update && apt-get install -y --no-install-recommends python3-pip python3-venv && rm -rf /var/lib/apt/lists/*
WORKDIR /ws
COPY . src/etuner_ros
# The image is ours alone; what apt installed of Python pip can not remove (24.04: lz4), so packages go beside it: --ignore-installed. As a variable, because the pip of 22.04 ends at an option that it does not know. torch only where the base has none.
ENV PIP_BREAK_SYSTEM_PACKAGES=1
RUN source /opt/ros/${ROS_DISTRO}/setup.bash && apt-get update && rosdep update --rosdistro ${ROS_DISTRO} \
    && rosdep install --from-paths src --ignore-src -y && rm -rf /var/lib/apt/lists/* \
    && python3 -m pip install --no-deps --ignore-installed -r src/etuner_ros/requirements-robot.txt \
    && python3 -m pip install --ignore-installed nicegui==3.18.0 \
    && (python3 -c 'import torch' || python3 -m pip install torch torchvision --index-url https://download.pytorch.org/whl/cpu) \
    && colcon build --packages-select etuner_ros
# Room for pictures in shared memory: run with --shm-size=512m, as compose.yaml does (config/fastdds.xml is left out below 256 MB).
ENTRYPOINT ["/bin/bash", "-c", "source install/setup.bash && exec \"$@\"", "--"]
CMD ["ros2", "launch", "etuner_ros", "etuner.launch.py"]
