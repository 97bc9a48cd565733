"""A stateful object: its state stays in its worker between calls, and each call is a step. A failed call changes nothing.

Prints the balance after each call, and then that of an account that was asked for too much.
"""

from __future__ import annotations

from dagengine import gather, get, readonly, stateful, workflow


@stateful(checkpoint_every=2)
class Account:
    def __init__(self, balance: int) -> None:
        self.balance = balance

    def pay(self, amount: int) -> int:
        self.balance -= amount
        if self.balance < 0:
            raise ValueError(f"{amount} is too much")
        return self.balance

    @readonly
    def left(self) -> int:
        return self.balance


@workflow
def shopping(balance: int) -> None:
    account = Account(balance)
    print(gather([account.pay(amount) for amount in (10, 20, 30)]))
    try:
        get(account.pay(1000))
    except ValueError as error:
        print(f"{error}, so there are still {get(account.left())}")


if __name__ == "__main__":
    shopping.run(100)
