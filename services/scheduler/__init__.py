"""The scheduler: sealed → work.<device>, and verdicts to partials. Its state is derived from the log (rule 5).

A record's way: `handler` (what came) → `desk` (what it means for devices) on top of `job_desk` (for jobs and tasks) →
`turn` (what is due, decided and sent). Below them:

- `app`: takes a term, restores the state, runs the stage beside its helpers.
- `jobs`: live jobs and tasks, and who waits in which order.
- `fleet`: devices as their heartbeats describe them, λ and μ measured.
- `bindings`, `cancels`: repeated keys and remembered cancels, within the window.
- `deaths`: deaths per task, kept in `epochs`. `fences`: lives of devices that were given up. `drains`: devices that take
  no more work.
- `authority`: whose word a message on `control` is, and what that one may have.
- `commands`: what an operator's command about a model comes to. `operators`: takes them in their order.
- `views`: snapshots for the decision; reports and answers to queries for people.
- `tenant_views`: what of them a tenant is shown.
- `telling`, `refusing`, `recording`: what waiting jobs are told, what can never be done, the record of each decision.
- `measuring`: reports as metrics.
- `effects`: what a turn sends.
- `replies`, `reconciling`: helpers beside the loop: queries and commands answered, the ledger (`leasing`) put right.
"""
