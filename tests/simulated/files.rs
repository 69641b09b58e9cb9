//! The real files of a data directory in the simulated world: written, staged, renamed and deleted for real, with every fault of
//! the world around each call; what the oracle sees is read back from the bytes.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int32Type;
use async_trait::async_trait;
use bytes::Bytes;
use sluicebox::clock::SystemClock;
use sluicebox::read::files::open_parquet;
use sluicebox::run::block_on;
use sluicebox::store::home::Home;
use sluicebox::store::outputs::{DiskOutputs, OutputOptions};
use sluicebox_actors::model::epoch::{HeldOutput, OutputClass, PendingOutput};
use sluicebox_actors::model::fault::Result;
use sluicebox_actors::model::letter::Letter;
use sluicebox_actors::model::position::ShardId;
use sluicebox_actors::model::record::RawSlice;
use sluicebox_actors::ports::{CommitPermit, DataFiles, LetterFile, Outputs, Publication, Rewriting};
use sluicebox_sim::files::silver_text;
use sluicebox_sim::plan::Op;
use sluicebox_sim::process::Process;
use sluicebox_sim::store::{File, Store};

/// A directory that all processes of one world share.
pub(super) struct Directory {
    home: Home,
    outputs: DiskOutputs,
    _folder: tempfile::TempDir,
}

impl Directory {
    pub(super) fn new() -> Arc<Self> {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::open_or_create(folder.path(), "simulated", SystemClock::shared()).unwrap();
        // Few files at once, so that some close early.
        let outputs = DiskOutputs::new(&home, OutputOptions { open_files: 2, ..OutputOptions::default() });
        Arc::new(Self { home, outputs, _folder: folder })
    }

    pub(super) fn files(self: &Arc<Self>, process: &Arc<Process>) -> Arc<dyn Outputs> {
        Arc::new(RealFiles { process: process.clone(), directory: self.clone() })
    }
}

#[derive(Clone)]
struct RealFiles {
    process: Arc<Process>,
    directory: Arc<Directory>,
}

struct Open<T: ?Sized> {
    files: RealFiles,
    shard: ShardId,
    lease_epoch: u64,
    epoch: u64,
    real: Box<T>,
}

/// In a runtime of its own: an effect in the simulated world takes no time of that world.
fn now<T: Send>(work: impl Future<Output = Result<T>> + Send) -> Result<T> {
    std::thread::scope(|scope| scope.spawn(|| block_on(work)).join().expect("no panic")?)
}

fn text(rows: &RecordBatch, column: &str, row: usize) -> String {
    let column = rows.column_by_name(column).expect("a column of Bronze");
    column
        .as_string_opt::<i32>()
        .map_or_else(|| column.as_string_view().value(row).to_owned(), |texts| texts.value(row).to_owned())
}

fn bronze(rows: &RecordBatch) -> Vec<String> {
    let data = rows.column_by_name("data").expect("payloads").as_binary::<i32>();
    let subs = rows.column_by_name("_sub_sequence").expect("numbers").as_primitive::<Int32Type>();
    let name = |row| format!("{}/{}.{}", text(rows, "_shard", row), text(rows, "_sequence", row), subs.value(row));
    (0..rows.num_rows()).map(|row| format!("{} {}", name(row), String::from_utf8_lossy(data.value(row)))).collect()
}

/// What the oracle compares, out of the bytes.
fn lines(path: &Path, class: OutputClass) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    match class {
        OutputClass::Dlq => {
            let text = std::fs::read_to_string(path).expect("a staged file");
            for line in text.lines() {
                let letter: Letter = serde_json::from_str(line).expect("a letter");
                let name = format!("{}/{}.{}", letter.shard, letter.sequence, letter.sub_sequence);
                lines.push(format!("{name} {} {}", letter.stage, letter.reason));
            }
        }
        OutputClass::Bronze => {
            for rows in open_parquet(path)? {
                lines.extend(bronze(&rows?));
            }
        }
        OutputClass::Silver => {
            for rows in open_parquet(path)? {
                lines.extend(silver_text(&rows?)?.into_iter().map(|(_, line)| line));
            }
        }
    }
    Ok(lines)
}

impl<T: ?Sized> Open<T> {
    /// Tells the world what the real files hold.
    fn tell(at: (&Path, &ShardId, u64, u64), outputs: &[PendingOutput], store: &mut Store) -> Result<()> {
        let (root, shard, lease_epoch, epoch) = at;
        for output in outputs {
            let lines = lines(&root.join(&output.staged), output.class)?;
            let (class, shard, sha256) = (output.class, shard.clone(), output.sha256.clone());
            let file = File { class, shard, epoch, lease_epoch, lines, sha256, only_of: None };
            store.staged.insert(output.staged.clone(), file);
        }
        Ok(())
    }

    fn finish(self, op: Op, finish: impl FnOnce(Box<T>) -> Result<Vec<PendingOutput>>) -> Result<Vec<PendingOutput>> {
        let Self { files, shard, lease_epoch, epoch, real } = self;
        let root = files.directory.home.data().to_path_buf();
        files.process.now_op(op, format!("{shard} {epoch}"), move |store| {
            let outputs = finish(real)?;
            Self::tell((&root, &shard, lease_epoch, epoch), &outputs, store)?;
            Ok(outputs)
        })
    }
}

impl DataFiles for Open<dyn DataFiles> {
    fn bronze(&mut self, slice: &RawSlice) -> Result<()> {
        let real = &mut self.real;
        self.files.process.now_op(Op::FilesWrite, format!("bronze {}", slice.records.len()), |_| real.bronze(slice))
    }

    fn silver(&mut self, rows: &RecordBatch) -> Result<()> {
        let real = &mut self.real;
        self.files.process.now_op(Op::FilesWrite, format!("silver {}", rows.num_rows()), |_| real.silver(rows))
    }

    fn buffered(&self) -> usize {
        self.real.buffered()
    }

    fn flush(&mut self) -> Result<()> {
        let (real, process) = (&mut self.real, &self.files.process);
        process.now_op(Op::FilesFlush, 0, |_| real.flush())
    }

    fn finish(self: Box<Self>) -> Result<Vec<PendingOutput>> {
        Open::finish(*self, Op::FilesFinish, |real| real.finish())
    }
}

impl LetterFile for Open<dyn LetterFile> {
    fn append(&mut self, letters: &[Letter]) -> Result<()> {
        let real = &mut self.real;
        self.files.process.now_op(Op::LettersAppend, letters.len(), |_| real.append(letters))
    }

    fn finish(self: Box<Self>) -> Result<Vec<PendingOutput>> {
        Open::finish(*self, Op::LettersFinish, |real| real.finish())
    }
}

impl Rewriting for Open<dyn Rewriting> {
    fn bronze(&mut self, slice: &RawSlice) -> Result<()> {
        let real = &mut self.real;
        self.files.process.now_op(Op::FilesWrite, format!("bronze {}", slice.records.len()), |_| real.bronze(slice))
    }

    fn silver(&mut self, rows: &RecordBatch) -> Result<()> {
        let real = &mut self.real;
        self.files.process.now_op(Op::FilesWrite, format!("silver {}", rows.num_rows()), |_| real.silver(rows))
    }

    fn letters(&mut self, letters: &[Letter]) -> Result<()> {
        let real = &mut self.real;
        self.files.process.now_op(Op::LettersAppend, letters.len(), |_| real.letters(letters))
    }

    fn finish(self: Box<Self>) -> Result<Vec<PendingOutput>> {
        Open::finish(*self, Op::FilesFinish, |real| real.finish())
    }
}

#[async_trait]
impl Outputs for RealFiles {
    fn data_files(&self, shard: &ShardId, lease_epoch: u64, epoch: u64) -> Result<Box<dyn DataFiles>> {
        let outputs = &self.directory.outputs;
        let open = |_: &mut Store| outputs.data_files(shard, lease_epoch, epoch);
        let real = self.process.now_op(Op::FilesOpen, format!("{shard} {epoch}"), open)?;
        Ok(Box::new(Open::<dyn DataFiles> { files: self.clone(), shard: shard.clone(), lease_epoch, epoch, real }))
    }

    fn letter_file(&self, shard: &ShardId, lease_epoch: u64, epoch: u64) -> Result<Box<dyn LetterFile>> {
        let outputs = &self.directory.outputs;
        let open = |_: &mut Store| outputs.letter_file(shard, lease_epoch, epoch);
        let real = self.process.now_op(Op::LettersOpen, format!("{shard} {epoch}"), open)?;
        Ok(Box::new(Open::<dyn LetterFile> { files: self.clone(), shard: shard.clone(), lease_epoch, epoch, real }))
    }

    async fn again(
        &self,
        shard: &ShardId,
        lease_epoch: u64,
        lost: &[PendingOutput],
        kept: &[PendingOutput],
    ) -> Result<Box<dyn Rewriting>> {
        let (directory, shard, epoch) = (self.directory.clone(), shard.clone(), lost[0].epoch);
        let (of, lost, kept) = (shard.clone(), lost.to_vec(), kept.to_vec());
        let begin = move |_: &mut Store| now(directory.outputs.again(&of, lease_epoch, &lost, &kept));
        let real = self.process.op(Op::FilesOpen, format!("{shard} {epoch}"), begin).await?;
        Ok(Box::new(Open::<dyn Rewriting> { files: self.clone(), shard, lease_epoch, epoch, real }))
    }

    async fn publish(&self, permit: CommitPermit, held: &HeldOutput) -> Result<Publication> {
        let ((lease, epoch), who, path) = (permit.stands_for(), self.process.number, held.output.path.clone());
        let (directory, held) = (self.directory.clone(), held.clone());
        let publish = move |store: &mut Store| {
            let (staged, path) = (&held.output.staged, &held.output.path);
            if !store.staged.contains_key(staged) && !store.visible.contains_key(path) {
                // The world has lost it since: so has the disk.
                let gone = std::fs::remove_file(directory.home.data().join(staged));
                assert!(gone.is_ok() || !directory.home.data().join(staged).exists(), "{gone:?}");
            }
            let real = now(directory.outputs.publish(permit, &held))?;
            let told = store.publish(lease, epoch, &held, who)?;
            let same = matches!(real, Publication::Visible) == matches!(told, Publication::Visible);
            store.rule(same, || format!("{}: {real:?}, but {told:?}", held.output.path));
            if let Publication::Lost(_) = real {
                return Ok(real);
            }
            let seen = lines(&directory.home.data().join(&held.output.path), held.output.class)?;
            let same = store.visible.get(&held.output.path).is_some_and(|file| file.lines == seen);
            store.rule(same, || format!("{}: readers see other lines than were staged", held.output.path));
            Ok(real)
        };
        self.process.op(Op::Publish, path, publish).await
    }

    async fn read_visible(&self, output: &PendingOutput, offset: u64, max: usize) -> Result<Option<Bytes>> {
        let (directory, output, path) = (self.directory.clone(), output.clone(), output.path.clone());
        let read = move |_: &mut Store| now(directory.outputs.read_visible(&output, offset, max));
        self.process.op(Op::LettersRead, path, read).await
    }

    async fn discard_staged(&self, permit: CommitPermit, shard: &ShardId, keep: &[PendingOutput]) -> Result<u64> {
        let ((lease, epoch), who, name) = (permit.stands_for(), self.process.number, shard.clone());
        let (directory, shard, keep) = (self.directory.clone(), shard.clone(), keep.to_vec());
        let discard = move |store: &mut Store| {
            let real = now(directory.outputs.discard_staged(permit, &shard, &keep))?;
            // Open files that were never finished are on the disk alone.
            let told = store.discard(lease, epoch, &shard, &keep, who);
            store.rule(told <= real, || format!("{shard}: {told} staged files should have been deleted, {real} were"));
            Ok(told)
        };
        self.process.op(Op::Discard, name, discard).await
    }
}

impl Directory {
    /// Files below the folder of staged ones: nothing may be left over.
    pub(super) fn staged(&self) -> BTreeMap<String, u64> {
        let mut found = BTreeMap::new();
        let Ok(shards) = std::fs::read_dir(self.home.data().join("state/staged")) else { return found };
        for shard in shards.map(|entry| entry.expect("an entry").path()) {
            for file in std::fs::read_dir(shard).expect("a folder").map(|entry| entry.expect("an entry")) {
                let (name, len) = (file.file_name().to_string_lossy().into_owned(), file.metadata().expect("looks").len());
                found.insert(name, len);
            }
        }
        found
    }
}
