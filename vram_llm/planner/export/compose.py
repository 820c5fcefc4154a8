"""A plan as a Docker Compose file for llama.cpp's published server images (docs/docker.md of llama.cpp)."""

import json
from pathlib import PurePath

from vram_llm.errors import BadPlan
from vram_llm.machine.types import DeviceKind
from vram_llm.model.location import is_remote
from vram_llm.planner.export.device_flags import ExportedDevices, environment_variables, exported_devices
from vram_llm.planner.export.llama_server import HOST_ADDRESS, PORT, as_comments, remarks, settings
from vram_llm.planner.types import Plan

_IMAGE = "ghcr.io/ggml-org/llama.cpp"
_TAGS = {
    DeviceKind.CUDA: "server-cuda",
    DeviceKind.ROCM: "server-rocm",
    DeviceKind.VULKAN: "server-vulkan",
    DeviceKind.SYCL: "server-intel",
}
_CPU_TAG = "server"
_DEVICE_FILES = {  # that a container needs
    DeviceKind.ROCM: ("/dev/kfd", "/dev/dri"),
    DeviceKind.VULKAN: ("/dev/dri",),
    DeviceKind.SYCL: ("/dev/dri",),
}
_RELEASE = "v0.5.0"
"""The release of llama.cpp with the version of the bindings' source (CMakeLists.txt: 0.5.0-dev). Releases
give the images of their build this tag (make-release.yml)."""
_CONTAINER_FOLDER = "/models"  # inside the container
_ANY_ADDRESS = "0.0.0.0"  # inside the container; the port is published on the host's loopback address alone
_KEY_VARIABLE = "LLAMA_API_KEY"
_KEY_REMARKS = (
    f"Clients need an API key if {_KEY_VARIABLE} is set where Compose runs. Set it before you publish the",
    "port beyond this computer.",
)
_LOOPBACK = ("127.", "localhost:", "[::1]:", "::1:")


def compose_file(plan: Plan) -> str:
    """The text of the compose file.

    Raises BadPlan if no published image supports the plan's devices, or if a companion is not in the model's
    folder.
    """
    exported = exported_devices(plan)
    kind = _card_kind(exported)
    tag = f"{_image_tag(kind)}-{_RELEASE}"
    is_remote_model = is_remote(plan.model.path)
    has_local_workers = any(endpoint.startswith(_LOOPBACK) for endpoint in exported.endpoints)
    environment = list(environment_variables(plan, exported))
    if is_remote_model:
        environment.append(("LLAMA_CACHE", _CONTAINER_FOLDER))
    folder = "./models" if is_remote_model else str(PurePath(plan.model.path).parent)
    address = HOST_ADDRESS if has_local_workers else _ANY_ADDRESS
    command = [
        argument
        for setting in settings(plan, exported, _CONTAINER_FOLDER, address)
        for argument in setting.arguments
    ]
    _check_folder(plan)
    lines = as_comments((*remarks(plan, exported), *_image_remarks(exported, tag), *_KEY_REMARKS))
    lines += ["services:", "  llama-server:", f"    image: {_IMAGE}:{tag}"]
    lines.append("    environment:")
    lines += [f"      {name}: {_yaml_string(value)}" for name, value in environment]
    lines += [
        f"      {_KEY_VARIABLE}:",  # without a value: as it is where Compose runs, if it is set there
        "    volumes:",
        "      - type: bind",
        f"        source: {_yaml_string(folder)}",
        f"        target: {_CONTAINER_FOLDER}",
        f"        read_only: {'false' if is_remote_model else 'true'}",
    ]
    if has_local_workers:
        lines.append("    network_mode: host")
    else:
        lines += ["    ports:", f"      - {_yaml_string(f'{HOST_ADDRESS}:{PORT}:{PORT}')}"]
    if kind is DeviceKind.CUDA:
        lines += _card_reservation(exported.uuids)
    elif kind in _DEVICE_FILES:
        lines.append("    devices:")
        lines += [f"      - {_yaml_string(f'{path}:{path}')}" for path in _DEVICE_FILES[kind]]
    lines += ["    command:", *(f"      - {_yaml_string(argument)}" for argument in command)]
    return "\n".join(lines)


def _check_folder(plan: Plan) -> None:
    """Raise BadPlan if a companion is not in the model's folder, the only one that is mounted."""
    folder = PurePath(plan.model.path).parent
    for companion in plan.companions:
        if is_remote(plan.model.path) or PurePath(companion.path).parent != folder:
            raise BadPlan(
                f"a compose file mounts only the model's folder: move {PurePath(companion.path).name} there, "
                "or use --emit llama-server"
            )


def _card_kind(exported: ExportedDevices) -> DeviceKind | None:
    """The kind of the plan's local cards, None without cards. Raises BadPlan if there are several kinds."""
    kinds = sorted({device.kind for device in exported.devices} - {DeviceKind.RPC})
    if len(kinds) > 1:
        raise BadPlan(
            f"a published image of llama.cpp supports one kind of device and this plan uses "
            f"{' and '.join(kinds)}; use --emit llama-server"
        )
    return kinds[0] if kinds else None


def _image_tag(kind: DeviceKind | None) -> str:
    """The image's tag without the release. Raises BadPlan if no image supports cards of this kind."""
    if kind is None:
        return _CPU_TAG
    if kind not in _TAGS:
        raise BadPlan(f"no published image of llama.cpp supports {kind} devices; use --emit llama-server")
    return _TAGS[kind]


def _image_remarks(exported: ExportedDevices, tag: str) -> list[str]:
    lines = [
        "The plan is exact for the llama.cpp it was made with, a build of 0.5.0. The image is the release of",
        "that version. For the same image at every pull, put the digest that `docker buildx imagetools",
        f"inspect {_IMAGE}:{tag}` prints in place of its tag (@sha256:...).",
    ]
    if exported.endpoints:
        lines.append("The published images are built without RPC: build this one with -DGGML_RPC=ON.")
    return lines


def _card_reservation(uuids: tuple[str, ...]) -> list[str]:
    """The lines that give the container the NVIDIA cards with these UUIDs."""
    return [
        "    deploy:",
        "      resources:",
        "        reservations:",
        "          devices:",
        "            - driver: nvidia",
        "              device_ids:",
        *(f"                - {_yaml_string(uuid)}" for uuid in uuids),
        "              capabilities: [gpu]",
    ]


def _yaml_string(value: str) -> str:
    """`value` as a double-quoted YAML string, which is written as in JSON.

    Every `$` is doubled, because Compose replaces `$NAME` by a variable.
    """
    return json.dumps(value.replace("$", "$$"))
