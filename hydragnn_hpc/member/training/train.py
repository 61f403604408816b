"""The training of a stack: E independent replicas of one variant, trained together by one engine."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch

from hydragnn_hpc.campaign_hash import member_hash
from hydragnn_hpc.ledger import keeps_checkpoint, now
from hydragnn_hpc.member.engine.captured import steps_of
from hydragnn_hpc.member.engine.interface import Engine
from hydragnn_hpc.member.engine.optimize import OPTIMIZERS, Optimizer
from hydragnn_hpc.member.engine.steps import EpochPlan, StackState
from hydragnn_hpc.member.engine.training_data import TrainingData
from hydragnn_hpc.member.training import checkpoint as checkpoints
from hydragnn_hpc.member.training.evaluate import MemberEvaluation, ValidationSet, evaluate_member, weights_hash
from hydragnn_hpc.member.training.schedule import Schedule
from hydragnn_hpc.member.training.stack import StackMember, WorkerContext
from hydragnn_hpc.member.training.start import FrozenParts, initialise
from hydragnn_hpc.ownership import Ownership
from hydragnn_hpc.records.events import EndState, EngineChanged, Train
from hydragnn_hpc.records.member import HistoryRow, Identity, Reason, Result, Session
from hydragnn_hpc.records.model import ModelFacts, ModelSpecies, ModelTask
from hydragnn_hpc.sections import Variant

_TENSORS = ("parameters", "buffers", "best_parameters", "best_buffers")
"""Names of the tensors in a checkpoint, beside the optimiser's state."""


class StackTraining:
    """Trains replicas of one variant, from their checkpoints where they have any.

    Parameters
    ----------
    context : WorkerContext
    data : TrainingData
        Of the variant (`from_staged`).
    engine : Engine
    train : Train
        The members, and the claim on their folders.
    describe : callable, optional
        Returns the arrays of ``features.npz`` for a finished model, or None if there is to be no such file.

    Attributes
    ----------
    variant : Variant
    members : list of StackMember
        Those that have not ended.
    engine_changes : list of EngineChanged
        Members that were trained before by another engine, with other vector lanes, or on a GPU in another stack.

    Raises
    ------
    NotOwnerError
        If one of the members belongs to a later attempt; every method that writes raises it too.
    """

    def __init__(
        self,
        context: WorkerContext,
        data: TrainingData,
        engine: Engine,
        train: Train,
        describe: Callable[[checkpoints.TrainedModel], Mapping[str, np.ndarray] | None] = lambda model: None,
    ) -> None:
        self._context, self._data, self._engine, self._describe = context, data, engine, describe
        self._attempt, self._claim = train.attempt, train.claim
        self.variant: Variant = context.frozen.campaign.variant(train.variant)
        self._campaign = context.frozen.campaign.of_variant(self.variant)
        self._config_hash = member_hash(context.frozen.campaign, self.variant, context.frozen.dataset_sha256)
        self._options = self._campaign.training
        self._fields = {name: self._campaign.tasks[name].field for name in self.variant.tasks}
        self._targets = {name: context.manifest.targets[field] for name, field in self._fields.items()}
        self._optimizer_kind = OPTIMIZERS[self._options.optimizer.name]
        self._epochs = self._options.epochs if train.epochs is None else train.epochs
        self._start = self._campaign.start
        self._steps = steps_of(engine)
        self._frozen_parts = FrozenParts.of(engine.layout, list(self._start.freeze) if self._start else [])
        self._stack = list(train.replicas)
        self._saved_at = time.monotonic()
        self.engine_changes: list[EngineChanged] = []
        self.members = [self._new_member(r) for r in train.replicas]
        self._begin()
        self._validation: dict[int, ValidationSet] = {}
        for member in self.members:
            key = id(member.validation)  # members of one fold share the array
            if key not in self._validation:
                self._validation[key] = ValidationSet(engine, data, member.validation)

    def _new_member(self, replica: int) -> StackMember:
        files = self._context.folder.member(self.variant.name, replica)
        files.make()
        ownership = Ownership(files, self._claim)
        ownership.take(self._context.folder)
        seed = self._context.frozen.campaign.seed_of(self.variant, replica)
        split = self._data.split_of(replica)
        schedule = Schedule.fresh(self._options)
        return StackMember(replica, seed, files, ownership, schedule, split.train, split.validation)

    def _begin(self) -> None:
        """Set the stack's tensors, for each member from its checkpoint, or else from its seed and source."""
        columns: dict[str, list[torch.Tensor]] = {}
        for member in self.members:
            initial = self._initial(member)
            lengths = {name: len(value) for name, value in initial.items()}
            checkpoint = checkpoints.load(member.files, self._identity(member), lengths, member.log)
            if checkpoint is not None:
                member.schedule, member.history = checkpoint.schedule, checkpoint.history
                member.sessions = checkpoint.sessions
                member.log(f"resumed after epoch {member.epoch}")
                self._compare_engines(member)
            elif self._start is not None:
                parts = self._start.parts_for(self.variant.tasks)
                state = (initial["parameters"], initial["buffers"])  # the best ones are the same tensors
                initialise(self._engine.layout, self._start, member.replica, state, parts)
            member.sessions.append(self._new_session())
            for name, value in (initial if checkpoint is None else checkpoint.tensors).items():
                columns.setdefault(name, []).append(value)
        stacked = {name: torch.stack(column) for name, column in columns.items()}
        on_host = self._optimizer_kind.COUNTERS
        tensors = {name: value if name in on_host else value.to(self._engine.device) for name, value in stacked.items()}
        parameters, buffers, self._best_parameters, self._best_buffers = (tensors.pop(n) for n in _TENSORS)
        self._state = self._new_state(parameters, buffers, self._optimizer_kind(self._options.optimizer, tensors))

    def _new_state(self, parameters: torch.Tensor, buffers: torch.Tensor, optimizer: Optimizer) -> StackState:
        frozen = self._frozen_parts.copies(parameters, buffers)
        clips = any(task.loss.outputs > 1 for task in self._engine.sizes.tasks)
        return StackState.new(self._engine, parameters, buffers, optimizer, frozen, clips)

    def _compare_engines(self, member: StackMember) -> None:
        """Record if the last digits of a member's numbers now depend on another engine, vector lanes, GPU or stack."""
        before, after = _described(member.sessions[-1]), _described(self._new_session())
        if before != after:
            change = EngineChanged(variant=self.variant.name, replica=member.replica, before=before, after=after)
            self.engine_changes.append(change)
            member.log(f"was trained by {before}, continues with {after}: the last digits of its result depend on this")

    def _initial(self, member: StackMember) -> dict[str, torch.Tensor]:
        """Return a member's tensors as its seed determines them, by their names in the checkpoint."""
        layout = self._engine.layout
        parameters, buffers = layout.initial_parameters(member.seed), layout.initial_buffers()
        tensors = dict(zip(_TENSORS, (parameters, buffers) * 2, strict=True))
        return {**tensors, **self._optimizer_kind.initial(layout.parameter_size)}

    def _new_session(self) -> Session:
        return Session(
            started=now(),
            ended=now(),
            host=self._context.host,
            rank=self._context.rank,
            slot=self._context.slot,
            epochs=0,
            engine=self._engine.name,
            lanes=self._engine.lanes,
            device=self._context.device.name if self._on_device else None,
            stack=len(self.members) if self._on_device else None,
        )

    @property
    def _on_device(self) -> bool:
        return self._engine.device.type != "cpu"

    def _identity(self, member: StackMember) -> Identity:
        return Identity(
            config_hash=self._config_hash,
            dataset_sha256=self._context.frozen.dataset_sha256,
            variant=self.variant.name,
            replica=member.replica,
        )

    def epoch(
        self, alive: Callable[[], None], finished: Callable[[StackMember, EndState], None] = lambda member, state: None
    ) -> None:
        """Train and validate one epoch.

        Parameters
        ----------
        alive : callable
            Called after every batch.
        finished : callable
            Called for each member that leaves the stack, once its files are written.
        """
        self._close_ended(finished)  # a checkpoint may already be at the last epoch
        if not self.members:
            return
        started = time.monotonic()
        train = self._train(alive)
        trained = time.monotonic()
        validation = self._validate()
        seconds = (trained - started, time.monotonic() - trained)
        for e, member in enumerate(self.members):
            losses = float(train[e]), float(validation[e])
            row = HistoryRow(member.epoch + 1, *losses, member.schedule.rate, *seconds)
            member.history.append(row)
            session = member.sessions[-1]
            member.sessions[-1] = session.model_copy(update={"ended": now(), "epochs": session.epochs + 1})
            if row.is_finite and member.schedule.record(row.validation_loss, row.epoch, self._options):
                self._best_parameters[e].copy_(self._state.parameters[e])
                self._best_buffers[e].copy_(self._state.buffers[e])
        self._close_ended(finished)
        if time.monotonic() - self._saved_at >= self._campaign.launch.checkpoint_seconds:
            self.save()

    def _train(self, alive: Callable[[], None]) -> np.ndarray:
        """Train one epoch, each member in its own order of samples; return the mean weighted losses ``[E]``."""
        length = self._data.epoch_length
        order = np.stack([m.train[shuffle(m.seed, m.epoch, len(m.train))[:length]] for m in self.members])
        rates = np.array([m.schedule.rate for m in self.members])
        epoch = EpochPlan.of(order, self._options.batch_size, self._state.optimizer, rates)
        for _ in self._steps.run(self._state, epoch):
            alive()
        tasks, device = self._engine.sizes.tasks, self._engine.device
        weights = torch.tensor([t.weight for t in tasks], dtype=torch.float64, device=device)
        # Weighted task by task, member by member: the order of the sum must not depend on the stack.
        losses = [(row * weights).sum() for row in self._state.losses / length]
        mean: np.ndarray = torch.stack(losses).cpu().numpy()
        return mean

    def _validate(self) -> np.ndarray:
        """Return every member's loss on its validation set, ``[E]``."""
        if len(self._validation) == 1:
            (shared,) = self._validation.values()
            return shared.losses(self._state.parameters, self._state.buffers)
        own = [self._validation[id(m.validation)] for m in self.members]
        rows = [slice(e, e + 1) for e in range(len(own))]
        parameters, buffers = self._state.parameters, self._state.buffers
        return np.concatenate([s.losses(parameters[e], buffers[e]) for s, e in zip(own, rows, strict=True)])

    def _close_ended(self, finished: Callable[[StackMember, EndState], None]) -> None:
        gone: set[int] = set()
        for e, member in enumerate(self.members):
            reason = self._reason_to_end(member)
            if reason:
                state: EndState = "diverged" if reason == "diverged" else "finished"
                self._close(e, member, reason, state)
                finished(member, state)
                gone.add(e)
        if gone:
            self._keep([e for e in range(len(self.members)) if e not in gone])

    def _reason_to_end(self, member: StackMember) -> Reason | None:
        if not member.epoch:
            return None if self._epochs else "epochs"
        if not member.history[-1].is_finite:
            return "diverged"
        if member.schedule.should_stop(member.epoch, self._options.early_stopping):
            return "early_stopping"
        return "epochs" if member.epoch >= self._epochs else None

    def _keep(self, which: list[int]) -> None:
        """Shrink the stack to the members at these positions."""
        state = self._state
        kept = torch.tensor(which, dtype=torch.int64, device=state.parameters.device)
        self.members = [self.members[e] for e in which]
        self._best_parameters, self._best_buffers = self._best_parameters[kept], self._best_buffers[kept]
        self._state = self._new_state(state.parameters[kept], state.buffers[kept], state.optimizer.select(kept))

    def save(self) -> None:
        """Write every member's checkpoint and history."""
        for e, member in enumerate(self.members):
            if member.epoch:
                self._save(e, member)
                checkpoints.write_history(member.files, member.history, member.ownership.held)
        self._saved_at = time.monotonic()

    def _save(self, e: int, member: StackMember) -> None:
        if self._on_device:
            member.sessions[-1] = member.sessions[-1].model_copy(update={"stack": len(self.members)})
        rows = (self._state.parameters, self._state.buffers, self._best_parameters, self._best_buffers)
        stacked = dict(zip(_TENSORS, rows, strict=True)) | self._state.optimizer.state
        tensors = {name: value[e].cpu().clone() for name, value in stacked.items()}
        checkpoint = checkpoints.Checkpoint(
            self._identity(member), tensors, member.schedule, member.history, member.sessions
        )
        checkpoints.save(member.files, checkpoint, member.ownership.held)

    def _close(self, e: int, member: StackMember, reason: Reason, state: EndState) -> None:
        """Evaluate a member that has ended, and write its files."""
        best = (self._best_parameters[e], self._best_buffers[e])
        evaluation = MemberEvaluation()
        model, files, features = self._model(best), member.files, None
        if state == "finished":
            evaluation = evaluate_member(self._engine, self._data, self._targets, best, member.validation)
            features = self._describe(model)
        seconds_training = sum(row.seconds_training for row in member.history)
        seconds_validation = sum(row.seconds_validation for row in member.history)
        result = Result(
            state=state,
            **self._identity(member).model_dump(),
            seed=member.seed,
            tasks=evaluation.errors,
            validation_loss=member.schedule.best if member.schedule.best_epoch else None,
            best_epoch=member.schedule.best_epoch,
            epochs=member.epoch,
            stopped_by=reason,
            seconds=seconds_training + seconds_validation,
            seconds_training=seconds_training,
            seconds_validation=seconds_validation,
            stack=tuple(self._stack),
            engine=self._engine.name,
            attempt=self._attempt,
            sessions=tuple(member.sessions),
            device=self._context.device,
            threads=self._campaign.launch.threads,
            versions=self._context.versions,
            weights_sha256=weights_hash(*best),
            precision=torch.get_float32_matmul_precision(),
            train_samples=len(member.train),
        )
        member.log(f"{state} after epoch {member.epoch} ({reason})")
        hold = member.ownership.held
        keep_checkpoint = keeps_checkpoint(self._context.frozen.campaign, self.variant, result)
        if keep_checkpoint:
            self._save(e, member)
        checkpoints.write_history(files, member.history, hold)
        arrays: dict[Path, Mapping[str, np.ndarray]]
        arrays = {files.predictions: evaluation.test, files.validation: evaluation.validation}
        if features is not None:
            arrays[files.features] = features
        checkpoints.write_done(files, result, model, arrays, hold)
        member.ownership.end(keep_checkpoint)

    def _model(self, best: tuple[torch.Tensor, torch.Tensor]) -> checkpoints.TrainedModel:
        manifest, sizes, layout = self._context.manifest, self._engine.sizes, self._engine.layout
        named = {**layout.named(best[0]), **layout.named_buffers(best[1])}
        facts = ModelFacts(
            model=self._campaign.model.model_dump(mode="json"),
            inputs=sizes.inputs,
            average_degree=list(sizes.average_degree),
            tasks={name: ModelTask(**dict(self._targets[name]), field=field) for name, field in self._fields.items()},
            species=ModelSpecies(**dict(manifest.species), elements=manifest.source.species),
            neighbours=manifest.neighbours,
            ready=self._data.recipe,
            geometry=self._data.graphs.neighbours_key(vectors=sizes.edges is not None),
        )
        return checkpoints.TrainedModel(facts, {name: value.cpu().clone() for name, value in named.items()})


def _described(session: Session) -> str:
    lanes = f" with {session.lanes} vector lanes" if session.lanes else ""
    device = f" on {session.device}" if session.device else ""
    # A GPU's libraries choose their kernels by the sizes of arrays, and so by the size of the stack; triton uses none.
    stack = f", in a stack of {session.stack}" if session.device and session.engine != "triton" else ""
    return f"engine {session.engine}{lanes}{device}{stack}"


def shuffle(seed: int, epoch: int, n: int) -> np.ndarray:
    """Return a member's order of samples in an epoch, ``[n]`` int64: a permutation from (seed, epoch) alone."""
    return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(n)
