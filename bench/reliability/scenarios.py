"""The rows: what the backend does wrong, what users ask of it meanwhile, and what Stent must show.

The rows of harm, in which some requests fail and the others must not notice, are in harm.py.
"""

from harm import HARM
from scenario import NO_DUPLICATE, Check, Fault, Scenario, at_least, at_most

KIB, MIB = 1024, 1024 * 1024
ONE_SECOND = {"per_try_timeout": '"1s"'}
FEW = at_most("failed", 0.001)
# Four attempts leave 0.2 to the fourth, 0.16 %, give or take what the seed does to 2500 requests. Which they are is the
# same for every proxy, so that NGINX's share is the bound and not a figure.
AS_NGINX = (Check("failed", "<=", 1.0, of_nginx=True), Check("p99_ms", "<=", 1.15, of_nginx=True))
RESTART = Fault("refuse", first=2.5, period=5.0, duration=0.3)

SCENARIOS = [
    Scenario(
        "healthy", "a backend that does nothing wrong",
        (Fault(),), (at_most("failed", 0), at_most("attempts", 1.0), Check("p99_ms", "<=", 1.15, of_nginx=True)),
    ),
    Scenario(
        "errors", "20 % of answers are 500 or 502, each for itself",
        (Fault("status", 0.2, (500, 502)),), AS_NGINX,
    ),
    Scenario(
        "errors-30", "30 % of answers are 500 or 502, each for itself",
        (Fault("status", 0.3, (500, 502)),), AS_NGINX,
    ),
    Scenario(
        "errors-trickle", "20 % of answers are a 502 whose body takes 1.5 s",
        (Fault("trickle", 0.2, delay=1.5),), AS_NGINX,
    ),
    Scenario(
        "burst", "502 for 400 ms every 5 s",
        (Fault("status", first=2.5, period=5.0, duration=0.4),), (FEW, at_most("attempts", 1.15)),
    ),
    Scenario("restart", "connections refused for 300 ms every 5 s", (RESTART,), (FEW,)),
    Scenario("break-length", "a 4 KiB answer with a length breaks in its body, 10 %", (Fault("break", 0.1),), (FEW,), body=4 * KIB),
    Scenario(
        "break-chunked", "a 4 KiB chunked answer is reset in its body, 10 %",
        (Fault("break", 0.1),), (FEW,), body=4 * KIB, chunked=True,
    ),
    Scenario(
        "break-large", "a 64 KiB chunked answer is reset in its body, 10 %",
        (Fault("break", 0.1),), (FEW,), body=64 * KIB, chunked=True, phases=(60,),
    ),
    Scenario(
        "break-download", "a 1 MiB answer with a length and an ETag breaks in its body, 10 %",
        (Fault("break", 0.1),), (FEW,), body=MIB, validator=True, phases=(20,),
    ),
    Scenario("no-answer", "the connection is closed in place of an answer, 10 %", (Fault("close", 0.1),), (FEW,)),
    Scenario("nonsense", "what comes is not HTTP, 10 %", (Fault("nonsense", 0.1),), (FEW,)),
    Scenario(
        "hang", "2 % hang; 1 s for one attempt",
        (Fault("hang", 0.02),), (at_most("failed", 0), at_most("p99_ms", 1015)), per_try=1.0, stent_keys=ONE_SECOND,
    ),
    Scenario(
        "hang-hedged", "the same, and what takes long is sent once more",
        (Fault("hang", 0.02),), (at_most("failed", 0), at_most("p99_ms", 100)), per_try=1.0,
        stent_keys={**ONE_SECOND, "hedge": '"p95"'},
    ),
    Scenario(
        "post-slow", "POSTs, 3 % take 3 s; 1 s for one attempt",
        (Fault("slow", 0.03, delay=3.0),), (at_most("failed", 0), NO_DUPLICATE),
        post_share=1.0, per_try=1.0, stent_keys=ONE_SECOND,
    ),
    Scenario("post-restart", "POSTs, connections refused for 300 ms every 5 s", (RESTART,), (FEW, NO_DUPLICATE), post_share=1.0),
    Scenario(
        "two-one-fails", "two endpoints, one always answers 500; failed POSTs",
        (Fault("status", statuses=(500,)), Fault()), (at_most("failed_post", 0.004), at_most("failed_get", 0), NO_DUPLICATE),
        post_share=0.5, shown="failed_post",
    ),
    Scenario(
        "two-one-half", "two endpoints, one answers 500 to half; failed POSTs",
        (Fault("status", 0.5, (500,)), Fault()), (at_most("failed_post", 0.004), at_most("failed_get", 0), NO_DUPLICATE),
        post_share=0.5, shown="failed_post",
    ),
    Scenario(
        "two-one-hangs", "two endpoints, one hangs; 1 s for one attempt; failed POSTs",
        (Fault("hang"), Fault()), (at_most("failed_post", 0.02), at_most("failed_get", 0), NO_DUPLICATE),
        post_share=0.5, per_try=1.0, shown="failed_post", stent_keys=ONE_SECOND,
    ),
    Scenario(
        "two-both", "two endpoints, 20 % of the answers of both are 500 or 502",
        (Fault("status", 0.2, (500, 502)), Fault("status", 0.2, (500, 502))), (at_most("failed", 0.002),),
        seconds=60.0,  # 0.16 % are expected; of 2500 requests chance makes it 0.24 % now and then
    ),
    Scenario(
        "two-rolling", "two endpoints, restarted one after the other: 1 s each every 5 s; half of it POSTs",
        # Hard for whoever leaves out the first for longer than it was away: then the second is all there is.
        (Fault("refuse", first=1.5, period=5.0, duration=1.0), Fault("refuse", first=4.0, period=5.0, duration=1.0)),
        (FEW, NO_DUPLICATE), post_share=0.5,
    ),
    *(
        Scenario(
            f"put-{when}", f"a PUT of 5 MB, the first attempt fails {when} its body is read",
            (Fault(f"upload-{when}"),), (at_most("failed", 0),), put=True, upload=5_000_000, phases=(2,), seconds=10.0,
            stent_keys={"body_limit": '"8MiB"'},
        )
        for when in ("after", "while", "before")
    ),
    Scenario(
        "overload", "capacity 200/s, 0.3 s of queue, then 502; offered 150, 400, 150/s",
        (Fault("queue", capacity=200, queue=0.3),), (at_least("goodput_2", 198), at_most("attempts", 1.1)),
        phases=(150, 400, 150), seconds=18.0, shown="goodput",
    ),
    Scenario(
        "overload-late", "the same with 1.5 s of queue and 1 s for one attempt",
        (Fault("queue", capacity=200, queue=1.5),),
        # What is offered in the outer phases is 150/s, and Poisson's noise with it.
        (at_least("goodput_1", 140), at_least("goodput_2", 190), at_least("goodput_3", 140), at_most("recovery_s", 1.0)),
        phases=(150, 400, 150), seconds=18.0, per_try=1.0, shown="goodput", stent_keys=ONE_SECOND,
    ),
    Scenario(
        "idle-close", "idle connections closed after 50 ms, known 10 ms later; POSTs 30 to 70 ms apart",
        (Fault("idle-close", delay=0.05, window=0.01),), (at_most("failed", 0.005), NO_DUPLICATE),
        post_share=1.0, gaps=(0.03, 0.07),
    ),
    Scenario(
        "retry-after", "10 % are 502 or 503 with Retry-After: 1, until that second has passed",
        (Fault("retry-after", 0.1, (502, 503)),), (at_most("failed", 0), at_most("early", 0)),
        stent_keys={"statuses": "[500, 502, 503]"},
    ),
]

# The rows by the table that they stand in.
FAMILIES = {"faults": SCENARIOS, "harm": HARM}
BY_NAME = {scenario.name: scenario for rows in FAMILIES.values() for scenario in rows}
