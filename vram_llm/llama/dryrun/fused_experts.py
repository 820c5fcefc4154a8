"""Experts' outputs that CUDA's fused kernel needs until it has summed them."""

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt

from vram_llm.llama.dryrun.backend_rules import input_tensor
from vram_llm.llama.dryrun.ggml_structs import OPS, GgmlTensor
from vram_llm.planner.memory.backend_kernels import MAX_FUSED_EXPERTS

_OP_OFFSET = GgmlTensor.op.offset


def pin_fused_experts(graph: Any, params: Any) -> None:
    """Keep the outputs of experts allocated until CUDA's fused kernel has summed them.

    The kernel fuses one or two products of all experts' outputs with a weight for each expert, a view of each
    expert's product, and the additions of the views. Source: ggml_cuda_match_moe_weighted_reduction and
    ggml_backend_cuda_graph_optimize of ggml-cuda.cu.
    """
    nodes, ops = _addresses_and_ops(graph)
    mul, add, view = OPS["MUL"], OPS["ADD"], OPS["VIEW"]
    last_fused = -1
    for i in np.flatnonzero(ops == mul).tolist():
        first = _experts_and_weights(nodes[i]) if i > last_fused else None
        if first is None:
            continue
        second = _experts_and_weights(nodes[i + 1]) if i + 1 < len(ops) and ops[i + 1] == mul else None
        n_products = 2 if second is not None and second[0] == nodes[i] else 1
        n_experts_used = GgmlTensor.from_address(nodes[i]).ne[1]
        last = i + n_products + 2 * n_experts_used - 2
        summed = ops[i + n_products : last + 1]
        n_views, n_adds = np.count_nonzero(summed == view), np.count_nonzero(summed == add)
        if last < len(ops) and (n_views, n_adds) == (n_experts_used, n_experts_used - 1):
            for tensor in first if second is None or n_products == 1 else (*first, second[1]):
                params.add_alloc_dep(params.user_data, tensor, nodes[last])
            last_fused = last


def _addresses_and_ops(graph: Any) -> tuple[list[int], npt.NDArray[np.int32]]:
    """The addresses and the operations of the graph's nodes, in order.

    They are read in bulk, because there are thousands: all nodes are in one block of memory, which belongs to
    llm_graph_result (src/llama-graph.cpp).
    """
    if not graph.n_nodes:
        return [], np.zeros(0, np.int32)
    addresses = np.ctypeslib.as_array(
        ctypes.cast(graph.nodes, ctypes.POINTER(ctypes.c_uint64)), (graph.n_nodes,)
    )
    start = int(addresses.min())
    n_words = (int(addresses.max()) - start + ctypes.sizeof(GgmlTensor)) // 4
    words = np.ctypeslib.as_array(ctypes.cast(start, ctypes.POINTER(ctypes.c_int32)), (n_words,))
    return addresses.tolist(), words[(addresses - start + _OP_OFFSET) // 4]


def _experts_and_weights(address: int) -> tuple[int, int] | None:
    """The addresses of experts' outputs and of their weights, if the product at `address` multiplies them."""
    product = GgmlTensor.from_address(address)
    if not 2 <= product.ne[1] <= MAX_FUSED_EXPERTS:
        return None
    first, second = input_tensor(product, 0), input_tensor(product, 1)
    assert first is not None
    assert second is not None
    if _scales_rows(first, second, product):
        return product.src[0], product.src[1]
    if _scales_rows(second, first, product):
        return product.src[1], product.src[0]
    return None


def _scales_rows(tensor: GgmlTensor, weights: GgmlTensor, product: GgmlTensor) -> bool:
    """Whether `product` is `tensor` with each row multiplied by one of `weights`."""
    has_one_weight_per_row = weights.ne[0] == 1 and list(weights.ne)[1:] == list(tensor.ne)[1:]
    return has_one_weight_per_row and list(tensor.ne) == list(product.ne)
