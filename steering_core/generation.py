"""Steered answers of many configurations at once: each row of a batch is steered in its own way.

Rows of all configurations stand in slots side by side. Each step writes a token in every slot; a
row that has ended is replaced by one that waits, so no row waits for the longest.

What is promised: a row's answer depends on its prompt, its steering, its seed and the sampling
settings, on no other row and not on the order in which rows ran. The numbers behind it differ in
their last bits with the shapes of the batches it ran in, as for any batched computation: where two
tokens are equally likely within that, another one may be taken.

Shapes: R slots, N rows that begin, P positions of a prompt, D width.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from steering_core.attention import step_attention
from steering_core.hook_points import HookPoint
from steering_core.hooks import change
from steering_core.interventions import Intervention
from steering_core.layout import last_hidden_state
from steering_core.models import LoadedModel
from steering_core.out_of_memory import is_out_of_memory
from steering_core.placing import fetch, upload
from steering_core.sampling import Sampling, choose, random_stream
from steering_core.slot_cache import SlotCache, slot_mask, whole_columns
from steering_core.slot_steering import SlotSteering
from steering_core.steerer import GENERATION_POSITIONS, GenerationPositions
from steering_core.trunk import Change, masks_by_kind
from steersweep.errors import UserError

_PROMPT_TOKENS_AT_ONCE = {"cpu": 2048}
_PROMPT_TOKENS_ON_ACCELERATOR = 16_384
_FEWEST_SLOTS = 8
_SHARE_FREE = 8
"""Rows begin when one slot in so many is free: a forward of one prompt costs as much as a step."""


@dataclass(frozen=True, eq=False, slots=True)
class GenerationRow:
    """One answer to write.

    Attributes:
        prompt_ids: the prompt's tokens, with BOS where the model wants it; see ``chat``.
        seed: of its own random stream, see ``sampling.row_seed``.
        steering: what steers it; None for nothing. Its own ``positions`` must be ``all``.
        positions: the positions that are steered.
        max_new_tokens: of this answer; the sampling settings' where left out.
    """

    prompt_ids: tuple[int, ...]
    seed: int = 0
    steering: Intervention | None = None
    positions: GenerationPositions = "all"
    max_new_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Generated:
    """An answer: its tokens, without the one that ended it, and what ended it."""

    token_ids: tuple[int, ...]
    ended_by: Literal["eos", "length"]


@dataclass(eq=False)
class GenerationCounts:
    """What one call of ``generate`` computed.

    Attributes:
        prompt_positions: that went through the blocks, padding included.
        prompt_forwards: forwards of prompts.
        steps: forwards of one token a slot.
        slot_steps: slots of all steps, free ones too.
    """

    prompt_positions: int = 0
    prompt_forwards: int = 0
    steps: int = 0
    slot_steps: int = 0


def generate(
    model: LoadedModel,
    rows: Sequence[GenerationRow],
    sampling: Sampling,
    *,
    rows_at_once: int = 64,
    counts: GenerationCounts | None = None,
) -> list[Generated]:
    """The rows' answers, in the order of ``rows``; the model is left as it was.

    Args:
        rows_at_once: slots; half as many where the device's memory does not hold them.
        counts: is added to.

    Raises:
        UserError: a setting or a row that cannot be generated, by number.
        RuntimeError: a single row does not fit (see ``is_out_of_memory``).
    """
    sampling.check()
    if rows_at_once < 1:
        raise UserError(f"rows_at_once must be at least 1, got {rows_at_once}")
    for number, row in enumerate(rows):
        _check_row(number, row, sampling, model)
    answers: dict[int, Generated] = {}
    counts = GenerationCounts() if counts is None else counts
    while len(answers) < len(rows):
        # Rows of one prompt begin together, and neighbours in length; how long an answer will be is
        # not known.
        waiting = sorted(
            (number for number in range(len(rows)) if number not in answers),
            key=lambda number: (-len(rows[number].prompt_ids), rows[number].prompt_ids, number),
        )
        try:
            with torch.inference_mode():
                _Slots(model, rows, waiting, sampling, rows_at_once, answers, counts).run()
        except (RuntimeError, MemoryError) as error:
            if rows_at_once == 1 or not is_out_of_memory(error):
                raise
            rows_at_once = max(1, min(rows_at_once, len(waiting)) // 2)
        # Behind the handler: the error held on to the tensors of the slots that failed.
        if len(answers) < len(rows) and model.device.type == "cuda":
            torch.cuda.empty_cache()
    return [answers[number] for number in range(len(rows))]


def prompt_tokens_at_once(device_type: str) -> int:
    """Positions of prompts that go through the blocks together; a longer prompt goes alone."""
    return _PROMPT_TOKENS_AT_ONCE.get(device_type, _PROMPT_TOKENS_ON_ACCELERATOR)


def num_new_tokens(row: GenerationRow, sampling: Sampling) -> int:
    """The most tokens of a row's answer."""
    return sampling.max_new_tokens if row.max_new_tokens is None else row.max_new_tokens


def steered_prompt_positions(row: GenerationRow) -> slice:
    """The steered part of a row's prompt."""
    num = len(row.prompt_ids)
    return {
        "all": slice(num),
        # As ``ActivationSteerer``, which cannot tell a prompt of one token from a step.
        "prompt": slice(num if num > 1 else 0),
        "response": slice(num - 1, num),
    }[row.positions]


def _check_row(number: int, row: GenerationRow, sampling: Sampling, model: LoadedModel) -> None:
    if not row.prompt_ids:
        raise UserError(f"row {number} has an empty prompt")
    if row.positions not in GENERATION_POSITIONS:
        raise UserError(
            f"row {number}: positions must be one of {', '.join(GENERATION_POSITIONS)}, "
            f"got {row.positions!r}"
        )
    num_new, most = num_new_tokens(row, sampling), model.layout.config
    if num_new < 1:
        raise UserError(f"row {number}: max_new_tokens must be at least 1, got {num_new}")
    num = len(row.prompt_ids) + num_new
    max_tokens = getattr(most, "max_position_embeddings", None)
    if max_tokens is not None and num > max_tokens:
        raise UserError(
            f"row {number} has a prompt of {len(row.prompt_ids)} tokens and up to {num_new} new "
            f"ones, more than the {max_tokens} positions of {model.name}; lower max_new_tokens"
        )
    random_stream(row.seed, 0)
    if row.steering is None:
        return
    model.layout.module_at(row.steering.point)
    if row.steering.positions != "all":
        raise UserError(
            f"row {number}: its steering must be of all positions, got "
            f"{row.steering.positions!r}; the row itself says which are steered"
        )
    if row.steering.vector.shape != (most.hidden_size,):
        raise UserError(
            f"row {number}: the steering vector has shape {row.steering.vector.shape}, but the "
            f"stream has ({most.hidden_size},)"
        )


@dataclass(eq=False)
class _Answer:
    """A row that has begun.

    Attributes:
        num_new: the most tokens of its answer.
        num_chosen: tokens that the device was told to choose; the host may not have seen them yet.
        draws: [num_new], of its stream.
    """

    number: int
    num_new: int
    draws: np.ndarray
    num_chosen: int = 0
    token_ids: list[int] = field(default_factory=list)
    has_ended: bool = False


class _Slots:
    """Rows in slots, from the first prompt to the last answer."""

    def __init__(
        self,
        model: LoadedModel,
        rows: Sequence[GenerationRow],
        waiting: Sequence[int],
        sampling: Sampling,
        rows_at_once: int,
        answers: dict[int, Generated],
        counts: GenerationCounts,
    ) -> None:
        self._model = model
        self._rows = rows
        self._waiting = deque(waiting)
        self._sampling = sampling
        self._answers = answers
        self._counts = counts
        chosen = [rows[number] for number in waiting]
        self._in_slot: list[_Answer | None] = [None] * min(rows_at_once, len(waiting))
        num_columns = max(len(row.prompt_ids) + num_new_tokens(row, sampling) for row in chosen)
        self._cache = SlotCache(len(self._in_slot), num_columns)
        self._tokens_R = torch.zeros(len(self._in_slot), dtype=torch.int64, device=model.device)
        points = sorted({row.steering.point for row in chosen if row.steering is not None})
        width = int(model.layout.config.hidden_size)
        self._steering = SlotSteering(points, len(self._in_slot), width, model.device)
        self._now: Mapping[HookPoint, Change] = {}
        self._at_once = prompt_tokens_at_once(model.device.type)
        self._columns_R = np.zeros(len(self._in_slot), np.int64)
        self._prefix_in: list[tuple[int, ...] | None] = [None] * len(self._in_slot)
        self._unseen: deque[tuple[Sequence[_Answer | None], Callable[[], np.ndarray]]] = deque()
        # A device that runs behind the program is asked for a step's tokens when it has the next.
        self._most_unseen = 0 if model.device.type == "cpu" else 1

    def run(self) -> None:
        """Write every answer that waits."""
        points = self._steering.points
        with change(self._model.layout, [(p, self._action(p)) for p in points]):
            while self._waiting or any(self._in_slot):
                free = [slot for slot, answer in enumerate(self._in_slot) if answer is None]
                if self._waiting and len(free) * _SHARE_FREE >= len(self._in_slot):
                    self._begin(free)
                elif not self._waiting and len(free) * 2 >= len(self._in_slot) > _FEWEST_SLOTS:
                    self._drop(free)
                self._step()
            self._see(0)

    def _action(self, point: HookPoint) -> Any:
        def steer(state: Tensor) -> Tensor | None:
            steering = self._now.get(point)
            return None if steering is None else steering(state)

        return steer

    def _begin(self, free: list[int]) -> None:
        """Put rows that wait into free slots.

        All of a prompt but its last token runs here; the last one is a row's first step. Where this
        much is not steered, rows of one prompt share it.
        """
        numbers = [self._waiting.popleft() for _ in range(min(len(free), len(self._waiting)))]
        slots = free[: len(numbers)]
        held = {prefix: slot for slot, prefix in enumerate(self._prefix_in) if prefix is not None}
        fresh: list[tuple[int, int]] = []
        before: list[tuple[int, int]] = []
        behind: list[tuple[int, int]] = []
        new: dict[tuple[int, ...], int] = {}
        for number, slot in zip(numbers, slots, strict=True):
            row = self._rows[number]
            prefix = row.prompt_ids[:-1]
            is_shared = _leaves_prefix_alone(row)
            if is_shared and prefix in held:
                before.append((slot, held[prefix]))
            elif is_shared and prefix in new:
                behind.append((slot, new[prefix]))
            else:
                fresh.append((number, slot))
                if is_shared:
                    new[prefix] = slot
            num_new = num_new_tokens(row, self._sampling)
            self._in_slot[slot] = _Answer(number, num_new, random_stream(row.seed, num_new))
            self._columns_R[slot] = len(prefix)
            self._prefix_in[slot] = prefix if is_shared else None
        # What a slot holds is copied from it before it is overwritten.
        self._copy(before)
        for low, high in _chunks([len(self._rows[n].prompt_ids) for n, _ in fresh], self._at_once):
            self._run_prefixes(*zip(*fresh[low:high], strict=True))
        self._copy(behind)
        rows = [self._rows[number] for number in numbers]
        slots_N = upload(torch.tensor(slots), self._model.device)
        last_N = torch.tensor([row.prompt_ids[-1] for row in rows])
        # Not in place: the host may not have read the tokens of the step before.
        self._tokens_R = self._tokens_R.scatter(0, slots_N, upload(last_N, self._model.device))
        self._steering.begin(slots_N, slots, [_of_first_step(row) for row in rows])

    def _copy(self, slots: list[tuple[int, int]]) -> None:
        """Copy prefixes, (to, from) each."""
        if slots:
            lengths = [len(self._prefix_in[into] or ()) for into, _ in slots]
            into_N, from_N, lengths_N = (
                upload(torch.tensor(values), self._model.device)
                for values in (*zip(*slots, strict=True), lengths)
            )
            self._cache.copy(into_N, from_N, lengths_N, max(lengths))

    def _run_prefixes(self, numbers: Sequence[int], slots: Sequence[int]) -> None:
        """Run the prompts of rows without their last tokens."""
        device, rows = self._model.device, [self._rows[number] for number in numbers]
        slots_N = upload(torch.tensor(slots), device)
        longest = max(len(row.prompt_ids) for row in rows) - 1
        if longest == 0:
            self._cache.clear(slots_N)
            return
        longest = whole_columns(longest)
        ids_NP = np.zeros((len(rows), longest), np.int64)
        at_NP = np.zeros(ids_NP.shape, bool)
        for index, row in enumerate(rows):
            # A causal mask hides what stands behind a prompt's end.
            num = len(row.prompt_ids) - 1
            ids_NP[index, :num] = row.prompt_ids[:-1]
            at_NP[index, :num][steered_prompt_positions(row)] = True
        self._now = self._steering.of_prompts([row.steering for row in rows], at_NP)
        self._cache.begin(slots_N)
        self._forward(
            input_ids=upload(torch.from_numpy(ids_NP), device),
            position_ids=torch.arange(longest, device=device).expand(len(rows), -1),
        )
        self._counts.prompt_positions += ids_NP.size
        self._counts.prompt_forwards += 1

    def _step(self) -> None:
        """One more token in every slot; in free ones it means nothing."""
        is_taken_R = np.asarray([answer is not None for answer in self._in_slot])
        num_read = int(self._columns_R[is_taken_R].max()) + 1
        # A copy: the step is still running when the next column is noted. A free slot writes behind
        # the row that it held, whose prompt may yet be copied.
        at_R = upload(torch.from_numpy(self._columns_R.copy()), self._model.device)
        self._columns_R[is_taken_R] += 1
        self._cache.append(at_R, num_read)
        self._now = self._steering.of_step()
        dtype = self._model.dtype
        mask = masks_by_kind(
            self._model.layout.config,
            num_read,
            lambda window: slot_mask(at_R, num_read, dtype, window),
        )
        with step_attention(self._model.layout, self._model.device):
            hidden_R1D = self._forward(
                input_ids=self._tokens_R[:, None], position_ids=at_R[:, None], attention_mask=mask
            )
        self._counts.steps += 1
        self._counts.slot_steps += len(is_taken_R)
        stepped = tuple(self._in_slot)
        self._tokens_R = self._choose(hidden_R1D[:, 0], stepped)
        done = [
            slot
            for slot, answer in enumerate(stepped)
            if answer is not None
            and answer.num_chosen == 1
            and self._rows[answer.number].positions == "prompt"
        ]
        if done:
            self._steering.rest(upload(torch.tensor(done), self._model.device), done)

    def _forward(self, **inputs: Any) -> Tensor:
        output = self._model.layout.decoder(**inputs, past_key_values=self._cache, use_cache=False)
        return last_hidden_state(output)

    def _choose(self, hidden_MD: Tensor, answers: Sequence[_Answer | None]) -> Tensor:
        """The next token [M] of each; free slots are None."""
        layout = self._model.layout
        draws = [0.0 if a is None else a.draws[a.num_chosen] for a in answers]
        logits_MV = layout.scaled_and_capped(layout.head(hidden_MD))
        draws_M = torch.tensor(draws, dtype=torch.float64)
        if logits_MV.device.type == "mps":
            draws_M = draws_M.float()
        tokens_M = choose(logits_MV, upload(draws_M, logits_MV.device), self._sampling)
        tokens_M = tokens_M.to(self._model.device)
        for answer in answers:
            if answer is not None:
                answer.num_chosen += 1
                if answer.num_chosen == answer.num_new:
                    self._free(answer)
        self._unseen.append((answers, fetch(tokens_M)))
        self._see(self._most_unseen)
        return tokens_M

    def _see(self, most_unseen: int) -> None:
        """Take in tokens until at most so many steps are left unseen."""
        while len(self._unseen) > most_unseen:
            answers, tokens = self._unseen.popleft()
            for answer, token in zip(answers, tokens().tolist(), strict=True):
                if answer is not None and not answer.has_ended:
                    self._take(answer, token)

    def _take(self, answer: _Answer, token: int) -> None:
        is_eos = token in self._sampling.eos_ids
        if not is_eos:
            answer.token_ids.append(token)
        if is_eos or len(answer.token_ids) == answer.num_new:
            answer.has_ended = True
            ended_by: Literal["eos", "length"] = "eos" if is_eos else "length"
            self._answers[answer.number] = Generated(tuple(answer.token_ids), ended_by)
            self._free(answer)

    def _free(self, answer: _Answer) -> None:
        if answer in self._in_slot:
            slot = self._in_slot.index(answer)
            self._in_slot[slot] = None
            self._steering.end(slot)

    def _drop(self, free: list[int]) -> None:
        """Go on with half the slots."""
        num = max(_FEWEST_SLOTS, (len(self._in_slot) + 1) // 2)
        taken = [slot for slot, answer in enumerate(self._in_slot) if answer is not None]
        kept = sorted([*taken, *free[: num - len(taken)]])
        self._in_slot = [self._in_slot[slot] for slot in kept]
        self._prefix_in = [self._prefix_in[slot] for slot in kept]
        self._columns_R = self._columns_R[kept]
        slots = upload(torch.tensor(kept), self._model.device)
        self._tokens_R = self._tokens_R[slots]
        self._cache.keep(slots)
        self._steering.keep(slots, kept)


def _leaves_prefix_alone(row: GenerationRow) -> bool:
    """Whether nothing of a row's prompt is steered but its last token."""
    return row.steering is None or row.positions == "response"


def _of_first_step(row: GenerationRow) -> Intervention | None:
    """What is done to the prompt's last token."""
    return row.steering if range(len(row.prompt_ids))[steered_prompt_positions(row)] else None


def _chunks(lengths: Sequence[int], most: int) -> Iterator[tuple[int, int]]:
    """Ranges of rows, padded to the longest of each, within so many tokens; one row at least."""
    low = 0
    for index in range(1, len(lengths) + 1):
        ends = index == len(lengths)
        if ends or (index + 1 - low) * max(lengths[low : index + 1]) > most:
            yield low, index
            low = index
