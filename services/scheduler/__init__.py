"""The scheduler: sealed → work.<device>, and verdicts to partials. Its state is derived from the log (rule 5).

A record's way: `handler` (what came) → `desk` (what it means for jobs and devices) → `turn` (what is due, decided and
sent). Below them:

- `app`: takes a term, restores the state, runs the stage beside its helpers.
- `jobs`: live jobs and tasks, and who waits in which order.
- `fleet`: devices as their heartbeats describe them, λ and μ measured.
- `bindings`, `cancels`: repeated keys and remembered cancels, within the window.
- `deaths`: deaths per task, kept in `epochs`.
- `views`: snapshots for the decision; reports and answers to queries for people.
- `measuring`: reports as metrics.
- `effects`: what a turn sends.
- `replies`, `reconciling`: helpers beside the loop: queries answered, the ledger put right.
"""
