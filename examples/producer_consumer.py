"""Pass results from a producer process to a consumer as soon as each is ready, by futures.

python examples/producer_consumer.py
"""

from multiprocessing import Process

import numpy as np

from fsexchange import Future, Store


def produce(futures: list[Future]) -> None:
    """Set each future in turn: large arrays go through files, nothing through a pipe."""
    for n, future in enumerate(futures):
        try:
            if n == 3:
                raise ValueError(f"step {n} does not converge")
            future.set_result(np.full((1000, 1000), float(n)))
        except ValueError as error:
            future.set_exception(error)  # raised where the result is asked for


def consume(futures: list[Future]) -> None:
    """Wait for each in turn; give the space back as soon as it is used."""
    for n, future in enumerate(futures):
        try:
            print(f"step {n}: mean {future.result(timeout=60).mean()}")
        except ValueError as error:
            print(f"step {n}: failed, {error}")
        future.ref.evict()


if __name__ == "__main__":
    with Store() as store:
        futures = [store.future() for _ in range(5)]  # each is a few hundred bytes
        consumer = Process(target=consume, args=(futures,))
        producer = Process(target=produce, args=(futures,))
        consumer.start()  # first: it waits
        producer.start()
        producer.join()
        consumer.join()
