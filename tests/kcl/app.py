#!/usr/bin/env python3
"""What an application of the Kinesis Client Library does here: it notes every record and every end of a shard in a file."""

import json
import os
import sys

sys.path.insert(0, os.environ["SLUICEBOX_TEST_KCL_PYTHONPATH"])
from amazon_kclpy import kcl  # noqa: E402
from amazon_kclpy.v3 import processor  # noqa: E402

# Appended to in one write a line: several processes share it.
NOTES = os.open(os.environ["KCL_NOTES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def note(**what):
    os.write(NOTES, (json.dumps(what) + "\n").encode())


class Processor(processor.RecordProcessorBase):
    def initialize(self, given):
        self.shard = given.shard_id
        note(what="begin", shard=self.shard)

    def process_records(self, given):
        for record in given.records:
            note(what="record", shard=self.shard, sequence=record.sequence_number, part=record.sub_sequence_number)
        given.checkpointer.checkpoint()

    def lease_lost(self, given):
        note(what="lost", shard=self.shard)

    def shard_ended(self, given):
        note(what="end", shard=self.shard)
        given.checkpointer.checkpoint()

    def shutdown_requested(self, given):
        given.checkpointer.checkpoint()
        note(what="stop", shard=self.shard)


kcl.KCLProcess(Processor()).run()
