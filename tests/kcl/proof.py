#!/usr/bin/env python3
"""The real Kinesis Client Library and sluicebox on one stream: side by side, then one after the other.

    proof.py SLUICEBOX FOLDER        (environment: see CONTRIBUTING, "Against emulators")

Every record that was put is compared by shard and sequence number: what the library's application noted, what lies in Bronze,
and what the service answered to PutRecords. Exit 0 only if all of it holds.
"""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time
import urllib.request

SLUICEBOX, FOLDER = pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2]).resolve()
KINESIS, DYNAMODB = os.environ["SLUICEBOX_TEST_KINESIS_URL"], os.environ["SLUICEBOX_TEST_DYNAMODB_URL"]
CLOUDWATCH = os.environ["SLUICEBOX_TEST_CLOUDWATCH_URL"]
NAME = f"kcl-{os.getpid()}-{random.randrange(1 << 30)}"
NOTES, FAILOVER_MS, PATIENCE = FOLDER / "notes.ndjson", 4000, 420
BEGAN = time.monotonic()
SERVICES = {
    **{name: value for name, value in os.environ.items() if not name.startswith("SLUICEBOX_") or "TEST_KCL" in name},
    "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true", "AWS_ENDPOINT_URL_KINESIS": KINESIS, "AWS_ENDPOINT_URL_DYNAMODB": DYNAMODB,
    "AWS_ENDPOINT_URL_CLOUDWATCH": CLOUDWATCH, "KCL_NOTES": str(NOTES),
}


def say(text):
    print(f"{time.monotonic() - BEGAN:6.1f} s  {text}", flush=True)


def ask(url, target, **body):
    # Nobody checks signatures here; moto sees by the scope which service is meant.
    scope = f"20260101/us-east-1/{'kinesis' if 'Kinesis' in target else 'dynamodb'}/aws4_request"
    headers = {
        "X-Amz-Target": target, "X-Amz-Date": "20260101T000000Z",
        "Content-Type": f"application/x-amz-json-1.{1 if 'Kinesis' in target else 0}",
        "Authorization": f"AWS4-HMAC-SHA256 Credential=test/{scope}, SignedHeaders=host;x-amz-date, Signature=00",
    }
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read() or b"{}")


def kinesis(operation, **body):
    return ask(KINESIS, f"Kinesis_20131202.{operation}", StreamName=NAME, **body)


def until(what, look):
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        found = look()
        if found:
            say(what)
            return found
        time.sleep(0.3)
    sys.exit(f"waited in vain: {what}")


def active():
    return kinesis("DescribeStreamSummary")["StreamDescriptionSummary"]["StreamStatus"] == "ACTIVE"


PUT = []


def put(count):
    """Events of the built-in contract."""
    import base64
    events = []
    for number in range(len(PUT), len(PUT) + count):
        event = {"eventType": "purchase", "userId": f"u{number}", "sessionId": f"s{number}", "amount": 1,
                 "timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
        events.append({"Data": base64.b64encode(json.dumps(event).encode()).decode(), "PartitionKey": f"k{number}"})
    for at in range(0, count, 100):
        answer = kinesis("PutRecords", Records=events[at:at + 100])
        assert answer["FailedRecordCount"] == 0, answer
        PUT.extend((record["ShardId"], record["SequenceNumber"]) for record in answer["Records"])
    say(f"{len(PUT)} records are in the stream")


def split(shard):
    listed = {info["ShardId"]: info for info in kinesis("ListShards")["Shards"]}
    first, last = (int(listed[shard]["HashKeyRange"][side]) for side in ("StartingHashKey", "EndingHashKey"))
    kinesis("SplitShard", ShardToSplit=shard, NewStartingHashKey=str(first + (last - first) // 2))
    until(f"{shard} is split", active)
    return {info["ShardId"] for info in kinesis("ListShards")["Shards"] if info.get("ParentShardId") == shard}


def notes():
    lines = NOTES.read_text().splitlines() if NOTES.exists() else []
    return [json.loads(line) for line in lines]


def read_by_kcl():
    return [(note["shard"], note["sequence"]) for note in notes() if note["what"] == "record"]


def place(what, shard):
    return next((at for at, note in enumerate(notes()) if (note["what"], note["shard"]) == (what, shard)), None)


def leases():
    items = ask(DYNAMODB, "DynamoDB_20120810.Scan", TableName=NAME, ConsistentRead=True)["Items"]
    return {item["leaseKey"]["S"]: item for item in items}


def daemon():
    settings = {
        "executableName": pathlib.Path(__file__).with_name("app.py"), "streamName": NAME, "applicationName": NAME,
        "AwsCredentialsProvider": "DefaultCredentialsProvider", "processingLanguage": "python/3",
        "initialPositionInStream": "TRIM_HORIZON", "regionName": "us-east-1", "kinesisEndpoint": KINESIS,
        "dynamoDBEndpoint": DYNAMODB, "metricsLevel": "NONE", "retrievalMode": "POLLING",
        "idleTimeBetweenReadsInMillis": 300, "shardSyncIntervalMillis": 2000, "failoverTimeMillis": FAILOVER_MS,
        "parentShardPollIntervalMillis": 1000,
    }
    (FOLDER / "kcl.properties").write_text("".join(f"{name} = {value}\n" for name, value in settings.items()))
    command = ["java", "-Xmx384m", "-cp", os.environ["SLUICEBOX_TEST_KCL_CLASSPATH"],
               "software.amazon.kinesis.multilang.MultiLangDaemon", "--properties-file", str(FOLDER / "kcl.properties")]
    return subprocess.Popen(command, env=SERVICES, cwd=FOLDER, stdin=subprocess.DEVNULL,
                            stdout=open(FOLDER / "kcl.log", "w"), stderr=subprocess.STDOUT)


def command(data, *verb):
    sets = ["stream.kind=kinesis", f"stream.name={NAME}", "commit.interval=1s"]
    return [str(SLUICEBOX), *verb, "--data", str(FOLDER / data), *(part for value in sets for part in ("--set", value))]


def sluicebox(data, *verb, code=0):
    ran = subprocess.run(command(data, *verb), env=SERVICES, cwd=FOLDER, capture_output=True, text=True)
    assert ran.returncode == code, f"{verb}: exit {ran.returncode}\n{ran.stdout}\n{ran.stderr}"
    return ran.stdout + ran.stderr


def bronze(data):
    rows = sluicebox(data, "query", "SELECT _shard, _sequence FROM bronze", "--format", "json", "--limit", "100000")
    rows = [json.loads(line) for line in rows.splitlines() if line.startswith("{")]
    return [(row["_shard"], str(row["_sequence"])) for row in rows]


def same(what, found, expected):
    found, expected = sorted(found), sorted(expected)
    assert found == expected, f"{what}: {len(found)} found, {len(expected)} expected, " \
        f"missing {sorted(set(expected) - set(found))[:3]}, too many {[one for one in found if found.count(one) > 1][:3]}"
    say(f"{what}: {len(found)} records, each once")


def side_by_side():
    kinesis("CreateStream", ShardCount=2)
    until("the stream is there", active)
    put(200)
    library = daemon()
    ours = subprocess.Popen(command("beside", "run"), env={**SERVICES, "SLUICEBOX_LOG": "info"}, cwd=FOLDER,
                            stdin=subprocess.DEVNULL, stdout=open(FOLDER / "run.log", "w"), stderr=subprocess.STDOUT)
    try:
        until("KCL has read what was there", lambda: len(read_by_kcl()) >= 200)
        parent = "shardId-000000000000"
        children = split(parent)
        put(200)
        until("KCL has read on into the children", lambda: len(read_by_kcl()) >= 400)
        until("KCL has ended the parent", lambda: leases()[parent]["checkpoint"]["S"] == "SHARD_END")
        log = lambda: (FOLDER / "run.log").read_text()
        until("sluicebox has taken the children", lambda: all(f"shard={child}" in log() for child in children))
        ours.send_signal(signal.SIGTERM)
        assert ours.wait(PATIENCE) == 0, log()
        sluicebox("beside", "run", "--drain")
        same("KCL beside sluicebox", read_by_kcl(), PUT)
        same("sluicebox beside KCL", bronze("beside"), PUT)
        for child in children:
            assert place("end", parent) < place("begin", child), "KCL began a child before the end of its parent"
            assert log().index(f"shard={parent}") < log().index(f"shard={child}")
        theirs = set(leases()[parent]["childShardIds"]["SS"])
        assert theirs == children, (theirs, children)
        say(f"both ended {parent} before they began {sorted(children)}")
        sluicebox("beside", "audit")
    except BaseException:
        ours.kill()
        library.kill()
        raise
    return library


def takeover(library):
    failover = ("--kcl-table", NAME, "--failover", f"{FAILOVER_MS + 1000}ms")
    try:
        refused = sluicebox("after", "shards", "import", *failover, code=78)
        assert "the fleet is at work" in refused, refused
        say("while KCL works, an import is refused")
    finally:
        library.terminate()
    library.wait(PATIENCE)
    say("KCL is stopped")
    read = read_by_kcl()
    put(150)
    split("shardId-000000000001")
    put(150)
    print(sluicebox("after", "shards", "import", *failover))
    print(sluicebox("after", "run", "--drain"))
    same("KCL after it was stopped", read_by_kcl(), read)
    ours = bronze("after")
    same("KCL, then sluicebox", read + ours, PUT)
    assert len(ours) == 300, len(ours)
    sluicebox("after", "audit")
    for shard, lease in sorted(leases().items()):
        say(f"{shard}: {lease['checkpoint']['S']} {lease.get('leaseOwner', {}).get('S', 'nobody')}")


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    takeover(side_by_side())
    say("all of it holds")
