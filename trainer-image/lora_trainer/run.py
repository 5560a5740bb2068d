"""A run from its plan to its result: the stages in order, each skipped where it is done.

A module of its own because the order is the policy: what is cheap and may fail comes before what
is expensive, and nothing is published that was not read back.
"""

import threading
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from lora_api.exit_codes import ExitCode
from lora_api.job import JobDocument
from lora_api.progress import Stage
from lora_api.reasons import Reason
from lora_api.result import Outcome, Result
from lora_api.status import ArtifactStatus, ValidationStatus
from lora_trainer import log
from lora_trainer.checking import build_dataset
from lora_trainer.context import Context
from lora_trainer.dataset import Dataset
from lora_trainer.disk import sha256_of_file
from lora_trainer.embedder import EmbedderFiles, fetch_embedder
from lora_trainer.environment import confine
from lora_trainer.errors import StorageError, TrainerError
from lora_trainer.fetch_base import fetch_base_model, open_base
from lora_trainer.fetch_dataset import fetch_dataset
from lora_trainer.mirror import kept_safe
from lora_trainer.plan import make_plan, with_identity
from lora_trainer.progress import ProgressBoard
from lora_trainer.publish import (
    MODEL,
    check_output,
    not_stored,
    outcome_of,
    publish,
    stored_report,
)
from lora_trainer.recipes import RECIPES, check_base
from lora_trainer.stopping import StopFlag
from lora_trainer.storage import Storage, open_storage
from lora_trainer.workspace import Workspace, open_workspace, recorded_run_id, refuse_overlap

# Bad input while nothing is trained; once a result waits, what a person can correct meanwhile.
_OF_THE_ENVIRONMENT = frozenset({Reason.CREDENTIALS_MISSING, Reason.STORAGE_UNREACHABLE})


def run_job(
    job: JobDocument,
    root: Path,
    *,
    board: ProgressBoard,
    stop: StopFlag,
    started: float,
    fresh: bool = False,
    fatal: Callable[[TrainerError], None] = lambda _: None,
) -> Result:
    """Do the job, or what is left of it.

    Args:
        job: The checked document.
        root: The workspace folder.
        board: Told of everything.
        stop: Looked at wherever stopping is safe.
        started: time.time() at which the process started.
        fresh: Forget what earlier attempts finished; caches are kept.
        fatal: Ends the process at once with a failure, from any thread.

    Returns:
        The result of a run that succeeded.

    Raises:
        TrainerError: Any expected failure.
    """
    job = with_identity(job, recorded_run_id(root))
    log.info("identity", run_id=job.run_id)
    plan = make_plan(job)
    refuse_overlap(root, job)
    with open_workspace(root, run_id=job.run_id, key=plan.key) as workspace:
        confine(root)
        if fresh:
            workspace.forget()
        with kept_safe(job, workspace, fresh=fresh) as keep_safe:
            context = Context(
                plan=plan,
                workspace=workspace,
                board=board,
                stop=stop,
                started=started,
                keep_safe=keep_safe,
                fatal=fatal,
            )
            _do_what_is_left(context, fresh=fresh)
        return _succeeded(context)


def _do_what_is_left(context: Context, *, fresh: bool) -> None:
    """Everything up to a stored result."""
    workspace, run_id = context.workspace, context.plan.job.run_id
    if workspace.done(Stage.PUBLISH) is None and not fresh:
        _remember(context)
    if workspace.done(Stage.PUBLISH) is not None:
        log.info("everything is done already", workspace=workspace.root)
        return
    if not _is_complete(workspace):
        check_output(_open_output(context), run_id)
        _make_result(context)
    _publish(context)


def _remember(context: Context) -> None:
    """See in the output that all is done, where the workspace that knew it was lost."""
    job, workspace = context.plan.job, context.workspace
    if not job.workspace.ephemeral:
        return
    report = stored_report(_open_output(context), run_id=job.run_id, job_digest=workspace.key)
    if report is not None:
        workspace.mark(Stage.SAMPLE, outcome_of(report))
        workspace.mark(Stage.PUBLISH, {})


def _is_complete(workspace: Workspace) -> bool:
    """Whether the result folder holds what was checked and scored, and that very model."""
    sampled, saved = workspace.done(Stage.SAMPLE), workspace.done(Stage.SAVE) or {}
    return (
        sampled is not None
        and _holds(workspace, sampled["artifact"]["digest"])
        and all(_holds(workspace, one["digest"], name) for name, one in saved.items())
    )


def _holds(workspace: Workspace, digest: object, name: str = MODEL) -> bool:
    """Whether the model that lies in the result folder is the one that a marker speaks of.

    A marker is a promise about a file beside it; whatever came between the two, a model that
    is not the one that was checked is made again, never published.
    """
    model = workspace.result / name
    if model.is_file() and digest == f"sha256:{sha256_of_file(model)}":
        return True
    log.warning("the model in the workspace is not the one that was checked", file=model)
    return False


def _make_result(context: Context) -> None:
    """All stages between the plan and a complete result folder."""
    plan, board, workspace = context.plan, context.board, context.workspace
    _import_ahead(plan.job.recipe)
    board.enter(Stage.FETCH)
    source = open_base(plan.job.base_model, stop=context.stop)
    dataset = _read_dataset(context)
    board.enter(Stage.LOAD)
    base = fetch_base_model(
        source,
        workspace.base,
        RECIPES[plan.job.recipe],
        check=lambda model: check_base(plan.job.recipe, model),
        advance=board.advance,
    )
    log.info("base model", uri=plan.job.base_model.uri, digest=base.digest)
    context.stop.check("fetching the base model")
    embedder = _fetch_embedder(context)

    # From here on torch is needed; the import has been running since the top of this function.
    from lora_trainer import results, saving, training
    from lora_trainer.release import keep_freed
    from lora_trainer.session import open_session

    keep_freed()
    session = open_session(context, dataset, base)
    training.cache_inputs(session)
    experts = len(session.recipe.experts())
    for number, _ in enumerate(session.each_expert()):
        board.begin_part(number, of=experts)
        name = session.recipe.part.file
        saved = (workspace.done(Stage.SAVE) or {}).get(name, {})
        if saved.get("inputs") == session.inputs and _holds(workspace, saved.get("digest"), name):
            saving.restore(session, saved)
        else:
            training.train(session)
            saving.save_and_verify(session)
    results.sample_and_score(session, embedder)


def _fetch_embedder(context: Context) -> EmbedderFiles | None:
    """The embedder that the job names, checked before anything is trained."""
    uri = context.plan.job.validation.embedder_uri
    if uri is None:
        return None
    storage = open_storage(uri, field="validation.embedderUri", stop=context.stop)
    folder = context.workspace.embedder
    embedder = fetch_embedder(storage, folder, advance=context.board.advance)
    log.info("embedder", uri=uri, family=embedder.family, digest=embedder.digest)
    return embedder


def _read_dataset(context: Context) -> Dataset:
    plan, board = context.plan, context.board
    fetched = fetch_dataset(
        plan.job.dataset, context.workspace.dataset, stop=context.stop, advance=board.advance
    )
    log.info("fetched", pictures=len(fetched.pictures), where=fetched.where)
    board.enter(Stage.VALIDATE)
    dataset = build_dataset(fetched, plan, stop=context.stop, advance=board.advance)
    log.info("dataset", pictures=len(dataset.samples), digest=dataset.digest)
    return dataset


def _open_output(context: Context) -> Storage:
    return open_storage(context.plan.job.output.uri, field="output.uri", stop=context.stop)


def _publish(context: Context) -> None:
    context.board.enter(Stage.PUBLISH)
    result = context.workspace.result
    try:
        publish(
            _open_output(context),
            result,
            run_id=context.plan.job.run_id,
            advance=context.board.advance,
            stop=context.stop,
        )
    except StorageError as error:
        if error.reason not in _OF_THE_ENVIRONMENT:
            raise
        raise not_stored(error, result) from error
    try:
        context.workspace.mark(Stage.PUBLISH, {})
    except OSError as error:  # stored is stored; without the marker it is stored once more
        log.warning("the workspace can't note that the result is stored", why=error)
    log.info("published", uri=context.plan.job.output.uri)


def _succeeded(context: Context) -> Result:
    context.board.enter(Stage.DONE)
    facts = context.workspace.done(Stage.SAMPLE) or {}
    artifact = ArtifactStatus.model_validate(facts["artifact"])
    validation = ValidationStatus.model_validate(facts["validation"])
    message = f"The LoRA lies at {artifact.uri}"
    if validation.improvement_percent is not None:
        better = validation.improvement_percent
        message += (
            f"; held-out loss {validation.base_loss:.4f} (base) to {validation.lora_loss:.4f}, "
            f"{abs(better):.1f} % {'better' if better >= 0 else 'worse'}"
        )
    if validation.passed is not None:
        message += "; the gate is passed" if validation.passed else "; the gate is not passed: "
        message += "; ".join(validation.reasons)
    message = "; ".join([message, *facts.get("missing", [])])
    return Result(
        outcome=Outcome.SUCCEEDED,
        reason=Reason.COMPLETED,
        message=f"{message}.",
        retryable=ExitCode.OK.is_retryable,
        step=facts["steps"],
        total_steps=facts["steps"],
        loss=facts["loss"],
        artifact=artifact,
        validation=validation,
        stage_seconds=context.board.stage_seconds,
    )


def _import_ahead(recipe: str) -> None:
    """Import torch and the models in the background while files are fetched.

    Imports take longer than fetching a small model; whoever needs a module first waits for it.

    Args:
        recipe: Name of the recipe.
    """

    def work() -> None:
        for module in ("torch", "lora_trainer.results", RECIPES[recipe].module):
            try:
                import_module(module)
            except Exception:  # the stage that needs it will fail with the real error
                return

    threading.Thread(target=work, name="import-ahead", daemon=True).start()
