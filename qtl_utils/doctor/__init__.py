"""The doctor: what is wrong with a hybrid quantum-classical model that does not train, and what mends it.

    from qtl_utils.doctor import diagnose
    diagnose(model, (images, labels))

`diagnose` runs the checks of CHECKS on any torch module and returns their findings; `explain(error)` does the same for
an exception. A check of one's own is a function from a `Patient` to a finding and a row of the registry:

    @check("big_weights", "the size of the weights", section="optimisation#stuck")
    def big_weights(patient):
        largest = max(p.abs().max().item() for p in patient.model.parameters())
        if largest > 100:
            return fail(f"the largest weight is {largest:.0f}", "steps that were too large", "a lower learning rate")
        return ok(f"the largest weight is {largest:.2f}")

`repair` goes on from there: it trains the model with and without the fixes that code can apply (FIXES, to which `fix`
adds one of one's own) and keeps those that help. `watch` looks on while a training loop of one's own runs:

    with watch(model, optimizer) as w:
        ...  # in the loop, after optimizer.step():
        w.step(loss)
    w.findings
"""

from qtl_utils.doctor import checks, fixes  # registers them
from qtl_utils.doctor.diagnosis import diagnose
from qtl_utils.doctor.findings import CHECKS, Check, Diagnosis, DiagnosisError, Finding, check, fail, ok, skipped, warn
from qtl_utils.doctor.fixes.registry import FIXES, Case, Fix, Mend, fix
from qtl_utils.doctor.live import TrainingWarning, watch
from qtl_utils.doctor.messages import KNOWN_ERRORS, explain
from qtl_utils.doctor.patient import Patient
from qtl_utils.doctor.repair import repair
from qtl_utils.doctor.repaired import Repair

__all__ = [
    "CHECKS",
    "FIXES",
    "KNOWN_ERRORS",
    "Case",
    "Check",
    "Diagnosis",
    "DiagnosisError",
    "Finding",
    "Fix",
    "Mend",
    "Patient",
    "Repair",
    "TrainingWarning",
    "check",
    "checks",
    "diagnose",
    "explain",
    "fail",
    "fix",
    "fixes",
    "ok",
    "repair",
    "skipped",
    "warn",
    "watch",
]
