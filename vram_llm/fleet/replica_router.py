"""Which replica gets a request, and which request another replica."""

from collections.abc import Sequence
from math import inf

from vram_llm.engine.in_flight import HandedOver
from vram_llm.engine.model_info import EngineState
from vram_llm.engine.request import TokenEvent
from vram_llm.errors import EngineDied, ModelChanged, Overloaded, RequestCancelled, VramLLMError
from vram_llm.fleet.prefix_index import NOTHING_HELD
from vram_llm.fleet.replica import Replica
from vram_llm.fleet.replica_choice import ReplicaLoad, StepCost, choose, pays_to_move, tried_in_order
from vram_llm.fleet.replica_requests import ReplicatedRequest, ReplicatedRequests
from vram_llm.fleet.replica_speed import known_costs

Refusals = dict[int, VramLLMError]  # by the index of the replica


class ReplicaRouter:
    """Sends requests to replicas, by facts of `requests` and the policy of replica_choice.py."""

    def __init__(self, replicas: Sequence[Replica], requests: ReplicatedRequests) -> None:
        self._replicas = replicas
        self._requests = requests

    def candidates(self, refusals: Refusals) -> list[int]:
        """The replicas that may take a request: those that work, else those that are started again.

        Raises EngineDied or Overloaded if there is none.
        """
        others = [(i, replica) for i, replica in enumerate(self._replicas) if i not in refusals]
        found = [i for i, replica in others if replica.is_ready]
        found = found or [i for i, replica in others if replica.takes_requests]
        if found:
            return found
        if refusals:
            raise _soonest(refusals)
        details = dict.fromkeys(replica.engine.detail for replica in self._replicas)
        raise EngineDied(f"the engine is not ready: {'; '.join(details)}")

    def place(self, request: ReplicatedRequest, refusals: Refusals) -> Replica:
        """The replica that gets a request now; not one of `refusals`. Raises EngineDied, Overloaded."""
        candidates = self.candidates(refusals)
        if request.is_moving and request.replica in candidates:
            index = request.replica
        else:
            index = self._choose(request, [i for i in candidates if i not in request.left_by] or candidates)
        replica, request.is_moving = self._replicas[index], False
        self._requests.place(request, index, replica.index.find(request.keys))
        replica.index.note(request.keys)
        replica.n_requests += 1
        return replica

    def _choose(self, request: ReplicatedRequest, candidates: list[int]) -> int:
        costs = self._costs()
        candidates = sorted(candidates, key=lambda i: self._replicas[i].n_requests * costs[i].seconds(1))
        loads = [self._load(i, costs[i], request) for i in candidates]
        return candidates[choose(loads, request.left)]

    def _costs(self) -> list[StepCost]:
        for replica in self._replicas:
            replica.meter.observe(replica.engine.stats)
        return known_costs([replica.meter for replica in self._replicas])

    def _load(
        self, index: int, cost: StepCost, request: ReplicatedRequest, n_ahead: int | None = None
    ) -> ReplicaLoad:
        replica = self._replicas[index]
        held = replica.index.find(request.keys) if index != request.replica else request.held
        cached = int(held.length * request.unit_tokens)
        return self._requests.load(index, cost, replica.parallel, request, cached, n_ahead=n_ahead)

    def even_out(self) -> None:
        """Move requests from replicas that do not work, and to free slots if that pays."""
        if any(replica.is_ready for replica in self._replicas):
            for request in self._requests.in_flight.values():
                here = self._replicas[request.replica]
                is_away = here.engine.state in (EngineState.LOADING, EngineState.DEAD)  # not: it stops
                if is_away and not request.is_moving:
                    here.engine.in_flight.hand_back(request.asked.id)
        waiting = [replica.waiting for replica in self._replicas]
        if not any(waiting):
            return
        costs, ids = self._costs(), frozenset[str]().union(*waiting)
        for index, replica in enumerate(self._replicas):
            if not replica.is_ready or waiting[index]:
                continue
            while self._requests.n_at(index) < replica.parallel and self._take_over(index, ids, costs):
                pass

    def _take_over(self, index: int, waiting: frozenset[str], costs: list[StepCost]) -> bool:
        """Move one of the requests that wait to a replica. False if that pays for none."""
        by_turn = [
            request
            for request in self._requests.by_turn(waiting)
            if self._replicas[request.replica].is_ready
            and not (request.is_moving or request.replica == index or index in request.left_by)
        ]
        ages = {request_id: age for age, request_id in enumerate(self._requests.in_flight)}
        for turn in tried_in_order(len(by_turn)):
            request = by_turn[turn]
            at = request.replica
            stays = self._load(at, costs[at], request, ages[request.asked.id])
            if not pays_to_move(stays, self._load(index, costs[index], request), request.left):
                continue
            if self._replicas[at].engine.in_flight.hand_back(request.asked.id):
                request.left_by.add(at)
                request.replica, request.is_moving, request.held = index, True, NOTHING_HELD
                return True
        return False

    # -- events ----------------------------------------------------------------------------------

    def note_event(self, request: ReplicatedRequest, event: TokenEvent) -> None:
        """An event of a request's answer."""
        if event.prompt_tokens and not request.is_counted and not self._requests.count_prompt(request, event):
            index = self._replicas[request.replica].index
            index.drop_old(request.held.used)
            index.note(request.keys)
        request.note(event)

    def note_refusal(
        self, request: ReplicatedRequest, error: EngineDied | Overloaded, refusals: Refusals
    ) -> None:
        """Get a request ready for another replica. Raises an error if there is none for it."""
        if isinstance(error, HandedOver):
            if request.is_cancelled:
                raise RequestCancelled(f"request {request.asked.id} was cancelled") from None
            request.hand_over(error.written, error.n_deaths)
            return
        refusals[request.replica] = error
        is_lost = isinstance(error, ModelChanged) or request.n_written > 0
        if is_lost or not any(
            replica.takes_requests for i, replica in enumerate(self._replicas) if i not in refusals
        ):
            raise _soonest(refusals) if isinstance(error, Overloaded) else error

    def end(self, request: ReplicatedRequest, *, is_whole: bool) -> None:
        """A request has ended; `is_whole`: with its whole answer."""
        self._requests.end(request, is_whole=is_whole)
        if request.replica >= 0:
            replica = self._replicas[request.replica]
            replica.meter.observe(replica.engine.stats)
            if is_whole:
                replica.index.note(request.later_keys)
        self.even_out()


def _soonest(refusals: Refusals) -> VramLLMError:
    """The refusal of the replica that takes a request soonest."""
    full = [error for error in refusals.values() if isinstance(error, Overloaded)]
    if not full:
        return next(iter(refusals.values()))
    return min(full, key=lambda error: inf if error.retry_after_s is None else error.retry_after_s)
