//! Staged and visible files of a simulated world.
//!
//! Owns: Bronze, Silver and letter files as lines of text, and their publication. Does not own: what lasts (store), faults
//! (process).

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use arrow_array::types::{Int64Type, TimestampMicrosecondType};
use async_trait::async_trait;
use sluicebox_actors::model::epoch::{Hash, OutputClass, PendingOutput};
use sluicebox_actors::model::fault::Result;
use sluicebox_actors::model::letter::Letter;
use sluicebox_actors::model::position::ShardId;
use sluicebox_actors::model::record::RawSlice;
use sluicebox_actors::ports::{Clock, CommitPermit, DataFiles, LetterFile, Outputs};

use super::plan::{Flaw, Op};
use super::process::Process;
use super::store::File;

/// A shared process as the port that makes files.
pub(crate) struct Files(pub(crate) Arc<Process>);

struct OpenFiles {
    process: Arc<Process>,
    shard: ShardId,
    lease_epoch: u64,
    epoch: u64,
    lines: BTreeMap<(OutputClass, i64), Vec<String>>,
    buffered: usize,
}

impl OpenFiles {
    fn line(&mut self, class: OutputClass, hour: i64, line: String) {
        self.buffered += line.len();
        self.lines.entry((class, hour)).or_default().push(line);
    }

    fn stage(self) -> Result<Vec<PendingOutput>> {
        let process = self.process.clone();
        let op = if self.lines.keys().any(|(class, _)| *class == OutputClass::Dlq) { Op::LettersFinish } else { Op::FilesFinish };
        process.clone().now_op(op, format!("{} {}", self.shard, self.epoch), move |store| {
            let mut outputs = Vec::new();
            for ((class, hour), mut lines) in self.lines {
                let rows = lines.len() as u64;
                if process.has(Flaw::FilesLoseARow) && class == OutputClass::Silver {
                    drop(lines.pop());
                }
                let sha256 = Hash::of(lines.join("\n").as_bytes());
                let unique = format!("{}-{}-{}-{:x}", self.shard, self.epoch, self.lease_epoch, process.random());
                let (staged, path) = (format!("staged/{class:?}-{unique}"), format!("{class:?}/{hour}/{unique}"));
                let len = lines.iter().map(|line| line.len() as u64).sum();
                let file = File {
                    class,
                    shard: self.shard.clone(),
                    epoch: self.epoch,
                    lease_epoch: self.lease_epoch,
                    lines,
                    sha256: sha256.clone(),
                };
                if process.has(Flaw::OutputsPublishAtStaging) {
                    store.visible.insert(path.clone(), file.clone());
                }
                store.staged.insert(staged.clone(), file);
                let closed_because = "epoch".to_owned();
                outputs.push(PendingOutput { class, staged, path, len, sha256, rows, epoch: self.epoch, closed_because });
            }
            Ok(outputs)
        })
    }
}

impl DataFiles for OpenFiles {
    fn bronze(&mut self, slice: &RawSlice) -> Result<()> {
        self.process.now_op(Op::FilesWrite, format!("bronze {}", slice.records.len()), |_| Ok(()))?;
        for record in &slice.records {
            let line = format!("{} {}", super::truth::name(&slice.shard, record), String::from_utf8_lossy(&record.data));
            self.line(OutputClass::Bronze, 0, line);
        }
        Ok(())
    }

    fn silver(&mut self, rows: &RecordBatch) -> Result<()> {
        self.process.now_op(Op::FilesWrite, format!("silver {}", rows.num_rows()), |_| Ok(()))?;
        let column = |name| rows.column_by_name(name).expect("a column of ours");
        let (keys, names) = (column("key").as_string::<i32>(), column("_name").as_string::<i32>());
        let times = column("event_time").as_primitive::<TimestampMicrosecondType>().values();
        let values = column("value").as_primitive::<Int64Type>().values();
        for row in 0..rows.num_rows() {
            let line = format!("{} {},{},{}", names.value(row), keys.value(row), times[row], values[row]);
            self.line(OutputClass::Silver, times[row].div_euclid(super::truth::MINUTE * 60), line);
        }
        Ok(())
    }

    fn buffered(&self) -> usize {
        self.buffered
    }

    fn flush(&mut self) -> Result<()> {
        self.process.now_op(Op::FilesFlush, self.buffered, |_| Ok(()))?;
        self.buffered = 0;
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Vec<PendingOutput>> {
        self.stage()
    }
}

impl LetterFile for OpenFiles {
    fn append(&mut self, letters: &[Letter]) -> Result<()> {
        self.process.now_op(Op::LettersAppend, letters.len(), |_| Ok(()))?;
        for letter in letters {
            let name = format!("{}/{}.{}", letter.shard, letter.sequence, letter.sub_sequence);
            self.line(OutputClass::Dlq, 0, format!("{name} {} {}", letter.stage, letter.reason));
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Vec<PendingOutput>> {
        self.stage()
    }
}

impl Files {
    fn open(&self, op: Op, shard: &ShardId, lease_epoch: u64, epoch: u64) -> Result<Box<OpenFiles>> {
        self.0.now_op(op, format!("{shard} {epoch}"), |store| {
            let row = store.rows.get(shard).cloned();
            // A row under a newer lease says nothing about the epochs of this owner.
            let at_most_two = row.is_none_or(|row| row.lease_epoch > lease_epoch || epoch <= row.epoch + 2);
            store.rule(at_most_two, || format!("{shard}: epoch {epoch} is written while two before it are open"));
            Ok(())
        })?;
        let (process, shard, lines) = (self.0.clone(), shard.clone(), BTreeMap::new());
        Ok(Box::new(OpenFiles { process, shard, lease_epoch, epoch, lines, buffered: 0 }))
    }
}

#[async_trait]
impl Outputs for Files {
    fn data_files(&self, shard: &ShardId, lease_epoch: u64, epoch: u64) -> Result<Box<dyn DataFiles>> {
        Ok(self.open(Op::FilesOpen, shard, lease_epoch, epoch)?)
    }

    fn letter_file(&self, shard: &ShardId, lease_epoch: u64, epoch: u64) -> Result<Box<dyn LetterFile>> {
        Ok(self.open(Op::LettersOpen, shard, lease_epoch, epoch)?)
    }

    async fn publish(&self, permit: CommitPermit, output: &PendingOutput) -> Result<()> {
        let (lease, epoch) = permit.stands_for();
        let (forget, pending) = (self.0.has(Flaw::OutputsForgetToPublish), output.clone());
        self.0
            .op(Op::Publish, &output.path, move |store| if forget { Ok(()) } else { store.publish(lease, epoch, &pending) })
            .await
    }

    async fn discard_staged(&self, permit: CommitPermit, shard: &ShardId, keep: &[PendingOutput]) -> Result<u64> {
        let (of, keep, lease) = (shard.clone(), keep.to_vec(), permit.stands_for().0);
        self.0.op(Op::Discard, shard, move |store| Ok(store.discard(lease, &of, &keep))).await
    }
}
