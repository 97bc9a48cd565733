"""`timeout` ends an attempt that takes too long. `context()` tells a task its key, its attempt, and an idempotency key
that stays the same over all attempts, for services that must count a request once.

Prints that the payment was made once although it took two attempts, and that a call which hangs was ended.
"""

import tempfile
import threading
from pathlib import Path

from dagengine import StepTimeout, context, get, task, workflow


@task(retries=1, retry_delay=0)
def pay(ledger: Path, amount: int) -> str:
    me = context()
    payments = ledger.read_text().splitlines() if ledger.exists() else []
    if f"{me.idempotency_key} {amount}" not in payments:  # what a payment service does with the key
        ledger.write_text("\n".join([*payments, f"{me.idempotency_key} {amount}"]))
    if me.attempt == 1:
        raise ConnectionError("the answer was lost")
    return f"{me.key}: {len(ledger.read_text().splitlines())} payment, at attempt {me.attempt}"


@task(timeout=0.5)
def hang() -> None:
    threading.Event().wait()


@workflow
def pay_and_hang(ledger: Path) -> list[str]:
    paid = pay(ledger, 42)
    try:
        get(hang())
        ended = "never"
    except StepTimeout as error:
        ended = f"ended after {error.timeout} s"
    return [get(paid), ended]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        print(*pay_and_hang.run(Path(folder) / "ledger"), sep="\n")
