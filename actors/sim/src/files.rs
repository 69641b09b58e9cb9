//! Staged and visible files of a simulated world.
//!
//! Owns: Bronze, Silver and letter files as lines of text, and their publication. Does not own: what lasts (store), faults
//! (process).

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Arc, PoisonError};

use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type, TimestampMicrosecondType, TimestampNanosecondType};
use arrow_array::{Array, ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow_schema::{Field, Schema};
use async_trait::async_trait;
use bytes::Bytes;
use sluicebox_actors::model::epoch::{Hash, Held, HeldOutput, OutputClass, PendingOutput};
use sluicebox_actors::model::fault::{Fault, Result};
use sluicebox_actors::model::letter::Letter;
use sluicebox_actors::model::position::ShardId;
use sluicebox_actors::model::record::RawSlice;
use sluicebox_actors::ports::{Batches, Clock, CommitPermit, DataFiles, LetterFile, Outputs, Publication, Rewriting};

use crate::plan::{Flaw, Op};
use crate::process::Process;
use crate::sinks::letter_line;
use crate::store::{File, Store};

/// Bytes that one read of a file brings at most.
const READ_MOST: usize = 1_000;

/// A shared process as the port that makes files.
pub struct Files {
    process: Arc<Process>,
    /// Each process has a disk of its own, which is gone with it.
    apart: bool,
}

impl Files {
    /// On one disk that all processes share.
    pub fn on_one_disk(process: &Arc<Process>) -> Self {
        Self { process: process.clone(), apart: false }
    }

    /// On a disk of this process alone, as in a fleet.
    pub fn apart(process: &Arc<Process>) -> Self {
        Self { process: process.clone(), apart: true }
    }
}

struct OpenFiles {
    process: Arc<Process>,
    apart: bool,
    shard: ShardId,
    lease_epoch: u64,
    epoch: u64,
    lines: BTreeMap<(OutputClass, i64), Vec<String>>,
    buffered: usize,
    /// Letters as JSON.
    letters: Vec<u8>,
    /// Slices that are not written out.
    unwritten: usize,
}

impl OpenFiles {
    /// Counts slices in (`true`) or all of this file's out.
    fn hold(&mut self, one_more: bool) {
        let mut all = self.process.unwritten.lock().unwrap_or_else(PoisonError::into_inner);
        let held = all.entry((self.shard.clone(), self.lease_epoch)).or_default();
        if one_more {
            (*held, self.unwritten) = (*held + 1, self.unwritten + 1);
        } else {
            (*held, self.unwritten) = (*held - self.unwritten, 0);
        }
        let (held, most) = (*held, self.process.slices_max);
        drop(all);
        if one_more && held > most {
            let broken = format!("{}: {held} slices are held, the budget is {most}", self.shard);
            drop(self.process.effect(|store| {
                store.rule(false, || broken);
                Ok(())
            }));
        }
    }

    fn line(&mut self, class: OutputClass, hour: i64, line: String) {
        self.buffered += line.len();
        self.lines.entry((class, hour)).or_default().push(line);
    }

    fn stage(mut self) -> Result<Vec<PendingOutput>> {
        let process = self.process.clone();
        let op = if self.lines.keys().any(|(class, _)| *class == OutputClass::Dlq) { Op::LettersFinish } else { Op::FilesFinish };
        process.clone().now_op(op, format!("{} {}", self.shard, self.epoch), move |store| {
            let mut outputs = Vec::new();
            for ((class, hour), mut lines) in std::mem::take(&mut self.lines) {
                let rows = lines.len() as u64;
                if process.has(Flaw::FilesLoseARow) && class == OutputClass::Silver {
                    drop(lines.pop());
                }
                let sha256 = Hash::of(lines.join("\n").as_bytes());
                let unique = format!("{}-{}-{}-{:x}", self.shard, self.epoch, self.lease_epoch, process.random());
                let (staged, path) = (format!("staged/{class:?}-{unique}"), format!("{class:?}/{hour}/{unique}"));
                let text = if class == OutputClass::Dlq { Bytes::from(std::mem::take(&mut self.letters)) } else { Bytes::new() };
                let len = lines.iter().map(|line| line.len() as u64).sum::<u64>();
                let len = if class == OutputClass::Dlq { text.len() as u64 } else { len };
                store.kept.texts.insert(path.clone(), text);
                let file = File {
                    class,
                    shard: self.shard.clone(),
                    epoch: self.epoch,
                    lease_epoch: self.lease_epoch,
                    lines,
                    sha256: sha256.clone(),
                    only_of: self.apart.then_some(process.number),
                };
                if process.has(Flaw::OutputsPublishAtStaging) {
                    store.visible.insert(path.clone(), file.clone());
                }
                store.staged.insert(staged.clone(), file);
                let closed_because = "epoch".to_owned();
                let (epoch, held) = (self.epoch, Held::File);
                outputs.push(PendingOutput { class, staged, path, len, sha256, rows, epoch, closed_because, held });
            }
            Ok(outputs)
        })
    }
}

impl Drop for OpenFiles {
    fn drop(&mut self) {
        self.hold(false);
    }
}

impl DataFiles for OpenFiles {
    fn bronze(&mut self, slice: &RawSlice) -> Result<()> {
        self.process.now_op(Op::FilesWrite, format!("bronze {}", slice.records.len()), |_| Ok(()))?;
        self.hold(true);
        for record in &slice.records {
            let line = format!("{} {}", crate::truth::name(&slice.shard, record), String::from_utf8_lossy(&record.data));
            self.line(OutputClass::Bronze, 0, line);
        }
        Ok(())
    }

    fn silver(&mut self, rows: &RecordBatch) -> Result<()> {
        self.process.now_op(Op::FilesWrite, format!("silver {}", rows.num_rows()), |_| Ok(()))?;
        for (event_us, line) in silver_text(rows)? {
            self.line(OutputClass::Silver, event_us.div_euclid(crate::truth::MINUTE * 60), line);
        }
        Ok(())
    }

    fn buffered(&self) -> usize {
        self.buffered
    }

    fn flush(&mut self) -> Result<()> {
        self.process.now_op(Op::FilesFlush, self.buffered, |_| Ok(()))?;
        self.buffered = 0;
        self.hold(false);
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
            self.line(OutputClass::Dlq, 0, letter_line(letter));
            serde_json::to_writer(&mut self.letters, letter).map_err(|error| Fault::bug(error.to_string()))?;
            self.letters.push(b'\n');
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Vec<PendingOutput>> {
        self.stage()
    }
}

/// Some of an epoch's files once more: there is one for each class and hour.
struct Again {
    files: OpenFiles,
    lost: Vec<PendingOutput>,
}

impl Rewriting for Again {
    fn bronze(&mut self, slice: &RawSlice) -> Result<()> {
        self.files.bronze(slice)?;
        // Nobody's budget: it is written out at once.
        self.files.flush()
    }

    fn silver(&mut self, rows: &RecordBatch) -> Result<()> {
        self.files.silver(rows)
    }

    fn letters(&mut self, letters: &[Letter]) -> Result<()> {
        self.files.append(letters)
    }

    fn finish(mut self: Box<Self>) -> Result<Vec<PendingOutput>> {
        let folder = |path: &str| path.rsplit_once('/').map(|(folder, _)| folder.to_owned());
        let is_lost =
            |class: OutputClass, hour: i64| self.lost.iter().any(|lost| folder(&lost.path) == Some(format!("{class:?}/{hour}")));
        self.files.lines.retain(|(class, hour), _| is_lost(*class, *hour));
        let (process, mut written) = (self.files.process.clone(), self.files.stage()?);
        let mut again = Vec::new();
        for lost in &self.lost {
            let at = written.iter().position(|output| output.class == lost.class && folder(&output.path) == folder(&lost.path));
            let mut output = written.remove(at.ok_or_else(|| Fault::corrupt("rows of a lost file do not come again"))?);
            let told = std::mem::replace(&mut output.path, lost.path.clone());
            process.now_op(Op::FilesFinish, &told, |store| {
                let text = store.kept.texts.remove(&told).unwrap_or_default();
                store.kept.texts.insert(lost.path.clone(), text);
                Ok(())
            })?;
            again.push(output);
        }
        Ok(again)
    }
}

impl Files {
    fn open(&self, op: Op, shard: &ShardId, lease_epoch: u64, epoch: u64) -> Result<Box<OpenFiles>> {
        self.process.now_op(op, format!("{shard} {epoch}"), |store| {
            let row = store.rows.get(shard).cloned();
            // A row under a newer lease says nothing about the epochs of this owner.
            let at_most_two = row.is_none_or(|row| row.lease_epoch > lease_epoch || epoch <= row.epoch + 2);
            store.rule(at_most_two, || format!("{shard}: epoch {epoch} is written while two before it are open"));
            Ok(())
        })?;
        let (process, apart, shard, (lines, letters)) = (self.process.clone(), self.apart, shard.clone(), Default::default());
        Ok(Box::new(OpenFiles { process, apart, shard, lease_epoch, epoch, lines, letters, buffered: 0, unwritten: 0 }))
    }
}

fn column<'a>(rows: &'a RecordBatch, name: &str) -> Result<&'a ArrayRef> {
    rows.column_by_name(name).ok_or_else(|| Fault::bug(format!("a batch without the column {name}")))
}

/// Integers and points in time, whatever the engine makes them.
fn integers(rows: &RecordBatch, name: &str) -> Result<Vec<i64>> {
    let column = column(rows, name)?;
    let int = column.as_primitive_opt::<Int64Type>().map(|values| values.values().to_vec());
    let short = || {
        let values = column.as_primitive_opt::<Int32Type>()?;
        Some(values.values().iter().map(|value| i64::from(*value)).collect())
    };
    let time = || column.as_primitive_opt::<TimestampMicrosecondType>().map(|values| values.values().to_vec());
    let nanos = || {
        let values = column.as_primitive_opt::<TimestampNanosecondType>()?;
        Some(values.values().iter().map(|nanos| nanos.div_euclid(1_000)).collect())
    };
    int.or_else(short).or_else(time).or_else(nanos).ok_or_else(|| Fault::bug(format!("{name} is {}", column.data_type())))
}

fn texts<'a>(rows: &'a RecordBatch, name: &str) -> Result<Box<dyn Fn(usize) -> &'a str + 'a>> {
    let column = column(rows, name)?;
    if let Some(texts) = column.as_string_opt::<i32>() {
        return Ok(Box::new(|row| texts.value(row)));
    }
    let views = column.as_string_view_opt().ok_or_else(|| Fault::bug(format!("{name} is {}", column.data_type())))?;
    Ok(Box::new(|row| views.value(row)))
}

/// Silver rows as lines, each with its event time. Any engine will do whose Silver has the columns `key` and `value`.
pub fn silver_text(rows: &RecordBatch) -> Result<Vec<(i64, String)>> {
    let (keys, times, values) = (texts(rows, "key")?, integers(rows, "event_time")?, integers(rows, "value")?);
    let (shards, sequences) = (texts(rows, "_shard")?, texts(rows, "_sequence")?);
    let subs = integers(rows, "_sub_sequence")?;
    let line = |row: usize| {
        let (shard, sequence, sub, key) = (shards(row), sequences(row), subs[row], keys(row));
        (times[row], format!("{shard}/{sequence}.{sub} {key},{},{}", times[row], values[row]))
    };
    Ok((0..rows.num_rows()).map(line).collect())
}

/// Gold rows as lines: `window_start, key, n, sum, least, most`.
pub fn gold_text(batches: Batches<'_>) -> Result<Bytes> {
    let mut text = String::new();
    for rows in batches {
        let rows = &rows?;
        let (starts, keys) = (integers(rows, "window_start")?, texts(rows, "key")?);
        let numbers = ["n", "sum", "least", "most"].map(|name| integers(rows, name));
        let [n, sum, least, most] = numbers;
        let (n, sum, least, most) = (n?, sum?, least?, most?);
        for row in 0..rows.num_rows() {
            let (start, key) = (starts[row], keys(row));
            writeln!(text, "{start},{key},{},{},{},{}", n[row], sum[row], least[row], most[row])
                .expect("a String takes anything");
        }
    }
    Ok(text.into())
}

/// The same rows back.
pub fn gold_rows(text: &[u8]) -> Result<RecordBatch> {
    let text = std::str::from_utf8(text).map_err(|error| Fault::corrupt(error.to_string()))?;
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split(',').collect()).collect();
    let number = |column: usize| -> ArrayRef {
        let cells = lines.iter().map(|cells| cells[column].parse::<i64>().expect("a number of ours"));
        Arc::new(cells.collect::<Int64Array>())
    };
    let keys: ArrayRef = Arc::new(lines.iter().map(|cells| Some(cells[1])).collect::<StringArray>());
    let columns = [number(0), keys, number(2), number(3), number(4), number(5)];
    let fields = ["window_start", "key", "n", "sum", "least", "most"].into_iter().zip(&columns);
    let fields: Vec<_> = fields.map(|(name, column)| Field::new(name, column.data_type().clone(), false)).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns.into()).map_err(|error| Fault::bug(error.to_string()))
}

#[async_trait]
impl Outputs for Files {
    fn data_files(&self, shard: &ShardId, lease_epoch: u64, epoch: u64) -> Result<Box<dyn DataFiles>> {
        Ok(self.open(Op::FilesOpen, shard, lease_epoch, epoch)?)
    }

    fn letter_file(&self, shard: &ShardId, lease_epoch: u64, epoch: u64) -> Result<Box<dyn LetterFile>> {
        Ok(self.open(Op::LettersOpen, shard, lease_epoch, epoch)?)
    }

    async fn hold(&self, staged: Vec<PendingOutput>) -> Result<Vec<HeldOutput>> {
        if !self.apart {
            return Ok(staged.into_iter().map(HeldOutput::from).collect());
        }
        let (what, who) = (staged.len(), self.process.number);
        self.process.op(Op::Hold, what, move |store| store.hold(&staged, who)).await
    }

    async fn publish(&self, permit: CommitPermit, held: &HeldOutput) -> Result<Publication> {
        let (lease, epoch) = permit.stands_for();
        let process = &self.process;
        let (forget, pending, who) = (process.has(Flaw::OutputsForgetToPublish), held.clone(), process.number);
        let publish =
            move |store: &mut Store| if forget { Ok(Publication::Visible) } else { store.publish(lease, epoch, &pending, who) };
        process.op(Op::Publish, &held.output.path, publish).await
    }

    async fn again(
        &self,
        shard: &ShardId,
        lease_epoch: u64,
        lost: &[PendingOutput],
        _kept: &[PendingOutput],
    ) -> Result<Box<dyn Rewriting>> {
        let epoch = lost.first().map_or(0, |lost| lost.epoch);
        let files = self.open(Op::FilesOpen, shard, lease_epoch, epoch)?;
        Ok(Box::new(Again { files: *files, lost: lost.to_vec() }))
    }

    async fn discard_staged(&self, permit: CommitPermit, shard: &ShardId, keep: &[PendingOutput]) -> Result<u64> {
        let (of, keep, (lease, epoch), who) = (shard.clone(), keep.to_vec(), permit.stands_for(), self.process.number);
        self.process.op(Op::Discard, shard, move |store| Ok(store.discard(lease, epoch, &of, &keep, who))).await
    }

    async fn read_visible(&self, output: &PendingOutput, offset: u64, max_bytes: usize) -> Result<Option<Bytes>> {
        let path = output.path.clone();
        self.process
            .op(Op::LettersRead, format!("{path} {offset}"), move |store| {
                let text = store.kept.texts.get(&path).filter(|_| store.visible.contains_key(&path));
                let Some(text) = text else { return Ok(None) };
                let from = (offset as usize).min(text.len());
                // Little at a time, so that a letter is often cut.
                Ok(Some(text.slice(from..text.len().min(from + max_bytes.min(READ_MOST)))))
            })
            .await
    }
}
