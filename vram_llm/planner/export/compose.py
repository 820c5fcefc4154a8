"""A plan as a compose file for llama.cpp's published server images (docs/docker.md of llama.cpp)."""

import json
from pathlib import PurePath

from vram_llm.errors import BadPlan
from vram_llm.machine.types import DeviceKind
from vram_llm.model.location import is_remote
from vram_llm.planner.export.device_flags import Reach, reach, variables
from vram_llm.planner.export.llama_server import HOST_ADDRESS, PORT, as_comments, remarks, settings
from vram_llm.planner.types import Plan

_REPOSITORY = "ghcr.io/ggml-org/llama.cpp"
_TAGS = {
    DeviceKind.CUDA: "server-cuda",
    DeviceKind.ROCM: "server-rocm",
    DeviceKind.VULKAN: "server-vulkan",
    DeviceKind.SYCL: "server-intel",
}
_TAG_WITHOUT_CARDS = "server"
_NODES = {  # device files a container needs
    DeviceKind.ROCM: ("/dev/kfd", "/dev/dri"),
    DeviceKind.VULKAN: ("/dev/dri",),
    DeviceKind.SYCL: ("/dev/dri",),
}
_VERSION = "v0.5.0"
"""The release of llama.cpp with the version of the bindings' source (CMakeLists.txt: 0.5.0-dev). Releases
give the images of their build this tag (make-release.yml)."""
_FOLDER = "/models"  # inside the container
_ANY_ADDRESS = "0.0.0.0"  # of the container, which the host reaches by its loopback alone
_LOOPBACK = ("127.", "localhost:", "[::1]:", "::1:")


def compose_file(plan: Plan) -> str:
    """The file's text. Raises BadPlan if no published image supports the plan's devices."""
    where = reach(plan)
    kind = _kind(where)
    tag = f"{_tag(kind)}-{_VERSION}"
    is_away = is_remote(plan.model.path)
    near = any(endpoint.startswith(_LOOPBACK) for endpoint in where.endpoints)
    environment = [*variables(plan, where), *([("LLAMA_CACHE", _FOLDER)] if is_away else [])]
    folder = "./models" if is_away else str(PurePath(plan.model.path).parent)
    address = HOST_ADDRESS if near else _ANY_ADDRESS
    words = [word for setting in settings(plan, where, _FOLDER, address) for word in setting.words]
    _check_folder(plan)
    lines = as_comments((*remarks(plan, where), *_image_remarks(where, tag)))
    lines += ["services:", "  llama-server:", f"    image: {_REPOSITORY}:{tag}"]
    if environment:
        lines += ["    environment:", *(f"      {name}: {_text(value)}" for name, value in environment)]
    lines += [
        "    volumes:",
        "      - type: bind",
        f"        source: {_text(folder)}",
        f"        target: {_FOLDER}",
        f"        read_only: {'false' if is_away else 'true'}",
    ]
    if near:
        lines.append("    network_mode: host")
    else:
        lines += ["    ports:", f"      - {_text(f'{HOST_ADDRESS}:{PORT}:{PORT}')}"]
    if kind is DeviceKind.CUDA:
        lines += _reservation(where.uuids)
    elif kind in _NODES:
        lines += ["    devices:", *(f"      - {_text(f'{node}:{node}')}" for node in _NODES[kind])]
    lines += ["    command:", *(f"      - {_text(word)}" for word in words)]
    return "\n".join(lines)


def _check_folder(plan: Plan) -> None:
    """Raises BadPlan if a companion is not in the one folder that is mounted."""
    folder = PurePath(plan.model.path).parent
    for companion in plan.companions:
        if is_remote(plan.model.path) or PurePath(companion.path).parent != folder:
            raise BadPlan(
                f"a compose file mounts only the model's folder: move {PurePath(companion.path).name} there, "
                "or use --emit llama-server"
            )


def _kind(where: Reach) -> DeviceKind | None:
    """The kind of the cards in use; None if no card is. Raises BadPlan if there are several kinds."""
    kinds = sorted({device.kind for device in where.devices} - {DeviceKind.RPC})
    if len(kinds) > 1:
        raise BadPlan(
            f"a published image of llama.cpp supports one kind of device and this plan uses "
            f"{' and '.join(kinds)}; use --emit llama-server"
        )
    return kinds[0] if kinds else None


def _tag(kind: DeviceKind | None) -> str:
    if kind is None:
        return _TAG_WITHOUT_CARDS
    if kind not in _TAGS:
        raise BadPlan(f"no published image of llama.cpp supports {kind} devices; use --emit llama-server")
    return _TAGS[kind]


def _image_remarks(where: Reach, tag: str) -> list[str]:
    lines = [
        "The plan is exact for the llama.cpp it was made with, a build of 0.5.0. The image is the release of",
        "that version. For the same image at every pull, put the digest that `docker buildx imagetools",
        f"inspect {_REPOSITORY}:{tag}` prints in place of its tag (@sha256:...).",
    ]
    if where.endpoints:
        lines.append("The published images are built without RPC: build this one with -DGGML_RPC=ON.")
    return lines


def _reservation(uuids: tuple[str, ...]) -> list[str]:
    return [
        "    deploy:",
        "      resources:",
        "        reservations:",
        "          devices:",
        "            - driver: nvidia",
        "              device_ids:",
        *(f"                - {_text(uuid)}" for uuid in uuids),
        "              capabilities: [gpu]",
    ]


def _text(value: str) -> str:
    """A YAML double-quoted scalar, which JSON's strings are; compose reads a single `$` as a variable."""
    return json.dumps(value.replace("$", "$$"))
