//! A finished run in miniature, in the real formats: Parquet, NDJSON, epoch objects, Gold with its rows.
//!
//! Owns: the making of the directory. Does not own: the ports (ports), any expectation.

#![allow(clippy::unwrap_used, reason = "a helper of a test may end the test")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use sluicebox::read::sources::{Sources, hour_folder};
use sluicebox_actors::model::epoch::{
    EpochHeader, EpochObject, Hash, Held, LedgerLine, ObjectRef, OutputClass, PendingOutput, SegmentBody, WindowCounts, encode,
};
use sluicebox_actors::model::ledger::{Counts, GoldCounts};
use sluicebox_actors::model::letter::{Letter, Postmark, Rejection, Stage};
use sluicebox_actors::model::position::{Position, Sequence, ShardId};
use sluicebox_actors::model::record::RawRecord;
use sluicebox_actors::model::row::{ShardRow, ShardState, WindowRow, WindowStatus, WindowTotals};
use sluicebox_actors::model::states;
use sluicebox_actors::model::window::{Bound, HOUR_US, Verdict, Window};
use sluicebox_actors::ports::{Blobs, Engine, LedgerFiles, Rows};

use super::ports::{MemoryBlobs, MemoryLedger, MemoryRows, ToyEngine};

/// 2026-01-05T22:00:00Z: the run goes over midnight.
pub(super) const TEN: i64 = 1_767_650_400_000_000;
pub(super) const TABLE: &str = "by_kind";
const MINUTE: i64 = 60_000_000;

// ---------------------------------------------------------------- files

/// Parquet without the Arrow schema, as the store writes it.
pub(super) fn parquet(rows: &RecordBatch) -> Bytes {
    let mut out = Vec::new();
    let options = ArrowWriterOptions::new().with_skip_arrow_metadata(true);
    let mut writer = ArrowWriter::try_new_with_options(&mut out, rows.schema(), options).unwrap();
    writer.write(rows).unwrap();
    writer.close().unwrap();
    out.into()
}

pub(super) fn write(data: &Path, relative: &str, content: &[u8]) {
    let path = data.join(relative);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
}

pub(super) fn times(values: Vec<i64>) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from(values).with_timezone("UTC"))
}

fn output(data: &Path, class: OutputClass, path: String, content: &[u8], rows: usize, epoch: u64) -> PendingOutput {
    write(data, &path, content);
    let staged = format!("state/staged/{}", path.replace('/', "-"));
    let (len, sha256) = (content.len() as u64, Hash::of(content));
    PendingOutput { class, staged, path, len, sha256, rows: rows as u64, epoch, closed_because: "epoch".into(), held: Held::File }
}

// ---------------------------------------------------------------- the run

/// One record of the run.
#[derive(Clone)]
struct Event {
    record: RawRecord,
    event_us: i64,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Good(i64),
    Bad,
    Filtered,
}

/// A finished run.
pub(super) struct World {
    pub(super) dir: tempfile::TempDir,
    pub(super) rows: Arc<MemoryRows>,
    pub(super) blobs: Arc<MemoryBlobs>,
    pub(super) ledger: Arc<MemoryLedger>,
    pub(super) engine: Arc<ToyEngine>,
    pub(super) bronze_on: bool,
}

impl World {
    pub(super) fn data(&self) -> &Path {
        self.dir.path()
    }

    pub(super) fn sources(&self) -> Sources {
        Sources {
            data: self.dir.path().to_owned(),
            worker: self.dir.path().to_owned(),
            rows: self.rows.clone(),
            blobs: self.blobs.clone(),
            ledger: self.ledger.clone(),
        }
    }

    /// Nothing happened yet.
    pub(super) fn empty() -> Self {
        Self {
            // Characters that a path may have and a pattern would mean something by.
            dir: tempfile::Builder::new().prefix("a [b] *?").tempdir().unwrap(),
            rows: Arc::default(),
            blobs: Arc::default(),
            ledger: Arc::default(),
            engine: Arc::new(ToyEngine::new()),
            bronze_on: true,
        }
    }

    /// Two shards of four epochs, 48 records each, from 22:00 to 02:00; the oldest epoch of the first shard is collected.
    pub(super) async fn build() -> Self {
        Self::build_with(true).await
    }

    pub(super) async fn build_with(bronze_on: bool) -> Self {
        let world = Self { bronze_on, ..Self::empty() };
        for name in ["shardId-0", "shardId-1"] {
            let shard = ShardId::new(name);
            let mut run = ShardRun::new(&world, shard.clone());
            for epoch in 1..=4 {
                run.epoch(epoch).await;
            }
            let row = run.row;
            world.rows.create_shard(&row).await.unwrap();
        }
        world.emit().await;
        world.collect().await;
        world
    }

    /// Moves epoch 1 of the first shard to the ledger.
    async fn collect(&self) {
        let key = self.blobs.list("epochs/shardId-0/0000000001-1-").await.unwrap().remove(0);
        let data = self.blobs.get(&key).await.unwrap();
        let object = EpochObject::decode(&data).unwrap();
        self.ledger.append(&[LedgerLine::of(&object.header, Hash::of(&data))]).await.unwrap();
        self.blobs.delete(&key).await.unwrap();
    }

    /// Committed epoch objects of all shards, oldest first within a shard.
    pub(super) async fn objects(&self) -> Vec<(String, EpochObject)> {
        let mut out = Vec::new();
        for key in self.blobs.list("epochs/").await.unwrap() {
            let object = EpochObject::decode(&self.blobs.get(&key).await.unwrap()).unwrap();
            if object.header.lease_epoch > 0 {
                out.push((key, object));
            }
        }
        out
    }

    /// Emits every window from all partials.
    async fn emit(&self) {
        let mut parts: BTreeMap<i64, Vec<RecordBatch>> = BTreeMap::new();
        let mut rows: BTreeMap<i64, WindowRow> = BTreeMap::new();
        for (_, object) in self.objects().await {
            for segment in &object.header.segments {
                let states = states::decode(&object.segment(segment).unwrap()).unwrap();
                parts.entry(segment.window_us).or_default().push(states);
                let row = rows.entry(segment.window_us).or_insert_with(|| empty_row(segment.window_us));
                row.vector.insert(object.header.shard.clone(), segment.ordinal);
            }
            for counts in &object.header.windows {
                let row = rows.entry(counts.window_us).or_insert_with(|| empty_row(counts.window_us));
                row.counts.on_time += counts.on_time;
                row.counts.late += counts.late;
                row.counts.too_late += counts.too_late;
            }
        }
        for (start, row) in rows {
            let merged = self.engine.merge(0, &parts[&start]).unwrap();
            let window = Window { start_us: start, end_us: start + HOUR_US };
            let finished = self.engine.finish(0, window, &merged).unwrap();
            self.publish(row, &finished.rows).await;
        }
    }

    pub(super) async fn publish(&self, mut row: WindowRow, rows: &RecordBatch) {
        let content = parquet(rows);
        let key = format!("content/{TABLE}/{}-{:010}-0", row.start_us, row.revision);
        row.content = Some(ObjectRef { key: key.clone(), len: content.len() as u64, sha256: Hash::of(&content) });
        row.rows = rows.num_rows() as u64;
        self.blobs.put(&key, content.clone()).await.unwrap();
        let place = format!("{}/{TABLE}-{}.parquet", hour_folder(row.start_us), row.start_us);
        write(self.data(), &format!("gold/{TABLE}/{place}"), &content);
        write(self.data(), &format!("gold_windows/table={TABLE}/{place}"), &window_file(&row));
        self.rows.update_window(0, &row).await.unwrap();
    }
}

fn empty_row(start_us: i64) -> WindowRow {
    WindowRow {
        table: TABLE.to_owned(),
        start_us,
        end_us: start_us + HOUR_US,
        version: 2,
        revision: 1,
        status: WindowStatus::Closed,
        vector: BTreeMap::new(),
        content: None,
        rows: 0,
        counts: WindowTotals::default(),
        overflow: false,
        missing: Vec::new(),
        empty_since_us: None,
        sequences: BTreeMap::new(),
        published: 1,
        base: None,
    }
}

fn window_file(row: &WindowRow) -> Bytes {
    let number = |n: u64| -> ArrayRef { Arc::new(Int64Array::from(vec![n as i64])) };
    let text = |text: &str| -> ArrayRef { Arc::new(StringArray::from(vec![text])) };
    let batch = RecordBatch::try_from_iter([
        ("table", text(&row.table)),
        ("window_start", times(vec![row.start_us])),
        ("window_end", times(vec![row.end_us])),
        ("status", text(row.status.as_str())),
        ("revision", number(row.revision)),
        ("missing_shards", text("[]")),
        ("on_time", number(row.counts.on_time)),
        ("late", number(row.counts.late)),
        ("too_late", number(row.counts.too_late)),
        ("rows", number(row.rows)),
        ("overflow", Arc::new(BooleanArray::from(vec![row.overflow]))),
        ("vector", text("{}")),
    ]);
    parquet(&batch.unwrap())
}

struct ShardRun<'a> {
    world: &'a World,
    row: ShardRow,
    next: u64,
    totals: Counts,
    ordinals: BTreeMap<String, BTreeMap<i64, u64>>,
    max_event: i64,
}

impl<'a> ShardRun<'a> {
    fn new(world: &'a World, shard: ShardId) -> Self {
        let row = ShardRow::new("clicks", shard, (0, u128::MAX), ShardState::Open);
        let row = ShardRow { owner: "host:1".into(), lease_epoch: 1, ..row };
        Self { world, row, next: 1, totals: Counts::default(), ordinals: BTreeMap::new(), max_event: i64::MIN }
    }

    /// Twelve records an hour, an hour an epoch; in epochs 3 and 4 one straggler of the first hour, the second of them too late.
    fn events(&mut self, epoch: u64) -> Vec<Event> {
        (0..12u64)
            .map(|i| {
                let straggler = epoch >= 3 && i == 11;
                let event_us = if straggler { TEN + MINUTE } else { TEN + (epoch as i64 - 1) * HOUR_US + i as i64 * 5 * MINUTE };
                let kind = match i {
                    3 => Kind::Bad,
                    5 => Kind::Filtered,
                    7 => Kind::Good(-1),
                    _ => Kind::Good(i as i64 * 10),
                };
                let number = self.next;
                self.next += 1;
                let data = if kind == Kind::Bad { vec![b'{', 0xff, i as u8] } else { format!("{{\"n\":{number}}}").into_bytes() };
                let arrival_us = TEN + (epoch as i64 - 1) * HOUR_US + i as i64 * 5 * MINUTE + 1;
                let sequence = Sequence::dense(number);
                let partition_key = Bytes::from_static(b"k");
                let record =
                    RawRecord { sequence, sub_sequence: 0, foreign: false, partition_key, arrival_us, data: data.into() };
                Event { record, event_us, kind }
            })
            .collect()
    }

    async fn epoch(&mut self, epoch: u64) {
        let (shard, bound) = (self.row.shard.clone(), self.row.bound);
        let events = self.events(epoch);
        let mut counts = Counts { received: events.len() as u64, ..Default::default() };
        counts.bytes = events.iter().map(|event| event.record.data.len() as u64).sum();
        let mut outputs = Vec::new();
        if self.world.bronze_on {
            counts.bronze = counts.received;
            outputs.extend(self.bronze(epoch, &events));
        }
        let silver: Vec<&Event> = events.iter().filter(|event| matches!(event.kind, Kind::Good(_))).collect();
        counts.silver = silver.len() as u64;
        outputs.extend(self.silver(epoch, &silver));
        counts.filtered.insert("where".into(), events.iter().filter(|event| event.kind == Kind::Filtered).count() as u64);
        let mut letters: Vec<Letter> = Vec::new();
        for event in events.iter().filter(|event| event.kind == Kind::Bad) {
            *counts.rejected.entry("decode/invalid_json".into()).or_default() += 1;
            letters.push(self.letter(epoch, event, Stage::Decode, "invalid_json"));
        }
        let (bodies, windows) = self.gold(epoch, &silver, &mut counts, &mut letters);
        counts.letters = letters.len() as u64;
        let lines: String = letters.iter().map(|letter| serde_json::to_string(letter).unwrap() + "\n").collect();
        let path = format!("dlq/dt=2026-01-05/{shard}-{epoch:010}-0.ndjson");
        outputs.push(output(self.world.data(), OutputClass::Dlq, path, lines.as_bytes(), letters.len(), epoch));
        self.totals.add(&counts);
        let (from, to) = (self.row.position, Position::after(Sequence::dense(self.next - 1)));
        self.max_event = self.max_event.max(silver.iter().map(|event| event.event_us).max().unwrap());
        let committed = Bound(self.max_event);
        let mut header = EpochHeader {
            pipeline: "p".into(),
            fingerprint: "f".into(),
            stream: "clicks".into(),
            shard: shard.clone(),
            epoch,
            lease_epoch: 1,
            from,
            to,
            bound_opened: bound,
            bound_committed: committed,
            max_event_us: Some(self.max_event),
            last_arrival_us: None,
            fresh_us: None,
            processed_at_us: TEN,
            bronze_on: self.world.bronze_on,
            unproven_start: false,
            counts,
            totals: self.totals.clone(),
            previous: self.row.object.as_ref().map(|object| object.sha256.clone()),
            segments: Vec::new(),
            windows,
            ordinals: self.ordinals.clone(),
            pending: outputs.clone(),
            outputs,
            rebuilt: Vec::new(),
            inline: Vec::new(),
        };
        let data = encode(&mut header, &bodies, &[]).unwrap();
        let key = format!("epochs/{shard}/{epoch:010}-1-00");
        self.row.object = Some(ObjectRef { key: key.clone(), len: data.len() as u64, sha256: Hash::of(&data) });
        self.world.blobs.put(&key, data).await.unwrap();
        if epoch != 2 {
            // A try that lost its race lies beside it.
            self.world.blobs.put(&format!("epochs/{shard}/{epoch:010}-0-ff"), lost(&header)).await.unwrap();
        }
        (self.row.epoch, self.row.position, self.row.bound) = (epoch, to, committed);
    }

    fn coordinates(&self, events: &[&Event]) -> Vec<(&'static str, ArrayRef)> {
        let text = |of: &dyn Fn(&Event) -> String| -> ArrayRef {
            Arc::new(events.iter().map(|event| Some(of(event))).collect::<StringArray>())
        };
        vec![
            ("_stream", text(&|_| "clicks".into())),
            ("_shard", text(&|_| self.row.shard.to_string())),
            ("_sequence", text(&|event| event.record.sequence.to_string())),
            ("_sub_sequence", Arc::new(Int32Array::from(vec![0; events.len()]))),
            ("_arrival_time", times(events.iter().map(|event| event.record.arrival_us).collect())),
        ]
    }

    fn bronze(&self, epoch: u64, events: &[Event]) -> Vec<PendingOutput> {
        self.by_hour(
            events.iter().collect(),
            |event| event.record.arrival_us,
            |hour, events| {
                let data: BinaryArray = events.iter().map(|event| Some(&event.record.data[..])).collect();
                let keys: StringArray = events.iter().map(|_| Some("k")).collect();
                let mut columns: Vec<(&str, ArrayRef)> = vec![("data", Arc::new(data))];
                columns.extend(self.coordinates(events));
                columns.push(("_partition_key", Arc::new(keys)));
                let content = parquet(&RecordBatch::try_from_iter(columns).unwrap());
                let path = format!("bronze/{hour}/{}-{epoch:010}-b.parquet", self.row.shard);
                output(self.world.data(), OutputClass::Bronze, path, &content, events.len(), epoch)
            },
        )
    }

    fn silver(&self, epoch: u64, events: &[&Event]) -> Vec<PendingOutput> {
        self.by_hour(
            events.to_vec(),
            |event| event.event_us,
            |hour, events| {
                let content = parquet(&self.silver_batch(events));
                let path = format!("silver/{hour}/{}-{epoch:010}-s.parquet", self.row.shard);
                output(self.world.data(), OutputClass::Silver, path, &content, events.len(), epoch)
            },
        )
    }

    fn silver_batch(&self, events: &[&Event]) -> RecordBatch {
        let values = events.iter().map(|event| match event.kind {
            Kind::Good(value) => value,
            Kind::Bad | Kind::Filtered => 0,
        });
        let kinds: StringArray =
            events.iter().map(|event| Some(if event.record.data.len() % 2 == 0 { "view" } else { "click" })).collect();
        let mut columns: Vec<(&str, ArrayRef)> = vec![
            ("eventKind", Arc::new(kinds)),
            ("value", Arc::new(Int64Array::from_iter_values(values))),
            ("event_time", times(events.iter().map(|event| event.event_us).collect())),
        ];
        columns.extend(self.coordinates(events));
        RecordBatch::try_from_iter(columns).unwrap()
    }

    fn by_hour(
        &self,
        events: Vec<&Event>,
        time: fn(&Event) -> i64,
        file: impl Fn(&str, &[&Event]) -> PendingOutput,
    ) -> Vec<PendingOutput> {
        let mut hours: BTreeMap<String, Vec<&Event>> = BTreeMap::new();
        for event in events {
            hours.entry(hour_folder(time(event))).or_default().push(event);
        }
        hours.iter().map(|(hour, events)| file(hour, events)).collect()
    }

    fn letter(&self, epoch: u64, event: &Event, stage: Stage, reason: &'static str) -> Letter {
        let postmark = Postmark { fingerprint: "f".into(), version: "0".into(), request_id: "r".into() };
        let (path, message, causes) = (None, "rule".into(), Vec::new());
        let rejection = Rejection { index: 0, stage, reason, path, message, causes };
        postmark.letter(&"clicks".into(), &self.row.shard, &event.record, rejection, epoch, TEN + epoch as i64)
    }

    fn gold(
        &mut self,
        epoch: u64,
        silver: &[&Event],
        counts: &mut Counts,
        letters: &mut Vec<Letter>,
    ) -> (Vec<SegmentBody>, Vec<WindowCounts>) {
        let windowing = self.world.engine.tables()[0].windowing;
        let batch = self.silver_batch(silver);
        let mut partition = self.world.engine.partition().unwrap();
        let admitted = partition.admit(0, &batch).unwrap().unwrap();
        let (mut gold, mut windows) = (GoldCounts::default(), BTreeMap::new());
        let (mut rows, mut starts) = (Vec::new(), Vec::new());
        for (row, event) in silver.iter().enumerate() {
            if !admitted.value(row) {
                gold.excluded += 1;
                continue;
            }
            let window = windowing.window_of(event.event_us);
            let empty = WindowCounts { table: TABLE.into(), window_us: window.start_us, on_time: 0, late: 0, too_late: 0 };
            let counted = windows.entry(window.start_us).or_insert(empty);
            match windowing.verdict(window, self.row.bound) {
                Verdict::OnTime => (gold.on_time, counted.on_time) = (gold.on_time + 1, counted.on_time + 1),
                Verdict::Late => (gold.late, counted.late) = (gold.late + 1, counted.late + 1),
                Verdict::TooLate => {
                    (gold.too_late, counted.too_late) = (gold.too_late + 1, counted.too_late + 1);
                    let mut letter = self.letter(epoch, event, Stage::Gold(TABLE.into()), "too_late");
                    (letter.window_start_us, letter.bound_us) = (Some(window.start_us), Some(self.row.bound.0));
                    letters.push(letter);
                    continue;
                }
            }
            rows.push(row as u32);
            starts.push(window.start_us);
        }
        partition.accumulate(0, &batch, &rows, &starts).unwrap();
        let partials = partition.cut().unwrap().into_iter();
        let bodies: Vec<SegmentBody> = partials
            .map(|partial| SegmentBody {
                table: TABLE.into(),
                window_us: partial.window_us,
                rows: partial.rows,
                body: states::encode(&partial.states).unwrap(),
            })
            .collect();
        for body in &bodies {
            *self.ordinals.entry(TABLE.into()).or_default().entry(body.window_us).or_default() += 1;
        }
        counts.gold.insert(TABLE.into(), gold);
        (bodies, windows.into_values().collect())
    }
}

/// What a fenced owner left: the same epoch, never committed.
fn lost(header: &EpochHeader) -> Bytes {
    let mut header = header.clone();
    header.lease_epoch = 0;
    encode(&mut header, &[], &[]).unwrap()
}
